//! Rows rounded to bf16.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::activation::{SwigluRow, row_to_bf16};
use super::isa::{Isa, vectorizable, vectorized};
#[cfg(target_arch = "x86_64")]
use super::panel::LANES;

vectorizable!(RowToBf16<'a>: row_to_bf16, (&'a [f32], &'a mut [u32]) => ());

/// Rounds `x` (K) to bf16, ties to even, two to a word, an odd end filled up with zero.
///
/// # Panics
/// If `out` has not as many words, or the machine lacks `isa`.
pub(super) fn round(isa: Isa, x: &[f32], out: &mut [u32]) {
    assert_eq!(out.len(), x.len().div_ceil(2), "words of a row");
    match isa.checked() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `checked` has seen it.
        Isa::Avx512 | Isa::Amx => unsafe { avx512(x, out, LANES) },
        _ => vectorized(isa, RowToBf16, (x, out)),
    }
}

/// silu(gate) · up, rounded to bf16. What nobody sees in f32 is computed no better than the rounding hides: with AVX-512 to 6·10⁻⁶ of it, and
/// numbers below 2⁻¹²⁶ are zero.
///
/// # Panics
/// If sizes differ, `out` has not as many words, or the machine lacks `isa`.
pub(super) fn round_gated(isa: Isa, gate: &[f32], up: &[f32], out: &mut [u32]) {
    assert_eq!(gate.len(), up.len(), "SwiGLU sizes");
    assert_eq!(out.len(), gate.len().div_ceil(2), "words of a row");
    match isa.checked() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `checked` has seen it.
        Isa::Avx512 | Isa::Amx => unsafe { gated_avx512(gate, up, out, LANES) },
        _ => {
            let mut row = gate.to_vec();
            vectorized(isa, SwigluRow, (&mut row, up));
            vectorized(isa, RowToBf16, (&row, out));
        }
    }
}

