//! What is known of the inputs of a linear layer: second moments and magnitudes, channel by channel.
//!
//! With inputs x (n of them, K channels) the error of a layer whose weights change by E (N, K) is the mean of |E·x|² over them,
//! tr(E·G·Eᵀ)/n with the Gram matrix G = Σ x·xᵀ. The Hessian of that error with respect to a row of weights, the same for each
//! row, is H = 2·G/n.
//!
//! Source: E. Frantar et al., *GPTQ* (arXiv 2210.17323), section 3.1.

use std::fmt;
use std::sync::Arc;

use crate::kernels::dense::{Element, Into, f32_words, multiply};
use crate::kernels::panel::Panels;
use crate::kernels::team::Team;
use crate::quant::Matrix;
use crate::{Error, Result};

/// Rows of a Gram matrix that are multiplied with at a time.
const ENERGY_ROWS: usize = 192;

/// What is known of the inputs of a layer. Cloning is cheap.
#[derive(Clone, PartialEq)]
pub struct Inputs {
    pub(super) name: String,
    pub(super) columns: usize,
    pub(super) tokens: usize,
    /// Lower triangle of G = Σ x·xᵀ, row after row.
    gram: Arc<Vec<f32>>,
    mean_abs: Arc<Vec<f32>>,
    max_abs: Arc<Vec<f32>>,
    /// Σ (x̃ − x)·xᵀ (K, K), x̃ being the input of the original network where x is that of a changed one.
    pub(super) drift: Option<Arc<Vec<f32>>>,
}

impl Inputs {
    /// Statistics of `tokens` inputs of as many channels as `mean_abs` has: the lower triangle of Σ x·xᵀ, row after row, and of each
    /// channel the mean and the greatest of |x|. `name` is for messages: `blk.3.attn_q.in`.
    ///
    /// # Errors
    /// [`Error::Shape`] if sizes do not fit or there are no channels or tokens, [`Error::Format`] if a number is not finite, or the
    /// diagonal is negative.
    pub fn new(
        name: &str,
        tokens: usize,
        gram: Vec<f32>,
        mean_abs: Vec<f32>,
        max_abs: Vec<f32>,
    ) -> Result<Inputs> {
        let columns = mean_abs.len();
        let sizes = [gram.len(), max_abs.len()];
        if columns == 0 || tokens == 0 || sizes != [columns * (columns + 1) / 2, columns] {
            return Err(Error::Shape {
                operation: format!("statistics of {name}"),
                expected: "a triangle of K rows and K means and maxima of at least one token"
                    .to_owned(),
                got: format!(
                    "{} and {columns} and {}, {tokens} tokens",
                    sizes[0], sizes[1]
                ),
            });
        }
        let inputs = Inputs {
            name: name.to_owned(),
            columns,
            tokens,
            gram: Arc::new(gram),
            mean_abs: Arc::new(mean_abs),
            max_abs: Arc::new(max_abs),
            drift: None,
        };
        inputs.check()?;
        Ok(inputs)
    }

    /// Statistics of given inputs `x` (T, `columns`), summed in f64.
    ///
    /// # Errors
    /// Those of [`Inputs::new`].
    pub fn of_samples(name: &str, x: &[f32], columns: usize) -> Result<Inputs> {
        let tokens = x.len().checked_div(columns).unwrap_or(0);
        let rows = || x.chunks_exact(columns.max(1)).take(tokens);
        let mut gram = Vec::with_capacity(columns * (columns + 1) / 2);
        for i in 0..columns {
            for j in 0..=i {
                let sum: f64 = rows().map(|x| f64::from(x[i]) * f64::from(x[j])).sum();
                gram.push(sum as f32);
            }
        }
        let column = |i: usize| rows().map(move |x| f64::from(x[i].abs()));
        let mean = |i| (column(i).sum::<f64>() / tokens as f64) as f32;
        let most = |i| column(i).fold(0.0, |a: f64, b| if b <= a { a } else { b }) as f32;
        let of = |value: &dyn Fn(usize) -> f32| (0..columns).map(value).collect::<Vec<f32>>();
        Inputs::new(name, tokens, gram, of(&mean), of(&most))
    }

