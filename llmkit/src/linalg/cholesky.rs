//! Cholesky: A = L·Lᵀ of a symmetric positive definite matrix (N, N), L lower triangular.
//!
//! ```text
//! for each block of 64 columns:  L11·L11ᵀ = A11            one column after the other
//!                                L21 = A21·L11⁻ᵀ           row by row
//!                                A22 −= L21·L21ᵀ           nearly all of the work, below the diagonal
//! ```
//!
//! Source: G. Golub and C. Van Loan, *Matrix Computations*, 4th edition, section 4.2.9 (block outer product form).
//!
//! Cost: N³/3 flops, and a copy of 64 columns. The bits do not depend on the number of threads.

use std::ops::Range;

use crate::kernels::isa::Isa;
use crate::kernels::team::Team;
use crate::kernels::update::{Rows, update_at};

/// Columns that are eliminated together.
const BLOCK: usize = 64;
/// Rows of a block that are substituted one after the other.
const STEP: usize = 8;

/// Rows of L21 (M, 64).
#[derive(Default)]
struct Strip {
    /// −L21.
    minus: Vec<f64>,
    /// L21ᵀ.
    transposed: Vec<f64>,
}

/// The column at which what is left of the diagonal is not positive: the matrix is not positive definite, or not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotPositive(pub usize);

/// Replaces the lower triangle of `a` (N, N), row-major, by L; what is above the diagonal is not read, and is spoilt.
///
/// A pivot counts as positive if it is above N·2⁻⁵² of the diagonal element it comes from: what is less is rounding.
///
/// # Errors
/// [`NotPositive`] with the column; `a` is then half done.
///
/// # Panics
/// If `a` is not (N, N).
pub fn factor(a: &mut [f64], n: usize, isa: Isa, team: &Team) -> Result<(), NotPositive> {
    assert_eq!(a.len(), n * n, "N by N");
    let least: Vec<f64> = (0..n)
        .map(|i| a[i * n + i] * n as f64 * f64::EPSILON)
        .collect();
    for first in (0..n).step_by(BLOCK) {
        let end = n.min(first + BLOCK);
        let width = end - first;
        diagonal_block(a, n, first..end, &least)?;
        // L21 and, by columns, its transpose, in strips of rows: what a strip of A22 loses is theirs, apart from what changes.
        let diagonal = square(a, n, first..end);
        let mut strips: Vec<Strip> = Vec::new();
        strips.resize_with((n - end).div_ceil(BLOCK), Strip::default);
        let rows = a[end * n..].chunks_mut(BLOCK * n);
        team.each(strips.iter_mut().zip(rows), &|_, (strip, rows)| {
            let count = rows.len() / n;
            let (minus, x) = (&mut strip.minus, &mut strip.transposed);
            minus.reserve(count * width);
            x.resize(count * width, 0.0);
            for (i, row) in rows.chunks_exact(n).enumerate() {
                for (k, value) in row[first..end].iter().enumerate() {
                    x[k * count + i] = *value;
                }
            }
            substitute(&diagonal, width, x, count, isa);
            for (i, row) in rows.chunks_exact_mut(n).enumerate() {
                for (k, value) in row[first..end].iter_mut().enumerate() {
                    *value = x[k * count + i];
                }
                minus.extend(row[first..end].iter().map(|it| -it));
            }
        });
        team.each(a[end * n..].chunks_mut(BLOCK * n), &|index, rows| {
            let left = Rows {
                values: &strips[index].minus,
                stride: width,
            };
            for (at, right) in strips[..=index].iter().enumerate() {
                let columns = right.transposed.len() / width;
                let right = Rows {
                    values: &right.transposed,
                    stride: columns,
                };
                let sizes = (rows.len() / n, width, columns);
                update_at(isa, left, right, sizes, &mut rows[end + at * BLOCK..], n);
            }
        });
    }
    Ok(())
}

