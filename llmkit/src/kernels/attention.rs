//! Causal attention over keys and values in blocks: out = softmax(q·kᵀ/√D)·v, one key/value head and the query rows that share it.
//!
//! Blocks of 64 keys are passed once each, with an online softmax: for each query row the largest score and the sum of
//! exponentials so far, and a weighted sum of values that is rescaled when a larger score turns up. Nothing of size T × S is kept.
//!
//! Blocks begin at multiples of 64 whatever the chunk of queries, each row goes through them first to last, and keys that a row
//! may not see have weight exactly zero: so a row's bits depend neither on the other rows nor on where the prompt was cut.
//!
//! Keys of a block lie as panels (16 keys × D words), values as panels (16 features × 64 words): both products are
//! [`dense`] tiles.
//!
//! Source: Dao et al. 2022, *FlashAttention*, 2205.14135, algorithm 1; block structure as in FlashDecoding.
//! Cost: 4·R·S·D flops; keys and values are read once for each call.

#![allow(unsafe_code)]

use super::activation::{Running, online_softmax};
use super::dense::{self, Element, Into, Job};
use super::isa::{Isa, vectorizable, vectorized};
use super::panel::{LANES, Line};

/// Keys in a block.
pub const BLOCK: usize = 64;

/// Keys and values of 64 consecutive positions of one head.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// (64/16 panels, D lines): lane = key, line = feature.
    pub keys: &'a [Line],
    /// (D/16 panels, 64 lines): lane = feature, line = key.
    pub values: &'a [Line],
}

/// Where attention gets its blocks.
pub trait Blocks {
    /// Keys and values of positions 64·`index` …; those beyond the last query need only be finite. Called for each block once
    /// (except by the reference), in order.
    fn block(&mut self, index: usize) -> Block<'_>;
}

/// Lines of the keys (and of the values) of a block for heads of `head_dim` features, a multiple of 16.
pub const fn block_lines(head_dim: usize) -> usize {
    BLOCK / LANES * head_dim
}

/// Line and lane of feature `feature` of key `key` of a block.
pub const fn key_place(head_dim: usize, key: usize, feature: usize) -> (usize, usize) {
    (key / LANES * head_dim + feature, key % LANES)
}

/// Line and lane of feature `feature` of the value of key `key` of a block.
pub const fn value_place(key: usize, feature: usize) -> (usize, usize) {
    (feature / LANES * BLOCK + key, feature % LANES)
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
    scores: Vec<f32>,
    running: Vec<Running>,
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
    scratch.scores.resize(rows * BLOCK, 0.0);
    scratch.running.clear();
    scratch.running.resize(rows, Running::NEW);
    out.fill(0.0);
    for index in blocks {
        let start = index * BLOCK;
        let keys = (last + 1 - start).min(BLOCK);
        let Block { keys: k, values: v } = source.block(index);
        assert_eq!(k.len(), block_lines(head_dim), "keys of a block");
        assert_eq!(v.len(), block_lines(head_dim), "values of a block");
        let scores = Job {
            x: queries.as_ptr().cast(),
            x_stride: head_dim,
            rows,
            lines: k.as_ptr(),
            line_stride: head_dim,
            words: head_dim,
            out: scratch.scores.as_mut_ptr(),
            out_stride: BLOCK,
            columns: keys,
            into: Into::Replace,
        };
        // SAFETY: queries are rows × D, the block has 64 keys of D words (asserted), scores are rows × 64.
        unsafe { dense::run(isa, Element::F32, &scores) };
        let seen = Seen {
            positions,
            mask,
            start,
            keys,
        };
        let (scores, running) = (&mut *scratch.scores, &mut *scratch.running);
        vectorized(isa, Weigh, (scores, running, &mut *out, seen));
        let mix = Job {
            x: scratch.scores.as_ptr().cast(),
            x_stride: BLOCK,
            rows,
            lines: v.as_ptr(),
            line_stride: BLOCK,
            words: keys,
            out: out.as_mut_ptr(),
            out_stride: head_dim,
            columns: head_dim,
            into: Into::Add,
        };
        // SAFETY: scores are rows × 64, the block has D features of 64 words (asserted), out is rows × D.
        unsafe { dense::run(isa, Element::F32, &mix) };
    }
    for (out, running) in out.chunks_exact_mut(head_dim).zip(&scratch.running) {
        let total = running.total;
        out.iter_mut().for_each(|it| *it /= total);
    }
}

/// What the query rows see of a block of `keys` keys that begins at position `start`.
struct Seen<'a> {
    positions: &'a [usize],
    mask: Mask,
    start: usize,
    keys: usize,
}

vectorizable!(Weigh<'a>: weigh, (&'a mut [f32], &'a mut [Running], &'a mut [f32], Seen<'a>) => ());

/// Scores (R, 64) to weights, with the rows of `out` (R, D) rescaled where a larger score turned up.
#[inline(always)]
fn weigh((scores, running, out, seen): (&mut [f32], &mut [Running], &mut [f32], Seen<'_>)) {
    let head_dim = out.len() / seen.positions.len();
    let ends = seen.start..=seen.start + seen.keys;
    let rows = scores.chunks_exact_mut(BLOCK).zip(running);
    for ((scores, running), (out, &position)) in
        rows.zip(out.chunks_exact_mut(head_dim).zip(seen.positions))
    {
        let from = seen.mask.first(position).clamp(*ends.start(), *ends.end()) - seen.start;
        let to = (position + 1).clamp(*ends.start(), *ends.end()) - seen.start;
        scores[..from].fill(f32::NEG_INFINITY);
        scores[to..].fill(f32::NEG_INFINITY);
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
    let at = |lines: &[Line], (line, lane): (usize, usize)| {
        f64::from(f32::from_bits(lines[line].0[lane]))
    };
    let rows = queries
        .chunks_exact(head_dim)
        .zip(out.chunks_exact_mut(head_dim));
    for ((query, out), &position) in rows.zip(positions) {
        let keys = mask.first(position)..position + 1;
        let mut scores = Vec::new();
        for key in keys.clone() {
            let lines = source.block(key / BLOCK).keys;
            let one = |(i, &q): (usize, &f32)| {
                f64::from(q) * at(lines, key_place(head_dim, key % BLOCK, i))
            };
            scores.push(query.iter().enumerate().map(one).sum::<f64>());
        }
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut mixed = vec![0.0; head_dim];
        for (key, weight) in keys.zip(&weights) {
            let lines = source.block(key / BLOCK).values;
            for (i, mixed) in mixed.iter_mut().enumerate() {
                *mixed += weight / total * at(lines, value_place(key % BLOCK, i));
            }
        }
        out.iter_mut()
            .zip(mixed)
            .for_each(|(out, mixed)| *out = mixed as f32);
    }
}