    fn check(&self) -> Result<()> {
        let bad = |what: &str, at: String, value: f32| Error::Format {
            file: format!("{what} of {}", self.name),
            expected: "finite numbers".to_owned(),
            got: format!("{value} at {at}"),
        };
        if let Some(at) = self.gram.iter().position(|it| !it.is_finite()) {
            // The row whose triangle number is the last at or before `at`.
            let mut row = 0;
            while (row + 1) * (row + 2) / 2 <= at {
                row += 1;
            }
            let place = format!("[{row}, {}]", at - row * (row + 1) / 2);
            return Err(bad("Hessian", place, self.gram[at]));
        }
        if let Some(at) = (0..self.columns).find(|&i| self.gram_at(i, i) < 0.0) {
            let place = format!("[{at}, {at}]");
            return Err(bad("Hessian", place, self.gram_at(at, at)));
        }
        for (what, values) in [("mean |x|", &self.mean_abs), ("max |x|", &self.max_abs)] {
            if let Some(at) = values.iter().position(|it| !it.is_finite()) {
                return Err(bad(what, format!("[{at}]"), values[at]));
            }
        }
        Ok(())
    }

    /// The name of the activation: `blk.3.attn_q.in`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Channels K.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Inputs seen.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Mean |x| of each channel.
    pub fn mean_abs(&self) -> &[f32] {
        &self.mean_abs
    }

    /// Greatest |x| of each channel.
    pub fn max_abs(&self) -> &[f32] {
        &self.max_abs
    }

    /// The lower triangle of Σ x·xᵀ, row after row.
    pub fn triangle(&self) -> &[f32] {
        &self.gram
    }

    /// Σ xᵢ·xⱼ.
    fn gram_at(&self, i: usize, j: usize) -> f32 {
        let (row, column) = if i >= j { (i, j) } else { (j, i) };
        self.gram[row * (row + 1) / 2 + column]
    }

    /// H\[i, j\] = 2/n·Σ xᵢ·xⱼ.
    ///
    /// # Panics
    /// If there are no such channels.
    pub fn hessian(&self, i: usize, j: usize) -> f64 {
        2.0 * f64::from(self.gram_at(i, j)) / self.tokens as f64
    }

    /// Refuses weights of another width.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn check_fits(&self, weights: &Matrix) -> Result<()> {
        match weights.cols() == self.columns {
            true => Ok(()),
            false => Err(Error::Shape {
                operation: format!("calibrate with {}", self.name),
                expected: format!("[N, {}]", self.columns),
                got: format!("[{}, {}]", weights.rows(), weights.cols()),
            }),
        }
    }

    /// tr(A·G·Aᵀ)/n of each of `matrices` (N, K): the mean of |A·x|² over the inputs. From f32 products, summed in f64.
    ///
    /// G is symmetric, so its lower triangle with half of the diagonal is enough: blocks of its rows, each as long as its last.
    fn energies(&self, matrices: [&[f32]; 2]) -> [f64; 2] {
        let k = self.columns;
        let mut sums = [0.0; 2];
        for first in (0..k).step_by(ENERGY_ROWS) {
            let end = k.min(first + ENERGY_ROWS);
            let block = Panels::pack(end - first, end, |row, j| {
                let i = first + row;
                match j {
                    j if j < i => self.gram[i * (i + 1) / 2 + j].to_bits(),
                    j if j == i => (self.gram[i * (i + 1) / 2 + j] / 2.0).to_bits(),
                    _ => 0,
                }
            });
            for (matrix, sum) in matrices.into_iter().zip(&mut sums) {
                let mut x = Vec::with_capacity(matrix.len() / k * end);
                (matrix.chunks_exact(k)).for_each(|row| x.extend_from_slice(&row[..end]));
                let mut product = vec![0.0; matrix.len() / k * (end - first)];
                let (x, team) = (f32_words(&x), Team::global());
                multiply(Element::F32, x, &block, Into::Replace, &mut product, team);
                let pairs = product
                    .chunks_exact(end - first)
                    .zip(matrix.chunks_exact(k));
                for (product, row) in pairs {
                    *sum += dot(product, &row[first..end]);
                }
            }
        }
        sums.map(|sum| 2.0 * sum / self.tokens as f64)
    }

    /// How much of the layer's output is lost: tr(E·H·Eᵀ)/tr(W·H·Wᵀ), E = W − Ŵ. 0 = nothing, 1 = all of it.
    ///
    /// # Errors
    /// [`Error::Shape`] if the matrices are not both (N, K).
    pub fn output_error(&self, original: &Matrix, approximation: &Matrix) -> Result<f64> {
        self.check_fits(original)?;
        if original.data().len() != approximation.data().len() {
            self.check_fits(approximation)?;
            return Err(Error::Shape {
                operation: format!("output error at {}", self.name),
                expected: format!("[{}, {}]", original.rows(), original.cols()),
                got: format!("[{}, {}]", approximation.rows(), approximation.cols()),
            });
        }
        let pairs = original.data().iter().zip(approximation.data());
        let error: Vec<f32> = pairs.map(|(w, a)| w - a).collect();
        let [noise, signal] = self.energies([&error, original.data()]);
        Ok(match noise {
            0.0 => 0.0,
            noise => noise / signal,
        })
    }
}

