//! Quadratic forms: x · G · xᵀ for a vector x (K) and a square part of a matrix.
//!
//! Plain Rust that the compiler vectorizes. 64 rows of G are added up in f32, each times its xᵢ, in strips of 64 columns that stay in
//! the first-level cache; the products of these sums with x, in f64. The error is at most (min(K, 64) + 1) · 2⁻²⁴ · Σ|x_i · g_ij · x_j|, the
//! same bits on every instruction set.
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

/// Rows whose sums are in f32, and columns of a strip: what stays in the first-level cache.
const PART: usize = 64;
/// Rows that are added to the sums at once.
const ROWS: usize = 4;

#[inline(always)]
fn form((rows, stride, x): (&[f32], usize, &[f32])) -> f64 {
    let mut total = 0.0;
    for (block, xs) in x.chunks(PART).enumerate() {
        for (strip, columns) in x.chunks(PART).enumerate() {
            let part = &rows[block * PART * stride + strip * PART..];
            total += bilinear(part, stride, xs, columns);
        }
    }
    total
}

/// Σᵢ Σⱼ xᵢ · gᵢⱼ · yⱼ of a part of G.
#[inline(always)]
fn bilinear(rows: &[f32], stride: usize, x: &[f32], y: &[f32]) -> f64 {
    let width = y.len().min(PART);
    let mut sums = [0f32; PART];
    let sums = &mut sums[..width];
    let (groups, rest) = x.as_chunks::<ROWS>();
    for (n, x) in groups.iter().enumerate() {
        let [a, b, c, d] = std::array::from_fn(|i| &rows[(n * ROWS + i) * stride..][..width]);
        let columns = sums.iter_mut().zip(a).zip(b).zip(c).zip(d);
        for ((((sum, a), b), c), d) in columns {
            let first = x[1].mul_add(*b, x[0].mul_add(*a, *sum));
            *sum = x[3].mul_add(*d, x[2].mul_add(*c, first));
        }
    }
    for (n, x) in rest.iter().enumerate() {
        let row = &rows[(groups.len() * ROWS + n) * stride..][..width];
        for (sum, g) in sums.iter_mut().zip(row) {
            *sum = x.mul_add(*g, *sum);
        }
    }
    let ((sums, tail), (y, end)) = (sums.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut totals = [0f64; LANES];
    for (sums, y) in sums.iter().zip(y) {
        for ((total, sum), y) in totals.iter_mut().zip(sums).zip(y) {
            *total += f64::from(*sum) * f64::from(*y);
        }
    }
    let pairs = tail.iter().zip(end);
    let tail: f64 = pairs.map(|(sum, y)| f64::from(*sum) * f64::from(*y)).sum();
    tree(totals, |a, b| a + b) + tail
}
