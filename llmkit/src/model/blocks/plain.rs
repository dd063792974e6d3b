//! Blocks of 32 elements with a scale d, and perhaps a min m, in f16.
//!
//! | type | block | element |
//! |---|---|---|
//! | Q4_0 | d, 16 bytes | d · (q − 8) |
//! | Q4_1 | d, m, 16 bytes | d · q + m |
//! | Q5_0 | d, 32 fifth bits, 16 bytes | d · (q − 16) |
//! | Q5_1 | d, m, 32 fifth bits, 16 bytes | d · q + m |
//! | Q8_0 | d, 32 signed bytes | d · q |

use super::{BlockType, half_at};

pub(super) const Q4_0_BYTES: usize = 2 + 32 / 2;
pub(super) const Q4_1_BYTES: usize = 2 + 2 + 32 / 2;
pub(super) const Q5_0_BYTES: usize = 2 + 32 / 8 + 32 / 2;
pub(super) const Q5_1_BYTES: usize = 2 + 2 + 32 / 8 + 32 / 2;
pub(super) const Q8_0_BYTES: usize = 2 + 32;
const _: () = assert!(Q4_0_BYTES == 18 && Q4_1_BYTES == 20);
const _: () = assert!(Q5_0_BYTES == 22 && Q5_1_BYTES == 24 && Q8_0_BYTES == 34);

/// Codes first, all at once, then values: two loops that vectorize.
fn values(block_type: BlockType, block: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let mut stored = [0; 32];
    codes(block_type, block, &mut stored);
    out.iter_mut()
        .zip(stored)
        .for_each(|(out, code)| *out = value(code));
}

pub(super) fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    values(BlockType::Q4_0, block, out, |q| f32::from(q as i8 - 8) * d);
}

pub(super) fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    values(BlockType::Q4_1, block, out, |q| f32::from(q) * d + m);
}

pub(super) fn q5_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    values(BlockType::Q5_0, block, out, |q| f32::from(q as i8 - 16) * d);
}

pub(super) fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    values(BlockType::Q5_1, block, out, |q| f32::from(q) * d + m);
}

pub(super) fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (out, &q) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(q as i8) * d;
    }
}

/// The stored codes, without a sign; zeros for types that are not of this file.
#[inline(always)]
pub(super) fn codes(block_type: BlockType, block: &[u8], out: &mut [u8; 32]) {
    let nibbles = match block_type {
        BlockType::Q4_0 => &block[2..],
        BlockType::Q4_1 => &block[4..],
        BlockType::Q5_0 => &block[6..],
        BlockType::Q5_1 => &block[8..],
        BlockType::Q8_0 => {
            let codes = out.iter_mut().zip(&block[2..]);
            return codes.for_each(|(out, q)| *out = q ^ 128);
        }
        _ => return out.fill(0),
    };
    let (low, high) = out.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(nibbles) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
    let fifth = match block_type {
        BlockType::Q5_0 => &block[2..6],
        BlockType::Q5_1 => &block[4..8],
        _ => return,
    };
    for (i, out) in out.iter_mut().enumerate() {
        *out |= (fifth[i / 8] >> (i % 8) & 1) << 4;
    }
}
