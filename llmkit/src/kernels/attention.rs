//! Causal attention over keys and values in blocks: out = softmax(q·kᵀ/√D)·v, one key/value head and the query rows that share it.
//!
//! Blocks of 64 keys are passed once each, with an online softmax: for each query row the largest score and the sum of
//! exponentials so far, and a weighted sum of values that is rescaled when a larger score turns up. Nothing of size T × S is kept.
//!
//! Blocks begin at multiples of 64 whatever the chunk of queries, each row goes through them first to last, and keys that a row
//! may not see have weight exactly zero: so a row's bits depend neither on the other rows nor on where the prompt was cut.
//!
//! Keys of a block lie as panels (16 keys × D elements), values as panels (16 features × 64 elements): both products are
//! [`dense`](super::dense) tiles. Where they are bf16, queries and weights are rounded to bf16 too, and all sums are f32.
//!
//! Source: Dao et al. 2022, *FlashAttention*, 2205.14135, algorithm 1; block structure as in FlashDecoding.
//! Cost: 4·R·S·D flops; keys and values are read once for each call.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod lazy;
mod steps;

use super::activation::Running;
use super::aligned::Aligned;
use super::isa::Isa;
use super::panel::{Element, LANES, Line};
use steps::Steps;

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
