//! Super-blocks ("K-quants"): 256 elements in groups of 16 or 32, whose scales are small integers times one f16.
//!
//! | type | block, in the order of the file | groups | element |
//! |---|---|---|---|
//! | Q2_K | 16 bytes (scale s, min t: 4 bits each), 64 bytes of q, d, e | 16 of 16 | d·s · q − e·t |
//! | Q3_K | 32 bytes of third bits, 64 bytes of q, 12 bytes of s (6 bits), d | 16 of 16 | d·(s − 32) · (q − 4) |
//! | Q4_K | d, e, 12 bytes of s and t (6 bits each), 128 bytes of q | 8 of 32 | d·s · q − e·t |
//! | Q5_K | d, e, 12 bytes of s and t, 32 bytes of fifth bits, 128 bytes of q | 8 of 32 | d·s · q − e·t |
//! | Q6_K | 128 bytes of q's low halves, 64 bytes of its upper two bits, 16 signed bytes s, d | 16 of 16 | d·s · (q − 32) |
//!
//! Elements are laid out for vectors of 32 bytes: of two bits, byte j of 32 holds elements j, j + 32, j + 64 and j + 96 of its
//! half; of four bits (Q4_K, Q5_K), elements j and j + 32 of its quarter; Q6_K's low halves, elements j and j + 64 of its half.

use super::half_at;

pub(super) const Q2_K_BYTES: usize = 256 / 16 + 256 / 4 + 2 + 2;
pub(super) const Q3_K_BYTES: usize = 256 / 8 + 256 / 4 + 12 + 2;
pub(super) const Q4_K_BYTES: usize = 2 + 2 + 12 + 256 / 2;
pub(super) const Q5_K_BYTES: usize = 2 + 2 + 12 + 256 / 8 + 256 / 2;
pub(super) const Q6_K_BYTES: usize = 256 / 2 + 256 / 4 + 256 / 16 + 2;
const _: () = assert!(Q2_K_BYTES == 84 && Q3_K_BYTES == 110);
const _: () = assert!(Q4_K_BYTES == 144 && Q5_K_BYTES == 176 && Q6_K_BYTES == 210);

/// Element `i` of 256 two-bit ones.
fn two_bits(quants: &[u8], i: usize) -> u8 {
    quants[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

/// Element `i` of 256 four-bit ones.
fn four_bits(quants: &[u8], i: usize) -> u8 {
    quants[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15
}

/// Bit `i` of 256: byte j holds those of elements j, j + 32, … .
fn one_bit(bits: &[u8], i: usize) -> u8 {
    bits[i % 32] >> (i / 32) & 1
}

pub(super) fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, quants) = block.split_at(16);
    let (d, e) = (half_at(block, 80), half_at(block, 82));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(scales[group] & 15);
        let min = e * f32::from(scales[group] >> 4);
        for (i, out) in out.iter_mut().enumerate() {
            *out = scale * f32::from(two_bits(quants, group * 16 + i)) - min;
        }
    }
}

pub(super) fn q3_k(block: &[u8], out: &mut [f32]) {
    let (third, quants, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        // Low halves of the 16 scales in the first 8 bytes, their upper two bits in the last 4.
        let low = scales[group % 8] >> (group / 8 * 4) & 15;
        let high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
        let scale = d * f32::from((low | high << 4) as i8 - 32);
        for (i, out) in out.iter_mut().enumerate() {
            let i = group * 16 + i;
            let q = two_bits(quants, i) | one_bit(third, i) << 2;
            *out = scale * f32::from(q as i8 - 4);
        }
    }
}

/// Scale and min of group `group` of 8, 6 bits each: the first four in bytes of their own, whose spare upper bits complete the
/// last four, which are halves of bytes.
fn scale_and_min(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, min) = match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => (
            packed[group + 4] & 15 | packed[group - 4] >> 6 << 4,
            packed[group + 4] >> 4 | packed[group] >> 6 << 4,
        ),
    };
    (f32::from(scale), f32::from(min))
}

pub(super) fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, e) = (half_at(block, 0), half_at(block, 2));
    let (packed, quants) = (&block[4..16], &block[16..]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(packed, group);
        let (scale, min) = (d * scale, e * min);
        for (i, out) in out.iter_mut().enumerate() {
            *out = scale * f32::from(four_bits(quants, group * 32 + i)) - min;
        }
    }
}

pub(super) fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, e) = (half_at(block, 0), half_at(block, 2));
    let (packed, fifth, quants) = (&block[4..16], &block[16..48], &block[48..]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(packed, group);
        let (scale, min) = (d * scale, e * min);
        for (i, out) in out.iter_mut().enumerate() {
            let i = group * 32 + i;
            let q = four_bits(quants, i) | one_bit(fifth, i) << 4;
            *out = scale * f32::from(q) - min;
        }
    }
}

pub(super) fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(scales[group] as i8);
        for (i, out) in out.iter_mut().enumerate() {
            let i = group * 16 + i;
            let low = low[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
            let q = low | two_bits(high, i) << 4;
            *out = scale * f32::from(q as i8 - 32);
        }
    }
}
