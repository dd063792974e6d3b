//! Rows rounded to bf16.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::activation::row_to_bf16;
use super::isa::{Isa, vectorizable, vectorized};

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
        Isa::Avx512 | Isa::Amx => unsafe { avx512(x, out) },
        _ => vectorized(isa, RowToBf16, (x, out)),
    }
}

/// The processor's conversion takes subnormal numbers as zero; where there is one of them, the plain way is gone.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn avx512(x: &[f32], out: &mut [u32]) {
    const SUBNORMAL: i32 = 0x20;
    let (chunks, rest) = x.as_chunks::<32>();
    let (words, last) = out.split_at_mut(chunks.len() * 16);
    for (words, chunk) in words.as_chunks_mut::<16>().0.iter_mut().zip(chunks) {
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
    row_to_bf16((rest, last));
}
