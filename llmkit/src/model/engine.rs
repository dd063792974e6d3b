//! How a forward pass runs, and its activations in the forms that layers want.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use std::thread::LocalKey;

use crate::kernels::activation::to_bf16_in;
use crate::kernels::aligned::Aligned;
use crate::kernels::integer::{self, Bytes, IntPanels};
use crate::kernels::isa::Isa;
use crate::kernels::panel::Element;
use crate::kernels::rows::Rows;
use crate::kernels::team::Team;
use crate::kernels::tiled::{self, Weights};

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
    /// Words of activations before, for the next: two are held at a time.
    static HALVES: Cell<[Aligned; 2]> = const { Cell::new([Aligned::new(), Aligned::new()]) };
    /// Bytes, likewise.
    static BYTES: Cell<[Bytes; 2]> = Cell::default();
    /// What the pass before had.
    static BUFFERS: Cell<Aligned> = const { Cell::new(Aligned::new()) };
}

/// Memory for the activations of a pass, which the next one of this thread gets: asking the system for it, and clearing it, would take some
/// percent of a prompt.
#[derive(Debug)]
pub(super) struct Buffers(Aligned);

impl Buffers {
    /// What the pass before had.
    pub(super) fn take() -> Buffers {
        Buffers(BUFFERS.take())
    }

    /// Parts of these lengths; what is in them is of no meaning.
    pub(super) fn parts<const N: usize>(&mut self, lengths: [usize; N]) -> [&mut [f32]; N] {
        // Parts begin on cache lines of their own.
        let padded = lengths.map(|it| it.next_multiple_of(LINE));
        let mut rest = self.0.floats_mut(padded.iter().sum());
        let mut at = 0;
        lengths.map(|length| {
            let (part, others) = std::mem::take(&mut rest).split_at_mut(padded[at]);
            (rest, at) = (others, at + 1);
            &mut part[..length]
        })
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        let buffers = std::mem::take(&mut self.0);
        // While a thread ends there is nobody to have them.
        let _ = BUFFERS.try_with(|it| it.set(buffers));
    }
}

/// Values in a cache line.
const LINE: usize = 16;

/// What a form of an activation is kept in, and the thread's last two of which there is nothing left but their memory.
trait Kept: Default + 'static {
    fn spare() -> &'static LocalKey<Cell<[Self; 2]>>;
}

impl Kept for Aligned {
    fn spare() -> &'static LocalKey<Cell<[Aligned; 2]>> {
        &HALVES
    }
}

impl Kept for Bytes {
    fn spare() -> &'static LocalKey<Cell<[Bytes; 2]>> {
        &BYTES
    }
}

/// A form of an activation, whose memory the next one of this thread gets.
#[derive(Debug, Default)]
struct Form<T: Kept>(OnceCell<T>);

impl<T: Kept> Form<T> {
    /// Memory of an activation before.
    fn spare() -> T {
        let [first, second] = T::spare().take();
        T::spare().set([second, T::default()]);
        first
    }
}

impl<T: Kept> Drop for Form<T> {
    fn drop(&mut self) {
        if let Some(kept) = self.0.take() {
            // While a thread ends there is nobody to have it.
            let _ = T::spare().try_with(|it| {
                let [first, _] = it.take();
                it.set([kept, first]);
            });
        }
    }
}

/// An activation (T, K), in whatever form a layer wants it; each form is made once, when first asked for.
#[derive(Debug)]
pub struct Input<'a> {
    /// What it is made of; none if it was made in bf16 or bytes.
    rows: Option<Rows<'a>>,
    /// T · K.
    len: usize,
    /// K.
    pub columns: usize,
    halves: Form<Aligned>,
    /// Of the same, row-major, if it is not.
    in_rows: OnceCell<Vec<u32>>,
    bytes: Form<Bytes>,
    computed: OnceCell<Vec<f32>>,
    engine: &'a Engine,
}

