//! Tiles on matrix units (AMX, `TDPBSUD`): up to 32 input rows times two panels.
//!
//! ```text
//! for each group g:
//!     C = Σ over the group of q · code          i32, four tiles on the unit
//!     fold: total += (C − zero · Σ q) · scale·s  f32, one register of 16 outputs a row
//! ```
//! A line of a chunk is a row of B as the unit wants it. The unit works on group g while the fold of g − 1 runs beside it: a product has a
//! latency of some 50 cycles, a fold of four tiles takes more. The fold does what AVX-512's does in the same order, so bits are the same.
//!
//! Cost: products are up to eight times as fast as `vpdpbusd`, the fold of a group is not: what is won grows with the group size, and
//! [`pays`] says from which on.

mod short;

use std::arch::x86_64::*;

use super::avx512::word512;
use super::{Job, WORDS};
use crate::kernels::amx::{Hardware, SIDE, Unit, has_bytes, store_tiles, zero_tiles};
use crate::kernels::dense::put512;
use crate::kernels::panel::{LANES, Line};

/// Rows from which tiles are faster than AVX-512: below, most of a tile is empty.
const ROWS: usize = 8;
/// Four tiles of C, or what becomes of them: by rows (two tiles), then panels (two), then a tile's rows.
type Tiles = [[[Line; SIDE]; 2]; 2];

/// Whether there is a unit for the job and it has enough to do.
pub(super) fn pays(job: &Job) -> bool {
    job.rows >= ROWS && has_bytes()
}

/// # Safety
/// This machine has AVX-512 and the unit; the job's memory is valid and nobody else touches its output.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn run<const BITS: usize>(job: &Job) {
    // SAFETY: passed on.
    unsafe { drive::<Hardware, BITS>(&mut Hardware, job) }
}

/// # Safety
/// As [`run`] and [`Unit`] ask.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn drive<U: Unit, const BITS: usize>(unit: &mut U, job: &Job) {
    if job.group_chunks == 1 && job.groups > 1 {
        // SAFETY: passed on.
        unsafe {
            short::drive::<U, BITS>(unit, job);
            unit.release();
        }
        return;
    }
    // Chunks that the unit takes at once: two, a whole tile, unless groups end between them.
    let step = match job.groups == 1 || job.group_chunks.is_multiple_of(2) {
        true => 2,
        false => 1,
    };
    let mut configured = [0; 2];
    for column in (0..job.columns).step_by(2 * LANES) {
        for row in (0..job.rows).step_by(2 * SIDE) {
            let left = job.rows - row;
            let rows = [left.min(SIDE), left.saturating_sub(SIDE).min(SIDE)];
            // SAFETY: row < rows and column < columns, so the piece lies inside; its tiles have been configured.
            unsafe {
                if rows != configured {
                    unit.configure(rows, step * WORDS);
                    configured = rows;
                }
                let piece = Job {
                    rows: rows[0] + rows[1],
                    ..job.at::<BITS>(row, column)
                };
                match (rows[1] > 0, piece.columns > LANES) {
                    (false, false) => block::<U, BITS, false, false>(unit, &piece, step),
                    (false, true) => block::<U, BITS, false, true>(unit, &piece, step),
                    (true, false) => block::<U, BITS, true, false>(unit, &piece, step),
                    (true, true) => block::<U, BITS, true, true>(unit, &piece, step),
                }
            }
        }
    }
    // SAFETY: the unit is there.
    unsafe { unit.release() }
}

/// Up to 32 × 32 outputs: one or two tiles of rows (`TALL`), one or two panels (`WIDE`).
///
/// # Safety
/// As [`drive`]; the unit is configured for the job's rows and steps.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn block<U: Unit, const BITS: usize, const TALL: bool, const WIDE: bool>(
    unit: &mut U,
    job: &Job,
    step: usize,
) {
    let mut totals: Tiles = [[[Line::ZERO; SIDE]; 2]; 2];
    let mut sums: [Tiles; 2] = [totals, totals];
    // SAFETY: the job has these rows, panels, chunks and groups; tiles without rows are not named.
    unsafe {
        for g in 0..=job.groups {
            if g < job.groups {
                zero_tiles::<U, TALL, WIDE>(unit);
                let end = job.chunks.min((g + 1) * job.group_chunks);
                for chunk in (g * job.group_chunks..end).step_by(step) {
                    multiply::<U, BITS, TALL, WIDE>(unit, job, chunk, step);
                }
            }
            if g > 0 {
                fold::<TALL, WIDE>(job, g - 1, &sums[(g - 1) % 2], &mut totals);
            }
            if g < job.groups {
                let sums: *mut Tiles = &mut sums[g % 2];
                store_tiles::<U, TALL, WIDE>(unit, sums.cast());
            }
        }
        for row in 0..job.rows {
            let panels = totals[row / SIDE].iter().enumerate();
            for (wide, tile) in panels.take(1 + usize::from(WIDE)) {
                let total = &tile[row % SIDE];
                let out = job.out.add(row * job.out_stride + wide * LANES);
                let total = _mm512_load_ps(total.0.as_ptr().cast());
                put512(out, job.columns - wide * LANES, job.into, total);
            }
        }
    }
}

