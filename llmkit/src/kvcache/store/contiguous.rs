//! Keys and values in f32 or bf16, block after block, as the attention kernel reads them: nothing is decoded, and in f32 nothing is
//! lost. In bf16 attention multiplies in bf16.
//!
//! Cost: 8·G·D bytes a token and layer, 4·G·D in bf16 (D filled up to 16), in whole blocks of 64 tokens.

use std::sync::{Mutex, PoisonError};

use super::{Decoded, Shape, Store};
use crate::kernels::attention::{BLOCK, Block, block_lines};
use crate::kernels::fetch::fetch;
use crate::kernels::isa::Isa;
use crate::kernels::keep::{Head, Side, Tokens, keep};
use crate::kernels::pages::Pages;
use crate::kernels::panel::{Element, LANES, Line};
use crate::kernels::team::Team;

/// Tokens below which threads are not worth waking.
const FEW_TOKENS: usize = 32;

/// The plain store.
#[derive(Debug, Clone)]
pub struct Contiguous {
    shape: Shape,
    element: Element,
    tokens: usize,
    /// Of 64 tokens each: layer by layer, head by head, keys and then values. All in one, for the large pages that are given to what is large:
    /// of sixteen sequences, each head by itself is thousands of addresses to look up.
    blocks: Vec<Pages<Line>>,
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
            blocks: Vec::new(),
        }
    }
}

/// Blocks of stores that are gone, for the next ones: what the system gives has to be cleared first, and comes from far away.
static SPARE: Mutex<Vec<Pages<Line>>> = Mutex::new(Vec::new());
/// Bytes of all of them, at most.
const SPARE_BYTES: usize = 1 << 26;

/// A block of so many lines, with anything in them.
fn spare(lines: usize) -> Pages<Line> {
    let mut all = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    match all.iter().rposition(|it| it.len() == lines) {
        Some(at) => all.swap_remove(at),
        None => Pages::new(lines, |_| {}),
    }
}

impl Drop for Contiguous {
    fn drop(&mut self) {
        let bytes = |it: &Pages<Line>| size_of_val(&**it);
        let mut all = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held: usize = all.iter().map(bytes).sum();
        for block in self.blocks.drain(..) {
            held += bytes(&block);
            if held > SPARE_BYTES {
                break;
            }
            all.push(block);
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
        let (first, last) = (self.tokens, self.tokens + keys.len() / width);
        while self.blocks.len() * BLOCK < last {
            let all = self.shape.layers * 2 * groups * lines;
            self.blocks.push(spare(all));
        }
        let isa = Isa::best();
        let of_layer = layer * 2 * groups * lines..(layer + 1) * 2 * groups * lines;
        // Each head's keys, and its values, of each block.
        let parts = (self.blocks.iter_mut().enumerate())
            .take(last.div_ceil(BLOCK))
            .skip(first / BLOCK)
            .flat_map(|(index, block)| {
                let sides = block[of_layer.clone()].chunks_exact_mut(lines).enumerate();
                sides.map(move |(side, lines)| (index, side, lines))
            });
        let write = |(index, side, lines): (usize, usize, &mut [Line])| {
            let here = first.max(index * BLOCK)..last.min((index + 1) * BLOCK);
            let (side, group) = match side % 2 {
                0 => (Side::Keys, side / 2),
                _ => (Side::Values, side / 2),
            };
            let rows = match side {
                Side::Keys => keys,
                Side::Values => values,
            };
            // Who had the block before has left something in it.
            if here.start % BLOCK == 0 && (here.len() < BLOCK || padded > head_dim) {
                lines.fill(Line::ZERO);
            }
            let head = Head {
                side,
                element,
                padded,
                lines,
            };
            let tokens = Tokens {
                first: here.start % BLOCK,
                rows: &rows[(here.start - first) * width..(here.end - first) * width],
                width,
                start: group * head_dim,
                dim: head_dim,
            };
            keep(isa, head, tokens);
        };
        match last - first < FEW_TOKENS {
            true => parts.for_each(write),
            false => team.each(parts, &|_, it| write(it)),
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
        let at = (layer * self.shape.groups + group) * 2 * lines;
        let (keys, values) = self.blocks[index][at..at + 2 * lines].split_at(lines);
        Block {
            element: self.element,
            keys,
            values,
        }
    }

    fn expect(&self, layer: usize) {
        let (words, padded) = (self.element.words(BLOCK), self.shape.padded_dim());
        let lines = block_lines(self.element, padded);
        let Some(block) = self.blocks.first() else {
            return;
        };
        // As much as the token sees, in pairs of panels and of words, as it is read.
        let seen = (self.tokens + 1).next_multiple_of(2 * LANES).min(BLOCK);
        let of_layer = layer * 2 * self.shape.groups * lines..;
        let heads = block[of_layer].chunks_exact(2 * lines);
        for head in heads.take(self.shape.groups) {
            let (keys, values) = head.split_at(lines);
            fetch(&keys[..seen / LANES * self.element.words(padded)]);
            for panel in values.chunks_exact(words) {
                fetch(&panel[..self.element.words(seen)]);
            }
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
        let blocks = self.blocks.iter().map(|it| size_of_val(&**it));
        size_of::<Self>() + blocks.sum::<usize>()
    }

    fn fork(&self) -> Box<dyn Store> {
        Box::new(self.clone())
    }

    fn empty(&self) -> Box<dyn Store> {
        Box::new(Contiguous::of(self.element, self.shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block that another store had is as good as a new one, whatever was in it; features that pad a head stay zero.
    #[test]
    fn nothing_is_left_of_who_had_a_block_before() {
        let team = Team::new(2);
        for (element, head_dim, tokens) in [
            (Element::F32, 24, 64),
            (Element::F32, 32, 3),
            (Element::Bf16, 24, 65),
            (Element::Bf16, 32, 100),
        ] {
            let shape = Shape {
                layers: 1,
                groups: 2,
                head_dim,
            };
            let written = |value: f32, tokens: usize| {
                let mut store = Contiguous::of(element, shape);
                let rows = vec![value; tokens * 2 * head_dim];
                store.write(0, &rows, &rows, &team);
                store.commit(tokens);
                store
            };
            // Sizes of no other test, so that these blocks are ours.
            let lines = |store: &Contiguous| -> Vec<Line> {
                store.blocks.iter().flat_map(|it| it.to_vec()).collect()
            };
            let new = lines(&written(1.5, tokens));
            drop(written(f32::NAN, 128));
            let again = written(1.5, tokens);
            assert!(lines(&again) == new, "{element:?} {head_dim} {tokens}");
            let words = |it: &Line| it.0.iter().all(|&word| word != f32::NAN.to_bits());
            assert!(lines(&again).iter().all(words));
        }
    }
}
