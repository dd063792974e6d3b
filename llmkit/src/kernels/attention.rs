//! Causal attention over keys and values in blocks: out = softmax(q·kᵀ/√D)·v, one key/value head and the query rows that share it.
//!
//! Blocks of 64 keys are passed once each, with an online softmax: for each query row the largest score and the sum of
//! exponentials so far, and a weighted sum of values that is rescaled when a larger score turns up. Nothing of size T × S is kept.
//!
//! Blocks begin at multiples of 64 whatever the chunk of queries, each row goes through them first to last, and keys that a row
//! may not see have weight exactly zero: so a row's bits depend neither on the other rows nor on where the prompt was cut.
//!
//! Keys of a block lie as panels (16 keys × D elements), values as panels (16 features × 64 elements): both products are
//! [`dense`] tiles. Where they are bf16, queries and weights are rounded to bf16 too, and all sums are f32.
//!
//! Source: Dao et al. 2022, *FlashAttention*, 2205.14135, algorithm 1; block structure as in FlashDecoding.
//! Cost: 4·R·S·D flops; keys and values are read once for each call.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod lazy;

use std::ops::Range;

use super::activation::{Running, online_softmax};
use super::aligned::Aligned;
#[cfg(target_arch = "x86_64")]
use super::amx::{self, Hardware, SIDE, Unit};
use super::dense::{self, Into, Job, f32_words};
use super::halves;
use super::isa::{Isa, vectorizable, vectorized};
use super::panel::{Element, LANES, Line};

/// Keys in a block.
pub const BLOCK: usize = 64;

/// Keys and values of 64 consecutive positions of one head.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// Of keys and values.
    pub element: Element,
    /// (64/16 panels, words of D lines): lane = key, line = word of features.
    pub keys: &'a [Line],
    /// (D/16 panels, words of 64 lines): lane = feature, line = word of keys.
    pub values: &'a [Line],
}

impl Block<'_> {
    /// Feature `feature` of key `key`; heads have `head_dim` features.
    pub fn key(&self, head_dim: usize, key: usize, feature: usize) -> f32 {
        let (line, lane, index) = key_place(self.element, head_dim, key, feature);
        self.element.of_word(self.keys[line].0[lane], index)
    }

    /// Feature `feature` of the value of key `key`.
    pub fn value(&self, key: usize, feature: usize) -> f32 {
        let (line, lane, index) = value_place(self.element, key, feature);
        self.element.of_word(self.values[line].0[lane], index)
    }
}

/// Where attention gets its blocks.
pub trait Blocks {
    /// Keys and values of positions 64·`index` …; those beyond the last query need only be finite. Called for each block once
    /// (except by the reference), in order.
    fn block(&mut self, index: usize) -> Block<'_>;
}

/// Lines of the keys (and of the values) of a block for heads of `head_dim` features, a multiple of 16.
pub const fn block_lines(element: Element, head_dim: usize) -> usize {
    BLOCK / LANES * element.words(head_dim)
}

/// Line, lane, and index in the word, of feature `feature` of key `key` of a block.
pub const fn key_place(
    element: Element,
    head_dim: usize,
    key: usize,
    feature: usize,
) -> (usize, usize, usize) {
    let line = key / LANES * element.words(head_dim) + feature / element.per_word();
    (line, key % LANES, feature % element.per_word())
}

/// Line, lane, and index in the word, of feature `feature` of the value of key `key` of a block.
pub const fn value_place(element: Element, key: usize, feature: usize) -> (usize, usize, usize) {
    let line = feature / LANES * element.words(BLOCK) + key / element.per_word();
    (line, feature % LANES, key % element.per_word())
}

/// Which keys a query at position p sees: those from `p + 1 − window` (all if there is no window) to p.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mask {
    /// Keys seen, the query's own included.
    pub window: Option<usize>,
}

