//! Products with codes in groups.

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

/// Scale and min (−scale · zero, if there are none) of a group, from two elements whose codes differ; (0, value) if there are none.
fn scale_and_min(m: &IntPanels, row: usize, group: usize) -> (f64, f64) {
    let columns = group * m.group()..m.columns().min((group + 1) * m.group());
    let of = |k: usize| (f64::from(m.code(row, k)), m.value(row, k));
    let (code, value) = of(columns.start);
    let other = columns.map(of).find(|(other, _)| *other != code);
    let scale = other.map_or(0.0, |(c, v)| (v - value) / (c - code));
    (scale, value - scale * code)
}

#[test]
fn rows_are_their_values() {
    let (rows, columns) = (19, 70);
    for bits in 1..=8 {
        for (group, has_mins) in [(32, false), (64, true), (4096, false)] {
            let code = |n: usize, k: usize| ((n * 31 + k * 7) % (1 << bits)) as u8;
            let scale = |n: usize, g: usize| f16::from_f32(0.1 + (n + 3 * g) as f32 * 0.01);
            let min = |n: usize, g: usize| f16::from_f32((n % 5) as f32 * 0.3 - g as f32);
            let zero_or_min: Result<u8, OfGroup<'_>> = match has_mins {
                true => Err(&min),
                false => Ok(1),
            };
            let matrix = IntPanels::pack((rows, columns), bits, group, code, &scale, zero_or_min);
            for n in 0..rows {
                let mut row = vec![f32::NAN; columns];
                matrix.row(n, &mut row);
                let expected = (0..columns).map(|k| matrix.value(n, k) as f32);
                assert!(expected.eq(row), "{bits} bits in {group}, row {n}");
            }
        }
    }
}

#[test]
fn planted_bugs_in_integer_products_are_caught() {
    let team = Team::new(1);
    for isa in fast() {
        for bits in 1..=8 {
            // The matrix again, with something changed: codes, scales, mins.
            let rebuilt = |m: &IntPanels,
                           code: &(dyn Fn(usize, usize) -> u8 + Sync),
                           scale_group: &(dyn Fn(usize) -> usize + Sync),
                           min: f64| {
                let scale = |n, g| f16::from_f64(scale_and_min(m, n, scale_group(g)).0);
                let min = |n, g| f16::from_f64(min * scale_and_min(m, n, g).1);
                let shape = (m.rows(), m.columns());
                IntPanels::pack(shape, bits, m.group(), code, &scale, Err(&min))
            };
            let run = |x: &Bytes, wrong: &IntPanels, into, out: &mut [f32]| {
                integer::multiply_at(isa, x, wrong, into, out, &team);
            };
            // The top bit of a code is lost (a shift of the wrong plane).
            let top_lost: &Integer<'_> = &|x, m, into, out| {
                let code = |n, k| m.code(n, k) & !(1 << (bits - 1));
                run(x, &rebuilt(m, &code, &|g| g, 1.0), into, out);
            };
            // The correction by Σ q is left out: neither zero-point nor mins.
            let uncorrected: &Integer<'_> = &|x, m, into, out| {
                run(x, &rebuilt(m, &|n, k| m.code(n, k), &|g| g, 0.0), into, out);
            };
            // The scale is that of the group before.
            let late: &Integer<'_> = &|x, m, into, out| {
                let before = |g: usize| g.saturating_sub(1);
                run(
                    x,
                    &rebuilt(m, &|n, k| m.code(n, k), &before, 1.0),
                    into,
                    out,
                );
            };
            // Two codes of a word change places.
            let swapped: &Integer<'_> = &|x, m, into, out| {
                let code = |n, k: usize| m.code(n, if k ^ 1 < m.columns() { k ^ 1 } else { k });
                run(x, &rebuilt(m, &code, &|g| g, 1.0), into, out);
            };
            // A residual is overwritten.
            let forgetful: &Integer<'_> = &|x, m, _, out| run(x, m, Into::Replace, out);
            for (name, bug) in [
                ("top bit", top_lost),
                ("correction", uncorrected),
                ("late scale", late),
                ("swapped", swapped),
                ("forgetful", forgetful),
            ] {
                assert!(integer_is_right(bits, bug).is_err(), "{isa} {bits} {name}");
            }
        }
    }
}

/// Many rows of a narrow matrix, and more rows than a block of a long one has.
#[test]
fn batches_threads_and_blocks_do_not_change_a_bit() {
    let mut numbers = Numbers(24);
    for (tokens, outputs, columns) in [(70, 100, 192), (50, 17, 1 << 15)] {
        let x = numbers.take(tokens * columns);
        let codes: Vec<u8> = (0..outputs * columns)
            .map(|_| numbers.below(256) as u8)
            .collect();
        for bits in [2, 3, 4, 5, 8] {
            let code = |n: usize, k: usize| codes[n * columns + k] >> (8 - bits);
            let scale = |n: usize, g: usize| f16::from_f32(0.01 + (n * 7 + g) as f32 * 1e-4);
            let min = |n: usize, g: usize| f16::from_f32((n + g) as f32 * -1e-3);
            let panels = IntPanels::pack((outputs, columns), bits, 32, code, &scale, Err(&min));
            for isa in fast() {
                let run = |batch: usize, threads: usize| -> Vec<u32> {
                    let team = Team::new(threads);
                    let mut out = vec![0.0; tokens * outputs];
                    for (x, out) in x
                        .chunks(batch * columns)
                        .zip(out.chunks_mut(batch * outputs))
                    {
                        let x = Bytes::round(isa, x, columns, 32, &team);
                        integer::multiply_at(isa, &x, &panels, Into::Replace, out, &team);
                    }
                    out.iter().map(|it| it.to_bits()).collect()
                };
                let whole = run(tokens, 2);
                for batch in [1, 3, 12, 16] {
                    assert!(run(batch, 3) == whole, "{isa} {bits} {batch}");
                }
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
