//! Log-normalisers, divergences, the likeliest token.

use super::{Numbers, UNIT};
use crate::kernels::divergence::divergence;
use crate::kernels::isa::Isa;
use crate::kernels::likelihood::{argmax, log_sum_exp};

/// Lengths of rows: one lane, its tail, a slice of 512 and its tails, a vocabulary.
const LENGTHS: [usize; 9] = [1, 2, 15, 17, 511, 512, 529, 1024, 49_153];

/// Rows of logits: as they come, far from zero, one far above the rest (the last), all equal, with tokens that are impossible.
fn rows(numbers: &mut Numbers, count: usize) -> Vec<Vec<f32>> {
    let plain = numbers.take(count);
    let mut peaked = plain.clone();
    peaked[count - 1] = 200.0;
    let mut masked = plain.clone();
    masked[..count / 2].fill(f32::NEG_INFINITY);
    vec![
        plain.iter().map(|it| it + 300.0).collect(),
        plain.iter().map(|it| it - 300.0).collect(),
        vec![-7.25; count],
        plain,
        peaked,
        masked,
    ]
}

fn exact(row: &[f32]) -> f64 {
    let top = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let total: f64 = row.iter().map(|&it| f64::from(it - top).exp()).sum();
    f64::from(top) + total.ln()
}

type Normaliser<'a> = dyn Fn(&[f32]) -> f64 + 'a;

/// Whether `kernel` is within 10⁻⁶ (as its file promises) and the rounding of score − top, relative to logits of size 300.
fn normaliser_is_right(kernel: &Normaliser<'_>) -> Result<(), String> {
    let mut numbers = Numbers(9);
    for count in LENGTHS {
        for (i, row) in rows(&mut numbers, count).iter().enumerate() {
            let (got, expected) = (kernel(row), exact(row));
            let bound = 1e-6 + 40.0 * UNIT;
            if got.is_nan() || (got - expected).abs() > bound {
                return Err(format!("row {i} of {count}: {got} for {expected}"));
            }
        }
    }
    Ok(())
}

#[test]
fn normalisers_are_right() {
    for isa in Isa::here() {
        normaliser_is_right(&|row| log_sum_exp(isa, row))
            .unwrap_or_else(|wrong| panic!("{isa}: {wrong}"));
    }
}

#[test]
fn planted_bugs_in_normalisers_are_caught() {
    for isa in Isa::here() {
        // Sums without taking the largest out first.
        let unshifted: &Normaliser<'_> = &|row| {
            let total: f32 = row.iter().map(|it| it.exp()).sum();
            f64::from(total.ln())
        };
        // The last 512 elements at most, or the last lanes, are lost.
        let short: &Normaliser<'_> = &|row| log_sum_exp(isa, &row[..row.len() / 16 * 16]);
        // The largest is that of the first slice: others overflow.
        let early: &Normaliser<'_> = &|row| {
            let first = &row[..row.len().min(512)];
            let top = first.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            let total: f32 = row.iter().map(|it| (it - top).exp()).sum();
            f64::from(top) + f64::from(total.ln())
        };
        // In bits.
        let bits: &Normaliser<'_> = &|row| log_sum_exp(isa, row) / std::f64::consts::LN_2;
        for (name, bug) in [
            ("unshifted", unshifted),
            ("short", short),
            ("early", early),
            ("bits", bits),
        ] {
            assert!(normaliser_is_right(bug).is_err(), "{isa} {name}");
        }
    }
}

type Divergence<'a> = dyn Fn(&[f32], f64, &[f32], f64) -> f64 + 'a;

