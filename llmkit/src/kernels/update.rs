//! C (M, N) += A (M, P) · B (P, N) in f64: what a block of eliminated columns does to the columns that are left.
//!
//! Error feedback (GPTQ) and Cholesky's factorization spend nearly all their time here. For each element the products are added
//! along P, first to last, each in one fused step, to a sum that starts with what was there: the bits depend neither on the
//! instruction set nor on how rows are shared out among threads.
//!
//! Cost: 2·M·N·P flops; B is read once for every four rows, with AVX-512 once for all.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
#[cfg(target_arch = "x86_64")]
use std::mem::MaybeUninit;

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
/// Rows of C in a tile of AVX-512: sixteen registers of sums.
#[cfg(target_arch = "x86_64")]
const ROWS: usize = 8;
/// Rows of B that are multiplied with before sums go back to C.
#[cfg(target_arch = "x86_64")]
const DEPTH: usize = 64;

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
    let reach = |rows: usize, stride: usize, columns: usize| (rows - 1) * stride + columns;
    assert!(reach(rows, a.stride, inner) <= a.values.len(), "A");
    assert!(reach(inner, b.stride, columns) <= b.values.len(), "B");
    assert!(reach(rows, c_stride, columns) <= c.len(), "C");
    let sizes = (rows, inner, columns);
    match isa.checked() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `checked` has seen the features on this machine; the matrices lie inside their slices.
        Isa::Avx512 | Isa::Amx => unsafe { avx512(a, b, sizes, c, c_stride) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { avx2(a, b, sizes, c, c_stride) },
        _ => reference(a, b, sizes, c, c_stride),
    }
}

/// Strips of columns, eight rows of C at a time. B's columns are copied where they are passed more than once: rows of a matrix are often
/// a power of two apart, and then a first-level cache holds few of them at a time.
///
/// # Safety
/// The matrices lie inside their slices.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(
    a: Rows<'_>,
    b: Rows<'_>,
    (rows, inner, columns): (usize, usize, usize),
    c: &mut [f64],
    c_stride: usize,
) {
    let mut copy = [const { MaybeUninit::<[f64; STRIP]>::uninit() }; DEPTH];
    for from in (0..inner).step_by(DEPTH) {
        let depth = DEPTH.min(inner - from);
        for column in (0..columns).step_by(STRIP) {
            let width = STRIP.min(columns - column);
            // SAFETY: rows and columns that are there; what is beyond `width` is masked.
            unsafe {
                let of_b = b.values[from * b.stride + column..].as_ptr();
                let (of_b, b_stride) = if rows > ROWS && depth >= DEPTH / 8 {
                    let mut row = of_b;
                    for copy in copy.iter_mut().take(depth) {
                        let sixteen = load(row, width);
                        // What the strip after the next will copy.
                        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(2 * STRIP).cast());
                        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(2 * STRIP + 8).cast());
                        row = row.wrapping_add(b.stride);
                        _mm512_storeu_pd(copy.as_mut_ptr().cast(), sixteen[0]);
                        _mm512_storeu_pd(copy.as_mut_ptr().cast::<f64>().add(8), sixteen[1]);
                    }
                    (copy.as_ptr().cast(), STRIP)
                } else {
                    (of_b, b.stride)
                };
                for first in (0..rows).step_by(ROWS) {
                    let tile = Tile {
                        a: a.values[first * a.stride + from..].as_ptr(),
                        a_stride: a.stride,
                        b: of_b,
                        b_stride,
                        c: c[first * c_stride + column..].as_mut_ptr(),
                        c_stride,
                        depth,
                        width,
                    };
                    match rows - first {
                        1 => tile512::<1>(&tile),
                        2 => tile512::<2>(&tile),
                        3 => tile512::<3>(&tile),
                        4 => tile512::<4>(&tile),
                        5 => tile512::<5>(&tile),
                        6 => tile512::<6>(&tile),
                        7 => tile512::<7>(&tile),
                        _ => tile512::<ROWS>(&tile),
                    }
                }
            }
        }
    }
}

/// Some rows of a strip of C, and what is added to it.
#[cfg(target_arch = "x86_64")]
struct Tile {
    a: *const f64,
    a_stride: usize,
    b: *const f64,
    b_stride: usize,
    c: *mut f64,
    c_stride: usize,
    depth: usize,
    /// At most [`STRIP`].
    width: usize,
}

/// # Safety
/// A, B and C have `M` rows, `depth` rows and `width` columns.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn tile512<const M: usize>(tile: &Tile) {
    // SAFETY: the caller's.
    unsafe {
        let a: [*const f64; M] = std::array::from_fn(|m| tile.a.wrapping_add(m * tile.a_stride));
        let mut sums = [[_mm512_setzero_pd(); 2]; M];
        for (m, sums) in sums.iter_mut().enumerate() {
            *sums = load(tile.c.add(m * tile.c_stride), tile.width);
        }
        let mut b_row = tile.b;
        for at in 0..tile.depth {
            let b = load(b_row, tile.width);
            b_row = b_row.wrapping_add(tile.b_stride);
            for m in 0..M {
                let a = _mm512_set1_pd(*a[m].wrapping_add(at));
                sums[m][0] = _mm512_fmadd_pd(a, b[0], sums[m][0]);
                sums[m][1] = _mm512_fmadd_pd(a, b[1], sums[m][1]);
            }
        }
        let masks = masks(tile.width);
        for (m, sums) in sums.iter().enumerate() {
            let c = tile.c.add(m * tile.c_stride);
            _mm512_mask_storeu_pd(c, masks[0], sums[0]);
            _mm512_mask_storeu_pd(c.wrapping_add(8), masks[1], sums[1]);
        }
    }
}

/// The first `width` of sixteen numbers, the rest zero.
///
/// # Safety
/// They are there.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(at: *const f64, width: usize) -> [__m512d; 2] {
    let masks = masks(width);
    // SAFETY: what is masked is not read.
    unsafe {
        [
            _mm512_maskz_loadu_pd(masks[0], at),
            _mm512_maskz_loadu_pd(masks[1], at.wrapping_add(8)),
        ]
    }
}

/// Of the first `width` of sixteen.
#[cfg(target_arch = "x86_64")]
fn masks(width: usize) -> [u8; 2] {
    let mask = u16::MAX >> (STRIP - width.min(STRIP));
    mask.to_le_bytes()
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
