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
fn values_of_bf16_bits_come_back() {
    assert_eq!(bf16_value(bf16_bits(1.5)), 1.5);
}
