//! What rounding lost, given back in part by a product of two thin matrices: Wx ≈ Ŵx + B·(A·x), A (R, K), B (N, R).
//!
//! ```text
//! E = W − Ŵ        LoRC: argmin ‖E − B·A‖        EoRA: argmin ‖(E − B·A)·X‖, which is tr((E − B·A)·G·(E − B·A)ᵀ), G = Σ x·xᵀ
//! both:  U = the R largest eigenvectors of E·Eᵀ, or of E·G·Eᵀ;  B = U, A = Uᵀ·E
//! ```
//! By Eckart and Young what is left of the error is the sum of the other eigenvalues, exactly. For EoRA this needs no inverse: if
//! U holds the left singular vectors of E·L, G = L·Lᵀ, the best of rank R is U·Uᵀ·E·L, and L cancels.
//!
//! Source: Z. Yao et al., *ZeroQuant-V2* (arXiv 2303.08302), section 5, for LoRC; S.-Y. Liu et al., *EoRA* (arXiv 2410.21271), section 3.
//!
//! Cost: R·(N + K) numbers of 16 bits stored, 2·R·(N + K) flops a token; to find them, min(N, K)³·2 + 2·N·K·min(N, K) flops, and for EoRA
//! 2·N·K² more.
//!
//! **Where we differ.** EoRA's authors project E into the eigenbasis of G and back; the formula above is the same optimum. Factors
//! are rounded to f16 once, with the singular value shared between them. Where N > K, EoRA needs L: a G that is not positive
//! definite gets as much on its diagonal as it takes, 10⁻⁸ of the mean to begin with.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use half::f16;

use crate::kernels::dense::{Element, Into};
use crate::kernels::update::{Rows, update_at};
use crate::kernels::{Isa, Team};
use crate::linalg::{cholesky, eigen};
use crate::model::Engine;
use crate::model::linear::{Dense, Input, Linear};
use crate::quant::{Inputs, Matrix};
use crate::{Error, Result};

/// What a correction makes least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weighing {
    /// The error of the weights: LoRC.
    Plain,
    /// The error of the outputs: EoRA.
    Inputs,
}

/// A correction of low rank, as a recipe asks for it: `lorc-r16`, `eora-r16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Correction {
    /// What is made least.
    pub weighing: Weighing,
    /// R; a matrix whose smaller side is less gets that.
    pub rank: usize,
}

impl fmt::Display for Correction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.weighing {
            Weighing::Plain => "lorc",
            Weighing::Inputs => "eora",
        };
        write!(f, "{name}-r{}", self.rank)
    }
}

impl FromStr for Correction {
    type Err = Error;

    fn from_str(text: &str) -> Result<Correction> {
        let expected = "lorc-r16 or eora-r16, of any rank from 1";
        let wrong = || Error::argument("correction", expected, text);
        let (name, rank) = text.split_once("-r").ok_or_else(wrong)?;
        let weighing = match name {
            "lorc" => Weighing::Plain,
            "eora" => Weighing::Inputs,
            _ => return Err(wrong()),
        };
        match rank.parse() {
            Ok(rank) if rank > 0 => Ok(Correction { weighing, rank }),
            _ => Err(wrong()),
        }
    }
}

/// Two thin matrices, in f16.
#[derive(Clone, PartialEq)]
pub struct LowRank {
    columns: usize,
    rank: usize,
    /// (R, K).
    a: Vec<f16>,
    /// (N, R).
    b: Vec<f16>,
    /// Share of the error that is left, in the measure that was made least, before factors were rounded.
    left: f64,
}

