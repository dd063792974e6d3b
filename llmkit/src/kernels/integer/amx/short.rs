//! Groups of one chunk: sixteen rows by one panel, whose totals stay in registers.
//!
//! The unit is done with a chunk of 16 × 16 outputs in 16 cycles; what follows, a sum to be stored, loaded, scaled and added for each row, takes
//! longer than that. So the fold decides, and it needs what it adds to in registers: two panels would not fit.

use std::arch::x86_64::*;

use super::{Job, WORDS, unpack};
use crate::kernels::amx::{SIDE, Unit};
use crate::kernels::dense::{SOON, put512};
use crate::kernels::panel::{LANES, Line};

/// What belongs to sixteen rows and a group, (16, groups): rows that are not there are zero.
struct OfRows {
    /// Copies for those who have fewer rows.
    scales: Vec<f32>,
    corrections: Vec<i32>,
    sums: Vec<i32>,
}

impl OfRows {
    /// Of the job's rows, sixteen at most.
    ///
    /// # Safety
    /// The job has these rows.
    unsafe fn of(job: &Job) -> OfRows {
        let of = |from: *const f32| match job.rows < SIDE {
            // SAFETY: (rows, groups), which the caller has.
            true => unsafe { padded(from, job.rows * job.groups, SIDE * job.groups) },
            false => Vec::new(),
        };
        let of_ints = |from: *const i32| match job.rows < SIDE && !from.is_null() {
            // SAFETY: as above.
            true => unsafe { padded(from, job.rows * job.groups, SIDE * job.groups) },
            false => Vec::new(),
        };
        OfRows {
            scales: of(job.x_scales),
            corrections: of_ints(job.corrections),
            sums: of_ints(job.x_sums),
        }
    }

    /// The job with sixteen rows of these.
    fn in_job(&self, job: &Job) -> Job {
        match self.scales.is_empty() {
            true => *job,
            false => Job {
                x_scales: self.scales.as_ptr(),
                corrections: self.corrections.as_ptr(),
                x_sums: self.sums.as_ptr(),
                ..*job
            },
        }
    }
}

/// # Safety
/// There are `count` from `from` on.
unsafe fn padded<T: Copy + Default>(from: *const T, count: usize, all: usize) -> Vec<T> {
    // SAFETY: the caller's.
    let mut out = unsafe { std::slice::from_raw_parts(from, count) }.to_vec();
    out.resize(all, T::default());
    out
}

/// # Safety
/// As of the driver.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn drive<U: Unit, const BITS: usize>(unit: &mut U, job: &Job) {
    for row in (0..job.rows).step_by(SIDE) {
        let rows = (job.rows - row).min(SIDE);
        // SAFETY: row < rows and column < columns, so pieces lie inside; tiles have been configured.
        unsafe {
            let tile = Job {
                rows,
                ..job.at::<BITS>(row, 0)
            };
            let of_rows = OfRows::of(&tile);
            let tile = of_rows.in_job(&tile);
            if row == 0 || rows < SIDE {
                unit.configure([rows, 0], WORDS);
            }
            for column in (0..job.columns).step_by(LANES) {
                // The first rows fetch for all of them.
                let ahead = if row == 0 { SOON } else { 0 };
                let piece = Job {
                    ahead,
                    ..tile.at::<BITS>(0, column)
                };
                match job.mins.is_null() {
                    true => panel::<U, BITS, false>(unit, &piece),
                    false => panel::<U, BITS, true>(unit, &piece),
                }
            }
        }
    }
}

/// Up to 16 rows by one panel, in groups of one chunk. Scales, corrections and sums of the job are those of 16 rows: [`OfRows`].
///
/// # Safety
/// As of the driver; the unit is configured for the job's rows in tiles 0, 1 and 4, and for 8 words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn panel<U: Unit, const BITS: usize, const MINS: bool>(unit: &mut U, job: &Job) {
    let mut totals = [_mm512_setzero_ps(); SIDE];
    let mut sums = [[Line::ZERO; SIDE]; 2];
    // SAFETY: the job has these rows and groups, 16 of what OfRows has; sums are whole tiles.
    unsafe {
        for g in 0..=job.groups {
            if g < job.groups {
                match g % 2 {
                    0 => multiply::<U, BITS, 0>(unit, job, g),
                    _ => multiply::<U, BITS, 1>(unit, job, g),
                }
            }
            if g > 0 {
                fold::<MINS>(job, g - 1, &sums[(g - 1) % 2], &mut totals);
            }
            match g % 2 {
                _ if g == job.groups => {}
                0 => unit.store::<0>(sums[0].as_mut_ptr().cast(), LANES),
                _ => unit.store::<1>(sums[1].as_mut_ptr().cast(), LANES),
            }
        }
        macro_rules! rows {
            ($($row:literal)*) => {$(
                if $row < job.rows {
                    put512(job.out.add($row * job.out_stride), job.columns, job.into, totals[$row]);
                }
            )*};
        }
        rows!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }
}

/// Tile C = q · code of group `g`.
///
/// # Safety
/// As [`panel`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply<U: Unit, const BITS: usize, const C: u8>(unit: &mut U, job: &Job, g: usize) {
    // SAFETY: the job has this group; what is fetched ahead need not be there.
    unsafe {
        let lines = job.lines.add(g * BITS);
        for bit in 0..BITS {
            _mm_prefetch::<_MM_HINT_T0>(lines.wrapping_add(job.ahead + bit).cast());
        }
        unit.zero::<C>();
        unit.load::<4>(job.x.add(g * WORDS), job.chunks * WORDS);
        if BITS == 8 {
            unit.load::<6>(lines.cast(), LANES);
        } else {
            let mut codes = [Line::ZERO; WORDS];
            unpack::<BITS>(lines, &mut codes);
            unit.load::<6>(codes.as_ptr().cast(), LANES);
        }
        unit.dot_bytes::<C, 4, 6>();
    }
}

/// totals += (sums + correction) · scale · s of group `g`, and mins.
///
/// # Safety
/// As [`panel`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn fold<const MINS: bool>(
    job: &Job,
    g: usize,
    sums: &[Line; SIDE],
    totals: &mut [__m512; SIDE],
) {
    // SAFETY: the job has this group, and sixteen rows of what is read here; lines are 64 aligned bytes.
    unsafe {
        let of = |from: *const [half::f16; LANES]| {
            let at = from.wrapping_add(g);
            // The next panel's.
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(job.groups).cast());
            _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()))
        };
        let scale = of(job.scales);
        let min = match MINS {
            true => of(job.mins),
            false => _mm512_setzero_ps(),
        };
        let (x_scales, corrections, x_sums) = (
            job.x_scales.wrapping_add(g),
            job.corrections.wrapping_add(g),
            job.x_sums.wrapping_add(g),
        );
        let groups = job.groups;
        // Written out, or totals would not stay in registers.
        macro_rules! rows {
            ($($row:literal)*) => {$(
                let at = groups.wrapping_mul($row);
                let x_scale = *x_scales.wrapping_add(at);
                let sum = _mm512_load_si512(sums[$row].0.as_ptr().cast());
                let sum = _mm512_add_epi32(sum, _mm512_set1_epi32(*corrections.wrapping_add(at)));
                let factor = _mm512_mul_ps(scale, _mm512_set1_ps(x_scale));
                totals[$row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), factor, totals[$row]);
                if MINS {
                    let x_sum = x_scale * *x_sums.wrapping_add(at) as f32;
                    totals[$row] = _mm512_fmadd_ps(min, _mm512_set1_ps(x_sum), totals[$row]);
                }
            )*};
        }
        rows!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }
}