/// The block on the diagonal, already less all that comes from columns before it.
fn diagonal_block(
    a: &mut [f64],
    n: usize,
    columns: Range<usize>,
    least: &[f64],
) -> Result<(), NotPositive> {
    for j in columns.clone() {
        let done = columns.start..j;
        let dot = |a: &[f64], i: usize| -> f64 {
            let rows = (&a[i * n..][done.clone()], &a[j * n..][done.clone()]);
            rows.0.iter().zip(rows.1).map(|(x, y)| x * y).sum()
        };
        let pivot = a[j * n + j] - dot(a, j);
        // Not a number is not above anything either.
        if !(pivot > least[j] && pivot.is_finite()) {
            return Err(NotPositive(j));
        }
        let pivot = pivot.sqrt();
        a[j * n + j] = pivot;
        for i in j + 1..columns.end {
            a[i * n + j] = (a[i * n + j] - dot(a, i)) / pivot;
        }
    }
    Ok(())
}

/// X (N, `columns`) with L·X = what is in `x`, in place: L is the lower triangle of `l` (N, N).
fn substitute(l: &[f64], n: usize, x: &mut [f64], columns: usize, isa: Isa) {
    for start in (0..n).step_by(STEP) {
        let end = n.min(start + STEP);
        let (done, rest) = x.split_at_mut(end * columns);
        let here = &mut done[start * columns..];
        for row in start..end {
            let (above, own) = here.split_at_mut((row - start) * columns);
            let own = &mut own[..columns];
            for (above, factor) in above.chunks_exact(columns).zip(&l[row * n + start..]) {
                for (x, y) in own.iter_mut().zip(above) {
                    *x -= factor * y;
                }
            }
            own.iter_mut().for_each(|x| *x /= l[row * n + row]);
        }
        let minus = negative(l, n, end..n, start..end);
        let left = Rows {
            values: &minus,
            stride: end - start,
        };
        let right = Rows {
            values: here,
            stride: columns,
        };
        let sizes = (n - end, end - start, columns);
        update_at(isa, left, right, sizes, rest, columns);
    }
}

/// Some rows and columns of a matrix of `n` columns, with the other sign.
fn negative(a: &[f64], n: usize, rows: Range<usize>, columns: Range<usize>) -> Vec<f64> {
    let mut out = Vec::with_capacity(rows.len() * columns.len());
    for row in rows {
        out.extend(a[row * n..][columns.clone()].iter().map(|it| -it));
    }
    out
}

/// A square on the diagonal of a matrix of `n` columns.
fn square(a: &[f64], n: usize, columns: Range<usize>) -> Vec<f64> {
    let mut out = Vec::with_capacity(columns.len() * columns.len());
    for row in columns.clone() {
        out.extend_from_slice(&a[row * n..][columns.clone()]);
    }
    out
}

/// Replaces L (N, N), the lower triangle of `l`, by the rows of L⁻¹, last row first and each from its diagonal to the left: what is the
/// factor of the inverse of a matrix in reverse order. Only N − i numbers of row i are defined.
///
/// Columns of L⁻¹ are found by forward substitution, 64 of them at a time and each lot on its own thread. Cost: N³/3 flops.
///
/// # Panics
/// If `l` is not (N, N).
pub fn reversed_inverse(l: &mut [f64], n: usize, isa: Isa, team: &Team) {
    assert_eq!(l.len(), n * n, "N by N");
    let mut strips: Vec<Vec<f64>> = vec![Vec::new(); n.div_ceil(BLOCK)];
    team.each(strips.iter_mut(), &|index, strip| {
        *strip = inverse_columns(l, n, index * BLOCK, isa);
    });
    team.each(l.chunks_mut(n.max(1)), &|i, out| {
        let row = n - 1 - i;
        for (strip, first) in strips.iter().zip((0..=row).step_by(BLOCK)) {
            let end = n.min(first + BLOCK);
            let values = &strip[(row - first) * BLOCK..][..end - first];
            for (to, from) in out[n - end..].iter_mut().zip(values.iter().rev()) {
                *to = *from;
            }
        }
    });
}

