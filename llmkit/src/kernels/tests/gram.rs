//! Gram matrices.

use super::{Numbers, UNIT, fast};
use crate::kernels::dense::Element;
use crate::kernels::gram::{Moments, SLAB, gram_at, moments_at};
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

/// Whether `kernel` has the Gram matrix of `gram_at`, bit for bit, and of each column the sum and the greatest of its magnitudes.
fn moments_are_right(isa: Isa, kernel: &dyn Fn(&[f32], usize, Moments<'_>)) -> Result<(), String> {
    let team = Team::new(1);
    for (tokens, columns) in [(0, 3), (1, 1), (7, 200), (2 * SLAB + 1, 33), (39, 16)] {
        let x = Numbers(77).take(tokens * columns);
        let (mut sums, mut greatest) = (vec![0.5; columns], vec![0.25; columns]);
        // What was there is replaced.
        let mut gram = vec![7.0; columns * columns];
        let moments = Moments {
            gram: &mut gram,
            sums: &mut sums,
            greatest: &mut greatest,
        };
        kernel(&x, columns, moments);
        let mut expected = vec![0.0; columns * columns];
        gram_at(isa, Element::Bf16, &x, columns, &mut expected, &team);
        for k in 0..columns {
            let row = k * columns..k * columns + k + 1;
            if gram[row.clone()] != expected[row] {
                return Err(format!("row {k} of {tokens} by {columns}"));
            }
            let column = (0..tokens).map(|t| f64::from(x[t * columns + k].abs()));
            let sum = column.clone().sum::<f64>() + 0.5;
            if (sums[k] - sum).abs() > tokens as f64 * UNIT * sum {
                return Err(format!("sum {k} of {tokens} by {columns}"));
            }
            if f64::from(greatest[k]) != column.fold(0.25, f64::max) {
                return Err(format!("greatest {k} of {tokens} by {columns}"));
            }
        }
    }
    Ok(())
}

#[test]
fn moments_are_gram_matrix_sums_and_greatest() {
    for isa in Isa::here() {
        for threads in [1, 2] {
            let team = Team::new(threads);
            moments_are_right(isa, &|x, columns, moments| {
                moments_at(isa, Element::Bf16, x, columns, moments, &team);
            })
            .unwrap_or_else(|wrong| panic!("{isa}: {wrong}"));
        }
    }
    let (mut gram, mut sums, mut greatest) = (vec![0.0; 4], vec![0.0; 2], vec![0.0; 2]);
    let moments = Moments {
        gram: &mut gram,
        sums: &mut sums,
        greatest: &mut greatest,
    };
    let x = [1.0, f32::NAN, 2.0, 3.0];
    moments_at(Isa::best(), Element::F32, &x, 2, moments, &Team::new(1));
    assert!(sums[0] == 3.0 && greatest[0] == 2.0 && sums[1].is_nan());
}

#[test]
fn planted_bugs_in_moments_are_caught() {
    let team = Team::new(1);
    for isa in Isa::here() {
        let honest = |x: &[f32], columns, moments: Moments<'_>| {
            moments_at(isa, Element::Bf16, x, columns, moments, &team);
        };
        // Magnitudes of what is already rounded to bf16.
        let rounded: &dyn Fn(&[f32], usize, Moments<'_>) = &|x, columns, moments| {
            let x: Vec<f32> = x
                .iter()
                .map(|&it| half::bf16::from_f32(it).to_f32())
                .collect();
            honest(&x, columns, moments);
        };
        // The last row of an odd number is not looked at.
        let odd: &dyn Fn(&[f32], usize, Moments<'_>) = &|x, columns, moments| {
            honest(&x[..x.len() / columns / 2 * 2 * columns], columns, moments);
        };
        // Added to the Gram matrix of before.
        let added: &dyn Fn(&[f32], usize, Moments<'_>) = &|x, columns, moments| {
            let before = moments.gram.to_vec();
            let gram = &mut *moments.gram;
            honest(
                x,
                columns,
                Moments {
                    gram: &mut *gram,
                    ..moments
                },
            );
            gram.iter_mut()
                .zip(before)
                .for_each(|(it, before)| *it += before);
        };
        for (name, bug) in [("rounded", rounded), ("odd", odd), ("added", added)] {
            assert!(moments_are_right(isa, bug).is_err(), "{isa} {name}");
        }
    }
}
