//! Importance matrix: ggml's searches for scales, in which the error of a column counts as much as its inputs are strong.
//!
//! ```text
//! importance of column j:   mean xⱼ²                    error of a block:   Σ importance·√(σ² + w²)·(w − ŵ)²
//! ```
//! Source: I. Kawrakow, llama.cpp #4861 (`llama-imatrix`); its encoders byte by byte: [`numeric::ggml`](crate::numeric::ggml).
//!
//! Cost: a search of 37 lines or 19 scales a block of 32, a few times that of Q4_0 without one.
//!
//! **Where we differ.** A block none of whose columns was ever active is encoded without importances; llama.cpp writes zeros. The importances are
//! those of our calibration, summed in f64 over bf16 activations.

use super::{Method, known};
use crate::numeric::ggml::GgmlType;
use crate::quant::calibration::Inputs;
use crate::quant::{Applied, Format, Granularity, Matrix, Quantized};
use crate::{Error, Result, interrupt};

/// Encoders weighted by the inputs' mean squares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imatrix;

/// mean xⱼ² of each column.
pub(super) fn mean_squares(inputs: &Inputs) -> Vec<f32> {
    let each = 0..inputs.columns();
    each.map(|j| (inputs.hessian(j, j) / 2.0) as f32).collect()
}

impl Method for Imatrix {
    fn name(&self) -> String {
        "imatrix".to_owned()
    }

    fn needs_inputs(&self) -> bool {
        true
    }

    fn check(&self, format: &dyn Format) -> Result<()> {
        if let Granularity::Group(group) = format.granularity() {
            let (ones, mut codes) = (vec![1.0; group], vec![0; group]);
            if format
                .encode_weighted(&ones, &ones, 1.0, &mut codes)
                .is_some()
            {
                return Ok(());
            }
        }
        let what = format!("{} with {}", self.name(), format.name());
        let expected = "a format with an encoder for importances (those of ggml)";
        Err(Error::argument(what, expected, "one without"))
    }

    fn choose(
        &self,
        weights: &Matrix,
        format: &dyn Format,
        inputs: Option<&Inputs>,
    ) -> Result<Quantized> {
        self.check(format)?;
        let importance = mean_squares(known(self, weights, inputs)?);
        let (rows, cols) = (weights.rows(), weights.cols());
        format.check(rows, cols)?;
        let whole = format.fit_whole(weights)?;
        let mut codes = vec![0; rows * cols];
        let (mut grids, mut power) = (Vec::new(), 0.0);
        for (index, range) in format.granularity().blocks(rows, cols).enumerate() {
            interrupt::check("importance matrix")?;
            let column = range.start % cols;
            if column == 0 {
                power = GgmlType::power(&weights.data()[range.start..][..cols]);
            }
            let block = &weights.data()[range.clone()];
            let importance = &importance[column..][..block.len()];
            let codes = &mut codes[range];
            let is_dead = importance.iter().all(|&it| it == 0.0);
            let weighted = match is_dead {
                true => None,
                false => format.encode_weighted(block, importance, power, codes),
            };
            grids.push(match weighted {
                Some(grid) => grid?,
                None => format.encode(&whole, index, block, codes)?,
            });
        }
        let quantized = Quantized::pack(format, rows, cols, &whole, &codes, &grids)?;
        Ok(quantized.applying(Applied::by(self.name())))
    }

    fn is_projection(&self) -> bool {
        // The searches that importances switch on do not keep what plain Q4_0 represents.
        false
    }
}

/// The one method here.
pub(super) fn members() -> Vec<Box<dyn Method>> {
    vec![Box::new(Imatrix)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::format::{Ggml, IntSymmetric};
    use crate::quant::method::Rtn;
    use crate::quant::samples;

    /// Weighted by the inputs, errors are smaller than without, for every type with a search; with all columns alike it is not the same as
    /// without, but no better on the weights by much.
    #[test]
    fn weighted_errors_are_smaller_than_without() -> Result<()> {
        let columns = 256;
        let mut x = samples::correlated(300, columns, 8);
        // Strong and weak columns side by side.
        for (i, x) in x.iter_mut().enumerate() {
            *x *= [0.1, 1.0, 3.0][i % columns % 3];
        }
        let inputs = Inputs::of_samples("x", &x, columns)?;
        let importance = mean_squares(&inputs);
        let weights = Matrix::new(16, columns, samples::smooth(16, columns, 9))?;
        let mut count = 0;
        for of in GgmlType::ALL {
            let format = Ggml(of);
            let lost = |method: &dyn Method| -> Result<f64> {
                let found = method.choose(&weights, &format, Some(&inputs))?.decode()?;
                let each = weights.data().iter().zip(found.data()).enumerate();
                let term = |(i, (w, v)): (usize, (&f32, &f32))| {
                    f64::from(importance[i % columns]) * f64::from(w - v).powi(2)
                };
                Ok(each.map(term).sum())
            };
            let (plain, ours) = (lost(&Rtn)?, lost(&Imatrix)?);
            match of {
                GgmlType::Q8_0 | GgmlType::TQ1_0 | GgmlType::TQ2_0 => assert_eq!(plain, ours),
                _ => {
                    assert!(ours < plain, "{of:?}: {ours} {plain}");
                    count += 1;
                }
            }
        }
        assert_eq!(count, 10);
        Ok(())
    }

    #[test]
    fn columns_that_are_never_active_are_not_zeroed() -> Result<()> {
        let columns = 64;
        let mut x = samples::correlated(50, columns, 8);
        x.chunks_mut(columns).for_each(|row| row[32..].fill(0.0));
        let inputs = Inputs::of_samples("x", &x, columns)?;
        let weights = Matrix::new(2, columns, samples::correlated(2, columns, 9))?;
        let format = Ggml(GgmlType::Q4_0);
        let found = Imatrix.choose(&weights, &format, Some(&inputs))?;
        let plain = Rtn.quantize(&weights, &format)?;
        assert_eq!(
            found.decode()?.data()[32..64],
            plain.decode()?.data()[32..64]
        );
        assert!(
            Imatrix
                .check(&IntSymmetric::new(4, Granularity::Group(32))?)
                .is_err()
        );
        Ok(())
    }
}
