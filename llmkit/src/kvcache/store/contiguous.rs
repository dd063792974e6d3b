//! Keys and values in f32 or bf16, block after block, as the attention kernel reads them: nothing is decoded, and in f32 nothing is
//! lost. In bf16 attention multiplies in bf16.
//!
//! Cost: 8·G·D bytes a token and layer, 4·G·D in bf16 (D filled up to 16), in whole blocks of 64 tokens.

use super::{Decoded, Shape, Store};
use crate::kernels::attention::{BLOCK, Block, block_lines, key_place, value_place};
use crate::kernels::panel::{Element, LANES, Line, bf16_bits, bf16_pair};

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
    element: Element,
    tokens: usize,
    /// Layer by layer, head by head.
    heads: Vec<Head>,
}

impl Contiguous {
    /// An empty store in f32.
    pub fn new(shape: Shape) -> Contiguous {
        Contiguous::of(Element::F32, shape)
    }

    /// An empty store.
    pub fn of(element: Element, shape: Shape) -> Contiguous {
        Contiguous {
            shape,
            element,
            tokens: 0,
            heads: vec![Head::default(); shape.layers * shape.groups],
        }
    }
}

impl Store for Contiguous {
    fn name(&self) -> String {
        format!("contiguous-{}", self.element.name())
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
        let (element, padded) = (self.element, self.shape.padded_dim());
        let lines = block_lines(element, padded);
        let last = self.tokens + keys.len() / width;
        let all_lines = last.div_ceil(BLOCK) * lines;
        let heads = &mut self.heads[layer * groups..(layer + 1) * groups];
        for (group, head) in heads.iter_mut().enumerate() {
            if head.keys.len() < all_lines {
                head.keys.resize(all_lines, Line::ZERO);
                head.values.resize(all_lines, Line::ZERO);
            }
            let rows = keys.chunks_exact(width).zip(values.chunks_exact(width));
            for (token, (key, value)) in (self.tokens..).zip(rows) {
                let features = group * head_dim..(group + 1) * head_dim;
                let block = token / BLOCK * lines;
                let (key, value) = (&key[features.clone()], &value[features]);
                let (line, lane, _) = key_place(element, padded, token % BLOCK, 0);
                let panel = head.keys[block + line..].iter_mut();
                match element {
                    Element::F32 => {
                        for (line, feature) in panel.zip(key) {
                            line.0[lane] = feature.to_bits();
                        }
                    }
                    Element::Bf16 => {
                        for (line, pair) in panel.zip(key.chunks(2)) {
                            line.0[lane] = bf16_pair(pair[0], pair.get(1).copied().unwrap_or(0.0));
                        }
                    }
                }
                let (line, _, index) = value_place(element, token % BLOCK, 0);
                let panels = head.values[block + line..].iter_mut();
                let panels = panels.step_by(element.words(BLOCK));
                for (line, features) in panels.zip(value.chunks(LANES)) {
                    for (lane, feature) in line.0.iter_mut().zip(features) {
                        *lane = match element {
                            Element::F32 => feature.to_bits(),
                            // The other half is another token's.
                            Element::Bf16 => {
                                *lane & 0xffff_0000 >> (16 * index)
                                    | u32::from(bf16_bits(*feature)) << (16 * index)
                            }
                        };
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
        let lines = block_lines(self.element, self.shape.padded_dim());
        let head = &self.heads[layer * self.shape.groups + group];
        Block {
            element: self.element,
            keys: &head.keys[index * lines..(index + 1) * lines],
            values: &head.values[index * lines..(index + 1) * lines],
        }
    }

    fn error(&self) -> f32 {
        match self.element {
            Element::F32 => 0.0,
            // Half a unit in the last of 8 places.
            Element::Bf16 => 1.0 / 256.0,
        }
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
        Box::new(Contiguous::of(self.element, self.shape))
    }
}
