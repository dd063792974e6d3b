//! SqueezeLLM: codebooks learned with each weight's error counting as much as the loss is sensitive to it.
//!
//! ```text
//! points of a row = argmin Σⱼ (Hⱼⱼ + λ)·(wⱼ − nearest point)²,   λ = 0.01·mean(diag H)
//! ```
//! Source: S. Kim et al., *SqueezeLLM: Dense-and-Sparse Quantization* (arXiv 2306.07629), section 4.1.
//!
//! Cost: the exact algorithm on a line, O(2ᵇ·n·log n) for a row of n.
//!
//! **Where we differ.** Sensitivity is the curvature of the layer's outputs, the mean square of a weight's input, the same for all rows; the
//! paper takes the squared gradient of the model's loss, which needs a backward pass. Points are the optimum, not Lloyd's. λ keeps the weights of
//! channels that calibration never saw. The sparse part of the paper is [`Spqr`](super::Spqr): `spqr0.5-squeezellm`.

use super::imatrix::mean_squares;
use super::{Method, known};
use crate::quant::calibration::Inputs;
use crate::quant::{Applied, Format, Granularity, Matrix, Quantized};
use crate::{Error, Result, interrupt};

/// Sensitivity-weighted codebooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqueezeLlm;

/// λ over the mean of the diagonal.
const FLOOR: f32 = 0.01;

impl Method for SqueezeLlm {
    fn name(&self) -> String {
        "squeezellm".to_owned()
    }

    fn needs_inputs(&self) -> bool {
        true
    }

    fn check(&self, format: &dyn Format) -> Result<()> {
        match format.fit_weighted(&[1.0], &[1.0]) {
            Some(_) => Ok(()),
            None => {
                let what = format!("{} with {}", self.name(), format.name());
                let expected = "a format whose points are learned, such as kmeans3-channel";
                Err(Error::argument(what, expected, "one whose points are not"))
            }
        }
    }

    fn choose(
        &self,
        weights: &Matrix,
        format: &dyn Format,
        inputs: Option<&Inputs>,
    ) -> Result<Quantized> {
        self.check(format)?;
        let mut importance = mean_squares(known(self, weights, inputs)?);
        let (rows, cols) = (weights.rows(), weights.cols());
        format.check(rows, cols)?;
        let mean = importance.iter().sum::<f32>() / cols as f32;
        let floor = if mean > 0.0 { FLOOR * mean } else { 1.0 };
        importance.iter_mut().for_each(|it| *it += floor);
        if format.granularity() == Granularity::Tensor {
            importance = importance.repeat(rows);
        }
        let whole = format.fit_whole(weights)?;
        let mut codes = vec![0; rows * cols];
        let mut grids = Vec::new();
        for (index, range) in format.granularity().blocks(rows, cols).enumerate() {
            interrupt::check("weighted codebooks")?;
            let block = &weights.data()[range.clone()];
            let importance = &importance[range.start % importance.len()..][..block.len()];
            let grid = match format.fit_weighted(block, importance) {
                Some(grid) => grid?,
                None => format.fit(&whole, index, block)?,
            };
            format.round(&grid, 0, block, &mut codes[range]);
            grids.push(grid);
        }
        let quantized = Quantized::pack(format, rows, cols, &whole, &codes, &grids)?;
        Ok(quantized.applying(Applied::by(self.name())))
    }
}

/// The one method here.
pub(super) fn members() -> Vec<Box<dyn Method>> {
    vec![Box::new(SqueezeLlm)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::format::KMeans;
    use crate::quant::method::Rtn;
    use crate::quant::samples;

    /// Least weighted error over all ways to cut the sorted weights into `count` runs, by recursion.
    fn least(points: &[(f64, f64)], count: usize) -> f64 {
        let cost = |run: &[(f64, f64)]| {
            let weight: f64 = run.iter().map(|it| it.1).sum();
            let mean = run.iter().map(|it| it.0 * it.1).sum::<f64>() / weight;
            run.iter()
                .map(|it| it.1 * (it.0 - mean).powi(2))
                .sum::<f64>()
        };
        match count {
            1 => cost(points),
            _ => (1..=points.len() + 1 - count)
                .map(|first| cost(&points[..first]) + least(&points[first..], count - 1))
                .fold(f64::INFINITY, f64::min),
        }
    }

    /// The criterion: the optimum, exactly (but for what f16 does to the points). Planted: points that do not look at importances.
    #[test]
    fn no_codebook_has_a_smaller_weighted_error() -> Result<()> {
        let columns = 14;
        let inputs = Inputs::of_samples("x", &samples::correlated(90, columns, 8), columns)?;
        let weights = Matrix::new(12, columns, samples::smooth(12, columns, 9))?;
        let importance = mean_squares(&inputs);
        let floor = FLOOR * importance.iter().sum::<f32>() / columns as f32;
        let format = KMeans::new(2, Granularity::Channel)?;
        let mut planted = 0;
        let ours = SqueezeLlm
            .choose(&weights, &format, Some(&inputs))?
            .decode()?;
        let plain = Rtn.quantize(&weights, &format)?.decode()?;
        for row in 0..12 {
            let w = &weights.data()[row * columns..][..columns];
            let weight = |i: usize| f64::from(importance[i] + floor);
            let mut points: Vec<(f64, f64)> =
                (0..columns).map(|i| (f64::from(w[i]), weight(i))).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let least = least(&points, 4);
            let lost = |found: &Matrix| -> f64 {
                let found = &found.data()[row * columns..][..columns];
                let each = (0..columns).map(|i| weight(i) * f64::from(w[i] - found[i]).powi(2));
                each.sum()
            };
            let (ours, plain) = (lost(&ours), lost(&plain));
            assert!(
                ours >= least * (1.0 - 1e-3) && ours <= least * 1.01 + 1e-4,
                "{ours} {least}"
            );
            planted += usize::from(plain > 1.05 * least);
        }
        assert!(planted > 3, "{planted}");
        Ok(())
    }
}
