//! Tiles on AVX2: up to 8 input rows times half a panel.

use std::arch::x86_64::*;

use super::{Dot, Into, Job, tile_rows};
use crate::kernels::panel::LANES;

/// # Safety
/// This machine has these features; the job's memory is valid and nobody else touches its output.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run<D: Dot>(job: &Job) {
    for column in (0..job.columns).step_by(LANES / 2) {
        let mut row = 0;
        while row < job.rows {
            let rows = tile_rows(job.rows - row, 8);
            // SAFETY: row < rows and column < columns, so these lie inside; `lines` points at the half of the panel that is meant.
            unsafe {
                let half = column % LANES * size_of::<u32>();
                let piece = Job {
                    x: job.x.add(row * job.x_stride),
                    lines: job
                        .lines
                        .add(column / LANES * job.line_stride)
                        .byte_add(half),
                    out: job.out.add(row * job.out_stride + column),
                    columns: job.columns - column,
                    ..*job
                };
                match rows {
                    1 => tile256::<D, 1>(&piece),
                    2 => tile256::<D, 2>(&piece),
                    3 => tile256::<D, 3>(&piece),
                    4 => tile256::<D, 4>(&piece),
                    5 => tile256::<D, 5>(&piece),
                    6 => tile256::<D, 6>(&piece),
                    7 => tile256::<D, 7>(&piece),
                    _ => tile256::<D, 8>(&piece),
                }
            }
            row += rows;
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile256<D: Dot, const M: usize>(job: &Job) {
    let mut sums = [_mm256_setzero_ps(); M];
    // SAFETY: M rows and 8 lanes of each line lie inside the job; columns beyond its own are not written.
    unsafe {
        let x: [*const u32; M] = std::array::from_fn(|m| job.x.wrapping_add(m * job.x_stride));
        for k in 0..job.words {
            let line = _mm256_load_si256(job.lines.wrapping_add(k).cast());
            for (m, sum) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_epi32(*x[m].wrapping_add(k) as i32);
                *sum = D::dot256(*sum, line, x);
            }
        }
        for (m, &sum) in sums.iter().enumerate() {
            let mut lanes = [0f32; LANES / 2];
            _mm256_storeu_ps(lanes.as_mut_ptr(), sum);
            for (lane, &value) in lanes.iter().take(job.columns).enumerate() {
                let at = job.out.add(m * job.out_stride + lane);
                *at = match job.into {
                    Into::Replace => value,
                    Into::Add => *at + value,
                };
            }
        }
    }
}