/// C += q · code over `step` chunks from `chunk` on; those beyond the last count as zeros.
///
/// # Safety
/// As [`block`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply<U: Unit, const BITS: usize, const TALL: bool, const WIDE: bool>(
    unit: &mut U,
    job: &Job,
    chunk: usize,
    step: usize,
) {
    let mut ends = [[Line::ZERO; SIDE]; 2];
    let mut codes = [[Line::ZERO; SIDE]; 2];
    let chunks = step.min(job.chunks - chunk);
    let stride = job.chunks * WORDS;
    // SAFETY: these chunks are the job's; what the unit takes beyond them comes from memory of our own.
    unsafe {
        let first = job.x.add(chunk * WORDS);
        let mut a = [first, first.wrapping_add(SIDE * stride)];
        let mut a_stride = stride;
        if chunks < step {
            for (row, end) in ends
                .as_flattened_mut()
                .iter_mut()
                .enumerate()
                .take(job.rows)
            {
                let from = first.add(row * stride);
                std::ptr::copy_nonoverlapping(from, end.0.as_mut_ptr(), chunks * WORDS);
            }
            a = [ends[0].as_ptr().cast(), ends[1].as_ptr().cast()];
            a_stride = LANES;
        }
        let mut b = [job.lines; 2];
        for (wide, codes) in codes.iter_mut().enumerate().take(1 + usize::from(WIDE)) {
            let lines = job.lines.add((wide * job.chunks + chunk) * BITS);
            if BITS == 8 && chunks == step {
                // They lie in memory as the unit wants them.
                b[wide] = lines;
                continue;
            }
            for (chunk, codes) in codes.chunks_exact_mut(WORDS).enumerate().take(chunks) {
                unpack::<BITS>(lines.add(chunk * BITS), codes);
            }
            b[wide] = codes.as_ptr();
        }
        unit.load::<4>(a[0], a_stride);
        if TALL {
            unit.load::<5>(a[1], a_stride);
        }
        unit.load::<6>(b[0].cast(), LANES);
        if WIDE {
            unit.load::<7>(b[1].cast(), LANES);
        }
        unit.dot_bytes::<0, 4, 6>();
        if WIDE {
            unit.dot_bytes::<1, 4, 7>();
        }
        if TALL {
            unit.dot_bytes::<2, 5, 6>();
            if WIDE {
                unit.dot_bytes::<3, 5, 7>();
            }
        }
    }
}

/// The codes of a chunk, a byte each, into eight lines.
///
/// # Safety
/// A chunk has BITS lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn unpack<const BITS: usize>(chunk: *const Line, codes: &mut [Line]) {
    macro_rules! words {
        ($($j:literal)*) => {$(
            // SAFETY: the caller's chunk; a line is 64 aligned bytes.
            unsafe { _mm512_store_si512((&raw mut codes[$j]).cast(), word512::<BITS, $j>(chunk)) };
        )*};
    }
    words!(0 1 2 3 4 5 6 7);
}