impl<'a> Input<'a> {
    /// Wraps rows of `columns` values.
    pub fn new(values: &'a [f32], columns: usize, engine: &'a Engine) -> Input<'a> {
        Input::of_rows(Rows::Values(values), columns, engine)
    }

    /// Rows of `columns` values that may not have been computed yet.
    pub fn of_rows(rows: Rows<'a>, columns: usize, engine: &'a Engine) -> Input<'a> {
        Input {
            len: rows.len(),
            rows: Some(rows),
            columns,
            computed: OnceCell::new(),
            halves: Form::default(),
            in_rows: OnceCell::new(),
            bytes: Form::default(),
            engine,
        }
    }

    /// silu(x · gateᵀ) · (x · upᵀ) of this input x (T, K), made by kernels without either product being written down; none if they do not. What
    /// comes of it has only the form of bf16: [`values`](Self::values) are what that rounds to.
    pub(super) fn gated<'b>(
        &self,
        [gate, up]: [Weights<'_>; 2],
        engine: &'b Engine,
    ) -> Option<Input<'b>> {
        let (tokens, columns) = (self.tokens(), gate.outputs());
        if !self.is_tiled() || !tiled::suits(engine.isa, tokens, columns) {
            return None;
        }
        let mut words: Aligned = Form::spare();
        let out = words.words_mut(tiled::words(tokens, columns));
        tiled::gated(self.halves(), [gate, up], tokens, out, &engine.team);
        Some(Input {
            len: tokens * columns,
            rows: None,
            columns,
            computed: OnceCell::new(),
            halves: Form(OnceCell::from(words)),
            in_rows: OnceCell::new(),
            bytes: Form::default(),
            engine,
        })
    }

    /// As [`gated`](Self::gated), in the form of bytes in groups of `group`.
    pub(super) fn gated_bytes<'b>(
        &self,
        [gate, up]: [&IntPanels; 2],
        group: usize,
        engine: &'b Engine,
    ) -> Option<Input<'b>> {
        let (tokens, columns) = (self.tokens(), gate.rows());
        if !integer::gated::suits(engine.isa, columns, group) || gate.group() != up.group() {
            return None;
        }
        let x = self.cached_bytes(gate.group())?;
        let mut bytes: Bytes = Form::spare();
        integer::gated::gated(engine.isa, x, [gate, up], group, &mut bytes, &engine.team);
        Some(Input {
            len: tokens * columns,
            rows: None,
            columns,
            computed: OnceCell::new(),
            halves: Form::default(),
            in_rows: OnceCell::new(),
            bytes: Form(OnceCell::from(bytes)),
            engine,
        })
    }

    /// T.
    fn tokens(&self) -> usize {
        self.len.checked_div(self.columns).unwrap_or(0)
    }

    /// T · K.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Row-major, in f32.
    pub fn values(&self) -> &[f32] {
        match self.rows {
            Some(Rows::Values(values)) if self.computed.get().is_none() => values,
            _ => self.computed.get_or_init(|| self.compute()),
        }
    }

    /// The values, to be changed before any other form of them has been asked for.
    pub fn values_mut(&mut self) -> &mut [f32] {
        debug_assert!(self.halves.0.get().is_none() && self.bytes.0.get().is_none());
        if self.computed.get().is_none() {
            self.computed = OnceCell::from(self.compute());
        }
        self.computed.get_mut().map_or(&mut [], |it| it)
    }

    fn compute(&self) -> Vec<f32> {
        let (isa, team) = (self.engine.isa, &self.engine.team);
        match (self.rows, self.bytes.0.get()) {
            (Some(rows), _) => rows.values(isa, self.columns, team),
            (None, Some(bytes)) => bytes.values(),
            (None, None) => {
                let words = self.bf16().chunks(self.columns.div_ceil(2).max(1));
                let values = |row: &[u32]| {
                    let of = |i| Element::Bf16.of_word(row[i / 2], i % 2);
                    (0..self.columns).map(of).collect::<Vec<_>>()
                };
                words.flat_map(values).collect()
            }
        }
    }

    /// What the other forms are made of.
    fn rows(&self) -> Rows<'_> {
        match (self.rows, self.computed.get()) {
            (Some(rows), None) => rows,
            _ => Rows::Values(self.values()),
        }
    }

    /// Whether [`halves`](Self::halves) are in tiles.
    pub(super) fn is_tiled(&self) -> bool {
        tiled::suits(self.engine.isa, self.tokens(), self.columns)
    }

    /// Rounded to bf16 as kernels want it: in tiles, or as [`bf16`](Self::bf16).
    pub(super) fn halves(&self) -> &[u32] {
        let (tokens, columns) = (self.tokens(), self.columns);
        let count = match self.is_tiled() {
            true => tiled::words(tokens, columns),
            false => tokens * columns.div_ceil(2),
        };
        let round = || {
            let mut words: Aligned = Form::spare();
            let (rows, out) = (self.rows(), words.words_mut(count));
            let Engine { isa, team } = self.engine;
            match self.is_tiled() {
                true => tiled::round(rows, columns, out, team),
                false => to_bf16_in(*isa, rows, columns, out, team),
            }
            words
        };
        &self.halves.0.get_or_init(round).words()[..count]
    }

    /// Rounded to bf16, two to a word, rows filled up with zero.
    pub fn bf16(&self) -> &[u32] {
        if !self.is_tiled() {
            return self.halves();
        }
        self.in_rows.get_or_init(|| {
            let (tiles, columns) = (self.halves(), self.columns);
            let row = |row| (0..columns / 2).map(move |at| tiled::word(tiles, columns, row, at));
            (0..self.tokens()).flat_map(row).collect()
        })
    }

    /// Rounded to 8 bits in groups; [`None`] if it was asked for in other groups before.
    pub(super) fn cached_bytes(&self, group: usize) -> Option<&Bytes> {
        let round = || {
            let mut bytes: Bytes = Form::spare();
            let (isa, team) = (self.engine.isa, &self.engine.team);
            bytes.round_from(isa, self.rows(), self.columns, group, team);
            bytes
        };
        let bytes = self.bytes.0.get_or_init(round);
        (bytes.group() == group).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::activation::{rms_norm, swiglu};

    fn noise(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 0.7 + seed).sin()).collect()
    }

    /// Whether all forms of `input` are those of `values`.
    fn is_of(input: &Input<'_>, values: &[f32], engine: &Engine) -> bool {
        let plain = Input::new(values, input.columns, engine);
        let bytes = |it: &Input<'_>| it.cached_bytes(32).map(Bytes::values);
        input.bf16() == plain.bf16()
            && bytes(input) == bytes(&plain)
            && input.values() == values
            && input.len() == values.len()
    }

    #[test]
    fn what_is_computed_on_the_way_is_what_would_have_been_computed_before() {
        // On a matrix unit in rows, and in tiles.
        for (rows, columns) in [(19, 70), (40, 96)] {
            let (x, up) = (noise(rows * columns, 0.0), noise(rows * columns, 1.0));
            let weight = noise(columns, 2.0);
            for isa in Isa::here() {
                let engine = Engine {
                    isa,
                    ..Engine::default()
                };
                let mut normed = vec![0.0; x.len()];
                rms_norm(isa, &x, &weight, 1e-5, &mut normed, &engine.team);
                let mut gated = x.clone();
                swiglu(isa, &mut gated, &up, columns, &engine.team);
                let of = |rows| Input::of_rows(rows, columns, &engine);
                let norm = || of(Rows::normed(&x, &weight, 1e-5));
                let gate = |roughly| {
                    of(Rows::Gated {
                        gate: &x,
                        up: &up,
                        roughly,
                    })
                };
                let rough = gate(true).values().to_vec();
                assert!(is_of(&norm(), &normed, &engine), "{isa}");
                assert!(is_of(&gate(false), &gated, &engine), "{isa}");
                assert!(is_of(&gate(true), &rough, &engine), "{isa}");
                for (rough, exact) in rough.iter().zip(&gated) {
                    assert!((rough - exact).abs() <= 6e-6 * exact.abs(), "{isa}");
                }
                assert!(!is_of(&gate(false), &normed, &engine), "{isa}");
                // What a hook changes counts.
                let mut changed = norm();
                changed.values_mut()[3] = 5.0;
                normed[3] = 5.0;
                assert!(is_of(&changed, &normed, &engine), "{isa}");
            }
        }
    }

    #[test]
    fn parts_of_buffers_do_not_overlap() {
        for lengths in [[3, 0, 17], [16, 1, 5000], [1, 2, 3]] {
            let mut buffers = Buffers::take();
            let parts = buffers.parts(lengths);
            for (value, (part, length)) in [1.0, 2.0, 3.0]
                .into_iter()
                .zip(parts.into_iter().zip(lengths))
            {
                assert_eq!((part.len(), part.as_ptr().addr() % 64), (length, 0));
                part.fill(value);
            }
            let [a, b, c] = buffers.parts(lengths);
            assert!(
                a.iter().all(|&it| it == 1.0)
                    && b.iter().all(|&it| it == 2.0)
                    && c.iter().all(|&it| it == 3.0)
            );
        }
    }
}
