//! The element formats of GGUF that we read, decoded to f32. Obvious code, spread over the cores.
//!
//! | file | types |
//! |---|---|
//! | here | F32, F16, BF16: an element is itself |
//! | `plain.rs` | Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: a scale (and a min) for 32 elements |
//! | `super_block.rs` | Q2_K, Q3_K, Q4_K, Q5_K, Q6_K: 256 elements whose groups' scales are quantized too |
//! | `table.rs` | IQ4_NL: codes that name the entries of a table |
//!
//! Decoded values have the bits that ggml's own C code gives without fused operations, which are those of the reference in
//! Python (`gguf.quants`): each product and sum in f32, in its order.
//!
//! Source: ggml, `ggml-common.h` and `ggml-quants.c`.

mod plain;
mod super_block;
mod table;
#[cfg(test)]
mod tests;

use half::{bf16, f16};
use rayon::prelude::*;

/// How the elements of a GGUF tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
}

/// Names of ggml's type numbers, for messages about those we do not read.
const GGML_NAMES: [&str; 31] = [
    "F32", "F16", "Q4_0", "Q4_1", "4", "5", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K",
    "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S",
    "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16",
];

/// Decodes one block: its bytes, and room for its elements.
type Decode = fn(&[u8], &mut [f32]);

impl BlockType {
    /// All of them.
    pub const ALL: [BlockType; 14] = [
        BlockType::F32,
        BlockType::F16,
        BlockType::BF16,
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q5_0,
        BlockType::Q5_1,
        BlockType::Q8_0,
        BlockType::Q2_K,
        BlockType::Q3_K,
        BlockType::Q4_K,
        BlockType::Q5_K,
        BlockType::Q6_K,
        BlockType::IQ4_NL,
    ];

    /// Its number in a file, elements in a block, bytes in a block, and how one is decoded.
    fn row(self) -> (u32, usize, usize, Decode) {
        match self {
            BlockType::F32 => (0, 1, 4, |block, out| {
                out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
            }),
            BlockType::F16 => (1, 1, 2, |block, out| out[0] = half_at(block, 0)),
            BlockType::BF16 => (30, 1, 2, |block, out| {
                out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32();
            }),
            BlockType::Q4_0 => (2, 32, plain::Q4_0_BYTES, plain::q4_0),
            BlockType::Q4_1 => (3, 32, plain::Q4_1_BYTES, plain::q4_1),
            BlockType::Q5_0 => (6, 32, plain::Q5_0_BYTES, plain::q5_0),
            BlockType::Q5_1 => (7, 32, plain::Q5_1_BYTES, plain::q5_1),
            BlockType::Q8_0 => (8, 32, plain::Q8_0_BYTES, plain::q8_0),
            BlockType::Q2_K => (10, 256, super_block::Q2_K_BYTES, super_block::q2_k),
            BlockType::Q3_K => (11, 256, super_block::Q3_K_BYTES, super_block::q3_k),
            BlockType::Q4_K => (12, 256, super_block::Q4_K_BYTES, super_block::q4_k),
            BlockType::Q5_K => (13, 256, super_block::Q5_K_BYTES, super_block::q5_k),
            BlockType::Q6_K => (14, 256, super_block::Q6_K_BYTES, super_block::q6_k),
            BlockType::IQ4_NL => (20, 32, table::IQ4_NL_BYTES, table::iq4_nl),
        }
    }

    /// The type with this number in a file.
    pub fn from_ggml(number: u32) -> Option<BlockType> {
        BlockType::ALL.into_iter().find(|it| it.row().0 == number)
    }

    /// What ggml calls the type with this number.
    pub(super) fn ggml_name(number: u32) -> String {
        GGML_NAMES
            .get(number as usize)
            .map_or_else(|| format!("type {number}"), |name| (*name).to_owned())
    }

    /// Its name, as ggml writes it.
    pub fn name(self) -> &'static str {
        GGML_NAMES[self.row().0 as usize]
    }

    /// Elements in a block.
    pub fn elements(self) -> usize {
        self.row().1
    }

    /// Bytes in a block.
    pub fn bytes(self) -> usize {
        self.row().2
    }

    /// The stored codes, without a sign, of a block of Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0; zeros for other types.
    pub(super) fn codes(self, block: &[u8], out: &mut [u8; 32]) {
        plain::codes(self, block, out);
    }

    /// All elements of `data`, a whole number of blocks (a broken last block is left out).
    pub fn dequantize(self, data: &[u8]) -> Vec<f32> {
        let (_, elements, bytes, decode) = self.row();
        // Pieces of a few thousand elements, so that cores share them and each stays in its cache.
        let blocks = 4096 / elements;
        let mut out = vec![0.0; data.len() / bytes * elements];
        let pieces = out.par_chunks_mut(blocks * elements);
        pieces
            .zip(data.par_chunks(blocks * bytes))
            .for_each(|(out, data)| match self {
                BlockType::F32 => each(data, out, |b: [u8; 4]| f32::from_le_bytes(b)),
                BlockType::F16 => each(data, out, |b: [u8; 2]| f16::from_le_bytes(b).to_f32()),
                BlockType::BF16 => each(data, out, |b: [u8; 2]| bf16::from_le_bytes(b).to_f32()),
                _ => {
                    let blocks = data.chunks_exact(bytes).zip(out.chunks_exact_mut(elements));
                    blocks.for_each(|(block, out)| decode(block, out));
                }
            });
        out
    }
}

/// Elements that stand alone, without a call for each.
fn each<const N: usize>(data: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    let (blocks, _) = data.as_chunks::<N>();
    blocks
        .iter()
        .zip(out)
        .for_each(|(block, out)| *out = value(*block));
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Element `i` of 32 four-bit ones: byte i holds element i in its low half and element i + 16 in its high half.
fn nibble(quants: &[u8], i: usize) -> u8 {
    if i < 16 {
        quants[i] & 15
    } else {
        quants[i - 16] >> 4
    }
}
