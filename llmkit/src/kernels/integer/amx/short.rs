//! Groups of one chunk: sixteen rows by one panel, whose totals stay in registers.
//!
//! The unit is done with a chunk of 16 × 16 outputs in 16 cycles; what follows, a sum to be stored, loaded, scaled and added for each row, takes
//! longer than that. So the fold decides, and it needs what it adds to in registers: two panels would not fit.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::{Job, WORDS, unpack};
use crate::kernels::amx::{SIDE, Unit};
use crate::kernels::dense::put512;
use crate::kernels::panel::{LANES, Line};

/// Lines that are fetched into the first cache ahead of their use, and into the second: 1 and 8 KiB. The first alone leaves memory at rest
/// (3.5 instead of 3.0 ms for 134 MB, in a loop of its own).
const NEAR: usize = 16;
const FAR: usize = 128;

/// Panels whose totals are written together.
const WIDE: usize = 8;

/// What belongs to sixteen rows, group by group: (groups, 16), zero for rows that are not there. In the job's order a group's are on sixteen lines.
#[derive(Default)]
struct OfRows {
    scales: Vec<[f32; SIDE]>,
    corrections: Vec<[i32; SIDE]>,
    sums: Vec<[i32; SIDE]>,
}

thread_local! {
    /// Used again from job to job.
    static OF_ROWS: RefCell<OfRows> = RefCell::default();
}

impl OfRows {
    /// Of the job's rows, sixteen at most.
    ///
    /// # Safety
    /// The job has these rows; the processor has AVX-512.
    #[target_feature(enable = "avx512f")]
    unsafe fn fill(&mut self, job: &Job) {
        let there = u16::MAX >> (SIDE - job.rows);
        // A row apart.
        let rows = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let apart = i32::try_from(job.groups).unwrap_or(i32::MAX);
        let rows = _mm512_mullo_epi32(rows, _mm512_set1_epi32(apart));
        // SAFETY: row · groups + g of rows and groups that are there; each is 4 bytes.
        let gather = |from: *const i32, g: usize| unsafe {
            let from = from.wrapping_add(g).cast();
            _mm512_mask_i32gather_epi32::<4>(_mm512_setzero_si512(), there, rows, from)
        };
        self.scales.resize(job.groups, [0.0; SIDE]);
        self.corrections.resize(job.groups, [0; SIDE]);
        self.sums.resize(job.groups, [0; SIDE]);
        for g in 0..job.groups {
            // SAFETY: each is sixteen numbers.
            unsafe {
                let scale = gather(job.x_scales.cast(), g);
                _mm512_storeu_si512((&raw mut self.scales[g]).cast(), scale);
                let sum = gather(job.x_sums, g);
                _mm512_storeu_si512((&raw mut self.sums[g]).cast(), sum);
                let correction = _mm512_mullo_epi32(sum, _mm512_set1_epi32(job.minus_zero));
                _mm512_storeu_si512((&raw mut self.corrections[g]).cast(), correction);
            }
        }
    }
}

/// # Safety
/// As of the driver.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn drive<U: Unit, const BITS: usize>(unit: &mut U, job: &Job) {
    let mut of_rows = OF_ROWS.take();
    for row in (0..job.rows).step_by(SIDE) {
        let rows = (job.rows - row).min(SIDE);
        // SAFETY: row < rows and column < columns, so pieces lie inside; tiles have been configured.
        unsafe {
            let tile = Job {
                rows,
                // The first rows fetch for all of them.
                ahead: if row == 0 { FAR } else { 0 },
                ..job.at::<BITS>(row, 0)
            };
            if row == 0 || rows < SIDE {
                unit.configure([rows, 0], WORDS);
            }
            // Another thread has written some of them just now: all at once, not as they are wanted.
            for word in (0..rows * job.chunks * WORDS).step_by(LANES) {
                _mm_prefetch::<_MM_HINT_T0>(tile.x.wrapping_add(word).cast());
            }
            of_rows.fill(&tile);
            match job.mins.is_null() {
                true => panels::<U, BITS, false>(unit, &tile, &of_rows),
                false => panels::<U, BITS, true>(unit, &tile, &of_rows),
            }
        }
    }
    OF_ROWS.set(of_rows);
}