impl LowRank {
    /// Of the error E = `original` − `rounded`; `inputs` are needed where they weigh.
    ///
    /// # Errors
    /// [`Error::Argument`] if inputs are missing, or a number is not finite; [`Error::Shape`].
    pub fn new(
        correction: Correction,
        original: &Matrix,
        rounded: &Matrix,
        inputs: Option<&Inputs>,
    ) -> Result<LowRank> {
        let (n, k) = (original.rows(), original.cols());
        if (rounded.rows(), rounded.cols()) != (n, k) {
            return Err(Error::Shape {
                operation: correction.to_string(),
                expected: format!("[{n}, {k}]"),
                got: format!("[{}, {}]", rounded.rows(), rounded.cols()),
            });
        }
        let pairs = original.data().iter().zip(rounded.data());
        let error: Vec<f64> = pairs.map(|(w, r)| f64::from(*w) - f64::from(*r)).collect();
        let gram = match correction.weighing {
            Weighing::Plain => None,
            Weighing::Inputs => {
                let what = format!("inputs for {correction}");
                let inputs =
                    inputs.ok_or_else(|| Error::argument(what, "a calibration", "none"))?;
                inputs.check_fits(original)?;
                Some(inputs)
            }
        };
        let rank = correction.rank.min(n).min(k);
        let Basis { vectors, left } = basis(&error, (n, k), gram, rank).ok_or_else(|| {
            let expected = "an error whose singular values can be found";
            Error::argument(correction.to_string(), expected, "one of other numbers")
        })?;
        let rank = vectors.len() / n;
        let mut a = vec![0.0; rank * k];
        add_product((&vectors, n), (&error, k), (rank, n, k), &mut a);
        let mut low = LowRank {
            columns: k,
            rank,
            a: Vec::with_capacity(rank * k),
            b: vec![f16::ZERO; n * rank],
            left,
        };
        for (r, (row, vector)) in a.chunks_exact(k).zip(vectors.chunks_exact(n)).enumerate() {
            // Each factor gets a half of the singular value, so that neither leaves f16's range.
            let share = row.iter().map(|x| x * x).sum::<f64>().sqrt().sqrt();
            let inverse = if share > 0.0 { 1.0 / share } else { 0.0 };
            low.a.extend(row.iter().map(|x| f16::from_f64(x * inverse)));
            for (i, x) in vector.iter().enumerate() {
                low.b[i * rank + r] = f16::from_f64(x * share);
            }
        }
        Ok(low)
    }

    /// R: at most what was asked for; less where the error has no more.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Bytes stored.
    pub fn bytes(&self) -> usize {
        2 * (self.a.len() + self.b.len())
    }

    /// Share of the error that is left by Eckart and Young, of weights for LoRC and of outputs for EoRA.
    pub fn left(&self) -> f64 {
        self.left
    }

    /// A (R, K), as it is stored.
    pub fn a(&self) -> Vec<f32> {
        self.a.iter().map(|it| it.to_f32()).collect()
    }

    /// B (N, R), as it is stored.
    pub fn b(&self) -> Vec<f32> {
        self.b.iter().map(|it| it.to_f32()).collect()
    }

    /// Ŵ + B·A.
    ///
    /// # Errors
    /// [`Error::Shape`] if it does not fit.
    pub fn added_to(&self, rounded: &Matrix) -> Result<Matrix> {
        if rounded.cols() != self.columns || rounded.rows() * self.rank != self.b.len() {
            return Err(Error::Shape {
                operation: "add a correction of low rank".to_owned(),
                expected: format!("[{}, {}]", self.b.len() / self.rank.max(1), self.columns),
                got: format!("[{}, {}]", rounded.rows(), rounded.cols()),
            });
        }
        let (a, b) = (self.a(), self.b());
        let mut values = rounded.data().to_vec();
        for (n, row) in values.chunks_exact_mut(self.columns).enumerate() {
            add_rows(&a, &b[n * self.rank..][..self.rank], row);
        }
        Matrix::new(rounded.rows(), rounded.cols(), values)
    }

