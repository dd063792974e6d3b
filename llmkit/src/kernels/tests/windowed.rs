//! bf16 in windows: the same bits as panels, in memory and in products.

use super::{Numbers, SIZES, fast};
use crate::kernels::dense::{Element, Into, multiply_at};
use crate::kernels::isa::Isa;
use crate::kernels::panel::{LANES, Panels, bf16_bits};
use crate::kernels::product::{Matrix, Product, multiply_all};
use crate::kernels::team::Team;
use crate::kernels::windowed::Windowed;

/// Values of very different sizes, and what bf16 has besides numbers.
fn values(numbers: &mut Numbers, count: usize) -> Vec<f32> {
    (0..count)
        .map(|_| match numbers.below(40) {
            0 => 0.0,
            1 => -0.0,
            2 => f32::INFINITY,
            3 => f32::NAN,
            4 => 1e-40 * numbers.next(),
            5 => 3e38 * numbers.next(),
            6..10 => 1e-7 * numbers.next(),
            _ => numbers.next(),
        })
        .collect()
}

type Unpack<'a> = dyn Fn(&Panels) -> Panels + 'a;

/// Whether `unpack` gives back what was packed.
fn nothing_is_lost(unpack: &Unpack<'_>) -> Result<(), String> {
    let mut numbers = Numbers(31);
    for (_, rows, columns) in SIZES {
        let panels = Panels::of_bf16(&values(&mut numbers, rows * columns), columns);
        if unpack(&panels) != panels {
            return Err(format!("{rows} × {columns}"));
        }
    }
    Ok(())
}

#[test]
fn matrices_come_back_to_the_bit() {
    for isa in Isa::here() {
        nothing_is_lost(&|it| Windowed::of(it).panels(isa))
            .unwrap_or_else(|size| panic!("{isa}: {size}"));
    }
}

