//! C (M, N) += A (M, P) · B (P, N) in f64: what a block of eliminated columns does to the columns that are left.
//!
//! Error feedback (GPTQ) and Cholesky's factorization spend nearly all their time here. For each element the products are added
//! along P, first to last, each in one fused step, to a sum that starts with what was there: the bits depend neither on the
//! instruction set nor on how rows are shared out among threads.
//!
//! Cost: 2·M·N·P flops; B is read once for every four rows, with AVX-512 every eight.

#![allow(unsafe_code)]

use super::isa::Isa;

/// A matrix in row-major memory, its rows `stride` apart.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// At least from its first element to its last.
    pub values: &'a [f64],
    /// Elements from a row to the next.
    pub stride: usize,
}

/// Columns of C in a tile: two registers of eight.
#[cfg(target_arch = "x86_64")]
const STRIP: usize = 16;

/// C += A · B on the best instruction set: C is M × N = `rows` × `columns` in `c`, its rows `c_stride` apart, and P = `inner`.
///
/// # Panics
/// If a slice ends before its matrix does.
pub fn update(
    a: Rows<'_>,
    b: Rows<'_>,
    (rows, inner, columns): (usize, usize, usize),
    c: &mut [f64],
    c_stride: usize,
) {
    update_at(Isa::best(), a, b, (rows, inner, columns), c, c_stride);
}

/// [`update`] on a given instruction set.
///
/// # Panics
/// As [`update`], or if the machine lacks `isa`.
pub fn update_at(
    isa: Isa,
    a: Rows<'_>,
    b: Rows<'_>,
    (rows, inner, columns): (usize, usize, usize),
    c: &mut [f64],
    c_stride: usize,
) {
    if rows == 0 || inner == 0 || columns == 0 {
        return;
    }
    let sizes = (rows, inner, columns);
    match isa.checked() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `checked` has seen the features on this machine.
        Isa::Avx512 | Isa::Amx => unsafe { avx512(a, b, sizes, c, c_stride) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { avx2(a, b, sizes, c, c_stride) },
        _ => reference(a, b, sizes, c, c_stride),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,fma")]
fn avx512(a: Rows<'_>, b: Rows<'_>, sizes: (usize, usize, usize), c: &mut [f64], c_stride: usize) {
    // Sixteen registers of sums.
    tiles::<8>(a, b, sizes, c, c_stride);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(a: Rows<'_>, b: Rows<'_>, sizes: (usize, usize, usize), c: &mut [f64], c_stride: usize) {
    tiles::<4>(a, b, sizes, c, c_stride);
}

/// Plain Rust, which the compiler turns into the instructions of the function it is a part of. `TILE` rows of C at a time.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn tiles<const TILE: usize>(
    a: Rows<'_>,
    b: Rows<'_>,
    (rows, inner, columns): (usize, usize, usize),
    c: &mut [f64],
    c_stride: usize,
) {
    for first in (0..rows).step_by(TILE) {
        let count = TILE.min(rows - first);
        // Rows past the last repeat it, and are not written.
        let of_a: [&[f64]; TILE] = std::array::from_fn(|row| {
            &a.values[(first + row.min(count - 1)) * a.stride..][..inner]
        });
        let c = &mut c[first * c_stride..];
        let mut column = 0;
        while column + STRIP <= columns {
            tile::<TILE, STRIP>(&of_a, b, column, c, c_stride, count);
            column += STRIP;
        }
        while column < columns {
            tile::<TILE, 1>(&of_a, b, column, c, c_stride, count);
            column += 1;
        }
    }
}

/// `count` rows of C, `WIDTH` columns from `column` on.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn tile<const TILE: usize, const WIDTH: usize>(
    a: &[&[f64]; TILE],
    b: Rows<'_>,
    column: usize,
    c: &mut [f64],
    c_stride: usize,
    count: usize,
) {
    let mut sums = [[0.0; WIDTH]; TILE];
    for (row, sums) in sums.iter_mut().enumerate().take(count) {
        sums.copy_from_slice(&c[row * c_stride + column..][..WIDTH]);
    }
    for (at, b) in b.values.chunks(b.stride).take(a[0].len()).enumerate() {
        let b: &[f64; WIDTH] = match b[column..][..WIDTH].try_into() {
            Ok(b) => b,
            Err(_) => return,
        };
        for (sums, a) in sums.iter_mut().zip(a) {
            let a = a[at];
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = a.mul_add(*b, *sum);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate().take(count) {
        c[row * c_stride + column..][..WIDTH].copy_from_slice(sums);
    }
}

/// One element after the other.
fn reference(
    a: Rows<'_>,
    b: Rows<'_>,
    (rows, inner, columns): (usize, usize, usize),
    c: &mut [f64],
    c_stride: usize,
) {
    for i in 0..rows {
        for j in 0..columns {
            for p in 0..inner {
                let (a, b) = (a.values[i * a.stride + p], b.values[p * b.stride + j]);
                c[i * c_stride + j] = a.mul_add(b, c[i * c_stride + j]);
            }
        }
    }
}
