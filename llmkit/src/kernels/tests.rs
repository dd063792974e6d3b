//! Each kernel on each instruction set of this machine against its reference, and planted bugs that these checks catch.

use super::activation::{exp, rms_norm, swiglu};
use super::attention::{self, BLOCK, Block, Blocks, Mask, Scratch};
use super::dense::{self, Element, Into, f32_words};
use super::integer::{self, Bytes, IntPanels, OfGroup};
use super::isa::Isa;
use super::panel::{Line, Panels, bf16_bits, bf16_value};
use super::team::Team;
use half::f16;

/// Reproducible numbers in −1 … 1, with some that are twenty times as large (as activations have).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        // Knuth's MMIX generator; the high bits are good.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let value = (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0;
        if (self.0 >> 32).is_multiple_of(29) {
            20.0 * value
        } else {
            value
        }
    }

    fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }

    fn below(&mut self, limit: usize) -> usize {
        self.next();
        (self.0 >> 33) as usize % limit
    }
}

fn fast() -> Vec<Isa> {
    Isa::here()
        .into_iter()
        .filter(|&isa| isa != Isa::Reference)
        .collect()
}

/// (T, N, K): one of each, tails of panels, tiles and words.
const SIZES: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (1, 16, 4),
    (1, 200, 33),
    (2, 17, 64),
    (3, 40, 7),
    (5, 33, 96),
    (7, 64, 31),
    (12, 31, 128),
    (13, 48, 65),
    (25, 100, 576),
    (1, 576, 1536),
    (40, 5, 2),
];

fn words(element: Element, x: &[f32], columns: usize) -> Vec<u32> {
    match element {
        Element::F32 => f32_words(x).to_vec(),
        Element::Bf16 => {
            let panels = |row: &[f32]| -> Vec<u32> {
                let pair = |pair: &[f32]| {
                    let high = pair.get(1).map_or(0, |&it| bf16_bits(it));
                    u32::from(bf16_bits(pair[0])) | u32::from(high) << 16
                };
                row.chunks(2).map(pair).collect()
            };
            x.chunks_exact(columns).flat_map(panels).collect()
        }
    }
}

fn matrix(element: Element, values: &[f32], columns: usize) -> Panels {
    match element {
        Element::F32 => Panels::of_f32(values, columns),
        Element::Bf16 => Panels::of_bf16(values, columns),
    }
}

type Dense<'a> = dyn Fn(Element, &[u32], &Panels, Into, &mut [f32]) + 'a;

