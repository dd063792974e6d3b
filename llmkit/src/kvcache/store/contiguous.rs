//! Keys and values in f32 or bf16, block after block, as the attention kernel reads them: nothing is decoded, and in f32 nothing is
//! lost. In bf16 attention multiplies in bf16.
//!
//! Cost: 8·G·D bytes a token and layer, 4·G·D in bf16 (D filled up to 16), in whole blocks of 64 tokens.

use super::{Decoded, Shape, Store};
use crate::kernels::attention::{BLOCK, Block, block_lines};
use crate::kernels::isa::Isa;
use crate::kernels::keep::{Head, Side, Tokens, keep};
use crate::kernels::panel::{Element, Line};
use crate::kernels::team::Team;

/// Tokens below which threads are not worth waking.
const FEW_TOKENS: usize = 32;

/// Keys and values of one head.
#[derive(Debug, Clone, Default)]
struct Kept {
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
    heads: Vec<Kept>,
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
            heads: vec![Kept::default(); shape.layers * shape.groups],
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

    fn write(&mut self, layer: usize, keys: &[f32], values: &[f32], team: &Team) {
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
        let isa = Isa::best();
        let first = self.tokens;
        let write = |(index, (side, lines)): (usize, (Side, &mut Vec<Line>))| {
            if lines.len() < all_lines {
                lines.resize(all_lines, Line::ZERO);
            }
            let head = Head {
                side,
                element,
                padded,
                lines,
            };
            let tokens = Tokens {
                first,
                rows: match side {
                    Side::Keys => keys,
                    Side::Values => values,
                },
                width,
                start: index / 2 * head_dim,
                dim: head_dim,
            };
            keep(isa, head, tokens);
        };
        let heads = &mut self.heads[layer * groups..(layer + 1) * groups];
        let sides = heads
            .iter_mut()
            .flat_map(|it| [(Side::Keys, &mut it.keys), (Side::Values, &mut it.values)]);
        match last - first < FEW_TOKENS {
            true => sides.enumerate().for_each(write),
            false => team.each(sides, &|index, it| write((index, it))),
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
        size_of::<Self>() + self.heads.len() * size_of::<Kept>() + lines * size_of::<Line>()
    }

    fn fork(&self) -> Box<dyn Store> {
        Box::new(self.clone())
    }

    fn empty(&self) -> Box<dyn Store> {
        Box::new(Contiguous::of(self.element, self.shape))
    }
}