impl Mask {
    /// First key that a query at `position` sees.
    pub fn first(self, position: usize) -> usize {
        self.window
            .map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// Memory that is used again from call to call.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Queries in bf16, (R, words of D), if a block asks for them.
    queries: Aligned,
    /// Scores and then weights of a strip, (R, 64); the latter in bf16, (R, words of 64).
    scores: Aligned,
    weights: Aligned,
    running: Vec<Running>,
    #[cfg(target_arch = "x86_64")]
    lazy: Vec<lazy::Row>,
}

/// Attends for `positions.len()` query rows (R, D), already divided by √D; row i sees the keys that `mask` allows at `positions[i]`.
///
/// # Panics
/// If sizes do not fit, D is no multiple of 16, or the machine lacks `isa`.
pub fn attend(
    isa: Isa,
    queries: &[f32],
    positions: &[usize],
    mask: Mask,
    mut source: impl Blocks,
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let rows = positions.len();
    assert_eq!(queries.len(), out.len(), "attention sizes");
    let head_dim = queries.len().checked_div(rows).unwrap_or(LANES);
    assert!(
        head_dim.is_multiple_of(LANES) && head_dim * rows == queries.len(),
        "head of {head_dim}"
    );
    let (Some(&first), Some(&last)) = (positions.iter().min(), positions.iter().max()) else {
        return;
    };
    let blocks = mask.first(first) / BLOCK..last / BLOCK + 1;
    if isa.checked() == Isa::Reference {
        return reference(queries, positions, mask, &mut source, out);
    }
    out.fill(0.0);
    let (mut unused, mut steps) = (Some(scratch), None);
    for index in blocks {
        let start = index * BLOCK;
        // Rows at the beginning that come before the block, and at the end that no longer see it, are left out.
        let early = (positions.iter()).take_while(|&&it| it < start);
        let late = (positions.iter().rev()).take_while(|&&it| mask.first(it) >= start + BLOCK);
        let here = early.count()..rows - late.count();
        if here.is_empty() {
            continue;
        }
        let block = source.block(index);
        let lines = block_lines(block.element, head_dim);
        assert_eq!(block.keys.len(), lines, "keys of a block");
        assert_eq!(block.values.len(), lines, "values of a block");
        // How it goes is known with the first block.
        if let Some(scratch) = unused.take() {
            let input = (queries, head_dim);
            steps = Some(Steps::new((isa, block.element), input, scratch));
        }
        let Some(steps) = &mut steps else { continue };
        for first in here.clone().step_by(steps.strip) {
            let strip = first..here.end.min(first + steps.strip);
            let positions = &positions[strip.clone()];
            let last = positions.iter().max().map_or(0, |it| it + 1);
            let seen = Seen {
                positions,
                mask,
                start,
                keys: last.saturating_sub(start).min(BLOCK),
            };
            if seen.keys > 0 {
                steps.strip(
                    &block,
                    strip.clone(),
                    &seen,
                    &mut out[strip.start * head_dim..strip.end * head_dim],
                );
            }
        }
    }
    if let Some(steps) = steps {
        steps.end(out);
    }
}

/// Query rows that pass through a block together, so that their scores stay in the first cache: two tiles of a matrix unit …
const UNIT_STRIP: usize = 32;
/// … or a multiple of all tiles' rows.
const STRIP: usize = 96;

/// How a strip of query rows passes through a block: the instruction set, and what is known of all rows so far.
struct Steps<'a> {
    isa: Isa,
    element: Element,
    head_dim: usize,
    /// Rows of a strip, at most.
    strip: usize,
    /// (R, words of D).
    queries: &'a [u32],
    /// (strip, 64).
    scores: &'a mut [f32],
    /// (strip, words of 64), if they are rounded.
    weights: &'a mut [u32],
    running: &'a mut [Running],
    #[cfg(target_arch = "x86_64")]
    lazy: &'a mut [lazy::Row],
    /// The rows that a matrix unit is configured for, if it is used; zero if it is not yet.
    unit: Option<usize>,
}

