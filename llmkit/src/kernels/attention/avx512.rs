//! Scores to weights with AVX-512: the steps of [`online_softmax`](crate::kernels::activation), sixteen rows at a time, so that none waits for
//! another's maximum. Their bits are the same. (Those of bf16 need not be: see [`lazy`](super::lazy).)

use std::arch::x86_64::*;

use super::{BLOCK, Seen};
use crate::kernels::activation::{LN_2_HIGH, LN_2_LOW, ROUNDER, Running, TAYLOR};
use crate::kernels::panel::LANES;

/// Rows whose largest scores, and what follows from them, are one register.
const TOGETHER: usize = LANES;

/// As [`weigh`](super::steps::weigh).
///
/// # Safety
/// This machine has these features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn weigh(
    scores: &mut [f32],
    running: &mut [Running],
    out: &mut [f32],
    seen: &Seen<'_>,
) {
    let head_dim = out.len() / seen.positions.len();
    let scores = scores.as_chunks_mut::<BLOCK>().0.chunks_mut(TOGETHER);
    let out = out.chunks_mut(TOGETHER * head_dim);
    let positions = seen.positions.chunks(TOGETHER);
    let rows = scores.zip(running.chunks_mut(TOGETHER));
    for ((scores, running), (out, positions)) in rows.zip(out.zip(positions)) {
        let mut visible = [0u64; TOGETHER];
        let mut tops = Lanes([f32::NEG_INFINITY; TOGETHER]);
        let mut before = Lanes([f32::NEG_INFINITY; TOGETHER]);
        for (r, (scores, &position)) in scores.iter().zip(positions).enumerate() {
            let (from, to) = seen.of(position);
            let width = (BLOCK - (to - from)) as u32;
            visible[r] = u64::MAX.checked_shr(width).unwrap_or(0) << (from % BLOCK);
            // The second is taken where one is no number, as `if a > b { a } else { b }` does.
            let mut top = _mm512_set1_ps(f32::NEG_INFINITY);
            for x in row(scores, visible[r]) {
                top = _mm512_max_ps(x, top);
            }
            tops.0[r] = highest(top);
            before.0[r] = running[r].top;
        }
        let (top, before) = (_mm512_max_ps(tops.get(), before.get()), before.get());
        // Rows without any score have weights of 0 and stay as they are.
        let has_none = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(top, _mm512_set1_ps(f32::NEG_INFINITY));
        let base = _mm512_mask_mov_ps(top, has_none, _mm512_setzero_ps());
        let factor = exp(_mm512_sub_ps(before, base));
        let factor = _mm512_mask_mov_ps(factor, has_none, _mm512_set1_ps(1.0));
        let (bases, mut sums) = (Lanes::of(base), Lanes([0.0; TOGETHER]));
        for (r, scores) in scores.iter_mut().enumerate() {
            let mut x = row(scores, visible[r]);
            let mut sum = _mm512_setzero_ps();
            for x in &mut x {
                let below = _mm512_sub_ps(*x, _mm512_set1_ps(bases.0[r]));
                *x = exp(below);
                sum = _mm512_add_ps(sum, *x);
            }
            sums.0[r] = total(sum);
            for (i, &x) in x.iter().enumerate() {
                // SAFETY: a row of scores is four registers.
                unsafe { _mm512_storeu_ps(scores.as_mut_ptr().add(LANES * i), x) };
            }
        }
        let (factors, tops) = (Lanes::of(factor), Lanes::of(top));
        for (r, it) in running.iter_mut().enumerate() {
            it.total = it.total * factors.0[r] + sums.0[r];
            it.top = tops.0[r];
        }
        // Most blocks bring no larger score.
        if _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(factor, _mm512_set1_ps(1.0)) != 0 {
            for (out, factor) in out.chunks_exact_mut(head_dim).zip(factors.0) {
                for out in out.as_chunks_mut::<LANES>().0 {
                    // SAFETY: sixteen of them are one register.
                    unsafe {
                        let out = out.as_mut_ptr();
                        let scaled = _mm512_mul_ps(_mm512_loadu_ps(out), _mm512_set1_ps(factor));
                        _mm512_storeu_ps(out, scaled);
                    }
                }
            }
        }
    }
}

/// A number of each row.
#[repr(align(64))]
struct Lanes([f32; TOGETHER]);

impl Lanes {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn of(x: __m512) -> Lanes {
        let mut lanes = Lanes([0.0; TOGETHER]);
        // SAFETY: sixteen numbers at a multiple of 64.
        unsafe { _mm512_store_ps(lanes.0.as_mut_ptr(), x) };
        lanes
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn get(&self) -> __m512 {
        // SAFETY: sixteen numbers at a multiple of 64.
        unsafe { _mm512_load_ps(self.0.as_ptr()) }
    }
}

/// The scores of a row, −∞ for those that are not visible.
#[inline]
#[target_feature(enable = "avx512f")]
fn row(scores: &[f32; BLOCK], visible: u64) -> [__m512; BLOCK / LANES] {
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    let mut out = [lowest; BLOCK / LANES];
    for (i, out) in out.iter_mut().enumerate() {
        let mask = (visible >> (LANES * i)) as __mmask16;
        // SAFETY: a row of scores is four registers.
        *out = unsafe { _mm512_mask_loadu_ps(lowest, mask, scores.as_ptr().add(LANES * i)) };
    }
    out
}

/// e^x of what is not above 0, as [`exp_to_one`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn exp(x: __m512) -> __m512 {
    let least = _mm512_set1_ps(-87.0);
    let is_some = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, least);
    // The second is taken where one is no number.
    let x = _mm512_max_ps(least, x);
    let rounder = _mm512_set1_ps(ROUNDER);
    let shifted = _mm512_fmadd_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E), rounder);
    let n = _mm512_sub_ps(shifted, rounder);
    let r = _mm512_fmadd_ps(n, _mm512_set1_ps(-LN_2_HIGH), x);
    let r = _mm512_fmadd_ps(n, _mm512_set1_ps(-LN_2_LOW), r);
    let mut p = _mm512_set1_ps(TAYLOR[0]);
    for &c in &TAYLOR[1..] {
        p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(c));
    }
    // The lowest bits of `shifted` are n.
    let power = _mm512_slli_epi32::<23>(_mm512_add_epi32(
        _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_castps_si512(rounder)),
        _mm512_set1_epi32(127),
    ));
    _mm512_maskz_mul_ps(is_some, p, _mm512_castsi512_ps(power))
}

/// The sum of 16 lanes, halves first, as of [`tree`](crate::kernels::activation).
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn total(x: __m512) -> f32 {
    let eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
    let four = _mm_add_ps(
        _mm256_castps256_ps128(eight),
        _mm256_extractf128_ps::<1>(eight),
    );
    let pair = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn highest(x: __m512) -> f32 {
    let eight = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
    let four = _mm_max_ps(
        _mm256_castps256_ps128(eight),
        _mm256_extractf128_ps::<1>(eight),
    );
    let pair = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)))
}
