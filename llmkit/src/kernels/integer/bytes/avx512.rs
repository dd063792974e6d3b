//! Groups of 32 rounded with AVX-512, four at a time.
//!
//! Largest magnitudes and sums of four groups are found together: sixteen lanes of each become four, and these one, in the places of one register.
//! Group by group that would be twice as many shuffles, for which there is one port.

use std::arch::x86_64::*;

use super::{ROUNDER, Row};
use crate::kernels::panel::LANES;

/// Columns of a group.
const GROUP: usize = 2 * LANES;
/// Groups at a time.
const FOUR: usize = 4;

/// What [`round_row`](super::round_row) does with groups of 32 that have scales of their own, all of them whole.
///
/// # Safety
/// The machine has these features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn round_groups(row: Row<'_>, most: f32) {
    let Row {
        x,
        words,
        scales,
        sums,
    } = row;
    let parts = x
        .chunks(FOUR * GROUP)
        .zip(words.chunks_mut(FOUR * GROUP / 4));
    let of_groups = scales.chunks_mut(FOUR).zip(sums.chunks_mut(FOUR));
    for ((x, words), (scales, sums)) in parts.zip(of_groups) {
        // SAFETY: as many whole groups as scales, four at most.
        unsafe { round_four(x, words, scales, sums, most) };
    }
}

/// # Safety
/// There are `scales.len()` groups of each, four at most.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn round_four(
    x: &[f32],
    words: &mut [u32],
    scales: &mut [f32],
    sums: &mut [i32],
    most: f32,
) {
    let groups = scales.len();
    let infinity = _mm512_set1_epi32(f32::INFINITY.to_bits().cast_signed());
    let most = _mm512_set1_ps(most);
    let mut values = [[_mm512_setzero_ps(); 2]; FOUR];
    let mut tops = [_mm512_setzero_si512(); FOUR];
    for g in 0..FOUR {
        if g >= groups {
            continue;
        }
        // SAFETY: the group is there.
        unsafe {
            let from = x.as_ptr().add(g * GROUP);
            values[g] = [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(LANES))];
        }
        let [low, high] = values[g].map(|it| _mm512_castps_si512(_mm512_abs_ps(it)));
        tops[g] = _mm512_max_epu32(low, high);
    }
    // Magnitudes are ordered as their bits, infinity and NaN above all numbers.
    let top = one_of_each(tops, |a, b| _mm512_max_epu32(a, b));
    let is_finite = _mm512_cmplt_epu32_mask(top, infinity);
    let top = _mm512_castsi512_ps(top);
    let scale = _mm512_div_ps(top, most);
    let scale = _mm512_mask_mov_ps(_mm512_set1_ps(f32::NAN), is_finite, scale);
    let inverse = _mm512_div_ps(most, top);
    // Zero for what is not finite, for zero, and for a top so small that this overflows.
    let has_inverse =
        _mm512_mask_cmplt_epu32_mask(is_finite, _mm512_castps_si512(inverse), infinity);
    let inverse = _mm512_maskz_mov_ps(has_inverse, inverse);
    let inverses = [
        _mm512_shuffle_f32x4::<0x00>(inverse, inverse),
        _mm512_shuffle_f32x4::<0x55>(inverse, inverse),
        _mm512_shuffle_f32x4::<0xaa>(inverse, inverse),
        _mm512_shuffle_f32x4::<0xff>(inverse, inverse),
    ];
    let rounder = _mm512_set1_ps(ROUNDER);
    let mut of_group = [_mm512_setzero_si512(); FOUR];
    for g in 0..FOUR {
        if g >= groups {
            continue;
        }
        // The codes, and above them bits of the constant, of which the last byte is zero.
        let [low, high] = values[g].map(|it| {
            let scaled = _mm512_mul_ps(it, inverses[g]);
            _mm512_castps_si512(_mm512_add_ps(scaled, rounder))
        });
        of_group[g] = _mm512_add_epi32(low, high);
        // SAFETY: the group is there, and its words are 32 bytes.
        unsafe {
            let to = words.as_mut_ptr().add(g * GROUP / 4);
            _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(low));
            _mm_storeu_si128(to.add(LANES / 4).cast(), _mm512_cvtepi32_epi8(high));
        }
    }
    let sum = one_of_each(of_group, |a, b| _mm512_add_epi32(a, b));
    let constants = (GROUP as u32).wrapping_mul(ROUNDER.to_bits());
    let sum = _mm512_sub_epi32(sum, _mm512_set1_epi32(constants.cast_signed()));
    // One of the four lanes of each.
    let (first, there) = (0x1111, (1u8 << groups) - 1);
    let scale = _mm512_castps512_ps128(_mm512_maskz_compress_ps(first, scale));
    let sum = _mm512_castsi512_si128(_mm512_maskz_compress_epi32(first, sum));
    // SAFETY: there are as many as the mask says.
    unsafe {
        _mm_mask_storeu_ps(scales.as_mut_ptr(), there, scale);
        _mm_mask_storeu_epi32(sums.as_mut_ptr(), there, sum);
    }
}

/// All sixteen lanes of a register made one by `two`, of four registers at once: the first's is in the first four lanes, and so on.
#[inline]
#[target_feature(enable = "avx512f")]
fn one_of_each([a, b, c, d]: [__m512i; 4], two: impl Fn(__m512i, __m512i) -> __m512i) -> __m512i {
    let halves = |a, b| {
        two(
            _mm512_shuffle_i32x4::<0x44>(a, b),
            _mm512_shuffle_i32x4::<0xee>(a, b),
        )
    };
    let (ab, cd) = (halves(a, b), halves(c, d));
    let quarters = two(
        _mm512_shuffle_i32x4::<0x88>(ab, cd),
        _mm512_shuffle_i32x4::<0xdd>(ab, cd),
    );
    let pairs = two(quarters, _mm512_shuffle_epi32::<0b01_00_11_10>(quarters));
    two(pairs, _mm512_shuffle_epi32::<0b10_11_00_01>(pairs))
}