#[test]
fn planted_losses_are_caught() {
    let change = |it: &Panels, change: fn(u32) -> u32| {
        let same = Windowed::of(it).panels(Isa::Reference);
        Panels::pack(it.rows(), it.words(), |row, at| change(same.word(row, at)))
    };
    let bugs: [(&str, &Unpack<'_>); 4] = [
        ("zeros lose their sign", &|it| {
            change(it, |word| {
                if word & 0x7fff == 0 {
                    word & !0x8000
                } else {
                    word
                }
            })
        }),
        ("subnormals are zero", &|it| {
            change(it, |word| {
                if word & 0x7f80 == 0 {
                    word & !0x7f
                } else {
                    word
                }
            })
        }),
        ("no number is infinite", &|it| {
            change(it, |word| {
                if word & 0x7f80 == 0x7f80 {
                    word & !0x7f
                } else {
                    word
                }
            })
        }),
        ("elements of a word change places", &|it| {
            change(it, |word| word.rotate_left(16))
        }),
    ];
    for (name, bug) in bugs {
        assert!(nothing_is_lost(bug).is_err(), "{name}");
    }
}

type Multiply<'a> = dyn Fn(&[u32], &Panels, Into, &mut [f32]) + 'a;

/// Whether `kernel` gives the bits that panels give, where rows of the matrix have elements outside of their windows, in any
/// panel of a tile, in the first and the last word, and several in one.
fn products_are_the_same(isa: Isa, kernel: &Multiply<'_>) -> Result<(), String> {
    let mut numbers = Numbers(32);
    for (tokens, outputs, columns) in SIZES.into_iter().chain([(16, 300, 70), (1, 1000, 64)]) {
        let x: Vec<f32> = numbers.take(tokens * columns);
        let x = Panels::of_bf16(&x, columns);
        let x: Vec<u32> = (0..tokens * x.words())
            .map(|at| x.word(at / x.words(), at % x.words()))
            .collect();
        let mut w = numbers.take(outputs * columns);
        for (at, w) in w.iter_mut().enumerate() {
            let (row, column) = (at / columns, at % columns);
            let is_edge = column == 0 || column + 1 == columns;
            if (is_edge && row % LANES == 3) || numbers.below(50) == 0 {
                *w *= 1e-6;
            }
        }
        let panels = Panels::of_bf16(&w, columns);
        for into in [Into::Replace, Into::Add] {
            let before = numbers.take(tokens * outputs);
            let (mut expected, mut got) = (before.clone(), before);
            let team = Team::new(1);
            multiply_at(isa, Element::Bf16, &x, &panels, into, &mut expected, &team);
            kernel(&x, &panels, into, &mut got);
            let same = expected
                .iter()
                .zip(&got)
                .all(|(a, b)| a.to_bits() == b.to_bits());
            if !same {
                return Err(format!("{into:?} {tokens} × {outputs} × {columns}"));
            }
        }
    }
    Ok(())
}

/// What a row's word becomes.
type Change<'a> = dyn Fn(usize, usize, u32) -> u32 + Sync + 'a;

fn multiply(isa: Isa, x: &[u32], matrix: &Windowed, into: Into, out: &mut [f32], team: &Team) {
    let matrix = Matrix::Windowed { x, matrix };
    multiply_all(isa, &mut [Product { matrix, into, out }], team);
}

#[test]
fn products_have_the_bits_of_panels() {
    for isa in Isa::here() {
        for threads in [1, 3] {
            let team = Team::new(threads);
            products_are_the_same(isa, &|x, panels, into, out| {
                multiply(isa, x, &Windowed::of(panels), into, out, &team)
            })
            .unwrap_or_else(|size| panic!("{isa}: {size}"));
        }
    }
}

#[test]
fn planted_bugs_in_products_are_caught() {
    let team = Team::new(1);
    for isa in fast() {
        let change = |panels: &Panels, change: &Change<'_>| {
            let word = |row, at| change(row, at, panels.word(row, at));
            Windowed::of(&Panels::pack(panels.rows(), panels.words(), word))
        };
        let tiny = u32::from(bf16_bits(1e-5));
        let is_tiny = |word: u32| word & 0x7fff != 0 && word & 0x7fff < tiny;
        // What is outside of a window is taken for zero; only in the second elements; only in the last word.
        let rules: [(&str, &Change<'_>); 3] = [
            ("no patches", &|_, _, word| {
                let first = if is_tiny(word) { 0 } else { word & 0xffff };
                let second = if is_tiny(word >> 16) { 0 } else { word >> 16 };
                first | second << 16
            }),
            ("half of the patches", &|_, _, word| {
                if is_tiny(word >> 16) {
                    word & 0xffff
                } else {
                    word
                }
            }),
            ("not the last patch", &|row, at, word| {
                if row % LANES == 3 && at == 0 && is_tiny(word) {
                    word & !0xffff
                } else {
                    word
                }
            }),
        ];
        for (name, rule) in rules {
            let bug: &Multiply<'_> = &|x, panels, into, out| {
                multiply(isa, x, &change(panels, rule), into, out, &team);
            };
            assert!(products_are_the_same(isa, bug).is_err(), "{isa}: {name}");
        }
    }
}

#[test]
fn rows_are_what_they_were_and_bytes_three_quarters() {
    let (rows, columns) = (40, 600);
    let mut numbers = Numbers(33);
    let values: Vec<f32> = (numbers.take(rows * columns).iter())
        .map(|it| crate::kernels::panel::bf16_value(bf16_bits(*it)))
        .collect();
    let panels = Panels::of_bf16(&values, columns);
    let packed = Windowed::of(&panels);
    assert!(packed.outside() > 0, "numbers as close to zero as these");
    let mut row = vec![0.0; columns];
    for (n, values) in values.chunks(columns).enumerate() {
        packed.row(n, &mut row);
        assert_eq!(row, values);
    }
    let ratio = packed.bytes() as f64 / panels.bytes() as f64;
    assert!((0.75..0.77).contains(&ratio), "{ratio}");
}

#[test]
fn what_has_no_windows_stays_in_panels() {
    let mut numbers = Numbers(34);
    // Half of the elements are nearly zero.
    let mut half = |other: f32| -> Vec<f32> {
        let numbers = numbers.take(64 * 64).into_iter().enumerate();
        numbers
            .map(|(at, it)| if at % 2 == 0 { 1.0 + it } else { other * it })
            .collect()
    };
    let w = half(1e-9);
    assert!(Windowed::of_f32(&w, 64).is_none());
    // Zeros have a code, as of a pruned matrix.
    for other in [0.0, -0.0] {
        let pruned = half(other);
        let packed = Windowed::of_f32(&pruned, 64).unwrap();
        assert!(packed.panels(Isa::best()) == Panels::of_bf16(&pruned, 64));
        assert!(packed.outside() <= 2, "{}", packed.outside());
    }
}