/// Columns `first` … of L⁻¹, [`BLOCK`] to a row (those beyond the last are zero), from row `first` on.
fn inverse_columns(l: &[f64], n: usize, first: usize, isa: Isa) -> Vec<f64> {
    let mut x = vec![0.0; (n - first) * BLOCK];
    for column in first..n.min(first + BLOCK) {
        x[(column - first) * BLOCK + column - first] = 1.0;
    }
    for start in (first..n).step_by(BLOCK) {
        let end = n.min(start + BLOCK);
        let (done, rest) = x.split_at_mut((start - first) * BLOCK);
        let minus = negative(l, n, start..end, first..start);
        let left = Rows {
            values: &minus,
            stride: start - first,
        };
        let right = Rows {
            values: done,
            stride: BLOCK,
        };
        update_at(
            isa,
            left,
            right,
            (end - start, start - first, BLOCK),
            rest,
            BLOCK,
        );
        let width = end - start;
        let diagonal = square(l, n, start..end);
        substitute(&diagonal, width, &mut rest[..width * BLOCK], BLOCK, isa);
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Xᵀ·X of more rows than columns, plus a little on the diagonal.
    fn positive(n: usize) -> Vec<f64> {
        let x = |t: usize, i: usize| ((t * 37 + i * 101 + t * i * 7) % 211) as f64 / 100.0 - 1.0;
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                a[i * n + j] = (0..n + 5).map(|t| x(t, i) * x(t, j)).sum();
                a[j * n + i] = a[i * n + j];
            }
            a[i * n + i] += 0.1;
        }
        a
    }

    /// The algorithm of the textbook, without blocks.
    fn plain(a: &[f64], n: usize) -> Vec<f64> {
        let mut l = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let sum: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
                let rest = a[i * n + j] - sum;
                l[i * n + j] = if i == j {
                    rest.sqrt()
                } else {
                    rest / l[j * n + j]
                };
            }
        }
        l
    }

    #[test]
    fn blocks_threads_and_instructions_give_the_factor_of_the_textbook() {
        for n in [1, 2, 63, 64, 65, 130, 200] {
            let a = positive(n);
            let expected = plain(&a, n);
            let mut first: Option<Vec<f64>> = None;
            for isa in Isa::here() {
                for threads in [1, 3] {
                    let mut l = a.clone();
                    factor(&mut l, n, isa, &Team::new(threads)).unwrap();
                    for i in 0..n {
                        for j in 0..n {
                            let at = i * n + j;
                            if j <= i {
                                let error = (l[at] - expected[at]).abs();
                                assert!(
                                    error < 1e-11 * expected[i * n + i].abs().max(1.0),
                                    "{n} [{i}, {j}]"
                                );
                            }
                        }
                    }
                    // Rows that no block update touched are the same anyway; those it did have the same bits.
                    let first = first.get_or_insert_with(|| l.clone());
                    assert!(*first == l, "{n} {isa} on {threads}");
                }
            }
        }
    }

    #[test]
    fn the_inverse_undoes_the_factor() {
        for n in [1, 3, 64, 65, 200] {
            let mut l = positive(n);
            factor(&mut l, n, Isa::best(), &Team::new(2)).unwrap();
            let mut first: Option<Vec<f64>> = None;
            for isa in Isa::here() {
                let mut x = l.clone();
                reversed_inverse(&mut x, n, isa, &Team::new(3));
                let first = first.get_or_insert_with(|| x.clone());
                assert!(*first == x, "{n} {isa}");
                let inverse = |i: usize, j: usize| x[(n - 1 - i) * n + n - 1 - j];
                for i in 0..n {
                    for j in 0..=i {
                        let sum: f64 = (j..=i).map(|k| l[i * n + k] * inverse(k, j)).sum();
                        let expected = if i == j { 1.0 } else { 0.0 };
                        assert!((sum - expected).abs() < 1e-10, "{n} [{i}, {j}]: {sum}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_positive_is_found_where_it_is() {
        let team = Team::new(2);
        let refused = |a: &mut [f64], n: usize| factor(a, n, Isa::best(), &team).err();
        for at in [0, 3, 70, 129] {
            let n = 130;
            let mut a = positive(n);
            a[at * n + at] = -1.0;
            assert_eq!(refused(&mut a, n), Some(NotPositive(at)));
            let mut a = positive(n);
            a[at * n + at] = f64::NAN;
            assert_eq!(refused(&mut a, n), Some(NotPositive(at)));
        }
        // Rank one.
        assert_eq!(refused(&mut [1.0, 0.0, 1.0, 1.0], 2), Some(NotPositive(1)));
        assert_eq!(refused(&mut [], 0), None);
    }
}