/// Whether `kernel` agrees with f64 to what f32 logits and normalisers leave of each term: their rounding times the mass they have.
fn divergence_is_right(kernel: &Divergence<'_>) -> Result<(), String> {
    let mut numbers = Numbers(10);
    for count in LENGTHS {
        for (i, p) in rows(&mut numbers, count).iter().enumerate() {
            let change = numbers.take(count);
            let q: Vec<f32> = p.iter().zip(&change).map(|(p, c)| p + 0.1 * c).collect();
            let (of_p, of_q) = (exact(p), exact(&q));
            let terms = p.iter().zip(&q).map(|(&p, &q)| {
                let (p, q) = (f64::from(p) - of_p, f64::from(q) - of_q);
                match p.exp() {
                    0.0 => 0.0,
                    mass => mass * (p - q),
                }
            });
            let (expected, got) = (terms.sum::<f64>(), kernel(p, of_p, &q, of_q));
            let bound = 2e-6 + 310.0 * 4.0 * UNIT;
            if got.is_nan() || (got - expected).abs() > bound {
                return Err(format!("row {i} of {count}: {got} for {expected}"));
            }
        }
    }
    Ok(())
}

#[test]
fn divergences_are_right() {
    for isa in Isa::here() {
        divergence_is_right(&|p, of_p, q, of_q| divergence(isa, p, of_p, q, of_q))
            .unwrap_or_else(|wrong| panic!("{isa}: {wrong}"));
    }
}

#[test]
fn planted_bugs_in_divergences_are_caught() {
    for isa in Isa::here() {
        // The divergence of the other direction.
        let reversed: &Divergence<'_> = &|p, of_p, q, of_q| divergence(isa, q, of_q, p, of_p);
        // The normalisers are taken to be equal.
        let unnormalised: &Divergence<'_> = &|p, of_p, q, _| divergence(isa, p, of_p, q, of_p);
        // Tokens of no chance give 0 · ∞.
        let naive: &Divergence<'_> = &|p, of_p, q, of_q| {
            let term = |(p, q): (&f32, &f32)| {
                let (p, q) = (f64::from(*p) - of_p, f64::from(*q) - of_q);
                p.exp() * (p - q)
            };
            p.iter().zip(q).map(term).sum()
        };
        // The tail of 16 lanes is lost.
        let short: &Divergence<'_> = &|p, of_p, q, of_q| {
            let whole = p.len() / 16 * 16;
            divergence(isa, &p[..whole], of_p, &q[..whole], of_q)
        };
        for (name, bug) in [
            ("reversed", reversed),
            ("unnormalised", unnormalised),
            ("naive", naive),
            ("short", short),
        ] {
            assert!(divergence_is_right(bug).is_err(), "{isa} {name}");
        }
    }
}

type Argmax<'a> = dyn Fn(&[f32]) -> usize + 'a;

/// Whether `kernel` finds the first of the largest, wherever it lies.
fn argmax_is_right(kernel: &Argmax<'_>) -> Result<(), String> {
    for count in LENGTHS {
        for at in [0, count / 2, count - 1] {
            let mut row = vec![-5.0f32; count];
            row[at..].iter_mut().step_by(7).for_each(|it| *it = -4.5);
            let got = kernel(&row);
            if got != at {
                return Err(format!("{got} for {at} of {count}"));
            }
        }
    }
    Ok(())
}

#[test]
fn the_first_of_the_largest_is_found_and_planted_bugs_are_caught() {
    for isa in Isa::here() {
        argmax_is_right(&|row| argmax(isa, row)).unwrap_or_else(|wrong| panic!("{isa}: {wrong}"));
        // The last of the largest.
        let last: &Argmax<'_> = &|row| {
            let reversed: Vec<f32> = row.iter().rev().copied().collect();
            row.len() - 1 - argmax(isa, &reversed)
        };
        // Starts from zero: rows of negative numbers have no largest.
        let zero: &Argmax<'_> = &|row| {
            let top = row.iter().fold(0f32, |a, &b| a.max(b));
            row.iter().position(|&it| it == top).unwrap_or(0)
        };
        // The tail is not looked at.
        let short: &Argmax<'_> = &|row| argmax(isa, &row[..row.len() / 16 * 16]);
        for (name, bug) in [("last", last), ("zero", zero), ("short", short)] {
            assert!(argmax_is_right(bug).is_err(), "{isa} {name}");
        }
    }
}
