//! Gram matrices.

use super::{Numbers, UNIT, fast};
use crate::kernels::dense::Element;
use crate::kernels::gram::{SLAB, gram_at, magnitudes};
use crate::kernels::isa::Isa;
use crate::kernels::team::Team;

type Gram<'a> = dyn Fn(Element, &[f32], usize, &mut [f32]) + 'a;

/// Whether `kernel` keeps the bound (T + 2)·u·Σ|x·y| of f32 sums (Higham, §3.1) in the lower triangle, and adds to what was there.
fn gram_is_right(element: Element, kernel: &Gram<'_>) -> Result<(), String> {
    let mut numbers = Numbers(31);
    let sizes = [
        (0, 5),
        (1, 1),
        (1, 17),
        (2, 16),
        (3, 33),
        (65, 200),
        (SLAB + 3, 40),
        (31, 400),
    ];
    for (tokens, columns) in sizes {
        let x = numbers.take(tokens * columns);
        let before = numbers.take(columns * columns);
        let (mut expected, mut got) = (before.clone(), before.clone());
        let team = Team::new(1);
        gram_at(Isa::Reference, element, &x, columns, &mut expected, &team);
        kernel(element, &x, columns, &mut got);
        for i in 0..columns {
            for j in 0..=i {
                let size: f64 = (0..tokens)
                    .map(|t| f64::from((x[t * columns + i] * x[t * columns + j]).abs()))
                    .sum();
                let at = i * columns + j;
                let bound =
                    (tokens + 4) as f64 * UNIT * (size + f64::from(before[at].abs())) * 1.02;
                let error = f64::from(got[at] - expected[at]).abs();
                if error > bound {
                    return Err(format!(
                        "{element:?} [{i}, {j}] of ({tokens}, {columns}): {} for {}",
                        got[at], expected[at]
                    ));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn gram_matrices_keep_the_bound_of_f32_sums() {
    for isa in fast() {
        for threads in [1, 2, 3] {
            let team = Team::new(threads);
            for element in [Element::F32, Element::Bf16] {
                gram_is_right(element, &|element, x, columns, out| {
                    gram_at(isa, element, x, columns, out, &team);
                })
                .unwrap_or_else(|wrong| panic!("{isa}: {wrong}"));
            }
        }
    }
}

#[test]
fn planted_bugs_in_gram_matrices_are_caught() {
    let team = Team::new(2);
    for isa in fast() {
        for element in [Element::F32, Element::Bf16] {
            let honest = |x: &[f32], columns, out: &mut [f32]| {
                gram_at(isa, element, x, columns, out, &team);
            };
            // The last row of an odd number is forgotten (half of a bf16 word).
            let odd: &Gram<'_> = &|_, x, columns, out| {
                let rows = x.len() / columns / 2 * 2;
                honest(&x[..rows * columns], columns, out);
            };
            // The triangle is the other one.
            let upper: &Gram<'_> = &|_, x, columns, out| {
                honest(x, columns, out);
                let copy = out.to_vec();
                for i in 0..columns {
                    for j in 0..i {
                        out[i * columns + j] = copy[j * columns + i];
                    }
                }
            };
            // A second slab replaces the first.
            let slabs: &Gram<'_> = &|_, x, columns, out| {
                let last = (x.len() / columns).saturating_sub(1) / SLAB * SLAB;
                honest(&x[last * columns..], columns, out);
            };
            for (name, bug) in [("odd", odd), ("upper", upper), ("slabs", slabs)] {
                assert!(
                    gram_is_right(element, bug).is_err(),
                    "{isa} {element:?} {name}"
                );
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let x = Numbers(5).take(70 * 260);
    for isa in fast() {
        let run = |threads| {
            let mut out = vec![0.0; 260 * 260];
            gram_at(isa, Element::F32, &x, 260, &mut out, &Team::new(threads));
            out
        };
        assert!(run(1) == run(3), "{isa}");
    }
}

#[test]
fn magnitudes_are_sums_and_greatest_of_each_column() {
    for (tokens, columns) in [(0, 3), (1, 1), (7, 200), (2 * SLAB + 1, 33)] {
        let x = Numbers(77).take(tokens * columns);
        for isa in Isa::here() {
            let (mut sums, mut greatest) = (vec![0.5; columns], vec![0.25; columns]);
            magnitudes(isa, &x, columns, &mut sums, &mut greatest, &Team::new(2));
            for k in 0..columns {
                let column: Vec<f64> = (0..tokens)
                    .map(|t| f64::from(x[t * columns + k].abs()))
                    .collect();
                let sum = column.iter().sum::<f64>() + 0.5;
                assert!(
                    (sums[k] - sum).abs() <= tokens as f64 * UNIT * sum,
                    "{isa} {k}"
                );
                let most = column.iter().fold(0.25f64, |a, &b| a.max(b));
                assert_eq!(f64::from(greatest[k]), most, "{isa} {k}");
            }
        }
    }
    let (mut sums, mut greatest) = (vec![0.0; 2], vec![0.0; 2]);
    let x = [1.0, f32::NAN, 2.0, 3.0];
    magnitudes(Isa::best(), &x, 2, &mut sums, &mut greatest, &Team::new(1));
    assert!(sums[0] == 3.0 && greatest[0] == 2.0 && sums[1].is_nan());
}
