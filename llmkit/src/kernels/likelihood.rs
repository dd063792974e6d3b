//! Rows of logits: their normalisers and largest elements.
//!
//! Plain Rust that the compiler vectorizes: e^x in f32 (3 units in the last place), sums of 512 in f32 lanes, these sums in f64.
//! A log-normaliser is within 10⁻⁶ of the exact one.

use super::activation::{exp_to_one, tree};
use super::isa::{Isa, vectorizable, vectorized};
use super::panel::LANES;

/// Elements whose sum is kept in f32.
const SLICE: usize = 512;

/// ln Σ e^x of a row; −∞ if it is empty or all −∞, NaN if it has a NaN or +∞.
pub fn log_sum_exp(isa: Isa, row: &[f32]) -> f64 {
    vectorized(isa, Normaliser, row)
}

vectorizable!(Normaliser<'a>: normaliser, &'a [f32] => f64);
vectorizable!(Largest<'a>: largest, &'a [f32] => f32);

#[inline(always)]
fn normaliser(row: &[f32]) -> f64 {
    let top = highest(row);
    if !top.is_finite() {
        let is_nothing = row.iter().all(|&it| it == f32::NEG_INFINITY);
        return if is_nothing {
            f64::NEG_INFINITY
        } else {
            f64::NAN
        };
    }
    let mut total = 0.0;
    for slice in row.chunks(SLICE) {
        let mut lanes = [0f32; LANES];
        let (chunks, rest) = slice.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += exp_to_one(x - top);
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += exp_to_one(x - top);
        }
        total += lanes.iter().map(|&it| f64::from(it)).sum::<f64>();
    }
    f64::from(top) + total.ln()
}

/// The largest element, −∞ of none; of what is no number it may say anything, as the sum does not.
#[inline(always)]
fn highest(row: &[f32]) -> f32 {
    // As whole numbers in the same order: of their maximum the compiler makes registers, of one of floats it does not.
    let key = |x: f32| (x.to_bits() as i32) ^ ((x.to_bits() as i32 >> 31) & i32::MAX);
    let mut tops = [key(f32::NEG_INFINITY); LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (top, x) in tops.iter_mut().zip(chunk) {
            *top = key(*x).max(*top);
        }
    }
    for (top, x) in tops.iter_mut().zip(rest) {
        *top = key(*x).max(*top);
    }
    let top = tree(tops, |a, b| a.max(b));
    f32::from_bits((top ^ ((top >> 31) & i32::MAX)) as u32)
}

/// Index of the first largest element; 0 of an empty row.
pub fn argmax(isa: Isa, row: &[f32]) -> usize {
    let top = vectorized(isa, Largest, row);
    row.iter().position(|&it| it == top).unwrap_or(0)
}

/// The largest element; NaN if there is one.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let mut tops = [f32::NEG_INFINITY; LANES];
    let mut odd = [false; LANES];
    for chunk in row.chunks(LANES) {
        for ((top, odd), x) in tops.iter_mut().zip(&mut odd).zip(chunk) {
            *top = if *x > *top { *x } else { *top };
            *odd |= x.is_nan();
        }
    }
    match odd.contains(&true) {
        true => f32::NAN,
        false => tops.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(count: usize, seed: f32) -> Vec<f32> {
        (0..count)
            .map(|i| ((i as f32 + seed) * 0.618).sin() * 12.0 + (i % 5) as f32)
            .collect()
    }

    #[test]
    fn normalisers_agree_with_f64() {
        for count in [1, 15, 16, 513, 49_152] {
            let p = row(count, 0.0);
            let top = (p.iter()).fold(f64::NEG_INFINITY, |a, &b| a.max(f64::from(b)));
            let sum: f64 = p.iter().map(|&it| (f64::from(it) - top).exp()).sum();
            for isa in Isa::here() {
                let error = log_sum_exp(isa, &p) - (top + sum.ln());
                assert!(error.abs() < 1e-6, "{isa} {count}: {error}");
            }
        }
    }

    #[test]
    fn odd_rows_have_an_answer() {
        for isa in Isa::here() {
            assert_eq!(log_sum_exp(isa, &[]), f64::NEG_INFINITY);
            assert!(log_sum_exp(isa, &[0.0, f32::NAN]).is_nan());
            assert!(log_sum_exp(isa, &[0.0, f32::INFINITY]).is_nan());
            assert!((log_sum_exp(isa, &[3e38, -3e38, 3e38]) - 3e38f32 as f64).abs() < 1.0);
            assert!((log_sum_exp(isa, &[f32::NEG_INFINITY, 1.0]) - 1.0).abs() < 1e-7);
            assert_eq!((argmax(isa, &[1.0, 3.0, 3.0]), argmax(isa, &[])), (1, 0));
        }
    }
}
