//! Products with f32 and bf16 elements.

use super::{Numbers, SIZES, fast};
use crate::kernels::dense::{self, Element, Into, f32_words};
use crate::kernels::isa::Isa;
use crate::kernels::panel::{Panels, bf16_bits, bf16_value};
use crate::kernels::team::Team;

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
            // Rows of the second tile read the input of the first.
            let repeated: &Dense<'_> = &|_, x, m, into, out| {
                let mut again = x.to_vec();
                let tile = (12 * m.words()).min(x.len());
                for (at, word) in again.iter_mut().enumerate().skip(tile) {
                    *word = x[at - tile];
                }
                honest(&again, m, into, out);
            };
            // The last output of a ragged panel is not written.
            let ragged: &Dense<'_> = &|_, x, m, into, out| {
                let before = out.to_vec();
                honest(x, m, into, out);
                if !m.rows().is_multiple_of(16) {
                    for (row, before) in out.chunks_mut(m.rows()).zip(before.chunks(m.rows())) {
                        row[m.rows() - 1] = before[m.rows() - 1];
                    }
                }
            };
            for (name, bug) in [
                ("short", short),
                ("swapped", swapped),
                ("forgetful", forgetful),
                ("repeated", repeated),
                ("ragged", ragged),
            ] {
                assert!(
                    dense_is_right(element, bug).is_err(),
                    "{isa} {element:?} {name}"
                );
            }
        }
    }
}

/// Many rows of a narrow matrix, and more rows than a block of a long one has.
#[test]
fn batches_threads_and_blocks_do_not_change_a_bit() {
    let mut numbers = Numbers(4);
    for (tokens, outputs, columns) in [(70, 100, 192), (25, 17, 1 << 15)] {
        let x = numbers.take(tokens * columns);
        let w = numbers.take(outputs * columns);
        for isa in fast() {
            for element in [Element::F32, Element::Bf16] {
                let (x_words, panels) = (words(element, &x, columns), matrix(element, &w, columns));
                let run = |batch: usize, threads: usize| -> Vec<u32> {
                    let team = Team::new(threads);
                    let mut out = vec![0.0; tokens * outputs];
                    let inputs = x_words.chunks(batch * panels.words());
                    for (x, out) in inputs.zip(out.chunks_mut(batch * outputs)) {
                        dense::multiply_at(isa, element, x, &panels, Into::Replace, out, &team);
                    }
                    out.iter().map(|it| it.to_bits()).collect()
                };
                let whole = run(tokens, 2);
                for batch in [1, 2, 3, 7, 12, 16] {
                    assert!(run(batch, 3) == whole, "{isa} {element:?} {batch}");
                }
            }
        }
    }
}

/// A NaN or an infinity of an input row, or of a row of weights, reaches what depends on it, and nothing else.
#[test]
fn what_is_not_finite_stays_where_it_is() {
    let (tokens, outputs, columns) = (14, 19, 37);
    let mut numbers = Numbers(14);
    for isa in fast() {
        for element in [Element::F32, Element::Bf16] {
            for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = numbers.take(tokens * columns);
                let mut w = numbers.take(outputs * columns);
                x[3 * columns + columns - 1] = odd;
                w[17 * columns] = odd;
                let mut out = vec![0.0; tokens * outputs];
                let (x, w) = (words(element, &x, columns), matrix(element, &w, columns));
                dense::multiply_at(isa, element, &x, &w, Into::Replace, &mut out, &Team::new(2));
                for (i, it) in out.iter().enumerate() {
                    let is_clean = i / outputs != 3 && i % outputs != 17;
                    assert_eq!(it.is_finite(), is_clean, "{isa} {element:?} {odd} at {i}");
                }
            }
        }
    }
}

#[test]
fn values_of_bf16_bits_come_back() {
    assert_eq!(bf16_value(bf16_bits(1.5)), 1.5);
}
