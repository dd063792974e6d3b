//! Bitshift trellises: each weight's value hangs on the last L bits of a stream that grows by k bits a weight.
//!
//! State sₜ = (sₜ₋₁·2ᵏ + codeₜ) mod 2ᴸ, value = g(sₜ), g a hash to something like a normal law. The stream is a ring: the
//! state before the first weight is made of the last codes, so that nothing but k bits a weight is stored.
//!
//! Source: A. Tseng et al., *QTIP: Quantization with Trellises and Incoherence Processing* (arXiv 2406.11235), section 3,
//! algorithms 1 (1MAC), 2 (3INST) and 4 (closing the ring).
//!
//! ```text
//! M[p] = min over j of cost[j·2^(L−k) + p]                    the best way into each class of 2ᵏ states
//! cost[s] = M[s >> k] + (w − g(s))²                           for every state, for every weight
//! ```
//!
//! Cost: 2·2ᴸ operations a weight and 2^(L−k) bytes a weight for the way back; twice, because of the ring.
//!
//! **Where we differ.** Values are divided by their standard deviation over all states, so that every L and hash is a unit
//! normal codebook. Rings shorter than L bits wrap more than once and are searched exhaustively.

use half::f16;

/// How a state becomes a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hash {
    /// One multiplication and addition; the sum of the four bytes.
    OneMac,
    /// One multiplication and addition; the sum of two f16 made of sixteen bits each.
    ThreeInst,
}

/// A trellis with its values.
#[derive(Debug, Clone, PartialEq)]
pub struct Trellis {
    state_bits: u32,
    code_bits: u32,
    /// Of each state.
    values: Vec<f32>,
}

impl Trellis {
    /// L = `state_bits` (at most 16), k = `code_bits` (at most 4, less than L).
    pub fn new(state_bits: u32, code_bits: u32, hash: Hash) -> Trellis {
        let raw: Vec<f64> = (0..1u32 << state_bits)
            .map(|state| raw(hash, state))
            .collect();
        let mean = raw.iter().sum::<f64>() / raw.len() as f64;
        let variance = raw.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / raw.len() as f64;
        let values = raw.iter().map(|x| (x / variance.sqrt()) as f32).collect();
        Trellis {
            state_bits,
            code_bits,
            values,
        }
    }

    /// The value of each weight of a ring of `codes`.
    pub fn decode(&self, codes: &[u8], values: &mut [f32]) {
        let mask = (1u32 << self.state_bits) - 1;
        let next = |state: u32, code: u8| (state << self.code_bits | u32::from(code)) & mask;
        // The state before the first weight: as many codes from the end of the ring as fill it.
        let fill = self.state_bits.div_ceil(self.code_bits) as usize;
        let count = codes.len().max(1);
        let before = (0..fill).map(|i| codes[(count * fill - fill + i) % count]);
        let mut state = before.fold(0, next);
        for (&code, value) in codes.iter().zip(values) {
            state = next(state, code);
            *value = self.values[state as usize];
        }
    }

    /// The codes of a ring whose values are near `weights` in squared error: exact for rings shorter than L bits, else
    /// Viterbi's algorithm twice, first turned by half to learn where the ring should close, then closed there.
    pub fn encode(&self, weights: &[f32], codes: &mut [u8]) {
        let count = weights.len();
        if count * (self.code_bits as usize) < self.state_bits as usize {
            return self.exhaust(weights, codes);
        }
        let half = count / 2;
        let turned = [&weights[half..], &weights[..half]].concat();
        let states = self.viterbi(&turned, None);
        // The state after the last weight, in the middle of the turned ring.
        let closing = states[count - half - 1] & self.class_mask();
        let states = self.viterbi(weights, Some(closing));
        let mask = (1u32 << self.code_bits) - 1;
        for (code, state) in codes.iter_mut().zip(&states) {
            *code = (state & mask) as u8;
        }
        // Never worse than the ring of zeros, whatever the first pass closed.
        let mut values = vec![0.0; count];
        let mut error = |codes: &[u8]| {
            self.decode(codes, &mut values);
            squared_error(weights, &values)
        };
        if error(&vec![0; count]) < error(codes) {
            codes.fill(0);
        }
    }

    fn class_mask(&self) -> u32 {
        (1 << (self.state_bits - self.code_bits)) - 1
    }

    /// States of least squared error; with `closing`, the class of the state before the first weight and after the last.
    fn viterbi(&self, weights: &[f32], closing: Option<u32>) -> Vec<u32> {
        let classes = 1usize << (self.state_bits - self.code_bits);
        let ways = 1usize << self.code_bits;
        let mut best = vec![
            if closing.is_some() {
                f32::INFINITY
            } else {
                0.0
            };
            classes
        ];
        if let Some(class) = closing {
            best[class as usize] = 0.0;
        }
        let mut cost = vec![0f32; classes * ways];
        let mut from = vec![0u8; weights.len() * classes];
        for (t, &weight) in weights.iter().enumerate() {
            for ((cost, value), class) in cost
                .chunks_exact_mut(ways)
                .zip(self.values.chunks_exact(ways))
                .zip(&best)
            {
                for (cost, value) in cost.iter_mut().zip(value) {
                    *cost = class + (weight - value) * (weight - value);
                }
            }
            let from = &mut from[t * classes..][..classes];
            best.copy_from_slice(&cost[..classes]);
            for (way, cost) in cost.chunks_exact(classes).enumerate().skip(1) {
                for ((best, from), &cost) in best.iter_mut().zip(from.iter_mut()).zip(cost) {
                    let is_less = cost < *best;
                    *best = if is_less { cost } else { *best };
                    *from = if is_less { way as u8 } else { *from };
                }
            }
        }
        let least = |(a, b): (usize, usize)| if best[b] < best[a] { b } else { a };
        let mut class = match closing {
            Some(class) => class as usize,
            None => (0..classes).fold(0, |a, b| least((a, b))),
        };
        let mut states = vec![0; weights.len()];
        for (t, state) in states.iter_mut().enumerate().rev() {
            let way = usize::from(from[t * classes + class]);
            *state = (way * classes + class) as u32;
            class = *state as usize >> self.code_bits;
        }
        states
    }

