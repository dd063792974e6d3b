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
//! Cost: 4·2ᴸ operations a weight ([`kernels::trellis`](crate::kernels::trellis)), and a little more for the ring.
//!
//! **Where we differ.** Values are divided by their standard deviation over all states, so that every L and hash is a unit
//! normal codebook. A path is decided piece by piece, each with eight times as many weights ahead as a state remembers, which is nearly
//! as good as all at once (test). What is left of a ring can be searched anew after its first weights are decided. Rings shorter than L bits wrap
//! more than once and are searched exhaustively.

use std::cell::RefCell;

use half::f16;

use crate::kernels::Isa;
use crate::kernels::trellis::{States, least_costs};

/// Weights that are decided at once.
const PIECE: usize = 256;

thread_local! {
    /// Costs of a piece: too many for each to ask the system for.
    static COSTS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

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
    states: States,
}

impl Trellis {
    /// L = `state_bits` (at most 16), k = `code_bits` (at most 4, less than L).
    pub fn new(state_bits: u32, code_bits: u32, hash: Hash) -> Trellis {
        let raw: Vec<f64> = (0..1u32 << state_bits)
            .map(|state| raw(hash, state))
            .collect();
        let mean = raw.iter().sum::<f64>() / raw.len() as f64;
        let variance = raw.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / raw.len() as f64;
        let values: Vec<f32> = raw.iter().map(|x| (x / variance.sqrt()) as f32).collect();
        Trellis {
            state_bits,
            code_bits,
            states: States::new(&values, code_bits),
        }
    }

    /// Codes that a state is made of, the first perhaps in part.
    fn memory(&self) -> usize {
        self.state_bits.div_ceil(self.code_bits) as usize
    }

    /// Weights ahead that what is decided looks at.
    fn depth(&self) -> usize {
        8 * self.memory()
    }

    fn class_mask(&self) -> u32 {
        (1 << (self.state_bits - self.code_bits)) - 1
    }

    fn next(&self, state: u32, code: u8) -> u32 {
        (state << self.code_bits | u32::from(code)) & ((1 << self.state_bits) - 1)
    }

    /// The state before weight `at`: as many codes of the ring before it as fill it.
    fn state(&self, codes: &[u8], at: usize) -> u32 {
        let (fill, count) = (self.memory(), codes.len().max(1));
        let before = (0..fill).map(|i| codes[(count * fill + at - fill + i) % count]);
        before.fold(0, |state, code| self.next(state, code))
    }

    /// The value of each weight of a ring of `codes`.
    pub fn decode(&self, codes: &[u8], values: &mut [f32]) {
        let mut state = self.state(codes, 0);
        for (&code, value) in codes.iter().zip(values) {
            state = self.next(state, code);
            *value = self.states.value(state as usize);
        }
    }

    /// The codes of a ring whose values are near `weights` in squared error: exact for rings shorter than L bits, else by Viterbi's
    /// algorithm, around where the ring closes first, to learn in which class it should, then from there on.
    pub fn encode(&self, weights: &[f32], codes: &mut [u8]) {
        self.encode_rest(0, PIECE, weights, codes);
        for from in (PIECE..weights.len()).step_by(PIECE) {
            self.encode_rest(from, PIECE, &weights[from..], codes);
        }
        // Never worse than the ring of zeros, wherever it was closed.
        let mut values = vec![0.0; weights.len()];
        let mut error = |codes: &[u8]| {
            self.decode(codes, &mut values);
            squared_error(weights, &values)
        };
        if error(&vec![0; weights.len()]) < error(codes) {
            codes.fill(0);
        }
    }

    /// Decides the next `count` codes of a ring, where those before `from` are decided, for the weights `rest` from there on. From 0
    /// on it decides where the ring closes, too: in the last codes, which may change but for the class they lead to.
    pub fn encode_rest(&self, from: usize, count: usize, rest: &[f32], codes: &mut [u8]) {
        if codes.len() * (self.code_bits as usize) < self.state_bits as usize {
            // All of it at once.
            if from == 0 {
                self.exhaust(rest, codes);
            }
            return;
        }
        if from == 0 {
            let mut class = self.closing(rest);
            for code in codes.iter_mut().rev().take(self.memory()) {
                *code = (class & ((1 << self.code_bits) - 1)) as u8;
                class >>= self.code_bits;
            }
        }
        let opening = self.state(codes, from) & self.class_mask();
        let ahead = rest.len().min(count + self.depth());
        let is_last = ahead == rest.len();
        let closing = is_last.then(|| self.state(codes, 0) & self.class_mask());
        let path = self.viterbi(&rest[..ahead], Some(opening), closing);
        let decided = if is_last { ahead } else { count };
        for (code, state) in codes[from..].iter_mut().zip(&path[..decided]) {
            *code = (state & ((1 << self.code_bits) - 1)) as u8;
        }
    }