/// Up to 16 rows by all panels, in groups of one chunk. The unit is two groups ahead of the fold, as what it stores cannot be loaded before all
/// that was to be done until then is done; and it goes on with the next panel while the last groups of one are folded.
///
/// # Safety
/// As of the driver; the unit is configured for the job's rows in tiles 0, 1 and 4, and for 8 words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn panels<U: Unit, const BITS: usize, const MINS: bool>(
    unit: &mut U,
    job: &Job,
    of_rows: &OfRows,
) {
    let mut totals = [_mm512_setzero_ps(); SIDE];
    let mut sums = [[Line::ZERO; SIDE]; 2];
    let count = job.columns.div_ceil(LANES) * job.groups;
    // Totals of panels that are done, a row's together: rows of logits are so far apart that all of them want the same lines of the first cache.
    let mut kept = [[Line::ZERO; WIDE]; SIDE];
    // Groups of the unit and of the fold, and the panel that the latter has come to.
    let (mut group, mut folded, mut panel) = (0, 0, 0);
    // SAFETY: the job has these panels, rows and groups; sums are whole tiles.
    unsafe {
        for i in 0..count + 2 {
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
            // The one before.
            match i % 2 {
                _ if i == 0 || i > count => {}
                1 => unit.store::<0>(sums[0].as_mut_ptr().cast(), LANES),
                _ => unit.store::<1>(sums[1].as_mut_ptr().cast(), LANES),
            }
            if i > 1 {
                fold::<MINS>(job, of_rows, (i - 2, folded), &sums[i % 2], &mut totals);
                folded += 1;
                if folded == job.groups {
                    for (kept, total) in kept.iter_mut().zip(&totals) {
                        _mm512_store_ps(kept[panel % WIDE].0.as_mut_ptr().cast(), *total);
                    }
                    totals = [_mm512_setzero_ps(); SIDE];
                    (folded, panel) = (0, panel + 1);
                    if panel.is_multiple_of(WIDE) || panel * LANES >= job.columns {
                        write(job, (panel - 1) / WIDE * WIDE..panel, &kept);
                    }
                }
            }
        }
    }
}

/// Totals of some panels to where they belong.
///
/// # Safety
/// As [`panels`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn write(job: &Job, panels: Range<usize>, kept: &[[Line; WIDE]; SIDE]) {
    for (row, kept) in kept.iter().enumerate().take(job.rows) {
        for (panel, total) in panels.clone().zip(kept) {
            let column = panel * LANES;
            // SAFETY: the job has this row, and this column and those that `put512` is told of.
            unsafe {
                let out = job.out.add(row * job.out_stride + column);
                let total = _mm512_load_ps(total.0.as_ptr().cast());
                put512(out, job.columns - column, job.into, total);
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
            // Wanted once: what is wanted again for the next panel need not make room.
            unit.load_once::<6>(lines.cast(), LANES);
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
    of_rows: &OfRows,
    (i, g): (usize, usize),
    sums: &[Line; SIDE],
    totals: &mut [__m512; SIDE],
) {
    // SAFETY: the job has this group, and there are sixteen rows of what is read here; lines are 64 aligned bytes.
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
        let x_scales = of_rows.scales.as_ptr().wrapping_add(g);
        let corrections = of_rows.corrections.as_ptr().wrapping_add(g);
        // The compiler would load all sums first, and put totals into memory meanwhile.
        macro_rules! rows {
            ($($row:literal)*) => {$(
                let (sum, factor): (__m512i, __m512);
                asm!(
                    "vpbroadcastd {sum:z}, dword ptr [{corrections} + {word}]",
                    "vpaddd {sum:z}, {sum:z}, zmmword ptr [{sums} + {line}]",
                    "vmulps {factor:z}, {scale:z}, dword ptr [{x_scales} + {word}]{{1to16}}",
                    "vcvtdq2ps {sum:z}, {sum:z}",
                    "vfmadd231ps {total:z}, {sum:z}, {factor:z}",
                    sum = out(zmm_reg) sum,
                    factor = out(zmm_reg) factor,
                    total = inout(zmm_reg) totals[$row],
                    scale = in(zmm_reg) scale,
                    corrections = in(reg) corrections,
                    x_scales = in(reg) x_scales,
                    sums = in(reg) sums.as_ptr(),
                    word = const $row * size_of::<f32>(),
                    line = const $row * size_of::<Line>(),
                    options(nostack, readonly, preserves_flags),
                );
                let _ = (sum, factor);
                if MINS {
                    let x_sum = (*x_scales)[$row] * of_rows.sums[g][$row] as f32;
                    totals[$row] = _mm512_fmadd_ps(min, _mm512_set1_ps(x_sum), totals[$row]);
                }
            )*};
        }
        rows!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }
}