    /// The best of all rings.
    fn exhaust(&self, weights: &[f32], codes: &mut [u8]) {
        let bits = self.code_bits as usize;
        let mask = (1u64 << bits) - 1;
        let mut values = vec![0.0; weights.len()];
        let mut best = (f64::INFINITY, 0);
        for ring in 0..1u64 << (bits * weights.len()) {
            for (i, code) in codes.iter_mut().enumerate() {
                *code = (ring >> (bits * i) & mask) as u8;
            }
            self.decode(codes, &mut values);
            let error = squared_error(weights, &values);
            if error < best.0 {
                best = (error, ring);
            }
        }
        for (i, code) in codes.iter_mut().enumerate() {
            *code = (best.1 >> (bits * i) & mask) as u8;
        }
    }
}

fn squared_error(weights: &[f32], values: &[f32]) -> f64 {
    let errors = weights
        .iter()
        .zip(values)
        .map(|(&w, &v)| f64::from(w) - f64::from(v));
    errors.map(|error| error * error).sum()
}

fn raw(hash: Hash, state: u32) -> f64 {
    match hash {
        Hash::OneMac => {
            let mixed = state.wrapping_mul(34_038_481).wrapping_add(76_625_530);
            mixed
                .to_le_bytes()
                .iter()
                .map(|&byte| f64::from(byte))
                .sum::<f64>()
                - 510.0
        }
        Hash::ThreeInst => {
            let mixed = state.wrapping_mul(89_226_354).wrapping_add(64_248_484);
            // Sign, the lowest two exponent bits and the mantissa of two halves; the rest from the f16 0.922.
            let mixed = mixed & 0x8fff_8fff ^ 0x3b60_3b60;
            let half = |bits: u32| f16::from_bits(bits as u16).to_f64();
            half(mixed) + half(mixed >> 16)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn bell(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| (0..12).map(|_| rng.random_range(-0.5f32..0.5)).sum())
            .collect()
    }

    /// Viterbi with the ring closed at each class, against all rings.
    #[test]
    fn viterbi_is_exact_for_every_closing() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for (state_bits, code_bits, count) in [(4, 1, 10), (4, 2, 6), (6, 2, 6), (5, 1, 11)] {
            let trellis = Trellis::new(state_bits, code_bits, Hash::ThreeInst);
            for _ in 0..10 {
                let weights = bell(&mut rng, count);
                let mut values = vec![0.0; count];
                let mask = (1u32 << code_bits) - 1;
                let by_viterbi = (0..=trellis.class_mask()).map(|class| {
                    let states = trellis.viterbi(&weights, Some(class));
                    let codes: Vec<u8> = states.iter().map(|state| (state & mask) as u8).collect();
                    trellis.decode(&codes, &mut values);
                    // The ring's own states are those of the path: it closed.
                    let path: Vec<f32> =
                        states.iter().map(|&s| trellis.values[s as usize]).collect();
                    assert_eq!(path, values);
                    squared_error(&weights, &values)
                });
                let least = by_viterbi.fold(f64::MAX, f64::min);
                let mut codes = vec![0; count];
                trellis.exhaust(&weights, &mut codes);
                trellis.decode(&codes, &mut values);
                let exact = squared_error(&weights, &values);
                assert!((least - exact).abs() < 1e-5 * exact, "{least} {exact}");
                trellis.encode(&weights, &mut codes);
                trellis.decode(&codes, &mut values);
                let ours = squared_error(&weights, &values);
                assert!(
                    ours >= exact * (1.0 - 1e-5) && ours < 2.0 * exact + 1.0,
                    "{ours} {exact}"
                );
            }
        }
    }

    /// Two bits, rings of 256: below the best scalar quantizer's 0.1175 and above 4⁻² = 0.0625 already with L = 12.
    #[test]
    fn a_normal_source_at_two_bits() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for (state_bits, hash, at_most) in [(12, Hash::ThreeInst, 0.080), (12, Hash::OneMac, 0.080)]
        {
            let trellis = Trellis::new(state_bits, 2, hash);
            let (mut error, mut count) = (0.0, 0);
            for _ in 0..12 {
                let weights = bell(&mut rng, 256);
                let (mut codes, mut values) = (vec![0; 256], vec![0.0; 256]);
                trellis.encode(&weights, &mut codes);
                trellis.decode(&codes, &mut values);
                error += squared_error(&weights, &values);
                count += weights.len();
            }
            let distortion = error / count as f64;
            assert!(
                distortion < at_most && distortion > 0.0625,
                "{hash:?}: {distortion}"
            );
        }
    }
}