    /// The layer that runs `base` and adds B·(A·x), in f32.
    pub fn on(&self, base: Arc<dyn Linear>) -> Corrected {
        Corrected {
            base,
            a: Dense::new(Element::F32, &self.a(), self.columns),
            b: Dense::new(Element::F32, &self.b(), self.rank),
            factors: (self.a(), self.b()),
            rank: self.rank,
        }
    }
}

impl fmt::Debug for LowRank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.b.len() / self.rank.max(1);
        write!(f, "rank {} of [{rows}, {}]", self.rank, self.columns)
    }
}

/// row += Σ_r b\[r\]·A\[r\].
fn add_rows(a: &[f32], b: &[f32], row: &mut [f32]) {
    for (share, a) in b.iter().zip(a.chunks_exact(row.len())) {
        row.iter_mut().zip(a).for_each(|(x, a)| *x += share * a);
    }
}

/// Where the error lies.
struct Basis {
    /// (R, N), orthonormal.
    vectors: Vec<f64>,
    left: f64,
}

/// The left singular vectors of E (N, K), or of E·L with G = L·Lᵀ; [`None`] if they are not found.
fn basis(
    error: &[f64],
    (n, k): (usize, usize),
    gram: Option<&Inputs>,
    rank: usize,
) -> Option<Basis> {
    let other = transposed(error, k);
    // E·G or E, (N, K); then times Eᵀ.
    if n <= k {
        let mut square = vec![0.0; n * n];
        match gram {
            None => add_product((error, k), (&other, n), (n, k, n), &mut square),
            Some(gram) => {
                let mut weighed = vec![0.0; n * k];
                add_product((error, k), (&full(gram), k), (n, k, k), &mut weighed);
                add_product((&weighed, k), (&other, n), (n, k, n), &mut square);
                symmetrize(&mut square, n);
            }
        }
        let found = eigen::largest(&mut square, n, rank)?;
        let left = left(&found.values, rank);
        return Some(Basis {
            vectors: found.vectors,
            left,
        });
    }
    // The smaller side: Lᵀ·EᵀE·L (K, K), whose vectors V give U = E·L·V.
    let mut square = vec![0.0; k * k];
    add_product((&other, n), (error, k), (k, n, k), &mut square);
    let mut right = None;
    if let Some(gram) = gram {
        let lower = triangle(gram);
        let mut half = vec![0.0; k * k];
        add_product((&square, k), (&lower, k), (k, k, k), &mut half);
        square.fill(0.0);
        add_product(
            (&transposed(&lower, k), k),
            (&half, k),
            (k, k, k),
            &mut square,
        );
        symmetrize(&mut square, k);
        right = Some(lower);
    }
    let found = eigen::largest(&mut square, k, rank)?;
    let left = left(&found.values, rank);
    let rank = found.vectors.len() / k;
    // E·L·V, as rows: Vᵀ·Lᵀ·Eᵀ.
    let turned = match right {
        None => found.vectors,
        Some(lower) => {
            let mut turned = vec![0.0; rank * k];
            add_product(
                (&found.vectors, k),
                (&transposed(&lower, k), k),
                (rank, k, k),
                &mut turned,
            );
            turned
        }
    };
    let mut vectors = vec![0.0; rank * n];
    add_product((&turned, k), (&other, n), (rank, k, n), &mut vectors);
    // Their lengths are the singular values; what has none is no direction.
    let most = found.values.first().map_or(0.0, |it| it.max(0.0).sqrt());
    let mut kept: Vec<f64> = Vec::with_capacity(vectors.len());
    for vector in vectors.chunks_exact_mut(n) {
        let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length > most * 1e-7 {
            eigen::orthogonalize(vector, &kept);
            kept.extend_from_slice(vector);
        }
    }
    Some(Basis {
        vectors: kept,
        left,
    })
}

/// Share of the eigenvalues beyond the first `rank`.
fn left(values: &[f64], rank: usize) -> f64 {
    let sum = |values: &[f64]| values.iter().map(|it| it.max(0.0)).sum::<f64>();
    let all = sum(values);
    if all > 0.0 {
        sum(values.get(rank..).unwrap_or_default()) / all
    } else {
        0.0
    }
}