    /// The class between the last weight of a ring and its first, where nothing forbids it.
    fn closing(&self, weights: &[f32]) -> u32 {
        let (half, far) = (weights.len() / 2, 2 * self.depth());
        let (front, back) = (far.min(half), far.min(weights.len() - half));
        let turned = [&weights[weights.len() - back..], &weights[..front]].concat();
        self.viterbi(&turned, None, None)[back - 1] & self.class_mask()
    }

    /// States of least squared error, from class `opening` and to class `closing` where given.
    fn viterbi(&self, weights: &[f32], opening: Option<u32>, closing: Option<u32>) -> Vec<u32> {
        let classes = self.states.classes();
        COSTS.with_borrow_mut(|costs| {
            costs.resize((weights.len() + 1) * classes, 0.0);
            costs[..classes].fill(if opening.is_some() {
                f32::INFINITY
            } else {
                0.0
            });
            if let Some(class) = opening {
                costs[class as usize] = 0.0;
            }
            least_costs(Isa::best(), &self.states, weights, costs);
            let last = &costs[weights.len() * classes..];
            let least = |a: usize, b: usize| if last[b] < last[a] { b } else { a };
            let mut class = match closing {
                Some(class) => class as usize,
                None => (0..classes).fold(0, least),
            };
            let mut path = vec![0; weights.len()];
            for (t, state) in path.iter_mut().enumerate().rev() {
                let before = &costs[t * classes..][..classes];
                let best = self.states.best_into(before, weights[t], class);
                *state = best as u32;
                class = best >> self.code_bits;
            }
            path
        })
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
                    let states = trellis.viterbi(&weights, Some(class), Some(class));
                    let codes: Vec<u8> = states.iter().map(|state| (state & mask) as u8).collect();
                    trellis.decode(&codes, &mut values);
                    // The ring's own states are those of the path: it closed.
                    let path: Vec<f32> = (states.iter())
                        .map(|&s| trellis.states.value(s as usize))
                        .collect();
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

    /// A ring of four pieces, against a search of all of it with the same closing; what is left of a ring of which the first is decided;
    /// and planted: pieces that look at nothing ahead.
    #[test]
    fn pieces_are_as_good_as_all_at_once() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        for (state_bits, code_bits) in [(8, 2), (9, 2), (7, 1), (10, 3)] {
            let trellis = Trellis::new(state_bits, code_bits, Hash::OneMac);
            let weights = bell(&mut rng, 4 * PIECE - 3);
            let mask = (1u32 << code_bits) - 1;
            let (mut codes, mut values) = (vec![0; weights.len()], vec![0.0; weights.len()]);
            let mut lost = |codes: &[u8]| {
                trellis.decode(codes, &mut values);
                squared_error(&weights, &values)
            };
            trellis.encode(&weights, &mut codes);
            let class = trellis.state(&codes, 0) & trellis.class_mask();
            let path = trellis.viterbi(&weights, Some(class), Some(class));
            let whole: Vec<u8> = path.iter().map(|state| (state & mask) as u8).collect();
            let (pieces, exact) = (lost(&codes), lost(&whole));
            assert!(
                pieces < 1.001 * exact,
                "{state_bits}, {code_bits}: {pieces}, {exact}"
            );
            for from in (0..weights.len()).step_by(8) {
                let kept = codes.clone();
                trellis.encode_rest(from, 8, &weights[from..], &mut codes);
                assert_eq!(codes[..from], kept[..from]);
            }
            let steps = lost(&codes);
            assert!(
                steps < 1.015 * exact,
                "{state_bits}, {code_bits}: {steps}, {exact}"
            );
            let mut blind = codes.clone();
            for from in (0..weights.len() - trellis.depth()).step_by(8) {
                let opening = trellis.state(&blind, from) & trellis.class_mask();
                let path = trellis.viterbi(&weights[from..][..8], Some(opening), None);
                for (code, state) in blind[from..].iter_mut().zip(path) {
                    *code = (state & mask) as u8;
                }
            }
            let blind = lost(&blind);
            assert!(blind > 1.5 * exact, "{blind}");
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
