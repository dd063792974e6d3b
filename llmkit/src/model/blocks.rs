//! The element formats of GGUF that we read, decoded to f32. Obvious code; speed is another file's business.
//!
//! | type | block | element i (d, m are f16) |
//! |---|---|---|
//! | F32, F16, BF16 | 1 | itself |
//! | Q4_0 | d, 16 bytes | d · (q − 8) |
//! | Q4_1 | d, m, 16 bytes | d · q + m |
//! | Q5_0 | d, 32 fifth bits, 16 bytes | d · (q − 16) |
//! | Q5_1 | d, m, 32 fifth bits, 16 bytes | d · q + m |
//! | Q8_0 | d, 32 signed bytes | d · q |
//!
//! In the 4- and 5-bit formats byte i holds element i in its low half and element i + 16 in its high half.
//! Source: ggml, `ggml-common.h` and `ggml-quants.c`.

use half::{bf16, f16};

/// How the elements of a GGUF tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, non_camel_case_types)]
pub enum BlockType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
}

/// Names of ggml's type numbers, for messages about those we do not read.
const GGML_NAMES: [&str; 31] = [
    "F32", "F16", "Q4_0", "Q4_1", "4", "5", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K",
    "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S",
    "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16",
];

impl BlockType {
    /// The type with this number in a file.
    pub fn from_ggml(number: u32) -> Option<BlockType> {
        Some(match number {
            0 => BlockType::F32,
            1 => BlockType::F16,
            2 => BlockType::Q4_0,
            3 => BlockType::Q4_1,
            6 => BlockType::Q5_0,
            7 => BlockType::Q5_1,
            8 => BlockType::Q8_0,
            30 => BlockType::BF16,
            _ => return None,
        })
    }

    /// What ggml calls the type with this number.
    pub(super) fn ggml_name(number: u32) -> String {
        GGML_NAMES
            .get(number as usize)
            .map_or_else(|| format!("type {number}"), |name| (*name).to_owned())
    }

    /// Elements in a block.
    pub fn elements(self) -> usize {
        match self {
            BlockType::F32 | BlockType::F16 | BlockType::BF16 => 1,
            _ => 32,
        }
    }

    /// Bytes in a block.
    pub fn bytes(self) -> usize {
        match self {
            BlockType::F32 => 4,
            BlockType::F16 | BlockType::BF16 => 2,
            BlockType::Q4_0 => 2 + 16,
            BlockType::Q4_1 => 4 + 16,
            BlockType::Q5_0 => 2 + 4 + 16,
            BlockType::Q5_1 => 4 + 4 + 16,
            BlockType::Q8_0 => 2 + 32,
        }
    }

    /// The stored code, without a sign, of element `i` of a block of Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0; 0 for other types.
    pub(super) fn code(self, block: &[u8], i: usize) -> u8 {
        match self {
            BlockType::Q4_0 => nibble(&block[2..], i),
            BlockType::Q4_1 => nibble(&block[4..], i),
            BlockType::Q5_0 => five_bits(&block[2..], i),
            BlockType::Q5_1 => five_bits(&block[4..], i),
            BlockType::Q8_0 => block[2 + i] ^ 128,
            _ => 0,
        }
    }

    /// All elements of `data`, a whole number of blocks (a broken last block is left out).
    pub fn dequantize(self, data: &[u8]) -> Vec<f32> {
        let mut out = Vec::with_capacity(data.len() / self.bytes() * self.elements());
        for block in data.chunks_exact(self.bytes()) {
            match self {
                BlockType::F32 => {
                    out.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]]))
                }
                BlockType::F16 => out.push(half_at(block, 0)),
                BlockType::BF16 => out.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
                BlockType::Q4_0 => {
                    let d = half_at(block, 0);
                    let element = |i| f32::from(nibble(&block[2..], i) as i8 - 8) * d;
                    out.extend((0..32).map(element));
                }
                BlockType::Q4_1 => {
                    let (d, m) = (half_at(block, 0), half_at(block, 2));
                    out.extend((0..32).map(|i| f32::from(nibble(&block[4..], i)) * d + m));
                }
                BlockType::Q5_0 => {
                    let d = half_at(block, 0);
                    let element = |i| f32::from(five_bits(&block[2..], i) as i8 - 16) * d;
                    out.extend((0..32).map(element));
                }
                BlockType::Q5_1 => {
                    let (d, m) = (half_at(block, 0), half_at(block, 2));
                    out.extend((0..32).map(|i| f32::from(five_bits(&block[4..], i)) * d + m));
                }
                BlockType::Q8_0 => {
                    let d = half_at(block, 0);
                    out.extend(block[2..].iter().map(|&q| f32::from(q as i8) * d));
                }
            }
        }
        out
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Element `i` of 32 four-bit ones.
fn nibble(quants: &[u8], i: usize) -> u8 {
    if i < 16 {
        quants[i] & 15
    } else {
        quants[i - 16] >> 4
    }
}

/// Element `i` of 32 five-bit ones: four bytes of fifth bits, then the nibbles.
fn five_bits(quants: &[u8], i: usize) -> u8 {
    let fifth = quants[i / 8] >> (i % 8) & 1;
    nibble(&quants[4..], i) | fifth << 4
}
