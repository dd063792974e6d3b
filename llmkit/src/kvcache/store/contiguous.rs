//! Keys and values in f32, block after block, as the attention kernel reads them: nothing is decoded, nothing is lost.
//!
//! Cost: 8·G·D bytes a token and layer (D filled up to 16), in whole blocks of 64 tokens.

use super::{Decoded, Shape, Store};
use crate::kernels::attention::{BLOCK, Block, block_lines};
use crate::kernels::panel::{LANES, Line};

/// Keys and values of one head.
#[derive(Debug, Clone, Default)]
struct Head {
    keys: Vec<Line>,
    values: Vec<Line>,
}

/// The plain store.
#[derive(Debug, Clone)]
pub struct Contiguous {
    shape: Shape,
    tokens: usize,
    /// Layer by layer, head by head.
    heads: Vec<Head>,
}

impl Contiguous {
    /// An empty store.
    pub fn new(shape: Shape) -> Contiguous {
        Contiguous {
            shape,
            tokens: 0,
            heads: vec![Head::default(); shape.layers * shape.groups],
        }
    }
}

impl Store for Contiguous {
    fn name(&self) -> String {
        "contiguous-f32".to_owned()
    }

    fn shape(&self) -> Shape {
        self.shape
    }

    fn tokens(&self) -> usize {
        self.tokens
    }

    fn write(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let Shape {
            groups, head_dim, ..
        } = self.shape;
        let width = groups * head_dim;
        assert!(
            keys.len() == values.len() && keys.len().is_multiple_of(width),
            "rows of {width}"
        );
        let padded = self.shape.padded_dim();
        let last = self.tokens + keys.len() / width;
        let lines = last.div_ceil(BLOCK) * block_lines(padded);
        let heads = &mut self.heads[layer * groups..(layer + 1) * groups];
        for (group, head) in heads.iter_mut().enumerate() {
            if head.keys.len() < lines {
                head.keys.resize(lines, Line::ZERO);
                head.values.resize(lines, Line::ZERO);
            }
            let rows = keys.chunks_exact(width).zip(values.chunks_exact(width));
            for (token, (key, value)) in (self.tokens..).zip(rows) {
                let features = group * head_dim..(group + 1) * head_dim;
                let block = token / BLOCK * block_lines(padded);
                let (key, value) = (&key[features.clone()], &value[features]);
                // As `key_place` and `value_place` have it.
                let panel = block + token % BLOCK / LANES * padded;
                for (line, feature) in head.keys[panel..panel + padded].iter_mut().zip(key) {
                    line.0[token % LANES] = feature.to_bits();
                }
                let at = block + token % BLOCK;
                for (line, features) in head.values[at..]
                    .iter_mut()
                    .step_by(BLOCK)
                    .zip(value.chunks(LANES))
                {
                    for (lane, feature) in line.0.iter_mut().zip(features) {
                        *lane = feature.to_bits();
                    }
                }
            }
        }
    }

    fn commit(&mut self, tokens: usize) {
        self.tokens += tokens;
    }

    fn truncate(&mut self, tokens: usize) {
        self.tokens = self.tokens.min(tokens);
    }

    fn block<'a>(
        &'a self,
        layer: usize,
        group: usize,
        index: usize,
        _: &'a mut Decoded,
    ) -> Block<'a> {
        let lines = block_lines(self.shape.padded_dim());
        let head = &self.heads[layer * self.shape.groups + group];
        Block {
            keys: &head.keys[index * lines..(index + 1) * lines],
            values: &head.values[index * lines..(index + 1) * lines],
        }
    }

    fn error(&self) -> f32 {
        0.0
    }

    fn bytes(&self) -> usize {
        let lines: usize = self
            .heads
            .iter()
            .map(|it| it.keys.len() + it.values.len())
            .sum();
        size_of::<Self>() + self.heads.len() * size_of::<Head>() + lines * size_of::<Line>()
    }

    fn fork(&self) -> Box<dyn Store> {
        Box::new(self.clone())
    }

    fn empty(&self) -> Box<dyn Store> {
        Box::new(Contiguous::new(self.shape))
    }
}