/// G/n (K, K).
fn full(inputs: &Inputs) -> Vec<f64> {
    let k = inputs.columns();
    (0..k * k)
        .map(|at| inputs.hessian(at / k, at % k) / 2.0)
        .collect()
}

/// L (K, K) with L·Lᵀ = G/n and what it takes on the diagonal; zeros above.
fn triangle(inputs: &Inputs) -> Vec<f64> {
    let k = inputs.columns();
    let gram = full(inputs);
    let mean = (0..k).map(|i| gram[i * k + i]).sum::<f64>() / k as f64;
    let mut added = 0.0;
    loop {
        let mut lower = gram.clone();
        (0..k).for_each(|i| lower[i * k + i] += added * mean);
        if cholesky::factor(&mut lower, k, Isa::best(), Team::global()).is_ok() {
            for i in 0..k {
                lower[i * k + i + 1..(i + 1) * k].fill(0.0);
            }
            return lower;
        }
        if mean <= 0.0 || added > 1.0 {
            // Inputs that were never active: every direction counts the same.
            let one = |at: usize| f64::from(u8::from(at / k == at % k));
            return (0..k * k).map(one).collect();
        }
        added = (added * 10.0).max(1e-8);
    }
}

/// C (M, N) += A (M, P)·B (P, N); each with its stride.
fn add_product(
    (a, a_stride): (&[f64], usize),
    (b, b_stride): (&[f64], usize),
    sizes: (usize, usize, usize),
    c: &mut [f64],
) {
    let rows = |values, stride| Rows { values, stride };
    update_at(
        Isa::best(),
        rows(a, a_stride),
        rows(b, b_stride),
        sizes,
        c,
        sizes.2,
    );
}

fn transposed(values: &[f64], columns: usize) -> Vec<f64> {
    let rows = values.len() / columns.max(1);
    let at = |at: usize| values[at % rows * columns + at / rows];
    (0..values.len()).map(at).collect()
}

/// (A + Aᵀ)/2, for what is symmetric but for rounding.
fn symmetrize(a: &mut [f64], n: usize) {
    for i in 0..n {
        for j in 0..i {
            let mean = (a[i * n + j] + a[j * n + i]) / 2.0;
            (a[i * n + j], a[j * n + i]) = (mean, mean);
        }
    }
}

/// A layer with its correction: base(x) + B·(A·x).
#[derive(Debug)]
pub struct Corrected {
    base: Arc<dyn Linear>,
    a: Dense,
    b: Dense,
    /// A and B row by row.
    factors: (Vec<f32>, Vec<f32>),
    rank: usize,
}

impl Linear for Corrected {
    fn shape(&self) -> (usize, usize) {
        self.base.shape()
    }

    fn kind(&self) -> String {
        format!("{} + rank {}", self.base.kind(), self.rank)
    }

    fn bytes(&self) -> usize {
        let rows = size_of_val(self.factors.0.as_slice()) + size_of_val(self.factors.1.as_slice());
        self.base.bytes() + self.a.bytes() + self.b.bytes() + rows
    }

    fn row(&self, n: usize, out: &mut [f32]) {
        self.base.row(n, out);
        let (a, b) = &self.factors;
        add_rows(a, &b[n * self.rank..][..self.rank], out);
    }

    fn forward(&self, x: &Input<'_>, into: Into, out: &mut [f32], engine: &Engine) {
        self.base.forward(x, into, out, engine);
        if self.rank == 0 {
            return;
        }
        let mut thin = vec![0.0; x.values.len() / x.columns * self.rank];
        self.a.forward(x, Into::Replace, &mut thin, engine);
        let thin = Input::new(&thin, self.rank, engine);
        self.b.forward(&thin, Into::Add, out, engine);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
}
