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

/// Byte and shift of code `i` among 2-bit fields: 128 codes in 32 bytes, four a byte, 32 apart.
fn pair(i: usize) -> (usize, usize) {
    (i / 128 * 32 + i % 32, i / 32 % 4 * 2)
}

/// Byte and shift of code `i` among nibbles of Q4_K and Q5_K: 64 codes in 32 bytes, two a byte, 32 apart.
fn nibble(i: usize) -> (usize, usize) {
    (i / 64 * 32 + i % 32, i / 32 % 2 * 4)
}

/// Byte and shift of code `i` among nibbles of Q6_K: 128 codes in 64 bytes, two a byte, 64 apart.
fn far_nibble(i: usize) -> (usize, usize) {
    (i / 128 * 64 + i % 64, i / 64 % 2 * 4)
}

/// Byte and shift of code `i` among single bits: 256 codes in 32 bytes, eight a byte, 32 apart.
fn single(i: usize) -> (usize, usize) {
    (i % 32, i / 32)
}

/// Appends `bytes` bytes of the fields `field` of all codes, placed by `place`.
fn put(
    codes: &[u8],
    bytes: usize,
    place: fn(usize) -> (usize, usize),
    field: impl Fn(u8) -> u8,
    to: &mut Vec<u8>,
) {
    let start = to.len();
    to.resize(start + bytes, 0);
    for (i, &code) in codes.iter().enumerate() {
        let (byte, shift) = place(i);
        to[start + byte] |= field(code) << shift;
    }
}

/// The field of `mask` of code `i` in `bytes`.
fn get(bytes: &[u8], place: fn(usize) -> (usize, usize), mask: u8, i: usize) -> u8 {
    let (byte, shift) = place(i);
    bytes[byte] >> shift & mask
}

/// Six-bit scales and minima of eight sub-blocks in 12 bytes.
fn put_pairs(scales: &[f32], mins: &[f32], to: &mut Vec<u8>) {
    let (s, m) = (|j: usize| scales[j] as u8, |j: usize| mins[j] as u8);
    to.extend((0..4).map(|j| s(j) | s(j + 4) >> 4 << 6));
    to.extend((0..4).map(|j| m(j) | m(j + 4) >> 4 << 6));
    to.extend((4..8).map(|j| s(j) & 15 | m(j) << 4));
}

fn get_pairs(bytes: &[u8], params: &mut Vec<f32>) {
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
    params.extend((0..8).map(|j| f32::from(scale(j))));
    params.extend((0..8).map(|j| f32::from(min(j))));
}

/// Six-bit scales of sixteen sub-blocks in 12 bytes: low nibbles in the first eight, upper pairs in the last four.
fn put_scales(scales: &[f32], to: &mut Vec<u8>) {
    let s = |j: usize| (scales[j] + 32.0) as u8;
    to.extend((0..8).map(|j| s(j) & 15 | s(j + 8) << 4));
    to.extend((0..4).map(|j| (0..4).fold(0, |byte, k| byte | s(j + 4 * k) >> 4 << (2 * k))));
}

fn get_scales(bytes: &[u8], params: &mut Vec<f32>) {
    params.extend((0..16).map(|j| {
        let low = bytes[j % 8] >> (j / 8 * 4) & 15;
        let high = bytes[8 + j % 4] >> (j / 4 * 2) & 3;
        f32::from(low | high << 4) - 32.0
    }));
}

pub(super) fn pack(of: GgmlType, parts: &Parts, to: &mut Vec<u8>) {
    let Parts { params, codes } = parts;
    match of {
        GgmlType::Q2_K => {
            let pairs = params[2..18].iter().zip(&params[18..34]);
            to.extend(pairs.map(|(&scale, &min)| scale as u8 | (min as u8) << 4));
            put(codes, 64, pair, |q| q, to);
            push_half(params[0], to);
            push_half(params[1], to);
        }
        GgmlType::Q3_K => {
            put(codes, 32, single, |q| q >> 2, to);
            put(codes, 64, pair, |q| q & 3, to);
            put_scales(&params[1..17], to);
            push_half(params[0], to);
        }
        GgmlType::Q6_K => {
            put(codes, 128, far_nibble, |q| q & 15, to);
            put(codes, 64, pair, |q| q >> 4, to);
            to.extend(params[1..17].iter().map(|&scale| scale as i8 as u8));
            push_half(params[0], to);
        }
        of => {
            push_half(params[0], to);
            push_half(params[1], to);
            put_pairs(&params[2..10], &params[10..18], to);
            if of == GgmlType::Q5_K {
                put(codes, 32, single, |q| q >> 4, to);
            }
            put(codes, 128, nibble, |q| q & 15, to);
        }
    }
}

pub(super) fn unpack(of: GgmlType, bytes: &[u8]) -> Parts {
    let mut params = Vec::with_capacity(34);
    let codes: Vec<u8> = match of {
        GgmlType::Q2_K => {
            params.extend([half_at(bytes, 80), half_at(bytes, 82)]);
            params.extend(bytes[..16].iter().map(|byte| f32::from(byte & 15)));
            params.extend(bytes[..16].iter().map(|byte| f32::from(byte >> 4)));
            (0..256).map(|i| get(&bytes[16..], pair, 3, i)).collect()
        }
        GgmlType::Q3_K => {
            params.push(half_at(bytes, 108));
            get_scales(&bytes[96..], &mut params);
            let code = |i| get(bytes, single, 1, i) << 2 | get(&bytes[32..], pair, 3, i);
            (0..256).map(code).collect()
        }
        GgmlType::Q6_K => {
            params.push(half_at(bytes, 208));
            params.extend(bytes[192..208].iter().map(|&scale| f32::from(scale as i8)));
            let code = |i| get(bytes, far_nibble, 15, i) | get(&bytes[128..], pair, 3, i) << 4;
            (0..256).map(code).collect()
        }
        of => {
            params.extend([half_at(bytes, 0), half_at(bytes, 2)]);
            get_pairs(&bytes[4..], &mut params);
            let rest = &bytes[16..];
            if of == GgmlType::Q5_K {
                let code = |i| get(rest, single, 1, i) << 4 | get(&rest[32..], nibble, 15, i);
                (0..256).map(code).collect()
            } else {
                (0..256).map(|i| get(rest, nibble, 15, i)).collect()
            }
        }
    };
    Parts { params, codes }
}