impl<'a> Steps<'a> {
    fn new(
        (isa, element): (Isa, Element),
        (queries, head_dim): (&'a [f32], usize),
        scratch: &'a mut Scratch,
    ) -> Steps<'a> {
        let rows = queries.len() / head_dim;
        let is_rounded = element == Element::Bf16;
        let is_on_unit = is_rounded && isa == Isa::Amx && [32, 64].contains(&head_dim);
        let strip = if is_on_unit { UNIT_STRIP } else { STRIP };
        let some = rows.min(strip);
        scratch.running.clear();
        scratch.running.resize(rows, Running::NEW);
        #[cfg(target_arch = "x86_64")]
        {
            scratch.lazy.clear();
            scratch.lazy.resize(rows, lazy::Row::NEW);
        }
        Steps {
            isa,
            element,
            head_dim,
            strip,
            queries: match is_rounded {
                false => f32_words(queries),
                true => {
                    let words = scratch.queries.words_mut(rows * element.words(head_dim));
                    halves::round(isa, queries, words);
                    words
                }
            },
            scores: scratch.scores.floats_mut(some * BLOCK),
            weights: match is_rounded {
                false => &mut [],
                true => scratch.weights.words_mut(some * element.words(BLOCK)),
            },
            running: &mut scratch.running,
            #[cfg(target_arch = "x86_64")]
            lazy: &mut scratch.lazy,
            unit: is_on_unit.then_some(0),
        }
    }

    /// Rows `strip` through a block of which they see some keys; `out` is theirs.
    fn strip(&mut self, block: &Block<'_>, strip: Range<usize>, seen: &Seen<'_>, out: &mut [f32]) {
        let (row, column) = (self.element.words(self.head_dim), self.element.words(BLOCK));
        let scores = Job {
            x: self.queries[strip.start * row..].as_ptr(),
            x_stride: row,
            rows: strip.len(),
            lines: block.keys.as_ptr(),
            line_stride: row,
            words: row,
            out: self.scores.as_mut_ptr(),
            out_stride: BLOCK,
            columns: seen.keys,
            into: Into::Replace,
            next: std::ptr::null(),
            gap: 1,
        };
        // SAFETY: x is all rows × D elements, the block has 64 keys of as many (asserted), scores are a strip's rows × 64.
        unsafe { self.multiply(scores) };
        let x = self.weigh(strip.clone(), seen, out);
        let mix = Job {
            x,
            x_stride: column,
            rows: strip.len(),
            lines: block.values.as_ptr(),
            line_stride: column,
            words: self.element.words(seen.keys),
            out: out.as_mut_ptr(),
            out_stride: self.head_dim,
            columns: self.head_dim,
            into: Into::Add,
            next: std::ptr::null(),
            gap: 1,
        };
        // SAFETY: x is these rows × 64 elements, the block has D features of as many (asserted), out is these rows × D.
        unsafe { self.multiply(mix) };
    }

    /// Scores to weights, with the rows of `out` (R, D) rescaled as that asks; weights (R, words of 64), those that are not visible zero.
    fn weigh(&mut self, strip: Range<usize>, seen: &Seen<'_>, out: &mut [f32]) -> *const u32 {
        let rows = strip.len();
        let scores = &mut self.scores[..rows * BLOCK];
        let column = self.element.words(BLOCK);
        match (self.element, self.isa) {
            #[cfg(target_arch = "x86_64")]
            (Element::Bf16, Isa::Avx512 | Isa::Amx) => {
                let (weights, rows) = (&mut self.weights[..rows * column], &mut self.lazy[strip]);
                // SAFETY: the machine has it, as `attend` has checked.
                unsafe {
                    match seen.keys <= BLOCK / 2 {
                        true => lazy::weigh::<2>(scores, weights, rows, out, seen),
                        false => lazy::weigh::<4>(scores, weights, rows, out, seen),
                    }
                }
                weights.as_ptr()
            }
            (element, isa) => {
                let running = &mut self.running[strip];
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: as above.
                    Isa::Avx512 | Isa::Amx => unsafe {
                        avx512::weigh(scores, running, out, seen);
                    },
                    _ => vectorized(isa, Weigh, (&mut *scores, running, out, *seen)),
                }
                match element {
                    Element::F32 => f32_words(scores).as_ptr(),
                    Element::Bf16 => {
                        let weights = &mut self.weights[..rows * column];
                        halves::round(isa, scores, weights);
                        weights.as_ptr()
                    }
                }
            }
        }
    }

    /// # Safety
    /// All that the job's pointers, sizes and strides reach is valid; scores and weights have 64 columns whatever the job says.
    unsafe fn multiply(&mut self, job: Job) {
        #[cfg(target_arch = "x86_64")]
        if let Some(configured) = &mut self.unit {
            for row in (0..job.rows).step_by(SIDE) {
                let rows = (job.rows - row).min(SIDE);
                // Whole pairs of panels and steps: there are 64 keys, and weights of those that are not visible are zero.
                let tile = Job {
                    x: job.x.wrapping_add(row * job.x_stride),
                    rows,
                    columns: job.columns.next_multiple_of(2 * LANES),
                    words: job.words.next_multiple_of(SIDE),
                    out: job.out.wrapping_add(row * job.out_stride),
                    ..job
                };
                // SAFETY: `attend` has checked that there is a unit; the rest is the caller's.
                unsafe {
                    if *configured != rows {
                        Hardware.configure([rows, rows], SIDE);
                        *configured = rows;
                    }
                    amx::short(&mut Hardware, &tile);
                }
            }
            return;
        }
        // SAFETY: passed on.
        unsafe { dense::run(self.isa, self.element, &job) }
    }

    /// Divides by the sums of weights.
    fn end(self, out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if self.unit.is_some_and(|rows| rows > 0) {
            // SAFETY: there is a unit.
            unsafe { Hardware.release() };
        }
        for (r, out) in out.chunks_exact_mut(self.head_dim).enumerate() {
            let total = match (self.element, self.isa) {
                #[cfg(target_arch = "x86_64")]
                (Element::Bf16, Isa::Avx512 | Isa::Amx) => self.lazy[r].total(),
                _ => self.running[r].total,
            };
            out.iter_mut().for_each(|it| *it /= total);
        }
    }
}

