//! The block types of ggml, as llama.cpp writes them with and without an importance matrix: byte for byte.
//!
//! A block becomes [`Parts`] (parameters, and one code a weight) by a type's own search, and bytes by its layout; back
//! the same way. So the search, the layout and the arithmetic of the values are three separate things.
//!
//! | file | types | weights a block | value of code q |
//! |---|---|---|---|
//! | [`legacy`] | Q4_0, Q5_0, Q8_0 | 32 | d·(q − 8), (q − 16), (q − 128) |
//! | | Q4_1, Q5_1 | 32 | d·q + m |
//! | [`iq4_nl`] | IQ4_NL | 32 | d·table\[q\] |
//! | [`k_quants`] | Q2_K, Q4_K, Q5_K | 256 | (d·sⱼ)·q − dₘ·mⱼ |
//! | | Q3_K, Q6_K | 256 | (d·sⱼ)·(q − 4), (q − 32) |
//! | [`ternary`] | TQ1_0, TQ2_0 | 256 | d·(q − 1) |
//!
//! Decoding whole tensors is `decode.rs`. d, m and dₘ are f16; sⱼ and mⱼ are integers of 4, 6 or 8 bits for the sub-block j of 16 or 32 weights.
//!
//! Source: llama.cpp, `ggml-common.h` (layouts) and `ggml-quants.c` (`quantize_row_*_ref`, `quantize_iq4_nl`). All
//! arithmetic is f32 in the order of that code, rounded after each operation, as its portable build does.

mod decode;
pub mod iq4_nl;
pub mod k_quants;
mod layout;
pub mod legacy;
mod search;
pub mod ternary;
mod weighted;

use half::f16;

/// A block type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, non_camel_case_types)]
pub enum GgmlType {
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

/// A block taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Parts {
    /// d, then m or dₘ, then all sⱼ, then all mⱼ; what the type does not have is left out.
    pub params: Vec<f32>,
    /// One unsigned code a weight.
    pub codes: Vec<u8>,
}

/// The most parameters that a block has, and the most codes.
const PARAMS: usize = 2 + 2 * 16;
const CODES: usize = 256;

impl GgmlType {
    /// All that are here.
    pub const ALL: [GgmlType; 13] = [
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q2_K,
        GgmlType::Q3_K,
        GgmlType::Q4_K,
        GgmlType::Q5_K,
        GgmlType::Q6_K,
        GgmlType::IQ4_NL,
        GgmlType::TQ1_0,
        GgmlType::TQ2_0,
    ];

    /// As ggml writes it: `Q4_K`.
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// The number of the type in a GGUF file.
    pub fn number(self) -> u32 {
        match self {
            GgmlType::Q4_0 => 2,
            GgmlType::Q4_1 => 3,
            GgmlType::Q5_0 => 6,
            GgmlType::Q5_1 => 7,
            GgmlType::Q8_0 => 8,
            GgmlType::Q2_K => 10,
            GgmlType::Q3_K => 11,
            GgmlType::Q4_K => 12,
            GgmlType::Q5_K => 13,
            GgmlType::Q6_K => 14,
            GgmlType::IQ4_NL => 20,
            GgmlType::TQ1_0 => 34,
            GgmlType::TQ2_0 => 35,
        }
    }

    /// Weights in a block.
    #[inline]
    pub fn elements(self) -> usize {
        match self {
            GgmlType::Q4_0
            | GgmlType::Q4_1
            | GgmlType::Q5_0
            | GgmlType::Q5_1
            | GgmlType::Q8_0
            | GgmlType::IQ4_NL => 32,
            _ => 256,
        }
    }

    /// Bytes of a block.
    #[inline]
    pub fn bytes(self) -> usize {
        match self {
            GgmlType::Q4_0 | GgmlType::IQ4_NL => 2 + 16,
            GgmlType::Q4_1 => 4 + 16,
            GgmlType::Q5_0 => 2 + 4 + 16,
            GgmlType::Q5_1 => 4 + 4 + 16,
            GgmlType::Q8_0 => 2 + 32,
            GgmlType::Q2_K => 16 + 64 + 4,
            GgmlType::Q3_K => 32 + 64 + 12 + 2,
            GgmlType::Q4_K => 4 + 12 + 128,
            GgmlType::Q5_K => 4 + 12 + 32 + 128,
            GgmlType::Q6_K => 128 + 64 + 16 + 2,
            GgmlType::TQ1_0 => 48 + 4 + 2,
            GgmlType::TQ2_0 => 64 + 2,
        }
    }

