//! Matrices in panels, and the rounding to bf16.

use half::bf16;

use super::Numbers;
use crate::kernels::activation::to_bf16;
use crate::kernels::isa::Isa;
use crate::kernels::panel::{LANES, Panels, bf16_bits};
use crate::kernels::team::Team;

/// (N, K): one of each, tails of panels and of words.
const SIZES: [(usize, usize); 8] = [
    (1, 1),
    (16, 3),
    (17, 2),
    (15, 7),
    (33, 16),
    (40, 5),
    (64, 31),
    (100, 24),
];

type Pack<'a> = dyn Fn(&[f32], usize) -> (Panels, Panels) + 'a;

/// Whether `kernel`'s f32 and bf16 panels hold each element in its lane, line and half, and zero everywhere else.
fn layout_is_right(kernel: &Pack<'_>) -> Result<(), String> {
    let mut numbers = Numbers(11);
    for (rows, columns) in SIZES {
        let values = numbers.take(rows * columns);
        let (whole, halves) = kernel(&values, columns);
        for panel in 0..rows.div_ceil(LANES) {
            for lane in 0..LANES {
                let row = panel * LANES + lane;
                let value = |k: usize| match row < rows && k < columns {
                    true => values[row * columns + k],
                    false => 0.0,
                };
                for at in 0..columns {
                    let got = whole.lines()[panel * columns + at].0[lane];
                    if got != value(at).to_bits() {
                        return Err(format!("f32 {rows}×{columns} [{row}, {at}]: {got:#x}"));
                    }
                }
                for at in 0..columns.div_ceil(2) {
                    let bits = |k: usize| u32::from(bf16::from_f32(value(k)).to_bits());
                    let got = halves.lines()[panel * columns.div_ceil(2) + at].0[lane];
                    if got != bits(2 * at) | bits(2 * at + 1) << 16 {
                        return Err(format!("bf16 {rows}×{columns} [{row}, {at}]: {got:#x}"));
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn elements_are_where_the_kernels_look_for_them() {
    layout_is_right(&|values, columns| {
        (
            Panels::of_f32(values, columns),
            Panels::of_bf16(values, columns),
        )
    })
    .unwrap();
}

#[test]
fn planted_bugs_in_layouts_are_caught() {
    let word = |a: f32, b: f32| u32::from(bf16_bits(a)) | u32::from(bf16_bits(b)) << 16;
    // What lies behind a row's end is taken for its last element's neighbour.
    let leaking: &Pack<'_> = &|values, columns| {
        let halves =
            Panels::pack(
                values.len() / columns,
                columns.div_ceil(2),
                |row, at| match values[row * columns + 2 * at..] {
                    [a, b, ..] => word(a, b),
                    [a] => word(a, 0.0),
                    [] => 0,
                },
            );
        (Panels::of_f32(values, columns), halves)
    };
    // The two elements of a word change places.
    let swapped: &Pack<'_> = &|values, columns| {
        let right = Panels::of_bf16(values, columns);
        let halves = Panels::pack(right.rows(), right.words(), |row, at| {
            right.word(row, at).rotate_left(16)
        });
        (Panels::of_f32(values, columns), halves)
    };
    // Rounded towards zero.
    let cut: &Pack<'_> = &|values, columns| {
        let cut: Vec<f32> = values
            .iter()
            .map(|it| f32::from_bits(it.to_bits() & 0xffff_0000))
            .collect();
        (
            Panels::of_f32(values, columns),
            Panels::of_bf16(&cut, columns),
        )
    };
    // The rows of the last panel begin where the one before it did.
    let repeated: &Pack<'_> = &|values, columns| {
        let rows = values.len() / columns;
        let whole = Panels::pack(rows, columns, |row, at| {
            let from = if row >= LANES { row - LANES } else { row };
            values[from * columns + at].to_bits()
        });
        (whole, Panels::of_bf16(values, columns))
    };
    for (name, bug) in [
        ("leaking", leaking),
        ("swapped", swapped),
        ("cut", cut),
        ("repeated", repeated),
    ] {
        assert!(layout_is_right(bug).is_err(), "{name}");
    }
}

/// Ties, the numbers beside them, the largest, subnormals, infinities, NaN of both signs and with low bits alone.
#[test]
fn bf16_rounds_ties_to_even_and_planted_bugs_are_caught() {
    let is_right = |round: &dyn Fn(f32) -> u16| {
        (0..=0xffffu32).all(|high| {
            [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].iter().all(|low| {
                let value = f32::from_bits(high << 16 | low);
                let got = bf16::from_bits(round(value));
                match value.is_nan() {
                    true => got.is_nan(),
                    false => got.to_bits() == bf16::from_f32(value).to_bits(),
                }
            })
        })
    };
    assert!(is_right(&bf16_bits));
    let cut = |value: f32| (value.to_bits() >> 16) as u16;
    let away = |value: f32| (value.to_bits().wrapping_add(0x8000) >> 16) as u16;
    let ties_only = |value: f32| {
        let bits = value.to_bits();
        (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
    };
    assert!(!is_right(&cut), "towards zero");
    assert!(!is_right(&away), "ties away from zero");
    assert!(!is_right(&ties_only), "a NaN becomes an infinity");
}

type Halves<'a> = dyn Fn(&[f32], usize) -> Vec<u32> + 'a;

/// Whether `kernel` puts each element of each row into its half of its word, rounded, and zero behind an odd end.
fn halves_are_right(kernel: &Halves<'_>) -> Result<(), String> {
    let mut numbers = Numbers(12);
    for (rows, columns) in [(0, 3), (1, 1), (3, 17), (7, 64), (8, 33), (21, 576)] {
        let mut x = numbers.take(rows * columns);
        // What processors may round in ways of their own.
        let odd = [
            1e-40,
            f32::INFINITY,
            -1e-39,
            f32::MAX,
            -f32::NAN,
            f32::MIN_POSITIVE,
        ];
        for (x, odd) in x.iter_mut().step_by(7).zip(odd) {
            *x = odd;
        }
        if let Some(last) = x.last_mut() {
            *last = f32::NAN;
        }
        let words = columns.div_ceil(2);
        let got = kernel(&x, columns);
        if got.len() != rows * words {
            return Err(format!("{rows}×{columns}: {} words", got.len()));
        }
        for (i, word) in got.iter().enumerate() {
            let row = &x[i / words * columns..][..columns];
            for (k, bits) in [(0, *word as u16), (1, (word >> 16) as u16)] {
                let expected = row.get(i % words * 2 + k).copied().unwrap_or(0.0);
                let (got, expected) = (bf16::from_bits(bits), bf16::from_f32(expected));
                let is_equal = got.to_bits() == expected.to_bits();
                let is_nan = got.is_nan() && expected.is_nan();
                if !(is_equal || is_nan) {
                    return Err(format!("{rows}×{columns} word {i}: {got} for {expected}"));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn inputs_become_bf16_alike_everywhere_and_planted_bugs_are_caught() {
    let team = Team::new(2);
    for isa in Isa::here() {
        halves_are_right(&|x, columns| to_bf16(isa, x, columns, &team))
            .unwrap_or_else(|wrong| panic!("{isa}: {wrong}"));
        // The rows are one long row: behind an odd end comes the next one.
        let flat: &Halves<'_> = &|x, _| to_bf16(isa, x, x.len().max(1), &team);
        // Rounded towards zero, a NaN to an infinity.
        let cut: &Halves<'_> = &|x, columns| {
            let cut = |it: &f32| f32::from_bits(it.to_bits() & 0xff80_0000);
            let x: Vec<f32> = x.iter().map(cut).collect();
            to_bf16(isa, &x, columns, &team)
        };
        // The two halves change places.
        let swapped: &Halves<'_> = &|x, columns| {
            let words = to_bf16(isa, x, columns, &team);
            words.into_iter().map(|it| it.rotate_left(16)).collect()
        };
        // Subnormal numbers are taken as zero, as the processor's conversion does.
        let flushed: &Halves<'_> = &|x, columns| {
            let flush = |&it: &f32| if it.is_subnormal() { 0.0 * it } else { it };
            let x: Vec<f32> = x.iter().map(flush).collect();
            to_bf16(isa, &x, columns, &team)
        };
        let bugs = [
            ("flat", flat),
            ("cut", cut),
            ("swapped", swapped),
            ("flushed", flushed),
        ];
        for (name, bug) in bugs {
            assert!(halves_are_right(bug).is_err(), "{isa} {name}");
        }
    }
}
