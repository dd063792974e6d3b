//! Attention as the network computes it, by itself.

use llmkit::attention::{Attention, Call, Flash, Mask, Sequence};
use llmkit::kernels::dense::Element;
use llmkit::kvcache::store::{Contiguous, Shape, Store};
use llmkit::model::Engine;

/// Queries, keys and values (T, H·D) of as many key/value heads as heads, where the latter go, and room for the answer.
pub struct Job {
    parts: [Vec<f32>; 3],
    store: Contiguous,
    heads: usize,
    out: Vec<f32>,
}

impl Job {
    /// Of these queries, keys and values.
    pub fn new(element: Element, parts: [Vec<f32>; 3], heads: usize, head_dim: usize) -> Job {
        let shape = Shape {
            layers: 1,
            groups: heads,
            head_dim,
        };
        Job {
            out: vec![0.0; parts[0].len()],
            store: Contiguous::of(element, shape),
            parts,
            heads,
        }
    }

    /// Attention of every query over the keys up to its own; keys and values are stored first.
    pub fn run(&mut self, engine: &Engine) -> &[f32] {
        let [queries, keys, values] = &self.parts;
        let tokens = queries.len() / (self.heads * self.store.shape().head_dim);
        self.store.write(0, keys, values, &engine.team);
        let sequence = Sequence {
            store: &self.store,
            positions: 0..tokens,
        };
        let call = Call {
            engine,
            layer: 0,
            heads: self.heads,
            mask: Mask::default(),
            sequences: &[sequence],
            queries,
        };
        Flash.attend(&call, &mut self.out);
        &self.out
    }
}