/// What the query rows see of a block of `keys` keys that begins at position `start`.
#[derive(Clone, Copy)]
struct Seen<'a> {
    positions: &'a [usize],
    mask: Mask,
    start: usize,
    keys: usize,
}

impl Seen<'_> {
    /// Keys of the block that a query at `position` sees.
    #[inline(always)]
    fn of(&self, position: usize) -> (usize, usize) {
        let from = (self.mask.first(position).saturating_sub(self.start)).min(self.keys);
        let to = (position + 1).saturating_sub(self.start).min(self.keys);
        (from, to.max(from))
    }
}

vectorizable!(Weigh<'a>: weigh, (&'a mut [f32], &'a mut [Running], &'a mut [f32], Seen<'a>) => ());

/// Scores (R, 64) to weights, with the rows of `out` (R, D) rescaled where a larger score turned up.
#[inline(always)]
fn weigh((scores, running, out, seen): (&mut [f32], &mut [Running], &mut [f32], Seen<'_>)) {
    let head_dim = out.len() / seen.positions.len();
    // Arrays: of a size that the compiler knows.
    let rows = scores.as_chunks_mut::<BLOCK>().0.iter_mut().zip(running);
    for ((scores, running), (out, &position)) in
        rows.zip(out.chunks_exact_mut(head_dim).zip(seen.positions))
    {
        let (from, to) = seen.of(position);
        if (from, to) != (0, BLOCK) {
            scores[..from].fill(f32::NEG_INFINITY);
            scores[to..].fill(f32::NEG_INFINITY);
        }
        let factor = online_softmax(scores, running);
        if factor != 1.0 {
            out.iter_mut().for_each(|it| *it *= factor);
        }
    }
}

/// Softmax over all visible keys at once, in f64.
fn reference(
    queries: &[f32],
    positions: &[usize],
    mask: Mask,
    source: &mut impl Blocks,
    out: &mut [f32],
) {
    let head_dim = queries.len() / positions.len();
    let rows = queries
        .chunks_exact(head_dim)
        .zip(out.chunks_exact_mut(head_dim));
    for ((query, out), &position) in rows.zip(positions) {
        let keys = mask.first(position)..position + 1;
        let mut scores = Vec::new();
        for key in keys.clone() {
            let block = source.block(key / BLOCK);
            let one = |(i, &q): (usize, &f32)| {
                f64::from(q) * f64::from(block.key(head_dim, key % BLOCK, i))
            };
            scores.push(query.iter().enumerate().map(one).sum::<f64>());
        }
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut mixed = vec![0.0; head_dim];
        for (key, weight) in keys.zip(&weights) {
            let block = source.block(key / BLOCK);
            for (i, mixed) in mixed.iter_mut().enumerate() {
                *mixed += weight / total * f64::from(block.value(key % BLOCK, i));
            }
        }
        out.iter_mut()
            .zip(mixed)
            .for_each(|(out, mixed)| *out = mixed as f32);
    }
}