/// silu(gate) · up as [`round_gated`] computes it, not rounded.
///
/// # Panics
/// If sizes differ, or the machine lacks `isa`.
pub(super) fn gate(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert_eq!(
        (gate.len(), up.len()),
        (out.len(), out.len()),
        "SwiGLU sizes"
    );
    match isa.checked() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `checked` has seen it.
        Isa::Avx512 | Isa::Amx => unsafe { gate_avx512(gate, up, out) },
        _ => {
            out.copy_from_slice(gate);
            vectorized(isa, SwigluRow, (out, up));
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn gate_avx512(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let pairs = gate.chunks(LANES).zip(up.chunks(LANES));
    for ((gate, up), out) in pairs.zip(out.chunks_mut(LANES)) {
        // As many as there are; zeros otherwise.
        let mask = u16::MAX >> (LANES - gate.len());
        // SAFETY: there are as many as the mask says.
        unsafe {
            let load = |from: &[f32]| _mm512_maskz_loadu_ps(mask, from.as_ptr());
            let gated = silu(load(gate), load(up));
            _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, gated);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn gated_avx512(gate: &[f32], up: &[f32], out: &mut [u32], apart: usize) {
    let pairs = gate.chunks(2 * LANES).zip(up.chunks(2 * LANES));
    for ((gate, up), out) in pairs.zip(out.chunks_mut(apart)) {
        let out = &mut out[..gate.len().div_ceil(2)];
        // As many as there are; zeros otherwise.
        let mask = u32::MAX >> (32 - gate.len());
        let (low, high) = (mask as __mmask16, (mask >> 16) as __mmask16);
        // SAFETY: there are as many numbers as the masks say, and half as many words.
        unsafe {
            let load = |from: &[f32], mask, at| {
                _mm512_maskz_loadu_ps(mask, from.as_ptr().wrapping_add(at))
            };
            let first = silu(load(gate, low, 0), load(up, low, 0));
            let second = silu(load(gate, high, 16), load(up, high, 16));
            let rounded = _mm512_cvtne2ps_pbh(second, first);
            let rounded = std::mem::transmute::<__m512bh, __m512i>(rounded);
            let words = u16::MAX >> (16 - out.len());
            _mm512_mask_storeu_epi32(out.as_mut_ptr().cast(), words, rounded);
        }
    }
}

/// gate / (1 + e^−gate) · up. The quotient by an estimate of the reciprocal to 2⁻¹⁴ and a step of Newton's.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn silu(gate: __m512, up: __m512) -> __m512 {
    let y = _mm512_mul_ps(gate, _mm512_set1_ps(-std::f32::consts::LOG2_E));
    // Beyond, the estimate of the reciprocal has no normal number, and what it is for is zero; NaN is not beyond.
    let is_some = _mm512_cmp_ps_mask::<_CMP_NGE_UQ>(y, _mm512_set1_ps(126.0));
    let sum = _mm512_add_ps(power(y), _mm512_set1_ps(1.0));
    let estimate = _mm512_rcp14_ps(sum);
    let rest = _mm512_fnmadd_ps(sum, estimate, _mm512_set1_ps(2.0));
    let gated = _mm512_mul_ps(gate, up);
    _mm512_maskz_mul_ps(is_some, gated, _mm512_mul_ps(estimate, rest))
}

/// 2ʸ to 2.7·10⁻⁶ of it, for what is rounded to 8 places; 0 of −∞. 2ʸ = 2^⌊y⌋ · 2^(y − ⌊y⌋), the latter by a polynomial of degree 4.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn power(y: __m512) -> __m512 {
    /// 2ʸ on [0, 1), the highest power first: the largest relative error is the least that there can be.
    const POWERS: [f32; 5] = [
        0.013_534_168,
        0.052_011_46,
        0.241_442_75,
        0.693_003_83,
        1.000_002_6,
    ];
    let r = _mm512_reduce_ps::<_MM_FROUND_TO_NEG_INF>(y);
    let mut p = _mm512_set1_ps(POWERS[0]);
    for &c in &POWERS[1..] {
        p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(p, y)
}

/// The processor's conversion takes subnormal numbers as zero; where there is one of them, the plain way is gone.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn avx512(x: &[f32], out: &mut [u32], apart: usize) {
    const SUBNORMAL: i32 = 0x20;
    let (chunks, rest) = x.as_chunks::<{ 2 * LANES }>();
    for (words, chunk) in out.chunks_mut(apart).zip(chunks) {
        let words = &mut words[..LANES];
        // SAFETY: a chunk is two registers, its words one.
        unsafe {
            let low = _mm512_loadu_ps(chunk.as_ptr());
            let high = _mm512_loadu_ps(chunk.as_ptr().add(16));
            let subnormal = _mm512_fpclass_ps_mask::<SUBNORMAL>(low)
                | _mm512_fpclass_ps_mask::<SUBNORMAL>(high);
            if subnormal != 0 {
                row_to_bf16((chunk, words));
                continue;
            }
            let rounded = _mm512_cvtne2ps_pbh(high, low);
            let rounded = std::mem::transmute::<__m512bh, __m512i>(rounded);
            _mm512_storeu_si512(words.as_mut_ptr().cast(), rounded);
        }
    }
    if !rest.is_empty() {
        row_to_bf16((rest, &mut out[chunks.len() * apart..]));
    }
}

/// As [`round`] with AVX-512 of a whole number of 32 values; each 16 words begin `apart` words behind the last.
///
/// # Safety
/// The machine has it.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn round_apart(x: &[f32], out: &mut [u32], apart: usize) {
    // SAFETY: the caller's.
    unsafe { avx512(x, out, apart) }
}

/// As [`round_gated`], likewise.
///
/// # Safety
/// The machine has AVX-512.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn round_gated_apart(gate: &[f32], up: &[f32], out: &mut [u32], apart: usize) {
    // SAFETY: the caller's.
    unsafe { gated_avx512(gate, up, out, apart) }
}
