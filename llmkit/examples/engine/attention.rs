//! Attention as the network computes it, by itself.

use std::sync::Mutex;

use llmkit::kernels::attention::{Block, Blocks, Mask, Scratch, attend};
use llmkit::kvcache::store::{Contiguous, Decoded, Shape, Store};
use llmkit::model::Engine;

/// Attention of every query over the keys up to its own: heads times rows are tasks, as in the network.
pub fn attention(engine: &Engine, [q, k, v]: &[Vec<f32>; 3], heads: usize, dim: usize) -> Vec<f32> {
    const ROWS: usize = 48;
    let (width, tokens) = (heads * dim, q.len() / (heads * dim));
    let mut store = Contiguous::new(Shape {
        layers: 1,
        groups: heads,
        head_dim: dim,
    });
    store.write(0, k, v);
    let out = Mutex::new(vec![0.0; q.len()]);
    let parts = tokens.div_ceil(ROWS);
    let scale = 1.0 / (dim as f32).sqrt();
    engine.team.tasks(parts * heads, &|task| {
        // Late rows see most keys: they go first.
        let (part, head) = (parts - 1 - task / heads, task % heads);
        let rows: Vec<usize> = (part * ROWS..tokens.min((part + 1) * ROWS)).collect();
        let at = |row: usize| row * width + head * dim..row * width + (head + 1) * dim;
        let queries: Vec<f32> = rows
            .iter()
            .flat_map(|&row| &q[at(row)])
            .map(|it| it * scale)
            .collect();
        let mut own = vec![0.0; queries.len()];
        let blocks = Head {
            store: &store,
            head,
            decoded: Decoded::default(),
        };
        let mask = Mask { window: None };
        attend(
            engine.isa,
            &queries,
            &rows,
            mask,
            blocks,
            &mut own,
            &mut Scratch::default(),
        );
        if let Ok(mut out) = out.lock() {
            for (&row, own) in rows.iter().zip(own.chunks_exact(dim)) {
                out[at(row)].copy_from_slice(own);
            }
        }
    });
    out.into_inner().unwrap_or_default()
}

struct Head<'a> {
    store: &'a Contiguous,
    head: usize,
    decoded: Decoded,
}

impl Blocks for Head<'_> {
    fn block(&mut self, index: usize) -> Block<'_> {
        self.store.block(0, self.head, index, &mut self.decoded)
    }
}
