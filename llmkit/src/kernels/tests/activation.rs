//! Norms and gates.

use super::{Numbers, UNIT};
use crate::kernels::activation::{position_not_finite, rms_norm, swiglu};
use crate::kernels::isa::Isa;
use crate::kernels::team::Team;

/// (T, K): one of each, tails of 16 lanes, few rows and enough of them for threads.
const SIZES: [(usize, usize); 8] = [
    (0, 5),
    (1, 1),
    (3, 17),
    (7, 16),
    (8, 15),
    (9, 33),
    (20, 576),
    (5, 1000),
];

/// Rows as they come, and rows that must be able to fail: constant, zero, so small that ε counts, large.
fn rows(numbers: &mut Numbers, tokens: usize, columns: usize) -> Vec<f32> {
    let mut x = numbers.take(tokens * columns);
    for (i, row) in x.chunks_mut(columns).enumerate() {
        match i % 5 {
            1 => row.fill(-1.5),
            2 => row.iter_mut().for_each(|it| *it *= 1e-3),
            3 => row.iter_mut().for_each(|it| *it *= 1e6),
            4 => row.fill(0.0),
            _ => {}
        }
    }
    x
}

type Norm<'a> = dyn Fn(&[f32], &[f32], f32, &mut [f32]) + 'a;

