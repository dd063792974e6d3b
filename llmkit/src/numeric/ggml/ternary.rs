//! TQ1_0 and TQ2_0: −d, 0 or d for 256 weights, d the greatest magnitude; for models trained to be ternary.
//!
//! TQ2_0 gives a weight two bits: byte m of each 32 holds weights m, m + 32, m + 64, m + 96 of 128, lowest bits first.
//! TQ1_0 packs five base-3 digits, the first the most significant, into a byte that is the number's 256ths of 243
//! rounded up, so that multiplying by 3 brings the digits out at the top one after the other.

use super::{GgmlType, Parts, half_at, push_half, rounded};

pub(super) fn quantize(block: &[f32]) -> Parts {
    let d = block.iter().fold(0f32, |max, x| max.max(x.abs()));
    let id = if d == 0.0 { 0.0 } else { 1.0 / d };
    // Half away from zero; what is not finite becomes 0.
    let code = |&x: &f32| ((x * id).round() as i8 + 1).clamp(0, 2) as u8;
    let finite = |&x: &f32| if (x * id).is_finite() { code(&x) } else { 1 };
    Parts {
        params: vec![rounded(d)],
        codes: block.iter().map(finite).collect(),
    }
}

/// Where the five (or four) digits of each byte of TQ1_0 come from: first weight, distance between two, count.
fn digits(byte: usize) -> (usize, usize, usize) {
    match byte {
        0..32 => (byte, 32, 5),
        32..48 => (160 + byte - 32, 16, 5),
        byte => (240 + byte - 48, 4, 4),
    }
}

pub(super) fn pack(of: GgmlType, parts: &Parts, to: &mut Vec<u8>) {
    let codes = &parts.codes;
    if of == GgmlType::TQ2_0 {
        for half in codes.chunks_exact(128) {
            to.extend(
                (0..32).map(|m| (0..4).fold(0, |byte, n| byte | half[m + 32 * n] << (2 * n))),
            );
        }
    } else {
        for byte in 0..52 {
            let (first, step, count) = digits(byte);
            let digit = |n: usize| {
                if n < count {
                    u16::from(codes[first + n * step])
                } else {
                    0
                }
            };
            let number = (0..5).fold(0, |number, n| number * 3 + digit(n));
            to.push((number * 256).div_ceil(243) as u8);
        }
    }
    push_half(parts.params[0], to);
}

pub(super) fn unpack(of: GgmlType, bytes: &[u8], params: &mut [f32], codes: &mut [u8]) {
    let (digit_bytes, d) = bytes.split_at(bytes.len() - 2);
    params[0] = half_at(d, 0);
    if of == GgmlType::TQ2_0 {
        for (i, code) in codes.iter_mut().enumerate() {
            let (half, n, m) = (i / 128, i / 32 % 4, i % 32);
            *code = digit_bytes[half * 32 + m] >> (2 * n) & 3;
        }
    } else {
        for (byte, &stored) in digit_bytes.iter().enumerate() {
            let (first, step, count) = digits(byte);
            let mut rest = stored;
            for n in 0..count {
                codes[first + n * step] = ((u16::from(rest) * 3) >> 8) as u8;
                rest = rest.wrapping_mul(3);
            }
        }
    }
}
