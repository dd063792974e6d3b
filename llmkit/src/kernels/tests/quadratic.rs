//! Quadratic forms.

use super::{Numbers, UNIT};
use crate::kernels::isa::Isa;
use crate::kernels::quadratic::quadratic;

type Form<'a> = dyn Fn(&[f32], usize, &[f32]) -> f64 + 'a;

/// Whether `kernel` keeps the bound that its file promises, for parts of a larger matrix too.
fn form_is_right(kernel: &Form<'_>) -> Result<(), String> {
    let mut numbers = Numbers(5);
    for (columns, from, count) in [
        (1, 0, 1),
        (7, 0, 7),
        (40, 9, 16),
        (40, 3, 37),
        (130, 64, 64),
        (200, 5, 150),
        (576, 0, 576),
    ] {
        let (matrix, x) = (numbers.take(columns * columns), numbers.take(count));
        let (mut expected, mut size) = (0.0, 0.0);
        for (i, xi) in x.iter().enumerate() {
            for (j, xj) in x.iter().enumerate() {
                let g = matrix[(from + i) * columns + from + j];
                let term = f64::from(*xi) * f64::from(g) * f64::from(*xj);
                (expected, size) = (expected + term, size + term.abs());
            }
        }
        let got = kernel(&matrix[from * columns + from..], columns, &x);
        let bound = (count.min(64) + 1) as f64 * UNIT * size * 1.02;
        if got.is_nan() || (got - expected).abs() > bound {
            return Err(format!(
                "{count} from {from} of {columns}: {got} for {expected}, bound {bound:.1e}"
            ));
        }
    }
    Ok(())
}

#[test]
fn quadratic_forms_keep_their_bound_and_have_the_same_bits_everywhere() {
    let mut numbers = Numbers(6);
    let (matrix, x) = (numbers.take(100 * 100), numbers.take(83));
    let reference = quadratic(Isa::Reference, &matrix, 100, &x).to_bits();
    for isa in Isa::here() {
        form_is_right(&|rows, stride, x| quadratic(isa, rows, stride, x))
            .unwrap_or_else(|wrong| panic!("{isa}: {wrong}"));
        assert_eq!(quadratic(isa, &matrix, 100, &x).to_bits(), reference);
    }
}

#[test]
fn planted_bugs_in_quadratic_forms_are_caught() {
    let isa = Isa::Reference;
    let no_tail = |rows: &[f32], stride: usize, x: &[f32]| {
        let whole = x.len() / 16 * 16;
        quadratic(isa, rows, stride, &x[..whole])
    };
    let diagonal = |rows: &[f32], stride: usize, x: &[f32]| {
        let terms = x.iter().enumerate();
        terms
            .map(|(i, x)| f64::from(rows[i * stride + i] * x * x))
            .sum()
    };
    let half = |rows: &[f32], stride: usize, x: &[f32]| 0.5 * quadratic(isa, rows, stride, x);
    let bugs: [(&str, &Form<'_>); 3] = [
        ("without the tail", &no_tail),
        ("the diagonal alone", &diagonal),
        ("half of it", &half),
    ];
    for (bug, form) in bugs {
        assert!(form_is_right(form).is_err(), "{bug}");
    }
}
