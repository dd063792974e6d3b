//! A Hessian, factored for error feedback.
//!
//! With columns in the order in which they are quantized, H + λ·I = U·D·Uᵀ, U unit upper triangular, D diagonal, and T = U⁻¹. When column
//! i comes to be changed by −δ, the best that columns j > i can do is to change by −δ·Tᵢⱼ, and what is then lost is Dᵢ·δ². D^−½·T is the
//! upper Cholesky factor of H⁻¹, with which the paper works.
//!
//! Computed from the Cholesky factor of the matrix with rows and columns in reverse order, by inverting the triangle: H itself is
//! not inverted.

use crate::kernels::{Isa, Team};
use crate::linalg::cholesky;
use crate::quant::{Damping, Inputs};
use crate::{Error, Result};

/// Damping that is tried first where none was asked for and none was not enough.
const LEAST: f64 = 1e-6;
/// Damping beyond which a Hessian says nothing any more.
const MOST: f64 = 1e6;

/// T, and how it was come by.
#[derive(Debug, Clone)]
pub(in crate::quant) struct Factor {
    /// Columns in the order in which they are quantized.
    pub order: Vec<usize>,
    /// T (K, K), row-major; only what is right of the diagonal is defined.
    pub feedback: Vec<f64>,
    pub damping: Damping,
    /// Channels that were never active.
    pub dead: usize,
}

impl Factor {
    /// Of the Hessian of `inputs` with `damping` times its mean diagonal added, or ten times as much as often as it takes.
    ///
    /// # Errors
    /// [`Error::Argument`] if the damping is negative or no number, or no damping helps.
    pub fn new(inputs: &Inputs, order: Vec<usize>, damping: f64) -> Result<Factor> {
        if !(0.0..=MOST).contains(&damping) {
            return Err(Error::argument(
                "damping",
                format!("0 … {MOST:e} of the mean diagonal"),
                damping,
            ));
        }
        let k = inputs.columns();
        let (isa, team) = (Isa::best(), Team::global().as_ref());
        let diagonal: Vec<f64> = (0..k).map(|i| inputs.hessian(i, i)).collect();
        let mean = diagonal.iter().sum::<f64>() / k as f64;
        let dead = diagonal.iter().filter(|&&it| it == 0.0).count();
        let mut tried = Damping {
            asked: damping,
            used: damping,
            tries: 0,
        };
        let mut matrix = vec![0.0; k * k];
        loop {
            tried.tries += 1;
            // Inputs that were never active at all: nothing is known, and each column is on its own.
            let added = if mean > 0.0 { tried.used * mean } else { 1.0 };
            team.each(matrix.chunks_mut(k), &|row, out| {
                let column = |at: usize| order[k - 1 - at];
                for (at, out) in out.iter_mut().enumerate().take(row + 1) {
                    *out = inputs.hessian(column(row), column(at));
                }
                out[row] += added;
            });
            if cholesky::factor(&mut matrix, k, isa, team).is_ok() {
                break;
            }
            tried.used = (tried.used * 10.0).max(LEAST);
            if tried.used > MOST {
                let got = format!("none after {} tries, up to {MOST:e}", tried.tries);
                let what = format!("Hessian of {}", inputs.name());
                return Err(Error::argument(
                    what,
                    "one that some damping makes positive definite",
                    got,
                ));
            }
        }
        let mut feedback = cholesky::reversed_inverse(&matrix, k, isa, team);
        team.each(feedback.chunks_mut(k), &|i, row| {
            let own = row[i];
            row[i..].iter_mut().for_each(|it| *it /= own);
        });
        Ok(Factor {
            order,
            feedback,
            damping: tried,
            dead,
        })
    }
}
