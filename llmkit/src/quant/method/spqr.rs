//! SpQR: a few weights, without which the others have a finer grid, are stored apart.
//!
//! ```text
//! gain of taking weights out of a block:   Σ Hⱼⱼ·(w − ŵ)² before − after        the p % of the matrix that gain most are kept in f16
//! Ŵ = S + METHOD(W − S)                                                         `spqr1-METHOD` for 1 %
//! ```
//! Source: T. Dettmers et al., *SpQR: A Sparse-Quantized Representation for Near-Lossless LLM Weight Compression* (arXiv 2306.03078),
//! sections 3 and 4.
//!
//! Cost: five fits and roundings for a block of 64, then the method's own; 32 bits for each weight that is kept (a value and a column), 32 for a row.
//!
//! **Where we differ.** Candidates are the sixteenth of a block that is greatest in magnitude, taken out one after the other; the paper tries every
//! weight alone. Weights that pay only together (two outliers of one size) are judged together. What is kept is added, so any method goes with
//! it: GPTQ sees zeros there and still makes up for the others. Scales are the format's own, the paper quantizes them in turn.

use half::f16;

use super::{Gptq, Method, known, named};
use crate::quant::aside::{Aside, Sparse};
use crate::quant::calibration::Inputs;
use crate::quant::{Applied, Format, Granularity, Matrix, Quantized, Whole};
use crate::{Error, Result, interrupt};

/// A method on what is left when some weights are stored apart.
#[derive(Debug)]
pub struct Spqr {
    inner: Box<dyn Method>,
    /// Share of the weights that are kept at most, in percent.
    percent: f64,
}

/// Weights of a block that gain `gain` each, on the average, if they are taken out.
struct Outliers {
    gain: f64,
    at: Vec<usize>,
}

impl Spqr {
    /// At most `percent` of the weights apart, the others by `inner`.
    pub fn new(percent: f64, inner: Box<dyn Method>) -> Spqr {
        Spqr { inner, percent }
    }

    /// What may be taken out of a block, in runs of falling gain.
    fn outliers(
        format: &dyn Format,
        (whole, index): (&Whole, usize),
        block: &[f32],
        importance: &[f64],
    ) -> Result<Vec<Outliers>> {
        let mut order: Vec<usize> = (0..block.len()).collect();
        order.sort_by(|&a, &b| block[b].abs().total_cmp(&block[a].abs()));
        order.truncate((block.len() / 16).max(1));
        let (mut left, mut codes) = (block.to_vec(), vec![0; block.len()]);
        let mut values = vec![0.0; block.len()];
        let mut error = |left: &[f32]| -> Result<f64> {
            let grid = format.encode(whole, index, left, &mut codes)?;
            format.values(&grid, 0, &codes, &mut values);
            let each = left.iter().zip(&values).zip(importance);
            Ok(each.map(|((w, v), h)| h * f64::from(w - v).powi(2)).sum())
        };
        let mut runs: Vec<Outliers> = Vec::new();
        let mut before = error(&left)?;
        for at in order {
            if before == 0.0 {
                break;
            }
            left[at] = 0.0;
            let after = error(&left)?;
            let mut run = Outliers {
                gain: before - after,
                at: vec![at],
            };
            // A weight that gains more than the ones before it is taken out with them.
            while let Some(last) = runs.pop_if(|last| last.gain <= run.gain) {
                let (a, b) = (last.at.len() as f64, run.at.len() as f64);
                run.gain = (last.gain * a + run.gain * b) / (a + b);
                run.at = [last.at, run.at].concat();
            }
            runs.push(run);
            before = after;
        }
        Ok(runs)
    }
}

impl Method for Spqr {
    fn name(&self) -> String {
        format!("spqr{}-{}", self.percent, self.inner.name())
    }

    fn needs_inputs(&self) -> bool {
        true
    }

    fn needs_drift(&self) -> bool {
        self.inner.needs_drift()
    }

    fn is_projection(&self) -> bool {
        self.inner.is_projection()
    }

    fn is_plain(&self) -> bool {
        false
    }

    fn check(&self, format: &dyn Format) -> Result<()> {
        if !(0.0..=50.0).contains(&self.percent) {
            return Err(Error::argument("percent of SpQR", "0 … 50", self.percent));
        }
        if format.vector() > 1 || format.granularity() == Granularity::Tensor {
            let what = format!("{} with {}", self.name(), format.name());
            let expected = "a format with a grid for each group or row, and one code a weight";
            return Err(Error::argument(what, expected, "another"));
        }
        super::inside(self, self.inner.as_ref(), format)
    }