/// Whether `kernel` is within the roundings of x / √(mean + ε) · weight: K/16 + 4 in a sum of 16 lanes (half of it after the root), the
/// mean, the root, the quotient and two products.
fn norm_is_right(kernel: &Norm<'_>) -> Result<(), String> {
    let mut numbers = Numbers(5);
    for (tokens, columns) in SIZES {
        let x = rows(&mut numbers, tokens, columns);
        let weight = numbers.take(columns);
        for epsilon in [1e-5f32, 0.25] {
            let mut norm = vec![f32::NAN; x.len()];
            kernel(&x, &weight, epsilon, &mut norm);
            for (t, row) in x.chunks(columns).enumerate() {
                let squares: f64 = row.iter().map(|&it| f64::from(it).powi(2)).sum();
                let root = (squares / columns as f64 + f64::from(epsilon)).sqrt();
                for k in 0..columns {
                    let got = f64::from(norm[t * columns + k]);
                    let expected = f64::from(row[k]) / root * f64::from(weight[k]);
                    let steps = (columns / 16 + 5) as f64 / 2.0 + 5.0;
                    if got.is_nan() || (got - expected).abs() > expected.abs() * steps * UNIT {
                        return Err(format!(
                            "{tokens}×{columns} [{t}, {k}]: {got} for {expected}"
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn norms_are_right_and_alike_everywhere() {
    let mut numbers = Numbers(15);
    let (x, weight) = (numbers.take(40 * 100), numbers.take(100));
    let mut first: Option<Vec<f32>> = None;
    for isa in Isa::here() {
        for threads in [1, 2, 3] {
            let team = Team::new(threads);
            norm_is_right(&|x, w, epsilon, out| rms_norm(isa, x, w, epsilon, out, &team))
                .unwrap_or_else(|wrong| panic!("{isa} {threads}: {wrong}"));
            let mut out = vec![0.0; x.len()];
            rms_norm(isa, &x, &weight, 1e-5, &mut out, &team);
            assert_eq!(first.get_or_insert_with(|| out.clone()), &out, "{isa}");
        }
    }
}

#[test]
fn planted_bugs_in_norms_are_caught() {
    let team = Team::new(2);
    for isa in Isa::here() {
        let honest = |x: &[f32], w: &[f32], epsilon, out: &mut [f32]| {
            rms_norm(isa, x, w, epsilon, out, &team);
        };
        // ε is squared, as if it belonged to the root: visible where it counts.
        let squared: &Norm<'_> = &|x, w, epsilon, out| honest(x, w, epsilon * epsilon, out);
        // The last element is not part of the mean.
        let short: &Norm<'_> = &|x, w, epsilon, out| {
            let (mut cut, columns) = (x.to_vec(), w.len());
            cut.chunks_mut(columns)
                .for_each(|row| row[columns - 1] = 0.0);
            honest(&cut, w, epsilon, out);
        };
        // The weight of the neighbour.
        let turned: &Norm<'_> = &|x, w, epsilon, out| {
            let mut turned = w.to_vec();
            turned.rotate_left(1);
            honest(x, &turned, epsilon, out);
        };
        // The mean is over all rows together.
        let together: &Norm<'_> = &|x, w, epsilon, out| {
            let many = w.repeat(x.len() / w.len());
            if !many.is_empty() {
                honest(x, &many, epsilon, out);
            }
        };
        for (name, bug) in [
            ("squared", squared),
            ("short", short),
            ("turned", turned),
            ("together", together),
        ] {
            assert!(norm_is_right(bug).is_err(), "{isa} {name}");
        }
    }
}

type Gate<'a> = dyn Fn(&mut [f32], &[f32], usize) + 'a;

/// Whether `kernel` is within the error of e^x (6 units), the sum, the quotient and the product.
fn gate_is_right(kernel: &Gate<'_>) -> Result<(), String> {
    let mut numbers = Numbers(25);
    for (tokens, columns) in SIZES {
        let x = rows(&mut numbers, tokens, columns);
        let up = numbers.take(tokens * columns);
        let mut got = x.clone();
        kernel(&mut got, &up, columns);
        for (i, (&got, (&x, &up))) in got.iter().zip(x.iter().zip(&up)).enumerate() {
            let x = f64::from(x);
            let expected = x / (1.0 + (-x).exp()) * f64::from(up);
            let bound = expected.abs() * 10.0 * UNIT + 1e-31;
            if got.is_nan() || (f64::from(got) - expected).abs() > bound {
                return Err(format!("{tokens}×{columns} [{i}]: {got} for {expected}"));
            }
        }
    }
    Ok(())
}

#[test]
fn gates_are_right_and_alike_everywhere() {
    let mut numbers = Numbers(35);
    let (x, up) = (numbers.take(40 * 100), numbers.take(40 * 100));
    let mut first: Option<Vec<f32>> = None;
    for isa in Isa::here() {
        for threads in [1, 2, 3] {
            let team = Team::new(threads);
            gate_is_right(&|gate, up, columns| swiglu(isa, gate, up, columns, &team))
                .unwrap_or_else(|wrong| panic!("{isa} {threads}: {wrong}"));
            let mut out = x.clone();
            swiglu(isa, &mut out, &up, 100, &team);
            assert_eq!(first.get_or_insert_with(|| out.clone()), &out, "{isa}");
        }
    }
}

#[test]
fn planted_bugs_in_gates_are_caught() {
    let team = Team::new(2);
    for isa in Isa::here() {
        // Gate and up change roles.
        let swapped: &Gate<'_> = &|gate, up, columns| {
            let mut other = up.to_vec();
            swiglu(isa, &mut other, gate, columns, &team);
            gate.copy_from_slice(&other);
        };
        // The sigmoid has the other sign: x / (1 + e^x) = −silu(−x).
        let sign: &Gate<'_> = &|gate, up, columns| {
            gate.iter_mut().for_each(|it| *it = -*it);
            swiglu(isa, gate, up, columns, &team);
            gate.iter_mut().for_each(|it| *it = -*it);
        };
        // The last element of a row is left as it was.
        let short: &Gate<'_> = &|gate, up, columns| {
            let before = gate.to_vec();
            swiglu(isa, gate, up, columns, &team);
            for (i, before) in before.iter().enumerate() {
                if (i + 1).is_multiple_of(columns) {
                    gate[i] = *before;
                }
            }
        };
        for (name, bug) in [("swapped", swapped), ("sign", sign), ("short", short)] {
            assert!(gate_is_right(bug).is_err(), "{isa} {name}");
        }
    }
}

/// A NaN or an infinity of one row must not reach another, nor be hidden in its own.
#[test]
fn a_row_that_is_not_finite_is_seen_in_itself_and_nowhere_else() {
    for isa in Isa::here() {
        for odd in [f32::NAN, f32::INFINITY] {
            let mut x = vec![1.0; 10 * 33];
            x[4 * 33 + 32] = odd;
            let mut out = vec![0.0; x.len()];
            let team = Team::new(2);
            rms_norm(isa, &x, &[1.0; 33], 1e-5, &mut out, &team);
            for (t, row) in out.chunks(33).enumerate() {
                let is_finite = row.iter().all(|it| it.is_finite());
                assert_eq!(is_finite, t != 4, "{isa} {odd} norm of row {t}");
            }
            swiglu(isa, &mut x, &[1.0; 330], 33, &team);
            for (i, it) in x.iter().enumerate() {
                assert_eq!(it.is_finite(), i != 4 * 33 + 32, "{isa} {odd} gate at {i}");
            }
        }
    }
}

#[test]
fn the_first_number_that_is_none_is_found() {
    let team = Team::new(2);
    for isa in Isa::here() {
        let find = |values: &[f32]| position_not_finite(isa, values, &team);
        assert_eq!(find(&[]), None);
        for length in [1, 17, 40_000] {
            let mut values = vec![f32::MAX; length];
            assert_eq!(find(&values), None, "{isa}, {length}");
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [length - 1, length / 2, 0] {
                    values[at] = bad;
                    assert_eq!(find(&values), Some(at), "{isa}, {length}, {bad}");
                }
                values.fill(-0.0);
            }
        }
    }
}
