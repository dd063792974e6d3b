//! How a forward pass runs, and its activations in the forms that layers want.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::kernels::activation::to_bf16;
use crate::kernels::integer::Bytes;
use crate::kernels::isa::Isa;
use crate::kernels::team::Team;

/// Which instructions and which threads: how a forward pass runs. The result depends on the first in its last bits, never on the second.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Instruction set.
    pub isa: Isa,
    /// Threads.
    pub team: Arc<Team>,
}

impl Default for Engine {
    /// The best instruction set of this machine on all its cores.
    fn default() -> Engine {
        Engine {
            isa: Isa::best(),
            team: Arc::clone(Team::global()),
        }
    }
}

/// An activation (T, K), in whatever form a layer wants it; each form is made once, when first asked for.
#[derive(Debug)]
pub struct Input<'a> {
    /// Row-major.
    pub values: &'a [f32],
    /// K.
    pub columns: usize,
    bf16: OnceCell<Vec<u32>>,
    bytes: OnceCell<Bytes>,
    engine: &'a Engine,
}

impl<'a> Input<'a> {
    /// Wraps rows of `columns` values.
    pub fn new(values: &'a [f32], columns: usize, engine: &'a Engine) -> Input<'a> {
        Input {
            values,
            columns,
            bf16: OnceCell::new(),
            bytes: OnceCell::new(),
            engine,
        }
    }

    /// Rounded to bf16, two to a word, rows filled up with zero.
    pub fn bf16(&self) -> &[u32] {
        let engine = self.engine;
        self.bf16
            .get_or_init(|| to_bf16(engine.isa, self.values, self.columns, &engine.team))
    }

    /// Rounded to 8 bits in groups; [`None`] if it was asked for in other groups before.
    pub(super) fn cached_bytes(&self, group: usize) -> Option<&Bytes> {
        let round = || {
            Bytes::round(
                self.engine.isa,
                self.values,
                self.columns,
                group,
                &self.engine.team,
            )
        };
        let bytes = self.bytes.get_or_init(round);
        (bytes.group() == group).then_some(bytes)
    }
}
