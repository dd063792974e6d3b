//! Products with codes in groups, and the rounding of their inputs.

use half::f16;

use super::{Numbers, SIZES, fast};
use crate::kernels::dense::Into;
use crate::kernels::integer::{self, Bytes, IntPanels, OfGroup};
use crate::kernels::isa::Isa;
use crate::kernels::team::Team;

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
