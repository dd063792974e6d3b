//! How a forward pass runs, and its activations in the forms that layers want.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;

use crate::kernels::activation::to_bf16_in;
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

thread_local! {
    /// Words of an activation before, for the next.
    static SPARE: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

/// Words that the next activation of this thread gets.
#[derive(Debug, Default)]
struct Halves(OnceCell<Vec<u32>>);

impl Drop for Halves {
    fn drop(&mut self) {
        if let Some(words) = self.0.take() {
            // While a thread ends there is nobody to have them.
            let _ = SPARE.try_with(|it| it.set(words));
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
    bf16: Halves,
    bytes: OnceCell<Bytes>,
    engine: &'a Engine,
}

impl<'a> Input<'a> {
    /// Wraps rows of `columns` values.
    pub fn new(values: &'a [f32], columns: usize, engine: &'a Engine) -> Input<'a> {
        Input {
            values,
            columns,
            bf16: Halves::default(),
            bytes: OnceCell::new(),
            engine,
        }
    }

    /// Rounded to bf16, two to a word, rows filled up with zero.
    pub fn bf16(&self) -> &[u32] {
        let rows = self.values.len().checked_div(self.columns).unwrap_or(0);
        let count = rows * self.columns.div_ceil(2);
        let round = || {
            let mut words = SPARE.take();
            // Never shorter: what it grows by would be filled with zeros again.
            words.resize(words.len().max(count), 0);
            let (values, out) = (self.values, &mut words[..count]);
            to_bf16_in(
                self.engine.isa,
                values,
                self.columns,
                out,
                &self.engine.team,
            );
            words
        };
        &self.bf16.0.get_or_init(round)[..count]
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
