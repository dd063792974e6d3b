//! The exponential, and the softmax that is built on it.

use super::{Numbers, UNIT};
use crate::kernels::activation::{Running, exp, exp_to_one, online_softmax};
use crate::kernels::isa::{Isa, vectorizable, vectorized};

type Exp<'a> = dyn Fn(&mut [f32]) + 'a;

/// Whether `kernel` is eˣ to 3 units in the last place, at every `step`-th hundred-thousandth from −87 to 88.72.
fn exp_is_right(step: i32, kernel: &Exp<'_>) -> Result<(), String> {
    let arguments: Vec<f32> = (-8_700_000..=8_872_000)
        .filter(|i| i % step == 0)
        .map(|i| i as f32 * 1e-5)
        .collect();
    let mut got = arguments.clone();
    kernel(&mut got);
    for (&x, &got) in arguments.iter().zip(&got) {
        let expected = f64::from(x).exp();
        let error = (f64::from(got) - expected).abs() / expected;
        if error.is_nan() || error > 3.0 * 2.0 * UNIT {
            return Err(format!("e^{x}: {got} for {expected}"));
        }
    }
    let mut odd = [0.0, f32::NEG_INFINITY, -88.0, 100.0, f32::NAN];
    kernel(&mut odd);
    match odd[..4] == [1.0, 0.0, 0.0, f32::INFINITY] && odd[4].is_nan() {
        true => Ok(()),
        false => Err(format!("{odd:?}")),
    }
}

vectorizable!(ExpOfAll<'a>: exp_of_all, &'a mut [f32] => ());
vectorizable!(SoftmaxOf<'a>: softmax_of, (&'a mut [f32], &'a mut Running) => f32);

#[inline(always)]
fn exp_of_all(x: &mut [f32]) {
    x.iter_mut().for_each(|it| *it = exp(*it));
}

#[inline(always)]
fn softmax_of((scores, running): (&mut [f32], &mut Running)) -> f32 {
    online_softmax(scores, running)
}

#[test]
fn exp_is_right_to_three_units() {
    for isa in Isa::here() {
        let step = if isa == Isa::best() { 1 } else { 101 };
        exp_is_right(step, &|x| {
            vectorized(isa, ExpOfAll, x);
        })
        .unwrap_or_else(|wrong| panic!("{isa}: {wrong}"));
    }
}

#[test]
fn the_exponential_of_softmax_is_the_same() {
    let step = |i: i32| i as f32 * 1e-4;
    for x in (-1_000_000..=0).map(step).chain([f32::NEG_INFINITY]) {
        assert_eq!(exp_to_one(x).to_bits(), exp(x).to_bits(), "{x}");
    }
    assert!(exp_to_one(f32::NAN).is_nan());
}

#[test]
fn planted_bugs_in_exp_are_caught() {
    for isa in Isa::here() {
        let with = |change: &(dyn Fn(f32) -> f32 + Sync), x: &mut [f32]| {
            x.iter_mut().for_each(|it| *it = change(*it));
            vectorized(isa, ExpOfAll, x);
        };
        // ln 2 in one f32: the reduction loses the low bits of the argument.
        let one_part: &Exp<'_> = &|x| {
            with(
                &|x| x + (x * std::f32::consts::LOG2_E).round() * -1.9e-8 * 4.0,
                x,
            );
        };
        // Clamped too early.
        let clamped: &Exp<'_> = &|x| with(&|x| if x > 88.0 { 88.0 } else { x }, x);
        // A NaN becomes a number, as `f32::max` makes it.
        let hidden: &Exp<'_> = &|x| with(&|x| x.max(-87.0), x);
        for (name, bug) in [
            ("one part", one_part),
            ("clamped", clamped),
            ("hidden", hidden),
        ] {
            assert!(exp_is_right(101, bug).is_err(), "{isa} {name}");
        }
    }
}

type Softmax<'a> = dyn Fn(&mut [f32], &mut Running) -> f32 + 'a;

/// Whether softmax of a row that `kernel` sees in blocks is the softmax of the whole row, to the roundings of e^x and of the sums.
fn softmax_is_right(kernel: &Softmax<'_>) -> Result<(), String> {
    let mut numbers = Numbers(45);
    for (count, block) in [(1, 64), (15, 16), (64, 64), (100, 64), (333, 64), (333, 17)] {
        // Rising, falling, with masked parts and a masked first block, all equal, far apart.
        let plain = numbers.take(count);
        let rising: Vec<f32> = plain
            .iter()
            .enumerate()
            .map(|(i, x)| x + i as f32)
            .collect();
        let falling: Vec<f32> = rising.iter().rev().copied().collect();
        let mut masked = plain.clone();
        masked[..(count - 1).min(block)].fill(f32::NEG_INFINITY);
        let far: Vec<f32> = plain.iter().map(|x| x * 1e4).collect();
        for row in [plain, rising, falling, masked, vec![3.0; count], far] {
            let mut running = Running::NEW;
            let mut weights: Vec<f32> = Vec::new();
            for scores in row.chunks(block) {
                let mut scores = scores.to_vec();
                let factor = kernel(&mut scores, &mut running);
                weights.iter_mut().for_each(|it| *it *= factor);
                weights.extend(scores);
            }
            let top = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            let exact = |x: f32| (f64::from(x) - f64::from(top)).exp();
            let total: f64 = row.iter().map(|&x| exact(x)).sum();
            for (i, (&x, &weight)) in row.iter().zip(&weights).enumerate() {
                // score − top is rounded once a block; e^x turns that into a relative error.
                let size = f64::from(top.abs().max(x.abs()).min(100.0)) * 2.0;
                let steps = (row.len().div_ceil(block) as f64) * (size + 8.0) + count as f64;
                let (got, expected) = (f64::from(weight / running.total), exact(x) / total);
                let bound = expected * 4.0 * steps * UNIT + 1e-36;
                if got.is_nan() || (got - expected).abs() > bound {
                    return Err(format!("{count} by {block} [{i}]: {got} for {expected}"));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn softmax_in_blocks_is_softmax() {
    for isa in Isa::here() {
        softmax_is_right(&|scores, running| vectorized(isa, SoftmaxOf, (scores, running)))
            .unwrap_or_else(|wrong| panic!("{isa}: {wrong}"));
    }
}

#[test]
fn planted_bugs_in_softmax_are_caught() {
    for isa in Isa::here() {
        let honest = |scores: &mut [f32], running: &mut Running| {
            vectorized(isa, SoftmaxOf, (scores, running))
        };
        // What was mixed before is not rescaled.
        let kept: &Softmax<'_> = &|scores, running| {
            honest(scores, running);
            1.0
        };
        // The total of earlier blocks is forgotten.
        let forgetful: &Softmax<'_> = &|scores, running| {
            running.total = 0.0;
            honest(scores, running)
        };
        // Each block has a top of its own.
        let own: &Softmax<'_> = &|scores, running| {
            running.top = f32::NEG_INFINITY;
            honest(scores, running).max(1.0)
        };
        // Masked scores count as zero in place of −∞.
        let unmasked: &Softmax<'_> = &|scores, running| {
            scores.iter_mut().for_each(|it| *it = it.max(-1.0));
            honest(scores, running)
        };
        for (name, bug) in [
            ("kept", kept),
            ("forgetful", forgetful),
            ("own", own),
            ("unmasked", unmasked),
        ] {
            assert!(softmax_is_right(bug).is_err(), "{isa} {name}");
        }
    }
}
