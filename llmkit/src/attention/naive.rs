//! The truth: every score of a query at once, in f64, from the decoded blocks of the store. Nobody may optimise it.
//!
//! ```text
//! w_j = exp(q·k_j / √D − max), j over the keys that the mask shows;   out = Σ w_j v_j / Σ w_j
//! ```
//! Source: Vaswani et al. 2017, *Attention Is All You Need*, 1706.03762, equation 1; heads in groups: Ainslie et al. 2023, *GQA*.
//! Cost: 4·S·D flops a query and head, one thread. Where we differ: nowhere.

use super::{Attention, Call};
use crate::kernels::attention::BLOCK;
use crate::kvcache::store::Decoded;

/// Plain attention.
#[derive(Debug, Clone, Copy, Default)]
pub struct Naive;

impl Attention for Naive {
    fn name(&self) -> String {
        "naive".to_owned()
    }

    fn attend(&self, call: &Call<'_>, out: &mut [f32]) {
        let mut row = 0;
        for sequence in call.sequences {
            let shape = sequence.store.shape();
            let d = shape.head_dim;
            let mut decoded = Decoded::default();
            for position in sequence.positions.clone() {
                for head in 0..call.heads {
                    let group = head * shape.groups / call.heads;
                    let query = &call.queries[row * d..(row + 1) * d];
                    let keys = call.mask.first(position)..position + 1;
                    let mut scores = Vec::new();
                    for key in keys.clone() {
                        let store = sequence.store;
                        let block = store.block(call.layer, group, key / BLOCK, &mut decoded);
                        let key = |i| f64::from(block.key(shape.padded_dim(), key % BLOCK, i));
                        let product = |i: usize| f64::from(query[i]) * key(i);
                        scores.push((0..d).map(product).sum::<f64>() / (d as f64).sqrt());
                    }
                    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> =
                        scores.iter().map(|score| (score - top).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    let mut mixed = vec![0.0; d];
                    for (key, weight) in keys.zip(weights) {
                        let store = sequence.store;
                        let block = store.block(call.layer, group, key / BLOCK, &mut decoded);
                        for (i, mixed) in mixed.iter_mut().enumerate() {
                            *mixed += weight / total * f64::from(block.value(key % BLOCK, i));
                        }
                    }
                    for (out, mixed) in out[row * d..(row + 1) * d].iter_mut().zip(mixed) {
                        *out = mixed as f32;
                    }
                    row += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::{Mask, Sequence};
    use crate::kvcache::store::{Contiguous, Shape, Store};
    use crate::model::Engine;

    /// Two query heads share one key/value head of two features; weights that can be worked out by hand.
    #[test]
    fn a_case_worked_out_by_hand() {
        let shape = Shape {
            layers: 1,
            groups: 1,
            head_dim: 2,
        };
        let mut store = Contiguous::new(shape);
        // q·k/√2 = ln 3 for the first key of the first head, 0 for the second.
        let score = 3f32.ln() * 2f32.sqrt();
        let engine = Engine::default();
        let (keys, values) = ([1.0, 0.0, 0.0, 1.0], [4.0, 8.0, 0.0, -8.0]);
        store.write(0, &keys, &values, &engine.team);
        let mut call = Call {
            engine: &engine,
            layer: 0,
            heads: 2,
            mask: Mask::default(),
            sequences: &[Sequence {
                store: &store,
                positions: 0..2,
            }],
            queries: &[9.0, 9.0, 1.0, 1.0, score, 0.0, 0.0, 0.0],
        };
        let mut out = [0.0; 8];
        Naive.attend(&call, &mut out);
        // The first position sees itself alone; then 3 : 1 and 1 : 1.
        let expected = [4.0, 8.0, 4.0, 8.0, 3.0, 4.0, 2.0, 0.0];
        assert!(
            out.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6),
            "{out:?}"
        );
        call.mask = Mask { window: Some(1) };
        Naive.attend(&call, &mut out);
        assert_eq!(out, [4.0, 8.0, 4.0, 8.0, 0.0, -8.0, 0.0, -8.0]);
    }
}
