//! A Hessian, factored for error feedback.
//!
//! With columns in the order in which they are quantized, H + λ·I = U·D·Uᵀ, U unit upper triangular, D diagonal, and T = U⁻¹. When column
//! i comes to be changed by −δ, the best that columns j > i can do is to change by −δ·Tᵢⱼ, and what is then lost is Dᵢ·δ². D^−½·T is the
//! upper Cholesky factor of H⁻¹, with which the paper works.
//!
//! Computed from the Cholesky factor of the matrix with rows and columns in reverse order, by inverting the triangle: H itself is
//! not inverted.

use crate::kernels::update::{Rows, update_at};
use crate::kernels::{Isa, Team};
use crate::linalg::cholesky;
use crate::quant::{Damping, Inputs};
use crate::{Error, Result};

/// Damping that is tried first where none was asked for and none was not enough.
const LEAST: f64 = 1e-6;
/// Rows of P that a thread takes at a time.
const ROWS: usize = 48;
/// Damping beyond which a Hessian says nothing any more.
const MOST: f64 = 1e6;

/// T, and how it was come by.
#[derive(Debug, Clone)]
pub(in crate::quant) struct Factor {
    /// Columns in the order in which they are quantized.
    pub order: Vec<usize>,
    /// T (K, K), row-major; only what is right of the diagonal is defined.
    pub feedback: Vec<f64>,
    /// 1/D.
    pub pivots: Vec<f64>,
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
        cholesky::reversed_inverse(&mut matrix, k, isa, team);
        let mut feedback = matrix;
        let pivots = (0..k).map(|i| feedback[i * k + i].powi(2)).collect();
        team.each(feedback.chunks_mut(k), &|i, row| {
            let own = row[i];
            row[i..].iter_mut().for_each(|it| *it /= own);
        });
        Ok(Factor {
            order,
            feedback,
            pivots,
            damping: tried,
            dead,
        })
    }

    /// P with Pᵢⱼ = Σ_R Dᵢᵣ·[(H_RR + λ·I)⁻¹]ᵣⱼ over the columns R after i, D being [`Inputs::drift`]: what columns j > i do about each unit of
    /// weight in column i, whose input is not what it was. H_RR⁻¹ is T_RRᵀ·D⁻¹·T_RR, so P = ((D·Tᵀ) masked to what is right of the diagonal,
    /// columns times 1/D)·T. Cost: 4·K³/3 flops.
    pub fn drift(&self, inputs: &Inputs) -> Option<Vec<f64>> {
        let k = inputs.columns();
        inputs.drift(0, 0)?;
        let at = |i: usize, j: usize| match i.cmp(&j) {
            std::cmp::Ordering::Less => self.feedback[i * k + j],
            std::cmp::Ordering::Equal => 1.0,
            std::cmp::Ordering::Greater => 0.0,
        };
        let (mut t, mut transposed) = (vec![0.0; k * k], vec![0.0; k * k]);
        for i in 0..k {
            for j in i..k {
                (t[i * k + j], transposed[j * k + i]) = (at(i, j), at(i, j));
            }
        }
        let mut out = vec![0.0; k * k];
        let isa = Isa::best();
        Team::global().each(out.chunks_mut(ROWS * k), &|part, out| {
            let first = part * ROWS;
            let (rows, left) = (out.len() / k, k - first);
            let mut own = Vec::with_capacity(rows * left);
            for row in first..first + rows {
                let column = |j: &usize| inputs.drift(self.order[row], *j).unwrap_or(0.0);
                own.extend(self.order[first..].iter().map(column));
            }
            let square = |values| Rows { values, stride: k };
            let whole = |values| Rows {
                values,
                stride: left,
            };
            let sizes = (rows, left, left);
            let mut middle = vec![0.0; rows * left];
            let right = square(&transposed[first * k + first..]);
            update_at(isa, whole(&own), right, sizes, &mut middle, left);
            for (row, values) in middle.chunks_exact_mut(left).enumerate() {
                for (j, value) in values.iter_mut().enumerate() {
                    *value *= if j > row { self.pivots[first + j] } else { 0.0 };
                }
            }
            let right = square(&t[first * k + first..]);
            update_at(isa, whole(&middle), right, sizes, &mut out[first..], k);
        });
        Some(out)
    }
}
