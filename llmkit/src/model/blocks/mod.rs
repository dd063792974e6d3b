//! The element formats of GGUF that we read, decoded to f32 and spread over the cores.
//!
//! F32, F16 and BF16 are here: an element is itself. Blocks are those of [`numeric::ggml`](crate::numeric::ggml), which writes
//! them too.
//!
//! Decoded values have the bits that ggml's own C code gives without fused operations, which are those of the reference in
//! Python (`gguf.quants`): each product and sum in f32, in its order.
//!
//! Source: ggml, `ggml-common.h` and `ggml-quants.c`.

#[cfg(test)]
mod tests;

use half::{bf16, f16};
use rayon::prelude::*;

use crate::numeric::ggml::GgmlType;

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
    TQ1_0,
    TQ2_0,
}

/// Names of ggml's type numbers, for messages about those we do not read.
const GGML_NAMES: [&str; 40] = [
    "F32",
    "F16",
    "Q4_0",
    "Q4_1",
    "4",
    "5",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q8_1",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "Q8_K",
    "IQ2_XXS",
    "IQ2_XS",
    "IQ3_XXS",
    "IQ1_S",
    "IQ4_NL",
    "IQ3_S",
    "IQ2_S",
    "IQ4_XS",
    "I8",
    "I16",
    "I32",
    "I64",
    "F64",
    "IQ1_M",
    "BF16",
    "Q4_0_4_4",
    "Q4_0_4_8",
    "Q4_0_8_8",
    "TQ1_0",
    "TQ2_0",
    "IQ4_NL_4_4",
    "IQ4_NL_4_8",
    "IQ4_NL_8_8",
    "MXFP4",
];

impl BlockType {
    /// All of them.
    pub const ALL: [BlockType; 16] = [
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
        BlockType::TQ1_0,
        BlockType::TQ2_0,
    ];

    /// The codec of its blocks; [`None`] where an element stands alone.
    pub fn quantized(self) -> Option<GgmlType> {
        Some(match self {
            BlockType::F32 | BlockType::F16 | BlockType::BF16 => return None,
            BlockType::Q4_0 => GgmlType::Q4_0,
            BlockType::Q4_1 => GgmlType::Q4_1,
            BlockType::Q5_0 => GgmlType::Q5_0,
            BlockType::Q5_1 => GgmlType::Q5_1,
            BlockType::Q8_0 => GgmlType::Q8_0,
            BlockType::Q2_K => GgmlType::Q2_K,
            BlockType::Q3_K => GgmlType::Q3_K,
            BlockType::Q4_K => GgmlType::Q4_K,
            BlockType::Q5_K => GgmlType::Q5_K,
            BlockType::Q6_K => GgmlType::Q6_K,
            BlockType::IQ4_NL => GgmlType::IQ4_NL,
            BlockType::TQ1_0 => GgmlType::TQ1_0,
            BlockType::TQ2_0 => GgmlType::TQ2_0,
        })
    }

    /// Its number in a file.
    pub fn number(self) -> u32 {
        match self {
            BlockType::F32 => 0,
            BlockType::F16 => 1,
            BlockType::BF16 => 30,
            of => of.quantized().map_or(u32::MAX, GgmlType::number),
        }
    }

    /// The bytes of `values`, a whole number of blocks (a broken last block is left out), as llama.cpp makes them without an importance
    /// matrix; F16 and BF16 are rounded to nearest.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        let encode = |values: &[f32]| -> Vec<u8> {
            match (self, self.quantized()) {
                (_, Some(codec)) => codec.encode(values),
                (BlockType::F16, _) => values
                    .iter()
                    .flat_map(|&x| f16::from_f32(x).to_le_bytes())
                    .collect(),
                (BlockType::BF16, _) => values
                    .iter()
                    .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
                    .collect(),
                _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            }
        };
        // Pieces of whole blocks, so that cores share them.
        values
            .par_chunks(1 << 14)
            .map(encode)
            .collect::<Vec<_>>()
            .concat()
    }

    /// The type with this number in a file.
    pub fn from_ggml(number: u32) -> Option<BlockType> {
        BlockType::ALL.into_iter().find(|it| it.number() == number)
    }

    /// What ggml calls the type with this number.
    pub(super) fn ggml_name(number: u32) -> String {
        GGML_NAMES
            .get(number as usize)
            .map_or_else(|| format!("type {number}"), |name| (*name).to_owned())
    }

    /// Its name, as ggml writes it.
    pub fn name(self) -> &'static str {
        GGML_NAMES[self.number() as usize]
    }

    /// Elements in a block.
    pub fn elements(self) -> usize {
        self.quantized().map_or(1, GgmlType::elements)
    }

    /// Bytes in a block.
    pub fn bytes(self) -> usize {
        match self {
            BlockType::F32 => 4,
            of => of.quantized().map_or(2, GgmlType::bytes),
        }
    }

    /// The stored codes, without a sign, of a block of Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0; zeros for other types.
    pub(super) fn codes(self, block: &[u8], out: &mut [u8; 32]) {
        match self.quantized() {
            Some(of) => of.codes(block, out),
            None => out.fill(0),
        }
    }

    /// All elements of `data`, a whole number of blocks (a broken last block is left out).
    pub fn dequantize(self, data: &[u8]) -> Vec<f32> {
        let (elements, bytes) = (self.elements(), self.bytes());
        // Pieces of a few thousand elements, so that cores share them and each stays in its cache.
        let blocks = 4096 / elements;
        let mut out = vec![0.0; data.len() / bytes * elements];
        let pieces = out.par_chunks_mut(blocks * elements);
        pieces
            .zip(data.par_chunks(blocks * bytes))
            .for_each(|(out, data)| match (self, self.quantized()) {
                (_, Some(of)) => of.decode_into(data, out),
                (BlockType::F32, _) => each(data, out, |b: [u8; 4]| f32::from_le_bytes(b)),
                (BlockType::F16, _) => each(data, out, |b: [u8; 2]| f16::from_le_bytes(b).to_f32()),
                _ => each(data, out, |b: [u8; 2]| bf16::from_le_bytes(b).to_f32()),
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
