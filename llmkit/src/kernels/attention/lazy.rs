//! Scores to weights in bf16 with AVX-512, on a base that is raised only when it has to be.
//!
//! A weight is 2^(score·log₂ e − base), and any base will do as long as no weight overflows: it drops out when all is divided by the sum of
//! weights. An online softmax takes the largest score so far and so needs, of each row and block, the largest of 64 numbers. Here a row keeps its
//! base until a score is 2⁸ above it; whether one is, is a comparison. Sums of weights stay in sixteen lanes until the end.
//!
//! Weights are right to 2.7·10⁻⁶ of them before they are rounded to 8 places ([`power`]).
//!
//! Source of the idea: the published kernels of FlashAttention-4 (Dao-AILab/flash-attention, 2025) do not rescale below a threshold.

use std::arch::x86_64::*;

use super::{BLOCK, Seen};
use crate::kernels::halves::power;
use crate::kernels::panel::LANES;

/// How far a score may be above its row's base, in powers of two.
const SLACK: f32 = 8.0;
/// The base of a row that has not seen a score yet: lower than all, and finite, so that −∞ minus it is −∞.
const LOWEST: f32 = f32::MIN;
/// What has been seen of a row.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Row {
    /// Weights so far, in sixteen sums.
    sums: [f32; LANES],
    base: f32,
}

impl Row {
    /// Nothing.
    pub(super) const NEW: Row = Row {
        sums: [0.0; LANES],
        base: LOWEST,
    };

    /// Σ weights.
    pub(super) fn total(&self) -> f32 {
        crate::kernels::activation::tree(self.sums, |a, b| a + b)
    }
}

/// The first 16·`N` scores of each row (R, 64) to weights (R, 64/2 words), with the rows of `out` (R, D) rescaled where a base is raised.
///
/// # Safety
/// This machine has these features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn weigh<const N: usize>(
    scores: &[f32],
    weights: &mut [u32],
    rows: &mut [Row],
    out: &mut [f32],
    seen: &Seen<'_>,
) {
    let head_dim = out.len() / rows.len();
    let scores = scores.as_chunks::<BLOCK>().0.iter();
    let weights = weights.as_chunks_mut::<{ BLOCK / 2 }>().0.iter_mut();
    let outs = out.chunks_exact_mut(head_dim);
    let log = _mm512_set1_ps(std::f32::consts::LOG2_E);
    let all = scores.zip(weights).zip(rows).zip(outs).zip(seen.positions);
    for ((((scores, weights), row), out), &position) in all {
        let (from, to) = seen.of(position);
        let mut x = [_mm512_set1_ps(f32::NEG_INFINITY); N];
        // SAFETY: a row of scores is four registers, and N is no more.
        unsafe {
            if (from, to) == (0, BLOCK) {
                for (i, x) in x.iter_mut().enumerate() {
                    *x = _mm512_loadu_ps(scores.as_ptr().wrapping_add(LANES.wrapping_mul(i)));
                }
            } else {
                let width = (BLOCK - (to - from)) as u32;
                let visible = u64::MAX.checked_shr(width).unwrap_or(0) << (from % BLOCK);
                for (i, x) in x.iter_mut().enumerate() {
                    let mask = (visible >> (LANES * i)) as __mmask16;
                    *x = _mm512_mask_loadu_ps(*x, mask, scores.as_ptr().add(LANES * i));
                }
            }
        }
        let mut y = x;
        let mut top = _mm512_set1_ps(f32::NEG_INFINITY);
        for y in &mut y {
            *y = _mm512_fmsub_ps(*y, log, _mm512_set1_ps(row.base));
            top = _mm512_max_ps(top, *y);
        }
        if _mm512_cmp_ps_mask::<_CMP_GT_OQ>(top, _mm512_set1_ps(SLACK)) != 0 {
            raise(&x, row, out);
            for (y, x) in y.iter_mut().zip(x) {
                *y = _mm512_fmsub_ps(x, log, _mm512_set1_ps(row.base));
            }
        }
        // SAFETY: sixteen sums are one register, two of weights half as many words as N registers of scores.
        unsafe {
            let mut sum = _mm512_load_ps(row.sums.as_ptr());
            for y in &mut y {
                *y = power(*y);
                sum = _mm512_add_ps(sum, *y);
            }
            _mm512_store_ps(row.sums.as_mut_ptr(), sum);
            for (i, pair) in y.as_chunks::<2>().0.iter().enumerate() {
                let rounded = _mm512_cvtne2ps_pbh(pair[1], pair[0]);
                let rounded = std::mem::transmute::<__m512bh, __m512i>(rounded);
                let to = weights.as_mut_ptr().wrapping_add(LANES.wrapping_mul(i));
                _mm512_storeu_si512(to.cast(), rounded);
            }
        }
    }
}

/// Raises a row's base to its largest score.
#[cold]
#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
fn raise<const N: usize>(x: &[__m512; N], row: &mut Row, out: &mut [f32]) {
    let mut top = x[0];
    for x in &x[1..] {
        top = _mm512_max_ps(top, *x);
    }
    let base = _mm512_reduce_max_ps(top) * std::f32::consts::LOG2_E;
    let factor = _mm512_cvtss_f32(power(_mm512_set1_ps(row.base - base)));
    row.base = base;
    row.sums.iter_mut().chain(out).for_each(|it| *it *= factor);
}
