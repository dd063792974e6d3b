//! What is done to each element of an activation: RMSNorm, SwiGLU, softmax.
//!
//! Plain Rust that the compiler vectorizes, compiled once for each instruction set; sums go through 16 lanes in a fixed order. So the
//! bits are the same on all of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::isa::{Isa, vectorizable, vectorized};
use super::panel::{LANES, bf16_pair};
use super::rows::Rows;
use super::team::Team;

/// Rows below which threads are not worth waking.
const FEW_ROWS: usize = 8;

/// Calls `work(row index, row)` for each row of `out`, spread over the team.
pub(crate) fn each_row<T: Send>(
    out: &mut [T],
    columns: usize,
    team: &Team,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    let rows = out.len().checked_div(columns).unwrap_or(0);
    if rows < FEW_ROWS {
        let rows = out.chunks_exact_mut(columns.max(1));
        return rows.enumerate().for_each(|(i, row)| work(i, row));
    }
    let part = rows.div_ceil(team.threads());
    let parts: Vec<_> = out
        .chunks_mut(part * columns)
        .map(std::sync::Mutex::new)
        .collect();
    team.tasks(parts.len(), &|index| {
        // Each part is locked once, by the thread that takes the task.
        if let Ok(mut rows) = parts[index].lock() {
            for (i, row) in rows.chunks_exact_mut(columns).enumerate() {
                work(index * part + i, row);
            }
        }
    });
}

/// out = x / √(mean(x²) + ε) · weight for each row of `x` (T, K); weight (K).
///
/// Source: Zhang, Sennrich 2019, *Root Mean Square Layer Normalization*, eq. 4.
///
/// # Panics
/// If the sizes do not fit.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32], team: &Team) {
    let columns = weight.len();
    assert_eq!(x.len(), out.len(), "RMSNorm sizes");
    assert!(x.len().is_multiple_of(columns), "rows of {columns}");
    each_row(out, columns, team, |i, out| {
        let x = &x[i * columns..(i + 1) * columns];
        vectorized(isa, NormRow, (x, weight, epsilon, out));
    });
}

vectorizable!(pub(super) NormRow<'a>: norm_row, (&'a [f32], &'a [f32], f32, &'a mut [f32]) => ());

#[inline(always)]
fn norm_row((x, weight, epsilon, out): (&[f32], &[f32], f32, &mut [f32])) {
    let mean = sum_of_squares(x) / x.len() as f32;
    let factor = 1.0 / (mean + epsilon).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * factor * weight;
    }
}

/// First of `values` that is not finite.
pub fn position_not_finite(isa: Isa, values: &[f32], team: &Team) -> Option<usize> {
    // Magnitudes are ordered as their bits, infinity and NaN above all numbers; a maximum has no early exit and is vectorized.
    const PART: usize = 1 << 14;
    let bad = AtomicUsize::new(usize::MAX);
    team.tasks(values.len().div_ceil(PART), &|part| {
        let values = &values[part * PART..values.len().min((part + 1) * PART)];
        let top = vectorized(isa, GreatestMagnitude, values);
        if !f32::from_bits(top).is_finite()
            && let Some(at) = values.iter().position(|it| !it.is_finite())
        {
            bad.fetch_min(part * PART + at, Ordering::Relaxed);
        }
    });
    Some(bad.into_inner()).filter(|&at| at != usize::MAX)
}

vectorizable!(GreatestMagnitude<'a>: greatest_magnitude, &'a [f32] => u32);

/// Its bits.
#[inline(always)]
fn greatest_magnitude(values: &[f32]) -> u32 {
    let magnitudes = values.iter().map(|it| it.to_bits() & 0x7fff_ffff);
    magnitudes.fold(0, u32::max)
}

#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in chunks.by_ref() {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += x * x;
    }
    tree(lanes, |a, b| a + b)
}

/// 16 lanes made one, halves first. Steps of sizes that the compiler knows: of a loop over them it makes no registers.
#[inline(always)]
pub(super) fn tree<T: Copy>(lanes: [T; LANES], two: impl Fn(T, T) -> T) -> T {
    let eight: [T; 8] = std::array::from_fn(|i| two(lanes[i], lanes[i + 8]));
    let four: [T; 4] = std::array::from_fn(|i| two(eight[i], eight[i + 4]));
    let pair: [T; 2] = std::array::from_fn(|i| two(four[i], four[i + 2]));
    two(pair[0], pair[1])
}

/// gate = silu(gate) · up, silu(x) = x / (1 + e⁻ˣ), rows of `columns`.
///
/// Source: Shazeer 2020, *GLU Variants Improve Transformer*, eq. 6.
///
/// # Panics
/// If the sizes differ.
pub fn swiglu(isa: Isa, gate: &mut [f32], up: &[f32], columns: usize, team: &Team) {
    assert_eq!(gate.len(), up.len(), "SwiGLU sizes");
    each_row(gate, columns, team, |i, gate| {
        let up = &up[i * columns..(i + 1) * columns];
        vectorized(isa, SwigluRow, (gate, up));
    });
}