/// Whether `kernel` keeps the bound |error| ≤ (K + 2)·u·Σ|x·w| of an f32 sum in any order (Higham, *Accuracy and Stability*, §3.1),
/// u = 2⁻²⁴, on all sizes. Products of bf16 are exact in f32; `vdpbf16ps` takes subnormals as zero: 2⁻¹²⁶ a term.
fn dense_is_right(element: Element, kernel: &Dense<'_>) -> Result<(), String> {
    let mut numbers = Numbers(1);
    for (tokens, outputs, columns) in SIZES {
        let x = numbers.take(tokens * columns);
        let w = numbers.take(outputs * columns);
        let before = numbers.take(tokens * outputs);
        let (x_words, panels) = (words(element, &x, columns), matrix(element, &w, columns));
        for into in [Into::Replace, Into::Add] {
            let (mut expected, mut got) = (before.clone(), before.clone());
            dense::multiply_at(
                Isa::Reference,
                element,
                &x_words,
                &panels,
                into,
                &mut expected,
                &Team::new(1),
            );
            kernel(element, &x_words, &panels, into, &mut got);
            for (i, (&got, &expected)) in got.iter().zip(&expected).enumerate() {
                let (t, n) = (i / outputs, i % outputs);
                let scale: f32 = (0..columns)
                    .map(|k| (x[t * columns + k] * w[n * columns + k]).abs())
                    .sum();
                let bound =
                    (columns + 2) as f32 * f32::EPSILON / 2.0 * (scale + before[i].abs()) * 1.02;
                if (got - expected).abs() > bound {
                    let size = (tokens, outputs, columns);
                    return Err(format!(
                        "{element:?} {into:?} {size:?} [{t}, {n}]: {got} for {expected}"
                    ));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn dense_products_keep_the_bound_of_f32_sums() {
    for isa in fast() {
        for threads in [1, 2, 3] {
            let team = Team::new(threads);
            for element in [Element::F32, Element::Bf16] {
                dense_is_right(element, &|e, x, m, into, out| {
                    dense::multiply_at(isa, e, x, m, into, out, &team)
                })
                .unwrap_or_else(|wrong| panic!("{isa}: {wrong}"));
            }
        }
    }
}

#[test]
fn planted_bugs_in_dense_products_are_caught() {
    let team = Team::new(1);
    for isa in fast() {
        for element in [Element::F32, Element::Bf16] {
            let honest = |x: &[u32], m: &Panels, into, out: &mut [f32]| {
                dense::multiply_at(isa, element, x, m, into, out, &team);
            };
            // The last word of K is forgotten.
            let short: &Dense<'_> = &|_, x, m, into, out| {
                let cut = Panels::pack(m.rows(), m.words(), |row, at| {
                    if at + 1 == m.words() {
                        0
                    } else {
                        m.word(row, at)
                    }
                });
                honest(x, &cut, into, out);
            };
            // Two rows of a panel change places.
            let swapped: &Dense<'_> = &|_, x, m, into, out| {
                let swap = |row: usize| if row ^ 1 < m.rows() { row ^ 1 } else { row };
                honest(
                    x,
                    &Panels::pack(m.rows(), m.words(), |row, at| m.word(swap(row), at)),
                    into,
                    out,
                );
            };
            // A residual is overwritten.
            let forgetful: &Dense<'_> = &|_, x, m, _, out| honest(x, m, Into::Replace, out);
            for (name, bug) in [
                ("short", short),
                ("swapped", swapped),
                ("forgetful", forgetful),
            ] {
                assert!(
                    dense_is_right(element, bug).is_err(),
                    "{isa} {element:?} {name}"
                );
            }
        }
    }
}

type Integer<'a> = dyn Fn(&Bytes, &IntPanels, Into, &mut [f32]) + 'a;

/// Whether `kernel` is exact where all numbers are whole (scales 1, sums below 2²⁴), and within the rounding of an f32 sum over the groups
/// elsewhere, for codes of each width, with zero-points and with mins.
fn integer_is_right(bits: usize, kernel: &Integer<'_>) -> Result<(), String> {
    let mut numbers = Numbers(2);
    for (tokens, outputs, columns) in SIZES {
        for group in [32, 64, 4096] {
            for (is_whole, has_mins) in [(true, false), (false, false), (false, true)] {
                let codes: Vec<u8> = (0..outputs * columns)
                    .map(|_| numbers.below(1 << bits) as u8)
                    .collect();
                let halves: Vec<f16> = (0..1000).map(|_| f16::from_f32(numbers.next())).collect();
                let scale = |row: usize, g: usize| match is_whole {
                    true => f16::ONE,
                    false => halves[(row * 31 + g) % 1000],
                };
                let min = |row: usize, g: usize| halves[(row * 17 + g * 3) % 1000];
                let zero_or_min: Result<u8, OfGroup<'_>> = if has_mins {
                    Err(&min)
                } else {
                    Ok(1 << (bits - 1))
                };
                let code = |row: usize, k: usize| codes[row * columns + k];
                let panels =
                    IntPanels::pack((outputs, columns), bits, group, code, &scale, zero_or_min);
                // Whole inputs whose largest is 127 round to themselves; a few, so that sums stay below 2²⁴.
                let x: Vec<f32> = (0..tokens * columns)
                    .map(|i| match is_whole {
                        true if (i % columns).is_multiple_of(32) => -127.0,
                        true => numbers.below(7) as f32 - 3.0,
                        false => numbers.next(),
                    })
                    .collect();
                let x = Bytes::round(Isa::Reference, &x, columns, group, &Team::new(1));
                for into in [Into::Replace, Into::Add] {
                    let before = vec![if is_whole { 3.0 } else { 0.25 }; tokens * outputs];
                    let (mut expected, mut got) = (before.clone(), before);
                    integer::multiply_at(
                        Isa::Reference,
                        &x,
                        &panels,
                        into,
                        &mut expected,
                        &Team::new(1),
                    );
                    kernel(&x, &panels, into, &mut got);
                    for (i, (&got, &expected)) in got.iter().zip(&expected).enumerate() {
                        let (t, n) = (i / outputs, i % outputs);
                        // Three roundings a group (scale·s, products, sum) and the last one.
                        let size = |k: usize| (x.value(t, k) * panels.value(n, k)).abs();
                        let min_size =
                            |k: usize| (x.value(t, k) * min(n, k / panels.group()).to_f64()).abs();
                        let scale: f64 = (0..columns)
                            .map(|k| size(k) + 2.0 * f64::from(has_mins as u8) * min_size(k))
                            .sum();
                        let steps = (3 * panels.groups() + 2 * columns.min(256) + 3) as f64;
                        let bound = if is_whole {
                            0.0
                        } else {
                            steps * 2f64.powi(-24) * (scale + 0.25)
                        };
                        if f64::from((got - expected).abs()) > bound {
                            let what = format!(
                                "{bits} bits, group {group}, {tokens}×{outputs}×{columns}, whole {is_whole}, mins {has_mins}"
                            );
                            return Err(format!(
                                "{what} [{t}, {n}]: {got} for {expected}, bound {bound}"
                            ));
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn integer_products_are_exact() {
    for isa in fast() {
        let team = Team::new(2);
        for bits in 1..=8 {
            integer_is_right(bits, &|x, m, into, out| {
                integer::multiply_at(isa, x, m, into, out, &team)
            })
            .unwrap_or_else(|wrong| panic!("{isa}: {wrong}"));
        }
    }
}

#[test]
fn planted_bugs_in_integer_products_are_caught() {
    let team = Team::new(1);
    for isa in fast() {
        for bits in [2, 3, 4, 8] {
            let rebuilt = |m: &IntPanels, change: &(dyn Fn(u8) -> u8 + Sync)| {
                // Scale 1 and no offset: only the "whole" cases matter to this bug.
                let one = |_: usize, _: usize| f16::ONE;
                IntPanels::pack(
                    (m.rows(), m.columns()),
                    bits,
                    m.group(),
                    |n, k| change(m.code(n, k)),
                    &one,
                    Ok(1 << (bits - 1)),
                )
            };
            // The top bit of a code is lost (a shift of the wrong plane).
            let top_lost: &Integer<'_> = &|x, m, into, out| {
                let wrong = rebuilt(m, &|code| code & !(1 << (bits - 1)));
                integer::multiply_at(isa, x, &wrong, into, out, &team);
            };
            // The correction for unsigned codes is left out: zero-point 0.
            let uncorrected: &Integer<'_> = &|x, m, into, out| {
                let one = |_: usize, _: usize| f16::ONE;
                let wrong = IntPanels::pack(
                    (m.rows(), m.columns()),
                    bits,
                    m.group(),
                    |n, k| m.code(n, k),
                    &one,
                    Ok(0),
                );
                integer::multiply_at(isa, x, &wrong, into, out, &team);
            };
            for (name, bug) in [("top bit", top_lost), ("correction", uncorrected)] {
                assert!(integer_is_right(bits, bug).is_err(), "{isa} {bits} {name}");
            }
        }
    }
}

/// The saturation of `vpmaddubsw`: two products of 255 · 127 do not fit 16 bits. The largest codes and inputs must be exact.
#[test]
fn the_largest_codes_do_not_saturate() {
    for isa in fast() {
        for bits in 1..=8 {
            let top = ((1u32 << bits) - 1) as u8;
            let one = |_: usize, _: usize| f16::ONE;
            let panels = IntPanels::pack((16, 64), bits, 64, |_, _| top, &one, Ok(0));
            for sign in [1.0, -1.0] {
                let x = Bytes::round(isa, &[sign * 127.0; 64], 64, 64, &Team::new(1));
                let mut out = [0.0; 16];
                integer::multiply_at(isa, &x, &panels, Into::Replace, &mut out, &Team::new(1));
                assert_eq!(
                    out,
                    [sign * f32::from(top) * 127.0 * 64.0; 16],
                    "{isa} {bits}"
                );
            }
        }
    }
}

#[test]
fn inputs_are_rounded_alike_everywhere_and_to_nearest() {
    let mut numbers = Numbers(3);
    for (tokens, columns, group) in [(1, 1, 32), (3, 70, 32), (9, 576, 64), (2, 100, 4096)] {
        let mut x = numbers.take(tokens * columns);
        x[0] = 0.0;
        let reference = Bytes::round(Isa::Reference, &x, columns, group, &Team::new(1));
        for isa in Isa::here() {
            assert_eq!(
                Bytes::round(isa, &x, columns, group, &Team::new(2)),
                reference,
                "{isa}"
            );
        }
        for t in 0..tokens {
            for (k, &value) in x[t * columns..(t + 1) * columns].iter().enumerate() {
                let start = k / group * group;
                let row = &x[t * columns..][..columns];
                let top = row[start..columns.min(start + group)]
                    .iter()
                    .fold(0f32, |a, b| a.max(b.abs()));
                let step = f64::from(top) / 127.0;
                let error = (reference.value(t, k) - f64::from(value)).abs();
                assert!(
                    error <= step * 0.5001 + 1e-30,
                    "{value} is off by {error} of {step}"
                );
            }
        }
    }
    let tiny = Bytes::round(Isa::best(), &[1e-44, -1e-44], 2, 32, &Team::new(1));
    assert!(tiny.value(0, 0).abs() < 1e-38);
}

#[test]
fn batches_threads_and_blocks_do_not_change_a_bit() {
    let mut numbers = Numbers(4);
    let (tokens, outputs, columns) = (70, 100, 192);
    let x = numbers.take(tokens * columns);
    let w = numbers.take(outputs * columns);
    for isa in fast() {
        for element in [Element::F32, Element::Bf16] {
            let (x_words, panels) = (words(element, &x, columns), matrix(element, &w, columns));
            let mut whole = vec![0.0; tokens * outputs];
            dense::multiply_at(
                isa,
                element,
                &x_words,
                &panels,
                Into::Replace,
                &mut whole,
                &Team::new(2),
            );
            for batch in [1, 2, 3, 7, 12, 16] {
                let mut parts = vec![0.0; tokens * outputs];
                let inputs = x_words.chunks(batch * panels.words());
                for (x, out) in inputs.zip(parts.chunks_mut(batch * outputs)) {
                    dense::multiply_at(isa, element, x, &panels, Into::Replace, out, &Team::new(3));
                }
                assert!(
                    whole
                        .iter()
                        .zip(&parts)
                        .all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{isa} {batch}"
                );
            }
        }
    }
}

#[test]
fn norms_and_gates_are_right_and_alike_everywhere() {
    let mut numbers = Numbers(5);
    for (tokens, columns) in [(1, 1), (3, 17), (20, 576)] {
        let x = numbers.take(tokens * columns);
        let weight = numbers.take(columns);
        let of = |isa, threads| {
            let mut norm = vec![0.0; x.len()];
            rms_norm(isa, &x, &weight, 1e-5, &mut norm, &Team::new(threads));
            let mut gate = x.clone();
            swiglu(isa, &mut gate, &norm, columns, &Team::new(threads));
            (norm, gate)
        };
        let (norm, gate) = of(Isa::Reference, 1);
        for isa in Isa::here() {
            assert_eq!(of(isa, 2), (norm.clone(), gate.clone()), "{isa}");
        }
        for (t, row) in x.chunks(columns).enumerate() {
            let mean = row.iter().map(|&it| f64::from(it).powi(2)).sum::<f64>() / columns as f64;
            for k in 0..columns {
                let i = t * columns + k;
                let expected = f64::from(row[k]) / (mean + 1e-5).sqrt() * f64::from(weight[k]);
                assert!(
                    (f64::from(norm[i]) - expected).abs() <= expected.abs() * 40.0 * 2f64.powi(-24)
                );
                let x = f64::from(row[k]);
                let expected = x / (1.0 + (-x).exp()) * f64::from(norm[i]);
                assert!(
                    (f64::from(gate[i]) - expected).abs()
                        <= expected.abs() * 12.0 * 2f64.powi(-24) + 1e-37
                );
            }
        }
    }
}

#[test]
fn exp_is_right_to_three_units() {
    let mut worst = 0f64;
    for i in -8_700_000..=8_872_000 {
        let x = i as f32 * 1e-5;
        let expected = f64::from(x).exp();
        worst = worst.max((f64::from(exp(x)) - expected).abs() / expected);
    }
    assert!(worst < 3.0 * 2f64.powi(-23), "{worst}");
    assert_eq!(
        (exp(0.0), exp(f32::NEG_INFINITY), exp(-88.0)),
        (1.0, 0.0, 0.0)
    );
    assert_eq!(exp(100.0), f32::INFINITY);
    assert!(exp(f32::NAN).is_nan());
}

/// Keys and values of `tokens` positions in blocks; what lies beyond is a large finite number that must not matter.
struct Stored(Vec<(Vec<Line>, Vec<Line>)>);

impl Stored {
    fn new(keys: &[f32], values: &[f32], head_dim: usize) -> Stored {
        let tokens = keys.len() / head_dim;
        let lines = attention::block_lines(head_dim);
        let empty = || vec![Line([1e30f32.to_bits(); 16]); lines];
        let mut blocks: Vec<_> = (0..tokens.div_ceil(BLOCK))
            .map(|_| (empty(), empty()))
            .collect();
        for t in 0..tokens {
            for i in 0..head_dim {
                let (line, lane) = attention::key_place(head_dim, t % BLOCK, i);
                blocks[t / BLOCK].0[line].0[lane] = keys[t * head_dim + i].to_bits();
                let (line, lane) = attention::value_place(t % BLOCK, i);
                blocks[t / BLOCK].1[line].0[lane] = values[t * head_dim + i].to_bits();
            }
        }
        Stored(blocks)
    }
}

impl Blocks for &Stored {
    fn block(&mut self, index: usize) -> Block<'_> {
        let (keys, values) = &self.0[index];
        Block { keys, values }
    }
}

type Attend<'a> = dyn Fn(&[f32], &[usize], Mask, &Stored, &mut [f32]) + 'a;

/// Whether `kernel` is within 2 × the error of a plain f32 softmax (measured against f64) plus a few roundings.
fn attention_is_right(kernel: &Attend<'_>) -> Result<(), String> {
    let mut numbers = Numbers(6);
    for (positions, head_dim) in [
        (vec![0], 16),
        (vec![5, 5, 5], 64),
        ((0..70).collect::<Vec<_>>(), 32),
        (vec![63, 64, 65, 128], 64),
        ((190..200).collect(), 16),
    ] {
        for window in [None, Some(1), Some(40)] {
            let tokens = positions.iter().max().unwrap() + 1;
            let (keys, values) = (
                numbers.take(tokens * head_dim),
                numbers.take(tokens * head_dim),
            );
            let queries: Vec<f32> = numbers
                .take(positions.len() * head_dim)
                .iter()
                .map(|it| it * 0.2)
                .collect();
            let stored = Stored::new(&keys, &values, head_dim);
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
                let bound = steps * f32::EPSILON / 2.0 * spread;
                for i in r * head_dim..(r + 1) * head_dim {
                    if got[i].is_nan() || (got[i] - expected[i]).abs() > bound {
                        return Err(format!(
                            "{position} {window:?} {}: {} for {}, bound {bound}",
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

#[test]
fn attention_is_softmax_over_the_visible_keys() {
    for isa in fast() {
        attention_is_right(&|q, p, mask, stored, out| {
            attention::attend(isa, q, p, mask, stored, out, &mut Scratch::default());
        })
        .unwrap_or_else(|wrong| panic!("{isa}: {wrong}"));
    }
}

#[test]
fn planted_bugs_in_attention_are_caught() {
    for isa in fast() {
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
        for (name, bug) in [("off by one", off_by_one), ("wide", wide), ("log2", log2)] {
            assert!(attention_is_right(bug).is_err(), "{isa} {name}");
        }
    }
}

#[test]
fn a_row_of_attention_does_not_depend_on_the_others() {
    let mut numbers = Numbers(7);
    let (tokens, head_dim) = (150, 64);
    let stored = Stored::new(
        &numbers.take(tokens * head_dim),
        &numbers.take(tokens * head_dim),
        head_dim,
    );
    let queries = numbers.take(tokens * head_dim);
    let positions: Vec<usize> = (0..tokens).collect();
    for isa in fast() {
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
            assert!(run(chunk) == whole, "{isa} {chunk}");
        }
    }
}

#[test]
fn values_of_bf16_bits_come_back() {
    assert_eq!(bf16_value(bf16_bits(1.5)), 1.5);
}
