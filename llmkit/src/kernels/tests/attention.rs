//! Attention over blocks.

use super::{Numbers, fast};
use crate::kernels::attention::{self, BLOCK, Block, Blocks, Mask, Scratch};
use crate::kernels::isa::Isa;
use crate::kernels::panel::{Element, Line, bf16_bits, bf16_pair, bf16_value};

const ELEMENTS: [Element; 2] = [Element::F32, Element::Bf16];

/// Keys and values of `tokens` positions in blocks; what lies beyond is a large finite number that must not matter.
struct Stored {
    element: Element,
    blocks: Vec<(Vec<Line>, Vec<Line>)>,
}

impl Stored {
    fn new(element: Element, keys: &[f32], values: &[f32], head_dim: usize) -> Stored {
        let tokens = keys.len() / head_dim;
        let lines = attention::block_lines(element, head_dim);
        let nothing = match element {
            Element::F32 => 1e30f32.to_bits(),
            Element::Bf16 => bf16_pair(1e30, 1e30),
        };
        let empty = || vec![Line([nothing; 16]); lines];
        let mut blocks: Vec<_> = (0..tokens.div_ceil(BLOCK))
            .map(|_| (empty(), empty()))
            .collect();
        let put = |word: &mut u32, index: usize, value: f32| {
            *word = match (element, index) {
                (Element::F32, _) => value.to_bits(),
                (Element::Bf16, 0) => *word & 0xffff_0000 | u32::from(bf16_bits(value)),
                (Element::Bf16, _) => *word & 0xffff | u32::from(bf16_bits(value)) << 16,
            };
        };
        for t in 0..tokens {
            let (keys_here, values_here) = &mut blocks[t / BLOCK];
            for i in 0..head_dim {
                let (line, lane, index) = attention::key_place(element, head_dim, t % BLOCK, i);
                put(&mut keys_here[line].0[lane], index, keys[t * head_dim + i]);
                let (line, lane, index) = attention::value_place(element, t % BLOCK, i);
                put(
                    &mut values_here[line].0[lane],
                    index,
                    values[t * head_dim + i],
                );
            }
        }
        Stored { element, blocks }
    }
}

impl Blocks for &Stored {
    fn block(&mut self, index: usize) -> Block<'_> {
        let (keys, values) = &self.blocks[index];
        Block {
            element: self.element,
            keys,
            values,
        }
    }
}

/// As the element keeps it.
fn kept(element: Element, values: Vec<f32>) -> Vec<f32> {
    match element {
        Element::F32 => values,
        Element::Bf16 => values.iter().map(|&it| bf16_value(bf16_bits(it))).collect(),
    }
}

type Attend<'a> = dyn Fn(&[f32], &[usize], Mask, &Stored, &mut [f32]) + 'a;