/// Σ aᵢ·bᵢ in f64, in eight sums that do not wait for each other.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    let of = |a: f32, b: f32| f64::from(a) * f64::from(b);
    let ((a, last_a), (b, last_b)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += of(*a, *b);
        }
    }
    let rest = last_a.iter().zip(last_b).map(|(a, b)| of(*a, *b));
    sums.iter().sum::<f64>() + rest.sum::<f64>()
}

impl fmt::Debug for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "inputs {} of {} channels, {} tokens",
            self.name, self.columns, self.tokens
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::samples;

    #[test]
    fn output_error_is_the_error_of_the_outputs() -> Result<()> {
        // One block of the Gram matrix, several with a broken one, the real model's widths.
        [24, 200, 576, 1536]
            .into_iter()
            .try_for_each(output_error_of)
    }

    fn output_error_of(columns: usize) -> Result<()> {
        let tokens = 40;
        let x = samples::correlated(tokens, columns, 3);
        let inputs = Inputs::of_samples("x", &x, columns)?;
        let w: Vec<f32> = (0..5 * columns).map(|i| (i as f32 * 0.7).sin()).collect();
        let other: Vec<f32> = w.iter().map(|it| (it * 4.0).round() / 4.0).collect();
        let output = |w: &[f32]| -> Vec<f64> {
            let rows = x.chunks(columns);
            let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(a, b)| f64::from(a * b)).sum();
            rows.flat_map(|x| w.chunks(columns).map(move |w| dot(x, w)))
                .collect()
        };
        let (y, z) = (output(&w), output(&other));
        let noise: f64 = y.iter().zip(&z).map(|(a, b)| (a - b) * (a - b)).sum();
        let signal: f64 = y.iter().map(|a| a * a).sum();
        let (w, other) = (Matrix::new(5, columns, w)?, Matrix::new(5, columns, other)?);
        let got = inputs.output_error(&w, &other)?;
        assert!(
            (got / (noise / signal) - 1.0).abs() < 1e-4,
            "{got} for {}",
            noise / signal
        );
        assert_eq!(inputs.output_error(&w, &w)?, 0.0);
        assert!(
            inputs
                .output_error(&w, &Matrix::new(1, 3, vec![0.0; 3])?)
                .is_err()
        );
        // The mean of the squares of channel 2, twice.
        let mean: f64 = x
            .chunks(columns)
            .map(|x| f64::from(x[2] * x[2]))
            .sum::<f64>()
            / tokens as f64;
        assert!((inputs.hessian(2, 2) / (2.0 * mean) - 1.0).abs() < 1e-6);
        assert_eq!(inputs.hessian(2, 7), inputs.hessian(7, 2));
        Ok(())
    }

    #[test]
    fn what_is_not_finite_is_named_with_its_layer() {
        let mut x = samples::correlated(9, 6, 1);
        x[3 * 6 + 4] = f32::NAN;
        let error = Inputs::of_samples("blk.7.ffn_down.in", &x, 6)
            .unwrap_err()
            .to_string();
        for says in ["Hessian of blk.7.ffn_down.in", "finite", "[4, 0]"] {
            assert!(error.contains(says), "{error}");
        }
        for (tokens, gram, mean) in [(0, 1, 1), (1, 2, 1), (1, 0, 0)] {
            let made = Inputs::new(
                "x",
                tokens,
                vec![1.0; gram],
                vec![1.0; mean],
                vec![1.0; mean],
            );
            assert!(made.is_err());
        }
        assert!(Inputs::new("x", 1, vec![-1.0], vec![1.0], vec![1.0]).is_err());
    }
}
