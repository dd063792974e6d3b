//! Rows of logits: their normalisers, and how far two of them are apart.
//!
//! Plain Rust that the compiler vectorizes: e^x in f32 (3 units in the last place), sums of 512 in f32 lanes, these sums in f64.
//! A log-normaliser is within 10⁻⁶ of the exact one.

use super::activation::exp;
use super::isa::{Isa, vectorized};
use super::panel::LANES;

/// Elements whose sum is kept in f32.
const SLICE: usize = 512;

/// ln Σ e^x of a row; −∞ if it is empty or all −∞, NaN if it has a NaN or +∞.
pub fn log_sum_exp(isa: Isa, row: &[f32]) -> f64 {
    vectorized(isa, || {
        let top = largest(row);
        if !top.is_finite() {
            return if top == f32::NEG_INFINITY {
                f64::NEG_INFINITY
            } else {
                f64::NAN
            };
        }
        let mut total = 0.0;
        for slice in row.chunks(SLICE) {
            let mut lanes = [0f32; LANES];
            for chunk in slice.chunks(LANES) {
                for (lane, x) in lanes.iter_mut().zip(chunk) {
                    *lane += exp(x - top);
                }
            }
            total += lanes.iter().map(|&it| f64::from(it)).sum::<f64>();
        }
        f64::from(top) + total.ln()
    })
}

/// Σ p·ln(p/q), p and q the laws of two rows of logits; their log-normalisers are `of_p` and `of_q`.
///
/// # Panics
/// If the rows differ in length.
pub fn divergence(isa: Isa, p: &[f32], of_p: f64, q: &[f32], of_q: f64) -> f64 {
    assert_eq!(p.len(), q.len(), "logits of one vocabulary");
    vectorized(isa, || {
        let (shift, between) = (of_p as f32, (of_q - of_p) as f32);
        let mut total = 0.0;
        for (p, q) in p.chunks(SLICE).zip(q.chunks(SLICE)) {
            let mut lanes = [0f32; LANES];
            for (p, q) in p.chunks(LANES).zip(q.chunks(LANES)) {
                for (lane, (p, q)) in lanes.iter_mut().zip(p.iter().zip(q)) {
                    let weight = exp(p - shift);
                    // A token that p never chooses adds nothing, whatever q thinks of it.
                    *lane += if weight > 0.0 {
                        weight * (p - q + between)
                    } else {
                        0.0
                    };
                }
            }
            total += lanes.iter().map(|&it| f64::from(it)).sum::<f64>();
        }
        total
    })
}

/// Index of the first largest element; 0 of an empty row.
pub fn argmax(isa: Isa, row: &[f32]) -> usize {
    let top = vectorized(isa, || largest(row));
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
    fn normalisers_and_divergences_agree_with_f64() {
        for count in [1, 15, 16, 513, 49_152] {
            let (p, q) = (row(count, 0.0), row(count, 0.01));
            let exact = |row: &[f32]| {
                let top = row
                    .iter()
                    .fold(f64::NEG_INFINITY, |a, &b| a.max(f64::from(b)));
                top + row
                    .iter()
                    .map(|&it| (f64::from(it) - top).exp())
                    .sum::<f64>()
                    .ln()
            };
            let (of_p, of_q) = (exact(&p), exact(&q));
            let expected: f64 = (p.iter().zip(&q))
                .map(|(&p, &q)| {
                    let (p, q) = (f64::from(p) - of_p, f64::from(q) - of_q);
                    p.exp() * (p - q)
                })
                .sum();
            for isa in Isa::here() {
                assert!((log_sum_exp(isa, &p) - of_p).abs() < 1e-6, "{isa} {count}");
                let got = divergence(isa, &p, of_p, &q, of_q);
                assert!(
                    (got - expected).abs() < 2e-6,
                    "{isa} {count}: {got} for {expected}"
                );
                assert!(divergence(isa, &p, of_p, &p, of_p).abs() < 1e-12);
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
            // p gives token 1 no chance at all.
            let p = [0.0, f32::NEG_INFINITY];
            assert!((divergence(isa, &p, 0.0, &[0.0, 0.0], 2f64.ln()) - 2f64.ln()).abs() < 1e-6);
        }
    }
}
