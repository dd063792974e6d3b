//! Quadratic forms: x · G · xᵀ for a vector x (K) and a square part of a matrix.
//!
//! Plain Rust that the compiler vectorizes: the products of a row of G with x in f32, in 16 lanes that each add K/16 of them; rows in f64, in
//! the same lanes. The error is at most (K/16 + 3) · 2⁻²⁴ · Σ|x_i · g_ij · x_j|, the same bits on every instruction set.
//!
//! Cost: 2·K² operations.

use super::activation::tree;
use super::isa::{Isa, vectorizable, vectorized};
use super::panel::LANES;

/// x · G · xᵀ, where row i of G begins at `rows[i · stride]`.
///
/// # Panics
/// If `rows` ends before the last row does.
pub fn quadratic(isa: Isa, rows: &[f32], stride: usize, x: &[f32]) -> f64 {
    vectorized(isa, Quadratic, (rows, stride, x))
}

vectorizable!(Quadratic<'a>: form, (&'a [f32], usize, &'a [f32]) => f64);

#[inline(always)]
fn form((rows, stride, x): (&[f32], usize, &[f32])) -> f64 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let (mut totals, mut tail) = ([0f64; LANES], 0.0);
    for (i, &xi) in x.iter().enumerate() {
        let (row, end) = rows[i * stride..][..x.len()].as_chunks::<LANES>();
        let mut sums = [0f32; LANES];
        for (g, x) in row.iter().zip(chunks) {
            for ((sum, g), x) in sums.iter_mut().zip(g).zip(x) {
                *sum += g * x;
            }
        }
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total += f64::from(xi) * f64::from(sum);
        }
        for (g, x) in end.iter().zip(rest) {
            tail += f64::from(xi) * f64::from(g * x);
        }
    }
    tree(totals, |a, b| a + b) + tail
}
