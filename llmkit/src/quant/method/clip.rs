//! Round to nearest with clipping: a block's range is cut, so that the many get a finer grid at the cost of the few.
//!
//! ```text
//! MSE:         γ = argmin over 1, 31/32, … 1/2 of Σ (w − round(w on the grid of w cut to [γ·min, γ·max]))²
//! percentile:  the range is cut at the p-quantile of |w|
//! ```
//!
//! Source: the `mse` option of GPTQ's reference quantizer (arXiv 2210.17323, github.com/IST-DASLab/gptq, `quant.py`), which searches
//! the same way; percentiles: H. Wu et al., *Integer Quantization for Deep Learning Inference* (arXiv 2004.09602), section 3.3.
//!
//! Cost: 17 fits and roundings a block for MSE, a sort for a percentile; no calibration data.
//!
//! **Where we differ.** Errors are squared, not to the power of 2.4; the range is cut to no less than half. The format's own encoder is
//! the first candidate and wins ties, so no block is worse than without clipping. A percentile of 64 weights cuts off the greatest
//! one at most, and what a format represents exactly does not stay: percentiles are for whole channels.

use super::Method;
use crate::quant::calibration::Inputs;
use crate::quant::ranges::{CUTS, cut, search};
use crate::quant::{Applied, Format, Matrix, Quantized};
use crate::{Error, Result, interrupt};

/// Where ranges are cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Clip {
    /// Where the squared error is least.
    Mse,
    /// At this percentile of magnitudes, 50 … 100.
    Percentile(f64),
}

/// The `share` quantile of magnitudes, interpolated.
fn quantile(block: &[f32], share: f64) -> f32 {
    let mut sorted: Vec<f32> = block.iter().map(|w| w.abs()).collect();
    sorted.sort_by(f32::total_cmp);
    let at = share.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (below, part) = (at as usize, at.fract());
    let above = (below + 1).min(sorted.len() - 1);
    (f64::from(sorted[below]) * (1.0 - part) + f64::from(sorted[above]) * part) as f32
}

impl Method for Clip {
    fn name(&self) -> String {
        match self {
            Clip::Mse => "rtn-mse".into(),
            Clip::Percentile(p) => format!("rtn-p{p}"),
        }
    }

    fn check(&self, format: &dyn Format) -> Result<()> {
        if let Clip::Percentile(p) = self
            && !(50.0..=100.0).contains(p)
        {
            return Err(Error::argument("percentile", "50 … 100", p));
        }
        match format.vector() {
            1 => Ok(()),
            _ => {
                let what = format!("{} with {}", self.name(), format.name());
                let expected = "a format whose grid follows the range of its block";
                Err(Error::argument(
                    what,
                    expected,
                    "one that follows its power",
                ))
            }
        }
    }

    fn choose(
        &self,
        weights: &Matrix,
        format: &dyn Format,
        _inputs: Option<&Inputs>,
    ) -> Result<Quantized> {
        self.check(format)?;
        let (rows, cols) = (weights.rows(), weights.cols());
        format.check(rows, cols)?;
        let whole = format.fit_whole(weights)?;
        let mut codes = vec![0; rows * cols];
        let (mut grids, mut clipped) = (Vec::new(), 0);
        let blocks = format.granularity().blocks(rows, cols);
        for (index, range) in blocks.enumerate() {
            interrupt::check("round with clipping")?;
            let block = &weights.data()[range.clone()];
            let codes = &mut codes[range];
            let (grid, first) = match self {
                Clip::Mse => (format.encode(&whole, index, block, codes)?, 1),
                Clip::Percentile(p) => {
                    let end = quantile(block, p / 100.0);
                    let grid = format.fit(&whole, index, &cut(block, -end, end))?;
                    format.round(&grid, 0, block, codes);
                    (grid, CUTS + 1)
                }
            };
            let best = search(format, (&whole, index), block, (grid, first), codes)?;
            let bound = format.max_error(&best, &[]);
            let mut values = vec![0.0; block.len()];
            format.values(&best, 0, codes, &mut values);
            let far = |(w, v): (&f32, &f32)| f64::from((w - v).abs()) > bound;
            clipped += block.iter().zip(&values).filter(|it| far(*it)).count();
            grids.push(best);
        }
        let quantized = Quantized::pack(format, rows, cols, &whole, &codes, &grids)?;
        let tells = grids.iter().all(|grid| format.max_error(grid, &[]) > 0.0);
        Ok(quantized.applying(Applied {
            clipped: tells.then_some(clipped),
            ..Applied::by(self.name())
        }))
    }

    fn named(&self, name: &str) -> Option<Box<dyn Method>> {
        let percentile = name.strip_prefix("rtn-p")?.parse().ok()?;
        Some(Box::new(Clip::Percentile(percentile)))
    }
}

/// The search; a percentile does not keep what a format represents exactly, so contracts do not run over it.
pub(super) fn members() -> Vec<Box<dyn Method>> {
    vec![Box::new(Clip::Mse)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::format::{self, IntSymmetric};
    use crate::quant::method::{Rtn, named};
    use crate::quant::{Granularity, error, samples};

    /// The search has what it is compared with among its candidates: no block of any format is worse.
    #[test]
    fn no_block_is_worse_than_by_rounding_and_some_are_better() -> Result<()> {
        let mut better = 0;
        for format in format::all().iter().flat_map(|family| (family.members)()) {
            for (sample, weights) in samples::all() {
                let unfit = format.check(weights.rows(), weights.cols()).is_err();
                if unfit || Clip::Mse.check(format.as_ref()).is_err() {
                    continue;
                }
                let plain = Rtn.quantize(&weights, format.as_ref())?.decode()?;
                let cut = Clip::Mse.quantize(&weights, format.as_ref())?.decode()?;
                for block in format.granularity().blocks(weights.rows(), weights.cols()) {
                    let original = &weights.data()[block.clone()];
                    let before = error::mse(original, &plain.data()[block.clone()])?;
                    let after = error::mse(original, &cut.data()[block])?;
                    assert!(
                        after <= before,
                        "{} on {sample}: {after} > {before}",
                        format.name()
                    );
                    better += usize::from(after < before);
                }
            }
        }
        assert!(better > 100, "{better} blocks");
        Ok(())
    }

    #[test]
    fn percentiles_are_read_from_names_and_cut_the_greatest() -> Result<()> {
        let method = named("rtn-p90")?;
        assert_eq!(method.name(), "rtn-p90");
        // Magnitudes 0 … 9 and one of 100: the 90th percentile of eleven is 9.
        let mut weights: Vec<f32> = (0..10).map(|i| i as f32).collect();
        weights.push(-100.0);
        let weights = Matrix::new(1, 11, weights)?;
        let format = IntSymmetric::new(8, Granularity::Channel)?;
        let found = method.quantize(&weights, &format)?;
        let least = found.decode()?.data()[10];
        assert!((least + 9.0).abs() < 0.01, "{least}");
        assert_eq!(found.applied().clipped, Some(1));
        for odd in ["rtn-p101", "rtn-p49", "rtn-pNaN"] {
            let error = named(odd)?
                .quantize(&weights, &format)
                .unwrap_err()
                .to_string();
            assert!(error.contains("50 … 100"), "{error}");
        }
        assert!(named("rtn-px").is_err());
        Ok(())
    }
}