/// totals += (sums + correction) · scale · s of group `g`, and mins.
///
/// # Safety
/// As [`block`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn fold<const TALL: bool, const WIDE: bool>(
    job: &Job,
    g: usize,
    sums: &Tiles,
    totals: &mut Tiles,
) {
    for wide in 0..1 + usize::from(WIDE) {
        // SAFETY: the job has these panels and groups.
        let (scale, min) = unsafe {
            let at = wide * job.groups + g;
            let of = |from: *const _| _mm512_cvtph_ps(_mm256_loadu_si256(from));
            let min = match job.mins.is_null() {
                true => None,
                false => Some(of(job.mins.add(at).cast())),
            };
            (of(job.scales.add(at).cast()), min)
        };
        for tall in 0..1 + usize::from(TALL) {
            let rows = (job.rows - tall * SIDE).min(SIDE);
            let tiles = sums[tall][wide].iter().zip(&mut totals[tall][wide]);
            for (row, (sum, total)) in tiles.enumerate().take(rows) {
                let at = (tall * SIDE + row) * job.groups + g;
                // SAFETY: the job has these rows and groups; lines are 64 aligned bytes.
                unsafe {
                    let (x_scale, x_sum) = (*job.x_scales.add(at), *job.x_sums.add(at));
                    let correction = job.minus_zero.wrapping_mul(x_sum);
                    let sum = _mm512_load_si512(sum.0.as_ptr().cast());
                    let sum = _mm512_add_epi32(sum, _mm512_set1_epi32(correction));
                    let factor = _mm512_mul_ps(scale, _mm512_set1_ps(x_scale));
                    let old = _mm512_load_ps(total.0.as_ptr().cast());
                    let mut new = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), factor, old);
                    if let Some(min) = min {
                        let x_sum = x_scale * x_sum as f32;
                        new = _mm512_fmadd_ps(min, _mm512_set1_ps(x_sum), new);
                    }
                    _mm512_store_ps(total.0.as_mut_ptr().cast(), new);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::kernels::amx::Simulated;
    use crate::kernels::dense::{Into, Out};
    use crate::kernels::integer::{Bytes, IntPanels, OfGroup, multiply_at};
    use crate::kernels::{Isa, Team};

    /// Sizes that end inside tiles, panels, steps and groups, and some that do not.
    const SIZES: [(usize, usize, usize); 7] = [
        (1, 1, 1),
        (8, 16, 32),
        (16, 32, 64),
        (17, 33, 96),
        (33, 50, 130),
        (40, 40, 576),
        (64, 17, 200),
    ];

    fn on_simulation<const BITS: usize>(x: &Bytes, matrix: &IntPanels, into: Into) -> Vec<f32> {
        let mut out = vec![0.5; x.tokens() * matrix.rows()];
        let panels = 0..matrix.rows().div_ceil(LANES);
        // SAFETY: out is (T, N), the processor has AVX-512, and the unit is made of memory.
        unsafe {
            let out = Out {
                streams: false,
                at: out.as_mut_ptr(),
                stride: matrix.rows(),
                end: matrix.rows(),
            };
            let job = Job::of((x, matrix), into, out, 0..x.tokens(), panels);
            drive::<Simulated, BITS>(&mut Simulated::default(), &job);
        }
        out
    }

    fn has_the_bits_of_avx512<const BITS: usize>() {
        for (tokens, outputs, columns) in SIZES {
            for (group, has_mins) in [(32, false), (64, true), (96, false), (4096, true)] {
                let code = |n: usize, k: usize| ((n * 31 + k * 7) % (1 << BITS)) as u8;
                let scale = |n: usize, g: usize| f16::from_f32(0.5 + ((n + 3 * g) % 7) as f32);
                let min = |n: usize, g: usize| f16::from_f32(((n + g) % 5) as f32 - 2.0);
                let zero_or_min: Result<u8, OfGroup<'_>> = match has_mins {
                    true => Err(&min),
                    false => Ok(1 << (BITS - 1)),
                };
                let shape = (outputs, columns);
                let matrix = IntPanels::pack(shape, BITS, group, code, &scale, zero_or_min);
                let x: Vec<f32> = (0..tokens * columns)
                    .map(|i| ((i * 7919) % 1009) as f32 / 504.0 - 1.0)
                    .collect();
                let x = Bytes::round(Isa::Reference, &x, columns, group, &Team::new(1));
                for into in [Into::Replace, Into::Add] {
                    let got = on_simulation::<BITS>(&x, &matrix, into);
                    let mut expected = vec![0.5; got.len()];
                    let team = Team::new(1);
                    multiply_at(Isa::Avx512, &x, &matrix, into, &mut expected, &team);
                    let same = got
                        .iter()
                        .zip(&expected)
                        .all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(
                        same,
                        "{BITS} bits, {tokens}×{outputs}×{columns} in {group}, {into:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_driver_gives_the_bits_of_avx512() {
        if !Isa::Avx512.is_here() {
            eprintln!("skipped: this machine has no AVX-512");
            return;
        }
        has_the_bits_of_avx512::<2>();
        has_the_bits_of_avx512::<3>();
        has_the_bits_of_avx512::<4>();
        has_the_bits_of_avx512::<8>();
    }
}
