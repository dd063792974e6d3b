//! Bytes to weights, fast: what the model's loader calls for every tensor of a GGUF file.
//!
//! A block is taken apart as [`GgmlType::unpack`] does it, into arrays on the stack, and the values of each sub-block are one
//! loop over its codes: they have the bits of [`GgmlType::value`]. Types are known where a loop is compiled, so that it
//! vectorizes.
//!
//! Cost: one pass over bytes and weights; nothing is allocated.

use super::{CODES, GgmlType, PARAMS, iq4_nl};

/// Decodes one block: its bytes, and room for its weights.
type Block = fn(&[u8], &mut [f32]);

impl GgmlType {
    /// The weights of `bytes` into `weights`: whole blocks, as many as both hold.
    pub fn decode_into(self, bytes: &[u8], weights: &mut [f32]) {
        let block = self.block();
        let blocks = bytes.chunks_exact(self.bytes());
        let weights = weights.chunks_exact_mut(self.elements());
        blocks
            .zip(weights)
            .for_each(|(bytes, weights)| block(bytes, weights));
    }

    /// A function for each type, that the compiler sees whole.
    fn block(self) -> Block {
        match self {
            GgmlType::Q4_0 => |bytes, to| one(GgmlType::Q4_0, bytes, to),
            GgmlType::Q4_1 => |bytes, to| one(GgmlType::Q4_1, bytes, to),
            GgmlType::Q5_0 => |bytes, to| one(GgmlType::Q5_0, bytes, to),
            GgmlType::Q5_1 => |bytes, to| one(GgmlType::Q5_1, bytes, to),
            GgmlType::Q8_0 => |bytes, to| one(GgmlType::Q8_0, bytes, to),
            GgmlType::Q2_K => |bytes, to| one(GgmlType::Q2_K, bytes, to),
            GgmlType::Q3_K => |bytes, to| one(GgmlType::Q3_K, bytes, to),
            GgmlType::Q4_K => |bytes, to| one(GgmlType::Q4_K, bytes, to),
            GgmlType::Q5_K => |bytes, to| one(GgmlType::Q5_K, bytes, to),
            GgmlType::Q6_K => |bytes, to| one(GgmlType::Q6_K, bytes, to),
            GgmlType::IQ4_NL => |bytes, to| one(GgmlType::IQ4_NL, bytes, to),
            GgmlType::TQ1_0 => |bytes, to| one(GgmlType::TQ1_0, bytes, to),
            GgmlType::TQ2_0 => |bytes, to| one(GgmlType::TQ2_0, bytes, to),
        }
    }

    /// Weights that share one scale (and minimum).
    fn sub_block(self) -> usize {
        match self {
            GgmlType::Q2_K | GgmlType::Q3_K | GgmlType::Q6_K => 16,
            GgmlType::Q4_K | GgmlType::Q5_K => 32,
            of => of.elements(),
        }
    }
}

#[inline(always)]
fn one(of: GgmlType, bytes: &[u8], weights: &mut [f32]) {
    let (mut params, mut codes) = ([0.0; PARAMS], [0; CODES]);
    let (params, codes) = (&mut params[..of.params()], &mut codes[..of.elements()]);
    of.unpack_into(bytes, params, codes);
    if of == GgmlType::IQ4_NL {
        for (&code, weight) in codes.iter().zip(weights) {
            *weight = params[0] * f32::from(iq4_nl::VALUES[usize::from(code)]);
        }
        return;
    }
    let (size, offset) = (of.sub_block(), f32::from(of.offset()));
    let parts = codes.chunks_exact(size).zip(weights.chunks_exact_mut(size));
    for (j, (codes, weights)) in parts.enumerate() {
        let (step, shift) = of.line(params, j * size);
        let parts = codes.iter().zip(weights);
        if of.has_shift() {
            parts.for_each(|(&code, weight)| *weight = step * (f32::from(code) - offset) + shift);
        } else {
            parts.for_each(|(&code, weight)| *weight = step * (f32::from(code) - offset));
        }
    }
}
