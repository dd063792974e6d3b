//! Where the bits of a k-quant lie.
//!
//! | type | bytes, in order |
//! |---|---|
//! | Q2_K | 16 × (scale low nibble, minimum high nibble); 64 bytes of 2-bit codes; d; dₘ |
//! | Q3_K | 32 bytes of third bits; 64 bytes of low 2 bits; 12 bytes of 6-bit scales + 32; d |
//! | Q4_K | d; dₘ; 12 bytes of 6-bit scales and minima; 128 bytes of nibbles |
//! | Q5_K | d; dₘ; 12 bytes of 6-bit scales and minima; 32 bytes of fifth bits; 128 bytes of nibbles |
//! | Q6_K | 128 bytes of low nibbles; 64 bytes of upper 2 bits; 16 signed scales; d |

use super::{GgmlType, Parts, half_at, push_half};

/// Fields of `bits` bits, whose neighbours in a byte belong to codes `apart` places apart.
#[derive(Clone, Copy)]
struct Fields {
    bits: usize,
    apart: usize,
}

/// 2-bit fields: 128 codes in 32 bytes, four a byte.
const PAIRS: Fields = Fields { bits: 2, apart: 32 };
/// Nibbles of Q4_K and Q5_K: 64 codes in 32 bytes, two a byte.
const NIBBLES: Fields = Fields { bits: 4, apart: 32 };
/// Nibbles of Q6_K: 128 codes in 64 bytes.
const FAR_NIBBLES: Fields = Fields { bits: 4, apart: 64 };
/// Single bits: 256 codes in 32 bytes, eight a byte.
const SINGLES: Fields = Fields { bits: 1, apart: 32 };

impl Fields {
    /// Appends the field `field` of each of 256 codes.
    fn put(self, codes: &[u8], field: impl Fn(u8) -> u8, to: &mut Vec<u8>) {
        let Fields { bits, apart } = self;
        for codes in codes.chunks_exact(apart * 8 / bits) {
            to.extend((0..apart).map(|j| {
                let fields = codes[j..].iter().step_by(apart).enumerate();
                fields.fold(0, |byte, (i, &code)| byte | field(code) << (i * bits))
            }));
        }
    }

    /// Sets the bits from `shift` on of each of 256 codes to its field in `bytes`.
    #[inline(always)]
    fn get(self, bytes: &[u8], shift: usize, codes: &mut [u8]) {
        let Fields { bits, apart } = self;
        let parts = codes.chunks_exact_mut(apart * 8 / bits);
        for (codes, bytes) in parts.zip(bytes.chunks_exact(apart)) {
            for (i, codes) in codes.chunks_exact_mut(apart).enumerate() {
                for (code, byte) in codes.iter_mut().zip(bytes) {
                    *code |= (byte >> (i * bits) & ((1 << bits) - 1)) << shift;
                }
            }
        }
    }
}

/// Six-bit scales and minima of eight sub-blocks in 12 bytes.
fn put_pairs(scales: &[f32], mins: &[f32], to: &mut Vec<u8>) {
    let (s, m) = (|j: usize| scales[j] as u8, |j: usize| mins[j] as u8);
    to.extend((0..4).map(|j| s(j) | s(j + 4) >> 4 << 6));
    to.extend((0..4).map(|j| m(j) | m(j + 4) >> 4 << 6));
    to.extend((4..8).map(|j| s(j) & 15 | m(j) << 4));
}

/// The eight scales and the eight minima of [`put_pairs`].
#[inline(always)]
fn get_pairs(bytes: &[u8], params: &mut [f32]) {
    let high = |j: usize| bytes[j] >> 6 << 4;
    let scale = |j: usize| {
        if j < 4 {
            bytes[j] & 63
        } else {
            bytes[j + 4] & 15 | high(j - 4)
        }
    };
    let min = |j: usize| {
        if j < 4 {
            bytes[j + 4] & 63
        } else {
            bytes[j + 4] >> 4 | high(j)
        }
    };
    let (scales, mins) = params.split_at_mut(8);
    for (j, (to_scale, to_min)) in scales.iter_mut().zip(mins).enumerate() {
        (*to_scale, *to_min) = (f32::from(scale(j)), f32::from(min(j)));
    }
}