/// Whether `kernel` is within 2 × the error of a plain f32 softmax (measured against f64) plus a few roundings; in bf16, where queries, keys
/// and values are bf16 numbers here, weights are rounded once more.
fn attention_is_right(element: Element, kernel: &Attend<'_>) -> Result<(), String> {
    let mut numbers = Numbers(6);
    for (positions, head_dim) in [
        (vec![0], 16),
        (vec![5, 5, 5], 64),
        ((0..70).collect::<Vec<_>>(), 32),
        (vec![63, 64, 65, 128], 64),
        ((190..200).collect(), 16),
        // Heads that are no power of two, rows in no order, more rows than a tile.
        (vec![130, 3, 64], 48),
        ((60..110).collect(), 128),
    ] {
        // Flat, and so steep that larger scores keep turning up, far above those before.
        let steep = [None, Some(64)].map(|window| (window, 8.0));
        let flat = [None, Some(1), Some(40), Some(64), Some(100)].map(|window| (window, 0.2));
        for (window, scale) in flat.into_iter().chain(steep) {
            let tokens = positions.iter().max().unwrap() + 1;
            let (keys, values) = (
                kept(element, numbers.take(tokens * head_dim)),
                kept(element, numbers.take(tokens * head_dim)),
            );
            let queries = numbers.take(positions.len() * head_dim);
            let queries = kept(element, queries.iter().map(|it| it * scale).collect());
            let stored = Stored::new(element, &keys, &values, head_dim);
            let mask = Mask { window };
            let (mut expected, mut got) = (vec![0.0; queries.len()], vec![0.0; queries.len()]);
            attention::attend(
                Isa::Reference,
                &queries,
                &positions,
                mask,
                &stored,
                &mut expected,
                &mut Scratch::default(),
            );
            kernel(&queries, &positions, mask, &stored, &mut got);
            // Scores are sums of D products up to Σ|q·k| in size; e^score turns their absolute error into a relative one.
            for (r, &position) in positions.iter().enumerate() {
                let query = &queries[r * head_dim..][..head_dim];
                let of_key = |key: usize| -> f32 {
                    query
                        .iter()
                        .zip(&keys[key * head_dim..])
                        .map(|(q, k)| (q * k).abs())
                        .sum()
                };
                let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
                let largest = (first..=position).map(of_key).fold(0f32, f32::max);
                let spread = (first..=position)
                    .flat_map(|key| &values[key * head_dim..(key + 1) * head_dim])
                    .fold(0f32, |top, it| top.max(it.abs()));
                let steps =
                    4.0 * head_dim as f32 * largest + 2.0 * (position - first) as f32 + 20.0;
                let rounding = match element {
                    Element::F32 => 0.0,
                    Element::Bf16 => 1.01 / 256.0,
                };
                let bound = (steps * f32::EPSILON / 2.0 + rounding) * spread;
                for i in r * head_dim..(r + 1) * head_dim {
                    if got[i].is_nan() || (got[i] - expected[i]).abs() > bound {
                        return Err(format!(
                            "{position} {window:?} {scale} {}: {} for {}, bound {bound}",
                            i - r * head_dim,
                            got[i],
                            expected[i]
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

fn everything() -> impl Iterator<Item = (Isa, Element)> {
    let of = |isa| ELEMENTS.map(move |element| (isa, element));
    fast().into_iter().flat_map(of)
}

#[test]
fn attention_is_softmax_over_the_visible_keys() {
    for (isa, element) in everything() {
        attention_is_right(element, &|q, p, mask, stored, out| {
            attention::attend(isa, q, p, mask, stored, out, &mut Scratch::default());
        })
        .unwrap_or_else(|wrong| panic!("{isa} {element:?}: {wrong}"));
    }
}

#[test]
fn planted_bugs_in_attention_are_caught() {
    for (isa, element) in everything() {
        let honest = |q: &[f32], p: &[usize], mask, stored: &Stored, out: &mut [f32]| {
            attention::attend(isa, q, p, mask, stored, out, &mut Scratch::default());
        };
        // The mask is off by one: a query does not see its own key.
        let off_by_one: &Attend<'_> = &|q, p, mask, stored, out| {
            let before: Vec<usize> = p.iter().map(|p| p.saturating_sub(1)).collect();
            honest(q, &before, mask, stored, out);
        };
        // The window is ignored.
        let wide: &Attend<'_> = &|q, p, _, stored, out| honest(q, p, Mask::default(), stored, out);
        // Blocks are combined with log2 in place of ln: every score counts 1.44 times too much.
        let log2: &Attend<'_> = &|q, p, mask, stored, out| {
            let q: Vec<f32> = q.iter().map(|it| it * std::f32::consts::LOG2_E).collect();
            honest(&q, p, mask, stored, out);
        };
        // All but the last block are forgotten (their sums are not carried over).
        let forgetful: &Attend<'_> = &|q, p, mask, stored, out| {
            let head_dim = q.len() / p.len();
            let rows = q.chunks(head_dim).zip(out.chunks_mut(head_dim)).zip(p);
            for ((q, out), &p) in rows {
                let window = mask.window.unwrap_or(usize::MAX).min(p % BLOCK + 1);
                let mask = Mask {
                    window: Some(window),
                };
                honest(q, &[p], mask, stored, out);
            }
        };
        // Each block is taken for the one before.
        let stale: &Attend<'_> = &|q, p, mask, stored, out| {
            let mut blocks = stored.blocks.clone();
            blocks.rotate_right(1);
            honest(q, p, mask, &Stored { blocks, ..*stored }, out);
        };
        // Elements that share a word have changed places.
        let swapped: &Attend<'_> = &|q, p, mask, stored, out| {
            let mut blocks = stored.blocks.clone();
            let lines = blocks.iter_mut().flat_map(|it| &mut it.0);
            lines.for_each(|line| line.0 = line.0.map(|it| it.rotate_right(16)));
            honest(q, p, mask, &Stored { blocks, ..*stored }, out);
        };
        // Scores are not scaled.
        let unscaled: &Attend<'_> = &|q, p, mask, stored, out| {
            let q: Vec<f32> = q.iter().map(|it| it * 4.0).collect();
            honest(&q, p, mask, stored, out);
        };
        for (name, bug) in [
            ("off by one", off_by_one),
            ("wide", wide),
            ("log2", log2),
            ("forgetful", forgetful),
            ("stale", stale),
            ("swapped", swapped),
            ("unscaled", unscaled),
        ] {
            assert!(
                attention_is_right(element, bug).is_err(),
                "{isa} {element:?} {name}"
            );
        }
    }
}

/// What is no number is not hidden by bases and masks, and rows that do not see it do not have it.
#[test]
fn scores_that_are_no_numbers_show_in_the_rows_that_see_them() {
    let (tokens, head_dim) = (100, 64);
    let mut numbers = Numbers(8);
    let [keys, values, mut queries] = [(); 3].map(|()| numbers.take(tokens * head_dim));
    queries[70 * head_dim] = f32::NAN;
    queries[80 * head_dim] = f32::INFINITY;
    let positions: Vec<usize> = (0..tokens).collect();
    for (isa, element) in everything() {
        let stored = Stored::new(element, &keys, &values, head_dim);
        let mut out = vec![0.0; queries.len()];
        let (mask, scratch) = (Mask::default(), &mut Scratch::default());
        attention::attend(isa, &queries, &positions, mask, &stored, &mut out, scratch);
        for (row, out) in out.chunks(head_dim).enumerate() {
            let is_finite = out.iter().all(|it| it.is_finite());
            assert_eq!(
                is_finite,
                ![70, 80].contains(&row),
                "{isa} {element:?} {row}"
            );
        }
    }
}

#[test]
fn a_row_of_attention_does_not_depend_on_the_others() {
    let mut numbers = Numbers(7);
    let (tokens, head_dim) = (150, 64);
    let (keys, values) = (
        numbers.take(tokens * head_dim),
        numbers.take(tokens * head_dim),
    );
    let queries = numbers.take(tokens * head_dim);
    let positions: Vec<usize> = (0..tokens).collect();
    for (isa, element) in everything() {
        let stored = Stored::new(element, &keys, &values, head_dim);
        let run = |chunk: usize| -> Vec<u32> {
            let mut out = vec![0.0; queries.len()];
            let chunks = queries
                .chunks(chunk * head_dim)
                .zip(positions.chunks(chunk));
            for ((q, p), out) in chunks.zip(out.chunks_mut(chunk * head_dim)) {
                attention::attend(
                    isa,
                    q,
                    p,
                    Mask::default(),
                    &stored,
                    out,
                    &mut Scratch::default(),
                );
            }
            out.iter().map(|it| it.to_bits()).collect()
        };
        let whole = run(tokens);
        for chunk in [1, 5, 64] {
            assert!(run(chunk) == whole, "{isa} {element:?} {chunk}");
        }
    }
}
