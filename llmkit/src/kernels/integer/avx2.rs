//! Tiles on AVX2: M input rows times half a panel.

use std::arch::x86_64::*;

use half::f16;

use super::{Job, WORDS};
use crate::kernels::dense::{Into, tile_rows};
use crate::kernels::panel::{LANES, Line};

/// # Safety
/// This machine has these features; the job's memory is valid and nobody else touches its output.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<const BITS: usize>(job: &Job) {
    for column in (0..job.columns).step_by(LANES) {
        let mut row = 0;
        while row < job.rows {
            let rows = tile_rows(job.rows - row, 4);
            // SAFETY: row < rows and column < columns.
            unsafe {
                let piece = job.at::<BITS>(row, column);
                for half in 0..2 {
                    match rows {
                        1 => tile256::<BITS, 1>(&piece, half),
                        2 => tile256::<BITS, 2>(&piece, half),
                        3 => tile256::<BITS, 3>(&piece, half),
                        _ => tile256::<BITS, 4>(&piece, half),
                    }
                }
            }
            row += rows;
        }
    }
}

/// Word `j` of the codes of a chunk, 8 rows (half 0 or 1 of the panel).
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn word256<const BITS: usize>(chunk: *const Line, half: usize, j: usize) -> __m256i {
    // SAFETY: a chunk has BITS lines of two halves, and j < 8.
    unsafe {
        let load = |line: usize| {
            _mm256_load_si256(chunk.wrapping_add(line).wrapping_byte_add(32 * half).cast())
        };
        if BITS == 8 {
            return load(j);
        }
        let mut word = _mm256_setzero_si256();
        let mut first = 0;
        for width in [4, 2, 1] {
            if BITS & width == 0 {
                continue;
            }
            let in_line = 8 / width;
            let mask = _mm256_set1_epi8(((1 << width) - 1) as i8);
            let from = (j % in_line * width) as i32;
            let part = _mm256_srl_epi32(load(first + j / in_line), _mm_cvtsi32_si128(from));
            let part = _mm256_and_si256(part, mask);
            word = _mm256_or_si256(
                word,
                _mm256_sll_epi32(part, _mm_cvtsi32_si128(first as i32)),
            );
            first += width;
        }
        word
    }
}

/// sum + the four byte products of each lane, exact. (`vpmaddubsw` saturates for codes of 8 bits, so these go by halves.)
#[inline]
#[target_feature(enable = "avx2")]
fn dot256<const BITS: usize>(sum: __m256i, codes: __m256i, x: __m256i) -> __m256i {
    if BITS < 8 {
        let pairs = _mm256_maddubs_epi16(codes, x);
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    let even_codes = _mm256_and_si256(codes, _mm256_set1_epi16(255));
    let even_x = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
    let even = _mm256_madd_epi16(even_codes, even_x);
    let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(codes), _mm256_srai_epi16::<8>(x));
    _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile256<const BITS: usize, const M: usize>(job: &Job, half: usize) {
    const HALF: usize = LANES / 2;
    let mut totals = [_mm256_setzero_ps(); M];
    // SAFETY: M rows and half a panel lie inside the job; columns beyond its own are not written.
    unsafe {
        let has_mins = !job.mins.is_null();
        let x: [*const u32; M] =
            std::array::from_fn(|m| job.x.wrapping_add(m * job.chunks * WORDS));
        let halves = |of: *const [f16; LANES], g: usize| {
            _mm256_cvtph_ps(_mm_loadu_si128(
                of.add(g).cast::<f16>().add(HALF * half).cast(),
            ))
        };
        for g in 0..job.groups {
            let mut sums = [_mm256_setzero_si256(); M];
            for (m, sum) in sums.iter_mut().enumerate() {
                let x_sum = *job.x_sums.add(m * job.groups + g);
                *sum = _mm256_set1_epi32(job.minus_zero.wrapping_mul(x_sum));
            }
            for chunk in g * job.group_chunks..job.chunks.min((g + 1) * job.group_chunks) {
                let (at, line) = (chunk.wrapping_mul(WORDS), chunk.wrapping_mul(BITS));
                for j in 0..WORDS {
                    let word = word256::<BITS>(job.lines.wrapping_add(line), half, j);
                    for (m, sum) in sums.iter_mut().enumerate() {
                        let x = _mm256_set1_epi32(*x[m].wrapping_add(at.wrapping_add(j)) as i32);
                        *sum = dot256::<BITS>(*sum, word, x);
                    }
                }
            }
            let scale = halves(job.scales, g);
            for (m, total) in totals.iter_mut().enumerate() {
                let x_scale = *job.x_scales.add(m * job.groups + g);
                let factor = _mm256_mul_ps(scale, _mm256_set1_ps(x_scale));
                *total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[m]), factor, *total);
                if has_mins {
                    let x_sum = x_scale * *job.x_sums.add(m * job.groups + g) as f32;
                    *total = _mm256_fmadd_ps(halves(job.mins, g), _mm256_set1_ps(x_sum), *total);
                }
            }
        }
        for (m, &total) in totals.iter().enumerate() {
            let mut lanes = [0f32; HALF];
            _mm256_storeu_ps(lanes.as_mut_ptr(), total);
            for (lane, &value) in lanes.iter().enumerate() {
                let column = half * HALF + lane;
                if column < job.columns {
                    let at = job.out.add(m * job.out_stride + column);
                    *at = match job.into {
                        Into::Replace => value,
                        Into::Add => *at + value,
                    };
                }
            }
        }
    }
}
