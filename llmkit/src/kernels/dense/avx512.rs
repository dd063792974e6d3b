//! Tiles on AVX-512: up to 12 input rows times 2 panels, or 6 times 4.

use std::arch::x86_64::*;

use super::{Dot, Into, Job, SOON, tile_panels, tile_rows};
use crate::kernels::panel::{LANES, Line};

/// Does a job.
///
/// # Safety
/// This machine has these features; the job's memory is valid and nobody else touches its output.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn run<D: Dot>(job: &Job) {
    // One row is bound by memory, which likes one stream better than several; few rows leave registers for many panels.
    let most = match job.rows {
        0 | 1 => 1,
        2..=6 => 4,
        _ => 2,
    };
    let mut column = 0;
    while column < job.columns {
        let panels = tile_panels(job.columns - column, most);
        let mut row = 0;
        while row < job.rows {
            let rows = tile_rows(job.rows - row, 12);
            // SAFETY: row < rows and column < columns, so these lie inside.
            let piece = unsafe {
                Job {
                    x: job.x.add(row * job.x_stride),
                    lines: job.lines.add(column / LANES * job.line_stride),
                    out: job.out.add(row * job.out_stride + column),
                    columns: job.columns - column,
                    // The first rows that pass by a tile's panels fetch those of the next tile; one alone what it needs soon.
                    next: match row {
                        0 if job.rows == 1 => job
                            .lines
                            .wrapping_add(column / LANES * job.line_stride + SOON),
                        0 if column + panels * LANES < job.columns => {
                            let panel = column / LANES + panels;
                            job.lines.wrapping_add(panel * job.line_stride)
                        }
                        0 => job.next,
                        _ => std::ptr::null(),
                    },
                    ..*job
                }
            };
            macro_rules! tiles {
                ($($m:literal x $($p:literal)*),*) => {
                    match (rows, panels) {
                        $($(($m, $p) => tile512::<D, $m, $p>(&piece),)*)*
                        _ => unreachable!("no tile of {rows} rows and {panels} panels"),
                    }
                };
            }
            // SAFETY: the piece has these rows, and columns that reach into its last panel.
            unsafe {
                tiles!(1 x 1, 2 x 1 2 3 4, 3 x 1 2 3 4, 4 x 1 2 3 4, 5 x 1 2 3 4, 6 x 1 2 3 4,
                       7 x 1 2, 8 x 1 2, 9 x 1 2, 10 x 1 2, 11 x 1 2, 12 x 1 2);
            }
            row += rows;
        }
        column += panels * LANES;
    }
}

/// Sixteen sums to their place in the output, or the first `columns` of them.
///
/// # Safety
/// The output has as many columns from `at` on, and nobody else touches them.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernels) unsafe fn put512(at: *mut f32, columns: usize, into: Into, sum: __m512) {
    let mask = if columns >= LANES {
        !0
    } else {
        (1u16 << columns) - 1
    };
    // SAFETY: columns beyond those that are there are masked.
    unsafe {
        let sum = match into {
            Into::Replace => sum,
            Into::Add => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), sum),
        };
        _mm512_mask_storeu_ps(at, mask, sum);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn tile512<D: Dot, const M: usize, const P: usize>(job: &Job) {
    let mut sums = [[_mm512_setzero_ps(); P]; M];
    // SAFETY: M rows and P panels lie inside the job; the last panel's columns are masked.
    unsafe {
        // No arithmetic but additions in the loop: its pace is one product a cycle.
        let x: [*const u32; M] = std::array::from_fn(|m| job.x.wrapping_add(m * job.x_stride));
        let lines: [*const Line; P] =
            std::array::from_fn(|p| job.lines.wrapping_add(p * job.line_stride));
        for k in 0..job.words {
            if !job.next.is_null() {
                for p in 0..P {
                    let next = job.next.wrapping_add(p * job.line_stride + k);
                    _mm_prefetch::<_MM_HINT_T1>(next.cast());
                }
            }
            let lines: [__m512i; P] =
                std::array::from_fn(|p| _mm512_load_si512(lines[p].wrapping_add(k).cast()));
            for m in 0..M {
                let x = _mm512_set1_epi32(*x[m].wrapping_add(k) as i32);
                for p in 0..P {
                    sums[m][p] = D::dot512(sums[m][p], lines[p], x);
                }
            }
        }
        for (m, sums) in sums.iter().enumerate() {
            for (p, &sum) in sums.iter().enumerate() {
                let at = job.out.add(m * job.out_stride + p * LANES);
                put512(at, job.columns - p * LANES, job.into, sum);
            }
        }
    }
}