    fn choose(
        &self,
        weights: &Matrix,
        format: &dyn Format,
        inputs: Option<&Inputs>,
    ) -> Result<Quantized> {
        self.check(format)?;
        let inputs = known(self, weights, inputs)?;
        let (rows, cols) = (weights.rows(), weights.cols());
        format.check(rows, cols)?;
        let whole = format.fit_whole(weights)?;
        let importance: Vec<f64> = (0..cols).map(|j| inputs.hessian(j, j)).collect();
        let mut runs = Vec::new();
        for (index, range) in format.granularity().blocks(rows, cols).enumerate() {
            interrupt::check("sparse outliers")?;
            let block = &weights.data()[range.clone()];
            let importance = &importance[range.start % cols..][..block.len()];
            let found = Spqr::outliers(format, (&whole, index), block, importance)?;
            runs.extend(found.into_iter().map(|run| (range.start, run)));
        }
        runs.sort_by(|a, b| b.1.gain.total_cmp(&a.1.gain));
        let most = (self.percent / 100.0 * (rows * cols) as f64).round() as usize;
        let mut kept: Vec<usize> = Vec::new();
        for (start, run) in &runs {
            if run.gain <= 0.0 || kept.len() + run.at.len() > most {
                break;
            }
            kept.extend(run.at.iter().map(|at| start + at));
        }
        kept.sort_unstable();
        let mut left = weights.data().to_vec();
        let mut entries = Vec::with_capacity(kept.len());
        for at in kept {
            let value = f16::from_f32(left[at]);
            if value.is_finite() {
                left[at] -= value.to_f32();
                entries.push((at / cols, at % cols, value));
            }
        }
        let left = Matrix::new(rows, cols, left)?;
        let found = self.inner.choose(&left, format, Some(inputs))?;
        let applied = Applied {
            method: self.name(),
            ..found.applied().clone()
        };
        let shape = (rows, cols);
        let found = found.with_aside(Aside::Sparse(Sparse { entries, shape }));
        Ok(found.applying(applied))
    }

    fn named(&self, name: &str) -> Option<Box<dyn Method>> {
        let (percent, inner) = name.strip_prefix("spqr")?.split_once('-')?;
        let inner = named(inner).ok()?;
        Some(Box::new(Spqr::new(percent.parse().ok()?, inner)))
    }
}

/// As in the paper, one per cent on top of GPTQ.
pub(super) fn members() -> Vec<Box<dyn Method>> {
    vec![Box::new(Spqr::new(1.0, Box::new(Gptq::default())))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::format::{IntAffine, IntSymmetric};
    use crate::quant::method::Rtn;
    use crate::quant::samples;

    /// The more is kept, the less is lost; one per cent of weights that are outliers is most of it; bytes are those of the codes and the list.
    #[test]
    fn the_error_falls_as_more_is_kept_and_bytes_are_counted() -> Result<()> {
        let columns = 192;
        let inputs = Inputs::of_samples("x", &samples::correlated(300, columns, 8), columns)?;
        let mut w = samples::correlated(32, columns, 9);
        w.iter_mut()
            .step_by(101)
            .for_each(|w| *w = 25.0 * w.signum());
        let weights = Matrix::new(32, columns, w)?;
        let format = IntSymmetric::new(3, Granularity::Group(64))?;
        let plain = Rtn.quantize(&weights, &format)?;
        let mut last = f64::INFINITY;
        for percent in [0.0, 0.1, 0.5, 1.0, 3.0] {
            let method = named(&format!("spqr{percent}-rtn"))?;
            let found = method.choose(&weights, &format, Some(&inputs))?;
            let error = inputs.output_error(&weights, &found.decode()?)?;
            // Not to the letter: the diagonal is not all of H.
            assert!(error <= last * 1.02, "{percent} %: {error} {last}");
            last = error;
            let count = (found.bytes() - plain.bytes() - 4 * 32) / 4;
            assert!(
                count as f64 <= percent / 100.0 * 32.0 * 192.0 + 0.5,
                "{count}"
            );
            assert!(percent == 0.0 || count > 0);
        }
        let most = inputs.output_error(&weights, &plain.decode()?)?;
        assert!(last < 0.25 * most, "{last} {most}");
        Ok(())
    }

    /// Two outliers of one size gain nothing alone; together they are found.
    #[test]
    fn outliers_that_pay_only_together_are_found() -> Result<()> {
        let mut w = samples::smooth(1, 64, 9);
        (w[7], w[40]) = (50.0, -50.0);
        let inputs = Inputs::of_samples("x", &samples::correlated(300, 64, 8), 64)?;
        let weights = Matrix::new(1, 64, w)?;
        let format = IntAffine::new(3, Granularity::Group(64))?;
        let found = Spqr::new(3.125, Box::new(Rtn)).choose(&weights, &format, Some(&inputs))?;
        let Aside::Sparse(sparse) = &found.asides()[0] else {
            panic!("not sparse: {found}");
        };
        let columns: Vec<usize> = sparse.entries.iter().map(|it| it.1).collect();
        assert_eq!(columns, [7, 40]);
        for name in ["spqr1-gptq", "spqr0.5-had-rtn"] {
            assert_eq!(named(name)?.name(), name);
        }
        assert!(named("spqr-rtn").is_err() && named("spqr1-").is_err());
        Ok(())
    }
}
