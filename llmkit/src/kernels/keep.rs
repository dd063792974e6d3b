//! Keys and values into the blocks that [`attention`](super::attention) reads.
//!
//! A token's key is a lane of as many lines as it has words, so tokens come sixteen at a time where they can, as a transposition; in bf16 a
//! line of values is a pair of tokens.

use super::activation::row_to_bf16;
use super::attention::{BLOCK, block_lines, key_place, value_place};
use super::isa::{Isa, vectorizable, vectorized};
use super::panel::{Element, LANES, Line, bf16_bits, bf16_pair};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Keys.
    Keys,
    /// Values.
    Values,
}

/// Keys, or values, of one head.
#[derive(Debug)]
pub struct Head<'a> {
    /// Which of the two.
    pub side: Side,
    /// Of what is kept.
    pub element: Element,
    /// Features of a head in the blocks, a multiple of 16.
    pub padded: usize,
    /// All blocks, as far as the last token.
    pub lines: &'a mut [Line],
}

/// Rows (T, `width`) of which a head has `dim` columns from `start` on.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    /// Position of the first.
    pub first: usize,
    /// Row-major.
    pub rows: &'a [f32],
    /// Columns of all heads.
    pub width: usize,
    /// First column of this one.
    pub start: usize,
    /// Columns of this one, D.
    pub dim: usize,
}

/// Writes tokens to their places. What else is in the blocks stays as it is.
///
/// # Panics
/// If sizes do not fit.
pub fn keep(isa: Isa, head: Head<'_>, tokens: Tokens<'_>) {
    vectorized(isa, Keep, (head, tokens));
}

vectorizable!(Keep<'a>: keep_rows, (Head<'a>, Tokens<'a>) => ());

#[inline(always)]
fn keep_rows((mut head, tokens): (Head<'_>, Tokens<'_>)) {
    let count = tokens.rows.len() / tokens.width;
    let mut at = 0;
    while at < count {
        let (token, left) = (tokens.first + at, count - at);
        at += match (head.side, head.element) {
            (Side::Keys, element) if token.is_multiple_of(LANES) && left >= LANES => {
                sixteen_keys(&mut head, element, tokens, at)
            }
            (Side::Values, Element::Bf16) if token.is_multiple_of(2) && left >= 2 => {
                two_values(&mut head, tokens, at)
            }
            (Side::Keys, element) => one_key(&mut head, element, tokens.row(at), token),
            (Side::Values, element) => one_value(&mut head, element, tokens.row(at), token),
        };
    }
}

impl<'a> Tokens<'a> {
    #[inline(always)]
    fn row(self, at: usize) -> &'a [f32] {
        &self.rows[at * self.width + self.start..][..self.dim]
    }
}

impl Head<'_> {
    /// The block of a token, from some line on.
    #[inline(always)]
    fn block(&mut self, token: usize, line: usize) -> &mut [Line] {
        &mut self.lines[token / BLOCK * block_lines(self.element, self.padded) + line..]
    }
}

/// A word of one or two features.
#[inline(always)]
fn word(element: Element, features: &[f32]) -> u32 {
    match element {
        Element::F32 => features[0].to_bits(),
        Element::Bf16 => bf16_pair(features[0], features.get(1).copied().unwrap_or(0.0)),
    }
}

/// Words that go through registers at once.
const WORDS: usize = 16;

/// Keys `at` to `at` + 15, the first of a panel.
#[inline(always)]
fn sixteen_keys(head: &mut Head<'_>, element: Element, tokens: Tokens<'_>, at: usize) -> usize {
    let token = tokens.first + at;
    let words = element.words(head.padded);
    let (line, _, _) = key_place(element, head.padded, token % BLOCK, 0);
    let panel = &mut head.block(token, line)[..words];
    for (part, lines) in panel.chunks_mut(WORDS).enumerate() {
        let mut tile = [[0u32; WORDS]; LANES];
        for (lane, out) in tile.iter_mut().enumerate() {
            let key = tokens.row(at + lane);
            let start = (part * WORDS * element.per_word()).min(key.len());
            let key = &key[start..key.len().min(start + WORDS * element.per_word())];
            match element {
                Element::Bf16 => row_to_bf16((key, &mut out[..key.len().div_ceil(2)])),
                Element::F32 => {
                    for (out, feature) in out.iter_mut().zip(key) {
                        *out = feature.to_bits();
                    }
                }
            }
        }
        for (word, line) in lines.iter_mut().enumerate() {
            for (to, from) in line.0.iter_mut().zip(&tile) {
                *to = from[word];
            }
        }
    }
    LANES
}

/// Values `at` and `at` + 1, which share their words.
#[inline(always)]
fn two_values(head: &mut Head<'_>, tokens: Tokens<'_>, at: usize) -> usize {
    let token = tokens.first + at;
    let (line, _, _) = value_place(Element::Bf16, token % BLOCK, 0);
    let panels = head.block(token, line).iter_mut();
    let values = tokens
        .row(at)
        .chunks(LANES)
        .zip(tokens.row(at + 1).chunks(LANES));
    for (line, (low, high)) in panels.step_by(Element::Bf16.words(BLOCK)).zip(values) {
        for (lane, (low, high)) in line.0.iter_mut().zip(low.iter().zip(high)) {
            *lane = bf16_pair(*low, *high);
        }
    }
    2
}

#[inline(always)]
fn one_key(head: &mut Head<'_>, element: Element, key: &[f32], token: usize) -> usize {
    let (line, lane, _) = key_place(element, head.padded, token % BLOCK, 0);
    let panel = head.block(token, line).iter_mut();
    for (line, features) in panel.zip(key.chunks(element.per_word())) {
        line.0[lane] = word(element, features);
    }
    1
}

#[inline(always)]
fn one_value(head: &mut Head<'_>, element: Element, value: &[f32], token: usize) -> usize {
    let (line, _, index) = value_place(element, token % BLOCK, 0);
    let panels = head.block(token, line).iter_mut();
    for (line, features) in panels
        .step_by(element.words(BLOCK))
        .zip(value.chunks(LANES))
    {
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
    1
}
