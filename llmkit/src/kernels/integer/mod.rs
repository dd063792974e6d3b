//! Products of an 8-bit input with a matrix of 1- to 8-bit codes in groups: out (T, N) = x (T, K) · Wᵀ.
//!
//! W\[n, k\] = scale\[n, g\] · (code\[n, k\] − zero) or scale\[n, g\] · code\[n, k\] + min\[n, g\], g = k / group; the input is
//! x\[t, k\] = s\[t, g\] · q\[t, k\] with −127 ≤ q ≤ 127. Then
//!
//! out\[t, n\] = Σ_g scale·s · (Σ_k code·q − zero · Σ_k q)   (+ min·s · Σ_k q)
//!
//! The sums over k are whole numbers and exact in i32 on every instruction set; the sum over g is in f32, first group to last, in
//! one lane: as in [`dense`](super::dense) the bits do not depend on T or on how work is split.
//!
//! Codes are unsigned because the processor's byte product (`vpdpbusd`) takes one unsigned operand; the usual correction for signed
//! codes is the Σ q of the formula, computed once with the input.
//!
//! Cost: 2·T·N·K operations on N·K·bits/8 + 2·N·K/group bytes (twice the latter with mins).

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bytes;
pub mod gated;
mod panels;

use std::ops::Range;

use half::f16;

pub use bytes::{Bytes, Scale};
pub use panels::{CHUNK, IntPanels, OfGroup, Offset};

use super::dense::{Into, Out};
use super::isa::Isa;
use super::panel::{LANES, Line};
use super::product::{Matrix, Product, multiply_all};
use super::team::Team;
use panels::WORDS;

/// out (T, N) = x · Wᵀ on the best instruction set of this machine and all threads of `team`.
///
/// # Panics
/// If `x` has other columns or groups than the matrix, or `out` is not (T, N).
pub fn multiply(x: &Bytes, matrix: &IntPanels, into: Into, out: &mut [f32], team: &Team) {
    multiply_at(Isa::best(), x, matrix, into, out, team);
}

/// [`multiply`] on a given instruction set.
///
/// # Panics
/// As [`multiply`], or if the machine lacks `isa`.
pub fn multiply_at(
    isa: Isa,
    x: &Bytes,
    matrix: &IntPanels,
    into: Into,
    out: &mut [f32],
    team: &Team,
) {
    let product = Product {
        matrix: Matrix::Integer { x, matrix },
        into,
        out,
    };
    multiply_all(isa, &mut [product], team);
}

/// Panels `panels` of rows `tokens` of `x` · Wᵀ, into `out` (T, N).
///
/// # Safety
/// * This machine has `isa`, which is not the reference.
/// * `x` has the matrix's columns and groups, `out` is (T, N) with these rows and columns; nobody else touches them meanwhile.
pub(super) unsafe fn some_panels(
    isa: Isa,
    (x, matrix): (&Bytes, &IntPanels),
    into: Into,
    out: Out,
    tokens: Range<usize>,
    panels: Range<usize>,
) {
    let words = matrix.chunks() * WORDS;
    // As many rows of x as half a second-level cache holds, a whole number of tiles.
    let block = ((1 << 19) / (4 * words.max(1))).next_multiple_of(ROWS_OF_TILES);
    for start in tokens.clone().step_by(block) {
        let tokens = start..tokens.end.min(start + block);
        let job = Job::of((x, matrix), into, out, tokens, panels.clone());
        // SAFETY: all of the job lies inside x, matrix and out; the rest is the caller's.
        unsafe {
            match matrix.bits {
                1 => run::<1>(isa, &job),
                2 => run::<2>(isa, &job),
                3 => run::<3>(isa, &job),
                4 => run::<4>(isa, &job),
                5 => run::<5>(isa, &job),
                6 => run::<6>(isa, &job),
                7 => run::<7>(isa, &job),
                _ => run::<8>(isa, &job),
            }
        }
    }
}

/// A multiple of all tiles' rows: 12 of AVX-512, 32 of two tiles of matrix units.
const ROWS_OF_TILES: usize = 96;

/// A product on raw memory.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // nobody to hand it to
struct Job {
    /// (rows, chunks · 8).
    x: *const u32,
    /// (rows, groups).
    x_scales: *const f32,
    x_sums: *const i32,
    /// What Σ q counts in a sum.
    minus_zero: i32,
    rows: usize,
    /// (panels, chunks, bits).
    lines: *const Line,
    /// (panels, groups).
    scales: *const [f16; LANES],
    /// As the scales; null if there are none.
    mins: *const [f16; LANES],
    chunks: usize,
    group_chunks: usize,
    groups: usize,
    out: *mut f32,
    out_stride: usize,
    columns: usize,
    into: Into,
    /// Lines from one of the matrix to the one that is wanted in its place next, or may be: it need not be there.
    ahead: usize,
    /// Chunks whose lines are fetched so: from this one on, one of so many.
    first: usize,
    every: usize,
}