    /// Parameters of a block, in [`Parts`].
    #[inline(always)]
    fn params(self) -> usize {
        match self {
            GgmlType::Q4_1 | GgmlType::Q5_1 => 2,
            GgmlType::Q2_K => 2 + 16 + 16,
            GgmlType::Q3_K | GgmlType::Q6_K => 1 + 16,
            GgmlType::Q4_K | GgmlType::Q5_K => 2 + 8 + 8,
            _ => 1,
        }
    }

    /// Codes that a weight can have.
    pub fn levels(self) -> u32 {
        match self {
            GgmlType::TQ1_0 | GgmlType::TQ2_0 => 3,
            GgmlType::Q2_K => 4,
            GgmlType::Q3_K => 8,
            GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q4_K | GgmlType::IQ4_NL => 16,
            GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q5_K => 32,
            GgmlType::Q6_K => 64,
            GgmlType::Q8_0 => 256,
        }
    }

    /// The code of zero: what is taken off a code before it is scaled.
    #[inline]
    fn offset(self) -> u8 {
        match self {
            GgmlType::Q4_0 => 8,
            GgmlType::Q5_0 => 16,
            GgmlType::Q8_0 => 128,
            GgmlType::Q3_K => 4,
            GgmlType::Q6_K => 32,
            GgmlType::TQ1_0 | GgmlType::TQ2_0 => 1,
            _ => 0,
        }
    }

    /// Whether codes start at a minimum.
    #[inline]
    fn has_shift(self) -> bool {
        matches!(
            self,
            GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q2_K | GgmlType::Q4_K | GgmlType::Q5_K
        )
    }

    /// A block of [`GgmlType::elements`] weights, searched and rounded as llama.cpp does it.
    ///
    /// # Panics
    /// If `block` is of another length.
    pub fn quantize(self, block: &[f32]) -> Parts {
        assert_eq!(block.len(), self.elements(), "weights in a block");
        match self {
            GgmlType::Q4_0 => legacy::symmetric(block, 8, 15),
            GgmlType::Q5_0 => legacy::symmetric(block, 16, 31),
            GgmlType::Q4_1 => legacy::affine(block, 15),
            GgmlType::Q5_1 => legacy::affine(block, 31),
            GgmlType::Q8_0 => legacy::q8_0(block),
            GgmlType::Q2_K => k_quants::q2_k(block),
            GgmlType::Q3_K => k_quants::q3_k(block),
            GgmlType::Q4_K => k_quants::q4_k(block),
            GgmlType::Q5_K => k_quants::q5_k(block),
            GgmlType::Q6_K => k_quants::q6_k(block, None),
            GgmlType::IQ4_NL => iq4_nl::quantize(block, None),
            GgmlType::TQ1_0 | GgmlType::TQ2_0 => ternary::quantize(block),
        }
    }

    /// A block as llama.cpp makes it with an importance of each of its columns; `power` is the mean square of the row it is in. Types that
    /// have no such search there (Q8_0, TQ1_0, TQ2_0) are as without.
    ///
    /// # Panics
    /// If `block` or `importance` is of another length than [`GgmlType::elements`].
    pub fn quantize_weighted(self, block: &[f32], importance: &[f32], power: f32) -> Parts {
        let lengths = [block.len(), importance.len()];
        assert_eq!(lengths, [self.elements(); 2], "weights in a block");
        weighted::quantize(self, block, importance, power)
    }

    /// The mean square of a row, summed as llama.cpp sums it.
    pub fn power(row: &[f32]) -> f32 {
        weighted::squares(row) / row.len() as f32
    }

    /// Step and shift of the sub-block of weight `at`, for the types whose points are evenly spaced (all but IQ4_NL):
    /// value = step·(q − offset) + shift.
    #[inline]
    fn line(self, params: &[f32], at: usize) -> (f32, f32) {
        match self {
            GgmlType::Q4_1 | GgmlType::Q5_1 => (params[0], params[1]),
            GgmlType::Q2_K => {
                let j = at / 16;
                (params[0] * params[2 + j], -(params[1] * params[18 + j]))
            }
            GgmlType::Q4_K | GgmlType::Q5_K => {
                let j = at / 32;
                (params[0] * params[2 + j], -(params[1] * params[10 + j]))
            }
            GgmlType::Q3_K | GgmlType::Q6_K => (params[0] * params[1 + at / 16], 0.0),
            _ => (params[0], 0.0),
        }
    }

    /// The weight that `code` stands for at position `at` of a block with `params`.
    pub fn value(self, params: &[f32], at: usize, code: u8) -> f32 {
        if self == GgmlType::IQ4_NL {
            return params[0] * f32::from(iq4_nl::VALUES[usize::from(code & 15)]);
        }
        let (step, shift) = self.line(params, at);
        let scaled = step * (f32::from(code) - f32::from(self.offset()));
        // Not added where there is none: it would make −0 into 0.
        if self.has_shift() {
            scaled + shift
        } else {
            scaled
        }
    }

