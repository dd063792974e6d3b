//! Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: one scale, perhaps a minimum, for 32 weights.
//!
//! Q4_0 and Q5_0 take d = m/−8 or m/−16 for the weight m of greatest magnitude, sign and all, so that this one is exact
//! but for the rounding of d; codes are rounded with d before it is cut to f16. Q4_1 and Q5_1 span min … max. Q8_0 is
//! symmetric.
//!
//! Layout: d, m, the fifth bits in 4 bytes, then nibbles: byte i holds weight i low and weight i + 16 high.

use super::{GgmlType, Parts, push_half, rounded, truncated};

/// 1/d, or 0 for d = 0.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// Q4_0 (`half` 8, `last` 15) and Q5_0 (16, 31).
pub(super) fn symmetric(block: &[f32], half: u8, last: u8) -> Parts {
    let (mut greatest, mut max) = (0f32, 0f32);
    for &x in block {
        if greatest < x.abs() {
            (greatest, max) = (x.abs(), x);
        }
    }
    let half = f32::from(half);
    let d = max / -half;
    let id = inverse(d);
    // Through a signed byte, as C does it.
    let code =
        |&x: &f32| i32::from(truncated(x * id + (half + 0.5)) as i8).min(i32::from(last)) as u8;
    Parts {
        params: vec![rounded(d)],
        codes: block.iter().map(code).collect(),
    }
}

/// Q4_1 (`last` 15) and Q5_1 (31).
pub(super) fn affine(block: &[f32], last: u8) -> Parts {
    let (mut min, mut max) = (f32::MAX, -f32::MAX);
    for &x in block {
        if x < min {
            min = x;
        }
        if x > max {
            max = x;
        }
    }
    let d = (max - min) / f32::from(last);
    let id = inverse(d);
    let code = |&x: &f32| {
        let code = truncated((x - min) * id + 0.5);
        // Four bits are cut off at 15; five bits are masked.
        if last == 15 {
            i32::from(code as i8).min(15) as u8
        } else {
            code as u8 & 31
        }
    };
    Parts {
        params: vec![rounded(d), rounded(min)],
        codes: block.iter().map(code).collect(),
    }
}

/// Q8_0; codes are stored with 128 added here.
pub(super) fn q8_0(block: &[f32]) -> Parts {
    let greatest = block.iter().fold(0f32, |max, x| max.max(x.abs()));
    let d = greatest / 127.0;
    let id = inverse(d);
    let code = |&x: &f32| (truncated((x * id).round()) as u8).wrapping_add(128);
    Parts {
        params: vec![rounded(d)],
        codes: block.iter().map(code).collect(),
    }
}

pub(super) fn pack(of: GgmlType, parts: &Parts, to: &mut Vec<u8>) {
    let Parts { params, codes } = parts;
    params.iter().for_each(|&param| push_half(param, to));
    if of == GgmlType::Q8_0 {
        to.extend(codes.iter().map(|code| code.wrapping_sub(128)));
        return;
    }
    if of.levels() == 32 {
        let fifth = |bits: u32, (i, code): (usize, &u8)| bits | u32::from(code >> 4 & 1) << i;
        let bits = codes.iter().enumerate().fold(0, fifth);
        to.extend(bits.to_le_bytes());
    }
    let (low, high) = codes.split_at(16);
    to.extend(low.iter().zip(high).map(|(low, high)| low & 15 | high << 4));
}

/// The codes of a block of Q4_0 … Q8_0 or IQ4_NL.
#[inline(always)]
pub(super) fn codes(of: GgmlType, bytes: &[u8], codes: &mut [u8]) {
    let rest = &bytes[2 * of.params()..];
    if of == GgmlType::Q8_0 {
        let codes = codes.iter_mut().zip(rest);
        return codes.for_each(|(code, byte)| *code = byte ^ 128);
    }
    let (fifth, nibbles) = rest.split_at(rest.len() - 16);
    let (low, high) = codes.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(nibbles) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
    for (codes, byte) in codes.chunks_exact_mut(8).zip(fifth) {
        for (i, code) in codes.iter_mut().enumerate() {
            *code |= (byte >> i & 1) << 4;
        }
    }
}
