//! Norms, gates and the exponential.

use super::Numbers;
use crate::kernels::activation::{exp, rms_norm, swiglu};
use crate::kernels::isa::Isa;
use crate::kernels::team::Team;

#[test]
fn norms_and_gates_are_right_and_alike_everywhere() {
    let mut numbers = Numbers(5);
    for (tokens, columns) in [(1, 1), (3, 17), (20, 576)] {
        let x = numbers.take(tokens * columns);
        let weight = numbers.take(columns);
        let of = |isa, threads| {
            let mut norm = vec![0.0; x.len()];
            rms_norm(isa, &x, &weight, 1e-5, &mut norm, &Team::new(threads));
            let mut gate = x.clone();
            swiglu(isa, &mut gate, &norm, columns, &Team::new(threads));
            (norm, gate)
        };
        let (norm, gate) = of(Isa::Reference, 1);
        for isa in Isa::here() {
            assert_eq!(of(isa, 2), (norm.clone(), gate.clone()), "{isa}");
        }
        for (t, row) in x.chunks(columns).enumerate() {
            let mean = row.iter().map(|&it| f64::from(it).powi(2)).sum::<f64>() / columns as f64;
            for k in 0..columns {
                let i = t * columns + k;
                let expected = f64::from(row[k]) / (mean + 1e-5).sqrt() * f64::from(weight[k]);
                assert!(
                    (f64::from(norm[i]) - expected).abs() <= expected.abs() * 40.0 * 2f64.powi(-24)
                );
                let x = f64::from(row[k]);
                let expected = x / (1.0 + (-x).exp()) * f64::from(norm[i]);
                assert!(
                    (f64::from(gate[i]) - expected).abs()
                        <= expected.abs() * 12.0 * 2f64.powi(-24) + 1e-37
                );
            }
        }
    }
}

#[test]
fn exp_is_right_to_three_units() {
    let mut worst = 0f64;
    for i in -8_700_000..=8_872_000 {
        let x = i as f32 * 1e-5;
        let expected = f64::from(x).exp();
        worst = worst.max((f64::from(exp(x)) - expected).abs() / expected);
    }
    assert!(worst < 3.0 * 2f64.powi(-23), "{worst}");
    assert_eq!(
        (exp(0.0), exp(f32::NEG_INFINITY), exp(-88.0)),
        (1.0, 0.0, 0.0)
    );
    assert_eq!(exp(100.0), f32::INFINITY);
    assert!(exp(f32::NAN).is_nan());
}
