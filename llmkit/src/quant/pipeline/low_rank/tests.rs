use super::*;
use crate::kernels::dense::{Element, Into};
use crate::model::Engine;
use crate::model::linear::{Dense, Input};
use crate::quant::samples;

/// A matrix with a decaying spectrum and its rounding, shapes on both sides of the square.
fn cases() -> Vec<(Matrix, Matrix, Inputs)> {
    [(9, 30), (30, 9), (16, 16), (1, 7), (7, 1)]
        .into_iter()
        .map(|(n, k)| {
            let w = samples::correlated(n, k, 3);
            let rounded = w.iter().map(|it| (it * 2.0).round() / 2.0).collect();
            let x = samples::correlated(4 * k + 3, k, 9);
            let inputs = Inputs::of_samples("x", &x, k).unwrap();
            (
                Matrix::new(n, k, w).unwrap(),
                Matrix::new(n, k, rounded).unwrap(),
                inputs,
            )
        })
        .collect()
}

fn squares(a: &Matrix, b: &Matrix) -> f64 {
    let pairs = a.data().iter().zip(b.data());
    pairs
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum()
}

fn corrected(text: &str, case: &(Matrix, Matrix, Inputs)) -> (Matrix, LowRank) {
    let (w, rounded, inputs) = case;
    let low = LowRank::new(text.parse().unwrap(), w, rounded, Some(inputs)).unwrap();
    (low.added_to(rounded).unwrap(), low)
}

/// Eckart and Young: what a projection on the first R directions leaves is the energy of the others, exactly (in f64).
#[test]
fn the_tail_is_what_is_left_exactly() {
    for (w, rounded, inputs) in cases() {
        let (n, k) = (w.rows(), w.cols());
        let pairs = w.data().iter().zip(rounded.data());
        let error: Vec<f64> = pairs.map(|(w, r)| f64::from(w - r)).collect();
        for rank in 1..=n.min(k) {
            let basis = basis(&error, (n, k), None, rank).unwrap();
            let mut rest = error.clone();
            for u in basis.vectors.chunks_exact(n) {
                for j in 0..k {
                    let share: f64 = (0..n).map(|i| u[i] * error[i * k + j]).sum();
                    (0..n).for_each(|i| rest[i * k + j] -= u[i] * share);
                }
            }
            let sum = |of: &[f64]| of.iter().map(|it| it * it).sum::<f64>();
            let (now, all) = (sum(&rest), sum(&error));
            let expected = basis.left * all;
            assert!((now - expected).abs() <= 1e-12 * all, "{n}×{k} rank {rank}");
            let weighed = super::basis(&error, (n, k), Some(&inputs), rank).unwrap();
            assert!(weighed.left <= 1.0 && weighed.vectors.len() <= rank * n);
        }
    }
}

/// With factors in f16, each product of two is off by 2⁻¹⁰ of itself at most: √R·2⁻¹⁰ of the error, added to what is left.
#[test]
fn lorc_leaves_the_energy_of_the_tail() {
    for case in cases() {
        let (n, k) = (case.0.rows(), case.0.cols());
        let error = squares(&case.0, &case.1);
        for rank in 1..=n.min(k) {
            let (after, low) = corrected(&format!("lorc-r{rank}"), &case);
            let (now, tail) = (squares(&case.0, &after), low.left() * error);
            let off = 2f64.powi(-10) * (rank as f64 * error).sqrt() + 1e-6;
            let bound = 2.0 * tail.sqrt() * off + off * off;
            assert!(
                (now - tail).abs() <= bound,
                "{n}×{k} rank {rank}: {now:e} for {tail:e}"
            );
        }
    }
}

#[test]
fn eora_loses_no_more_of_the_outputs_than_lorc_and_what_it_says() {
    for case in cases() {
        let (w, rounded, inputs) = &case;
        let before = inputs.output_error(w, rounded).unwrap();
        for rank in [1, 2, 5] {
            let (plain, _) = corrected(&format!("lorc-r{rank}"), &case);
            let (weighed, low) = corrected(&format!("eora-r{rank}"), &case);
            let of = |it: &Matrix| inputs.output_error(w, it).unwrap();
            // Factors in f16, and G with 10⁻⁸ more on its diagonal where it is not positive definite.
            let slack = before * 2f64.powi(-8) + 1e-12;
            assert!(of(&weighed) <= of(&plain) + slack, "rank {rank}");
            let (got, said) = (of(&weighed), low.left() * before);
            assert!(
                (got - said).abs() <= slack,
                "rank {rank}: {got:e} for {said:e}"
            );
            assert!(of(&plain) <= before + slack);
        }
    }
}

/// Planted: U of the plain error in place of the weighed one is seen by the test above, for the two differ.
#[test]
fn weighing_matters() {
    let case = &cases()[0];
    let (plain, _) = corrected("lorc-r2", case);
    let (weighed, _) = corrected("eora-r2", case);
    let of = |it: &Matrix| case.2.output_error(&case.0, it).unwrap();
    assert!(
        of(&weighed) < 0.9 * of(&plain),
        "{} {}",
        of(&weighed),
        of(&plain)
    );
}

#[test]
fn what_runs_is_what_is_shown_and_bytes_are_those_stored() {
    for case in cases() {
        let (after, low) = corrected("eora-r3", &case);
        let (n, k) = (after.rows(), after.cols());
        assert_eq!(low.bytes(), 2 * low.rank() * (n + k));
        let layer = low.on(Arc::new(Dense::new(Element::F32, case.1.data(), k)));
        let engine = Engine::default();
        let x = samples::correlated(5, k, 2);
        let mut out = vec![1.0; 5 * n];
        layer.forward(&Input::new(&x, k, &engine), Into::Add, &mut out, &engine);
        let mut row = vec![0.0; k];
        for i in 0..n {
            layer.row(i, &mut row);
            assert_eq!(row, after.row(i).unwrap());
            for t in 0..5 {
                let pairs = row.iter().zip(&x[t * k..(t + 1) * k]);
                let (mut sum, mut size) = (1.0, 1.0);
                for (a, b) in pairs {
                    sum += f64::from(*a) * f64::from(*b);
                    size += f64::from((a * b).abs());
                }
                let got = f64::from(out[t * n + i]);
                assert!((got - sum).abs() < 1e-5 * size, "{got} {sum}");
            }
        }
    }
}

#[test]
fn nothing_to_correct_and_bad_requests() {
    let (w, _, inputs) = &cases()[0];
    for text in ["lorc-r4", "eora-r4"] {
        let low = LowRank::new(text.parse().unwrap(), w, w, Some(inputs)).unwrap();
        assert_eq!(low.added_to(w).unwrap(), *w);
        assert_eq!(text.parse::<Correction>().unwrap().to_string(), text);
    }
    for odd in ["", "lorc", "lorc-r0", "lora-r4", "eora-rx", "eora-r-1"] {
        let error = odd.parse::<Correction>().unwrap_err().to_string();
        assert!(error.contains("lorc-r16"), "{error}");
    }
    let eora = "eora-r1".parse().unwrap();
    assert!(LowRank::new(eora, w, w, None).is_err());
    let other = Matrix::new(1, 1, vec![1.0]).unwrap();
    assert!(LowRank::new(eora, w, &other, Some(inputs)).is_err());
}
