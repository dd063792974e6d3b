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

mod basis;
mod corrected;
mod correction;

use std::fmt;
use std::sync::Arc;

use half::f16;

use basis::{Basis, add_product, basis};

pub use corrected::Corrected;
pub use correction::{Correction, Weighing};

use crate::model::linear::Linear;
use crate::quant::{Inputs, Matrix};
use crate::{Error, Result};

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
        Corrected::new(base, (self.a(), self.b()), (self.rank, self.columns))
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

#[cfg(test)]
mod tests;
