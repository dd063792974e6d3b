//! Groups of one chunk: sixteen rows by one panel, whose totals stay in registers.
//!
//! The unit is done with a chunk of 16 × 16 outputs in 16 cycles; what follows, a sum to be stored, loaded, scaled and added for each row, takes
//! longer than that. So the fold decides, and it needs what it adds to in registers: two panels would not fit.

use std::arch::asm;
use std::arch::x86_64::*;

use super::{Job, WORDS, unpack};
use crate::kernels::amx::{SIDE, Unit};
use crate::kernels::dense::put512;
use crate::kernels::panel::{LANES, Line};

/// Lines that are fetched into the first cache ahead of their use, and into the second: 1 and 16 KiB. The first alone leaves memory at rest
/// (3.5 instead of 3.0 ms for 134 MB, in a loop of its own).
const NEAR: usize = 16;
const FAR: usize = 256;

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
            // The first rows fetch for all of them.
            let tile = Job {
                ahead: if row == 0 { FAR } else { 0 },
                ..tile
            };
            match job.mins.is_null() {
                true => panels::<U, BITS, false>(unit, &tile),
                false => panels::<U, BITS, true>(unit, &tile),
            }
        }
    }
}

/// Up to 16 rows by all panels, in groups of one chunk. Scales, corrections and sums of the job are those of 16 rows: [`OfRows`]. The unit is a group
/// ahead of the fold, and goes on with the next panel while the last group of one is folded.
///
/// # Safety
/// As of the driver; the unit is configured for the job's rows in tiles 0, 1 and 4, and for 8 words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn panels<U: Unit, const BITS: usize, const MINS: bool>(unit: &mut U, job: &Job) {
    let mut totals = [_mm512_setzero_ps(); SIDE];
    let mut sums = [[Line::ZERO; SIDE]; 2];
    let count = job.columns.div_ceil(LANES) * job.groups;
    // Groups of the unit and of the fold, and the column that the latter has come to.
    let (mut group, mut folded, mut column) = (0, 0, 0);
    // SAFETY: the job has these panels, rows and groups, 16 rows of what OfRows has; sums are whole tiles.
    unsafe {
        for i in 0..=count {
            if i < count {
                match i % 2 {
                    0 => multiply::<U, BITS, 0>(unit, job, i, group),
                    _ => multiply::<U, BITS, 1>(unit, job, i, group),
                }
                group = if group + 1 == job.groups {
                    0
                } else {
                    group + 1
                };
            }
            if i > 0 {
                fold::<MINS>(job, i - 1, folded, &sums[(i - 1) % 2], &mut totals);
                folded += 1;
                if folded == job.groups {
                    macro_rules! rows {
                        ($($row:literal)*) => {$(
                            if $row < job.rows {
                                let out = job.out.wrapping_add(job.out_stride.wrapping_mul($row) + column);
                                put512(out, job.columns - column, job.into, totals[$row]);
                            }
                        )*};
                    }
                    rows!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
                    totals = [_mm512_setzero_ps(); SIDE];
                    (folded, column) = (0, column + LANES);
                }
            }
            match i % 2 {
                _ if i == count => {}
                0 => unit.store::<0>(sums[0].as_mut_ptr().cast(), LANES),
                _ => unit.store::<1>(sums[1].as_mut_ptr().cast(), LANES),
            }
        }
    }
}

/// Tile C = q · code of group `g` of its row, the `i`-th of all panels.
///
/// # Safety
/// As [`panels`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply<U: Unit, const BITS: usize, const C: u8>(
    unit: &mut U,
    job: &Job,
    i: usize,
    g: usize,
) {
    // SAFETY: the job has this group; what is fetched ahead need not be there.
    unsafe {
        let lines = job.lines.wrapping_add(i.wrapping_mul(BITS));
        if job.ahead > 0 {
            for bit in 0..BITS {
                _mm_prefetch::<_MM_HINT_T0>(lines.wrapping_add(NEAR + bit).cast());
                _mm_prefetch::<_MM_HINT_T1>(lines.wrapping_add(job.ahead + bit).cast());
            }
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

/// totals += (sums + correction) · scale · s of group `g` of its row, the `i`-th of all panels, and mins.
///
/// # Safety
/// As [`panels`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn fold<const MINS: bool>(
    job: &Job,
    i: usize,
    g: usize,
    sums: &[Line; SIDE],
    totals: &mut [__m512; SIDE],
) {
    // SAFETY: the job has this group, and sixteen rows of what is read here; lines are 64 aligned bytes.
    unsafe {
        let of = |from: *const [half::f16; LANES]| {
            let at = from.wrapping_add(i);
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
        let apart = 4 * job.groups;
        // The compiler would load all sums first, and put totals into memory meanwhile.
        macro_rules! rows {
            ($($row:literal)*) => {$(
                let at = apart.wrapping_mul($row);
                let x_scale = x_scales.wrapping_byte_add(at);
                let (sum, factor): (__m512i, __m512);
                asm!(
                    "vpbroadcastd {sum:z}, dword ptr [{correction}]",
                    "vpaddd {sum:z}, {sum:z}, zmmword ptr [{sums} + {offset}]",
                    "vmulps {factor:z}, {scale:z}, dword ptr [{x_scale}]{{1to16}}",
                    "vcvtdq2ps {sum:z}, {sum:z}",
                    "vfmadd231ps {total:z}, {sum:z}, {factor:z}",
                    sum = out(zmm_reg) sum,
                    factor = out(zmm_reg) factor,
                    total = inout(zmm_reg) totals[$row],
                    scale = in(zmm_reg) scale,
                    correction = in(reg) corrections.wrapping_byte_add(at),
                    x_scale = in(reg) x_scale,
                    sums = in(reg) sums.as_ptr(),
                    offset = const $row * size_of::<Line>(),
                    options(nostack, readonly, preserves_flags),
                );
                let _ = (sum, factor);
                if MINS {
                    let x_sum = *x_scale * *x_sums.wrapping_byte_add(at) as f32;
                    totals[$row] = _mm512_fmadd_ps(min, _mm512_set1_ps(x_sum), totals[$row]);
                }
            )*};
        }
        rows!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }
}