/// Six-bit scales of sixteen sub-blocks in 12 bytes: low nibbles in the first eight, upper pairs in the last four.
fn put_scales(scales: &[f32], to: &mut Vec<u8>) {
    let s = |j: usize| (scales[j] + 32.0) as u8;
    to.extend((0..8).map(|j| s(j) & 15 | s(j + 8) << 4));
    to.extend((0..4).map(|j| (0..4).fold(0, |byte, k| byte | s(j + 4 * k) >> 4 << (2 * k))));
}

#[inline(always)]
fn get_scales(bytes: &[u8], scales: &mut [f32]) {
    for (j, scale) in scales.iter_mut().enumerate() {
        let low = bytes[j % 8] >> (j / 8 * 4) & 15;
        let high = bytes[8 + j % 4] >> (j / 4 * 2) & 3;
        *scale = f32::from(low | high << 4) - 32.0;
    }
}

pub(super) fn pack(of: GgmlType, parts: &Parts, to: &mut Vec<u8>) {
    let Parts { params, codes } = parts;
    match of {
        GgmlType::Q2_K => {
            let pairs = params[2..18].iter().zip(&params[18..34]);
            to.extend(pairs.map(|(&scale, &min)| scale as u8 | (min as u8) << 4));
            PAIRS.put(codes, |q| q, to);
            push_half(params[0], to);
            push_half(params[1], to);
        }
        GgmlType::Q3_K => {
            SINGLES.put(codes, |q| q >> 2, to);
            PAIRS.put(codes, |q| q & 3, to);
            put_scales(&params[1..17], to);
            push_half(params[0], to);
        }
        GgmlType::Q6_K => {
            FAR_NIBBLES.put(codes, |q| q & 15, to);
            PAIRS.put(codes, |q| q >> 4, to);
            to.extend(params[1..17].iter().map(|&scale| scale as i8 as u8));
            push_half(params[0], to);
        }
        of => {
            push_half(params[0], to);
            push_half(params[1], to);
            put_pairs(&params[2..10], &params[10..18], to);
            if of == GgmlType::Q5_K {
                SINGLES.put(codes, |q| q >> 4, to);
            }
            NIBBLES.put(codes, |q| q & 15, to);
        }
    }
}

/// `codes` are zeros before.
#[inline(always)]
pub(super) fn unpack(of: GgmlType, bytes: &[u8], params: &mut [f32], codes: &mut [u8]) {
    match of {
        GgmlType::Q2_K => {
            (params[0], params[1]) = (half_at(bytes, 80), half_at(bytes, 82));
            let (scales, mins) = params[2..].split_at_mut(16);
            for ((scale, min), byte) in scales.iter_mut().zip(mins).zip(bytes) {
                (*scale, *min) = (f32::from(byte & 15), f32::from(byte >> 4));
            }
            PAIRS.get(&bytes[16..80], 0, codes);
        }
        GgmlType::Q3_K => {
            params[0] = half_at(bytes, 108);
            get_scales(&bytes[96..108], &mut params[1..]);
            PAIRS.get(&bytes[32..96], 0, codes);
            SINGLES.get(&bytes[..32], 2, codes);
        }
        GgmlType::Q6_K => {
            params[0] = half_at(bytes, 208);
            for (scale, &byte) in params[1..].iter_mut().zip(&bytes[192..208]) {
                *scale = f32::from(byte as i8);
            }
            FAR_NIBBLES.get(&bytes[..128], 0, codes);
            PAIRS.get(&bytes[128..192], 4, codes);
        }
        of => {
            (params[0], params[1]) = (half_at(bytes, 0), half_at(bytes, 2));
            get_pairs(&bytes[4..16], &mut params[2..]);
            if of == GgmlType::Q5_K {
                SINGLES.get(&bytes[16..48], 4, codes);
            }
            NIBBLES.get(&bytes[bytes.len() - 128..], 0, codes);
        }
    }
}
