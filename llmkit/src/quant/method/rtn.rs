//! Round to nearest: every weight becomes the nearest point of the min–max grid of its block.
//!
//! ŵ = value(argmin_q |w − value(q)|), block by block, nothing else looked at; where a format comes with an encoder of
//! its own ([`Format::encode`]: ggml's types), that encoder.
//!
//! Source: the baseline of every paper since; named and tabulated as RTN in E. Frantar et al., *GPTQ* (arXiv
//! 2210.17323), section 4. The error law it obeys is older: W. R. Bennett, *Spectra of quantized signals* (1948),
//! see [`error`](crate::quant::error).
//!
//! Cost: two passes over N·K weights, no calibration data, no memory beyond the result.
//!
//! **Where we differ.** Grids are stored in the format's own precision before weights are rounded to them, so what is
//! measured is what a file would hold.

use super::Method;
use crate::Result;
use crate::interrupt;
use crate::quant::calibration::Inputs;
use crate::quant::{Applied, Format, Matrix, Quantized};

/// Round to nearest.
///
/// ```
/// use llmkit::quant::{Granularity, Matrix, Method, format::IntSymmetric, method::Rtn};
/// let weights = Matrix::new(1, 4, vec![-7.0, 2.4, 2.6, 7.0])?;
/// let format = IntSymmetric::new(4, Granularity::Channel)?;
/// assert_eq!(Rtn.quantize(&weights, &format)?.decode()?.data(), [-7.0, 2.0, 3.0, 7.0]);
/// # Ok::<(), llmkit::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rtn;

impl Method for Rtn {
    fn name(&self) -> String {
        "rtn".into()
    }

    fn choose(
        &self,
        weights: &Matrix,
        format: &dyn Format,
        _inputs: Option<&Inputs>,
    ) -> Result<Quantized> {
        let (rows, cols) = (weights.rows(), weights.cols());
        format.check(rows, cols)?;
        let whole = format.fit_whole(weights)?;
        let mut codes = vec![0; rows * cols];
        let mut grids = Vec::new();
        let blocks = format.granularity().blocks(rows, cols);
        for (index, block) in blocks.enumerate() {
            interrupt::check("round to nearest")?;
            let weights = &weights.data()[block.clone()];
            grids.push(format.encode(&whole, index, weights, &mut codes[block])?);
        }
        let quantized = Quantized::pack(format, rows, cols, &whole, &codes, &grids)?;
        Ok(quantized.applying(Applied::by(self.name())))
    }
}

/// The one method here.
pub(super) fn members() -> Vec<Box<dyn Method>> {
    vec![Box::new(Rtn)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{format, samples};

    /// No choice of codes on the same grids does better: the definition, by brute force.
    #[test]
    fn no_other_code_is_nearer() -> Result<()> {
        let families = format::all();
        // ggml's encoder rounds with the scale before it is stored: that is the definition of those types.
        let families = families.iter().filter(|family| family.name != "ggml");
        for format in families.flat_map(|family| (family.members)()) {
            for (sample, weights) in samples::all() {
                if format.vector() > 1 || format.check(weights.rows(), weights.cols()).is_err() {
                    continue;
                }
                let quantized = Rtn.quantize(&weights, format.as_ref())?;
                let (_, grids, codes) = quantized.unpack();
                let blocks = format.granularity().blocks(weights.rows(), weights.cols());
                for (block, grid) in blocks.zip(&grids) {
                    for (at, i) in block.enumerate() {
                        let error = |code| (weights.data()[i] - format.value(grid, at, code)).abs();
                        let least = (0..format.levels())
                            .map(|q| error(q as u8))
                            .fold(f32::MAX, f32::min);
                        assert_eq!(error(codes[i]), least, "{} on {sample}", format.name());
                    }
                }
            }
        }
        Ok(())
    }
}