impl Job {
    /// Rows `tokens` of x and `panels` of the matrix.
    fn of(
        (x, matrix): (&Bytes, &IntPanels),
        into: Into,
        out: Out,
        tokens: Range<usize>,
        panels: Range<usize>,
    ) -> Job {
        let (groups, chunks) = (matrix.groups(), matrix.chunks());
        let (start, first) = (tokens.start, panels.start * LANES);
        Job {
            x: x.words()[start * chunks * WORDS..].as_ptr(),
            x_scales: x.scales[start * groups..].as_ptr(),
            x_sums: x.sums[start * groups..].as_ptr(),
            minus_zero: matrix.minus_zero(),
            rows: tokens.len(),
            lines: matrix.lines[panels.start * chunks * matrix.bits..].as_ptr(),
            scales: matrix.scales[panels.start * groups..].as_ptr(),
            mins: match &matrix.offset {
                Offset::Zero(_) => std::ptr::null(),
                Offset::Mins(mins) => mins[panels.start * groups..].as_ptr(),
            },
            chunks,
            group_chunks: matrix.group / CHUNK,
            groups,
            out: out.place(start, first),
            out_stride: out.stride,
            columns: (panels.end * LANES).min(out.end) - first,
            into,
            ahead: 0,
            first: usize::MAX,
            every: 1,
        }
    }

    /// The job from an input row and an output column (a multiple of 16) on.
    ///
    /// # Safety
    /// Both lie inside.
    #[cfg(target_arch = "x86_64")]
    unsafe fn at<const BITS: usize>(&self, row: usize, column: usize) -> Job {
        let panel = column / LANES;
        // SAFETY: row < rows and panel < panels.
        unsafe {
            Job {
                x: self.x.add(row * self.chunks * WORDS),
                x_scales: self.x_scales.add(row * self.groups),
                x_sums: self.x_sums.add(row * self.groups),
                lines: self.lines.add(panel * self.chunks * BITS),
                scales: self.scales.add(panel * self.groups),
                mins: match self.mins.is_null() {
                    true => self.mins,
                    false => self.mins.add(panel * self.groups),
                },
                out: self.out.add(row * self.out_stride + column),
                columns: self.columns - column,
                ..*self
            }
        }
    }
}

/// # Safety
/// This machine has `isa`; the job's memory is valid and nobody else touches its output.
#[cfg(target_arch = "x86_64")]
unsafe fn run<const BITS: usize>(isa: Isa, job: &Job) {
    // SAFETY: passed on.
    unsafe {
        match isa {
            Isa::Amx if amx::pays(job) => amx::run::<BITS>(job),
            Isa::Avx512 | Isa::Amx => avx512::run::<BITS>(job),
            Isa::Avx2 => avx2::run::<BITS>(job),
            Isa::Reference => unreachable!("the reference is not a tile kernel"),
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn run<const BITS: usize>(_: Isa, _: &Job) {
    unreachable!("the reference is not a tile kernel")
}

/// Whole numbers in i64, the rest in f64, rounded once.
pub(super) fn reference(x: &Bytes, matrix: &IntPanels, into: Into, out: &mut [f32]) {
    let groups = matrix.groups();
    for (i, out) in out.iter_mut().enumerate() {
        let (token, row) = (i / matrix.rows, i % matrix.rows);
        let mut total = 0.0;
        for g in 0..groups {
            let columns = g * matrix.group..matrix.columns.min((g + 1) * matrix.group);
            let (mut dot, mut sum) = (0i64, 0i64);
            for k in columns {
                let q = i64::from(x.code(token, k));
                dot += q * i64::from(matrix.code(row, k));
                sum += q;
            }
            let at = row / LANES * groups + g;
            let scale = matrix.scales[at][row % LANES].to_f64();
            let x_scale = f64::from(x.scales[token * groups + g]);
            total += x_scale
                * match &matrix.offset {
                    Offset::Zero(zero) => scale * (dot - i64::from(*zero) * sum) as f64,
                    Offset::Mins(mins) => {
                        scale * dot as f64 + mins[at][row % LANES].to_f64() * sum as f64
                    }
                };
        }
        *out = match into {
            Into::Replace => total as f32,
            Into::Add => *out + total as f32,
        };
    }
}