vectorizable!(pub(super) SwigluRow<'a>: swiglu_row, (&'a mut [f32], &'a [f32]) => ());

#[inline(always)]
fn swiglu_row((gate, up): (&mut [f32], &[f32])) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

/// Each row of `x` (T, K) rounded to bf16, ties to even, two to a word, an odd end filled up with zero: (T, K/2 rounded up).
///
/// # Panics
/// If `x` is no whole number of rows.
pub fn to_bf16(isa: Isa, x: &[f32], columns: usize, team: &Team) -> Vec<u32> {
    let rows = x.len().checked_div(columns).unwrap_or(0);
    let mut out = vec![0u32; rows * columns.div_ceil(2)];
    to_bf16_in(isa, Rows::Values(x), columns, &mut out, team);
    out
}

/// [`to_bf16`] into memory that is there already, all of it.
///
/// # Panics
/// If `x` is no whole number of rows, or `out` not as many.
pub fn to_bf16_in(isa: Isa, x: Rows<'_>, columns: usize, out: &mut [u32], team: &Team) {
    let words = columns.div_ceil(2);
    let rows = x.len().checked_div(columns).unwrap_or(0);
    assert_eq!(x.len(), rows * columns, "rows of {columns}");
    assert_eq!(out.len(), rows * words, "rows of {words} words");
    each_row(out, words, team, |i, out| {
        x.round(isa, columns, i, out);
    });
}

/// Rounds `x` (K) to bf16, two to a word, an odd end filled up with zero.
#[inline(always)]
pub(super) fn row_to_bf16((x, out): (&[f32], &mut [u32])) {
    // Sixteen words at a time: of a size that the compiler knows, it makes registers.
    let (chunks, rest) = x.as_chunks::<{ 2 * LANES }>();
    let (words, last) = out.split_at_mut(chunks.len() * LANES);
    for (words, chunk) in words.as_chunks_mut::<LANES>().0.iter_mut().zip(chunks) {
        // No `from_fn`: it is not always made a part of this function, and then not compiled for its instruction set.
        for (word, pair) in words.iter_mut().zip(chunk.as_chunks::<2>().0) {
            *word = bf16_pair(pair[0], pair[1]);
        }
    }
    for (word, pair) in last.iter_mut().zip(rest.chunks(2)) {
        *word = bf16_pair(pair[0], pair.get(1).copied().unwrap_or(0.0));
    }
}

/// What an online softmax has seen of a row so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running {
    /// Largest score.
    pub top: f32,
    /// Σ e^(score − top).
    pub total: f32,
}

impl Running {
    /// Nothing seen.
    pub const NEW: Running = Running {
        top: f32::NEG_INFINITY,
        total: 0.0,
    };
}

/// Replaces scores by e^(score − top), top being the largest of this block and all before. Returns the factor by which
/// what was summed before must be multiplied. A block without any score (all −∞) changes nothing.
///
/// Source: Milakov, Gimelshein 2018, *Online normalizer calculation for softmax*, algorithm 3.
#[inline(always)]
pub(super) fn online_softmax(scores: &mut [f32], running: &mut Running) -> f32 {
    // Chunks of a size that the compiler knows are registers; others are loops.
    let mut tops = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        for (top, score) in tops.iter_mut().zip(chunk) {
            *top = if *score > *top { *score } else { *top };
        }
    }
    for (top, score) in tops.iter_mut().zip(rest) {
        *top = if *score > *top { *score } else { *top };
    }
    let top = tree(tops, |a, b| if b > a { b } else { a });
    let top = if top > running.top { top } else { running.top };
    if top == f32::NEG_INFINITY {
        scores.fill(0.0);
        return 1.0;
    }
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            *score = exp_to_one(*score - top);
            *lane += *score;
        }
    }
    for (lane, score) in lanes.iter_mut().zip(rest) {
        *score = exp_to_one(*score - top);
        *lane += *score;
    }
    // Most blocks bring no larger score.
    let factor = match top == running.top {
        true => 1.0,
        false => exp_to_one(running.top - top),
    };
    running.total = running.total * factor + tree(lanes, |a, b| a + b);
    running.top = top;
    factor
}

/// Adding and subtracting it rounds a number below 2²² to a whole one.
pub(super) const ROUNDER: f32 = 12_582_912.0;
/// ln 2 in two parts, the first with few enough bits that n · LN_2_HIGH is exact.
pub(super) const LN_2_HIGH: f32 = 0.693_359_4;
pub(super) const LN_2_LOW: f32 = -2.121_944_4e-4;

/// eˣ to 3 units in the last place; 0 below −87 (where f32 has no normal numbers left), +∞ above 88.72.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; e^r by its Taylor polynomial of degree 7, whose error of r⁸/8! is below 10⁻⁸; 2ⁿ by
/// writing n into the exponent, in two steps as 2¹²⁸ is no f32.
#[inline(always)]
#[allow(
    clippy::manual_clamp,
    reason = "a NaN must stay one, and clamp is slower"
)]
pub fn exp(x: f32) -> f32 {
    let clamped = if x < -87.0 { -87.0 } else { x };
    let clamped = if clamped > 89.0 { 89.0 } else { clamped };
    let (value, n) = exp_parts(clamped);
    let value = value * power_of_two(n >> 1) * power_of_two(n.wrapping_sub(n >> 1));
    if x < -87.0 { 0.0 } else { value }
}

/// [`exp`] of what is not above 0, the same bits: 2ⁿ in one step.
#[inline(always)]
pub(super) fn exp_to_one(x: f32) -> f32 {
    let (value, n) = exp_parts(if x < -87.0 { -87.0 } else { x });
    let value = value * power_of_two(n);
    if x < -87.0 { 0.0 } else { value }
}

/// Of eˣ about 0, the highest power first.
pub(super) const TAYLOR: [f32; 8] = [
    1.0 / 5040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

/// e^r and n.
#[inline(always)]
fn exp_parts(x: f32) -> (f32, i32) {
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let mut p = TAYLOR[0];
    for c in &TAYLOR[1..] {
        p = r.mul_add(p, *c);
    }
    (p, shifted.to_bits().wrapping_sub(ROUNDER.to_bits()) as i32)
}

/// 2ⁿ, −126 ≤ n ≤ 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}