    /// The code whose value is nearest to `weight`.
    pub fn nearest(self, params: &[f32], at: usize, weight: f32) -> u8 {
        let last = (self.levels() - 1) as u8;
        if self == GgmlType::IQ4_NL {
            return iq4_nl::nearest(params[0], weight);
        }
        let (step, shift) = self.line(params, at);
        if step == 0.0 {
            return self.offset();
        }
        let place = (f64::from(weight) - f64::from(shift)) / f64::from(step);
        let guess = (place + f64::from(self.offset()))
            .round()
            .clamp(0.0, f64::from(last)) as u8;
        // Values are rounded to f32, so that a neighbour may be nearer than the exact quotient says.
        let distance =
            |code: u8| (f64::from(self.value(params, at, code)) - f64::from(weight)).abs();
        [
            guess.saturating_sub(1),
            guess,
            guess.saturating_add(1).min(last),
        ]
        .into_iter()
        .min_by(|&a, &b| distance(a).total_cmp(&distance(b)))
        .unwrap_or(guess)
    }

    /// Writes a block's bytes.
    pub fn pack(self, parts: &Parts, to: &mut Vec<u8>) {
        let start = to.len();
        match self {
            GgmlType::Q2_K | GgmlType::Q3_K | GgmlType::Q4_K | GgmlType::Q5_K | GgmlType::Q6_K => {
                layout::pack(self, parts, to);
            }
            GgmlType::TQ1_0 | GgmlType::TQ2_0 => ternary::pack(self, parts, to),
            _ => legacy::pack(self, parts, to),
        }
        debug_assert_eq!(to.len() - start, self.bytes());
    }

    /// Takes a block's [`GgmlType::bytes`] apart.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn unpack(self, bytes: &[u8]) -> Parts {
        let mut params = vec![0.0; self.params()];
        let mut codes = vec![0; self.elements()];
        self.unpack_into(&bytes[..self.bytes()], &mut params, &mut codes);
        Parts { params, codes }
    }

    /// A block's bytes taken apart into [`GgmlType::params`] parameters and [`GgmlType::elements`] codes.
    #[inline(always)]
    fn unpack_into(self, bytes: &[u8], params: &mut [f32], codes: &mut [u8]) {
        match self {
            GgmlType::Q2_K | GgmlType::Q3_K | GgmlType::Q4_K | GgmlType::Q5_K | GgmlType::Q6_K => {
                layout::unpack(self, bytes, params, codes);
            }
            GgmlType::TQ1_0 | GgmlType::TQ2_0 => ternary::unpack(self, bytes, params, codes),
            _ => {
                for (i, param) in params.iter_mut().enumerate() {
                    *param = half_at(bytes, 2 * i);
                }
                legacy::codes(self, bytes, codes);
            }
        }
    }

    /// The codes of a block of Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0, without its parameters, from which packed matrices are
    /// filled; zeros for other types.
    #[inline(always)]
    pub(crate) fn codes(self, block: &[u8], to: &mut [u8; 32]) {
        // Each type by itself, so that its loops are compiled for it.
        match self {
            GgmlType::Q4_0 => legacy::codes(GgmlType::Q4_0, block, to),
            GgmlType::Q4_1 => legacy::codes(GgmlType::Q4_1, block, to),
            GgmlType::Q5_0 => legacy::codes(GgmlType::Q5_0, block, to),
            GgmlType::Q5_1 => legacy::codes(GgmlType::Q5_1, block, to),
            GgmlType::Q8_0 => legacy::codes(GgmlType::Q8_0, block, to),
            _ => to.fill(0),
        }
    }

    /// The bytes of `weights`, a whole number of blocks (a broken last block is left out).
    pub fn encode(self, weights: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(weights.len() / self.elements() * self.bytes());
        for block in weights.chunks_exact(self.elements()) {
            self.pack(&self.quantize(block), &mut bytes);
        }
        bytes
    }

    /// The weights of `bytes`, a whole number of blocks (a broken last block is left out).
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let mut weights = vec![0.0; bytes.len() / self.bytes() * self.elements()];
        self.decode_into(bytes, &mut weights);
        weights
    }
}

/// The f16 nearest to `x`, as the f32 it decodes to.
fn rounded(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

fn push_half(x: f32, to: &mut Vec<u8>) {
    to.extend(f16::from_f32(x).to_le_bytes());
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// C's conversion of an f32 to an integer on x86: toward zero, the least integer for what does not fit.
fn truncated(x: f32) -> i32 {
    if x.abs() < 2_147_483_648.0 {
        x as i32
    } else {
        i32::MIN
    }
}

#[cfg(test)]
mod tests;
