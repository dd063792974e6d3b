//! MR-GPTQ: GPTQ for FP4, with inputs turned inside each group, grids of least squared error, and largest inputs first.
//!
//! Source: V. Egiazarian, R. Castro et al., *Bridging the Gap Between Promise and Performance for Microscaling FP4 Quantization*
//! (arXiv 2509.23202): block-wise Hadamard matrices of the group's size, MSE-optimized grids, static activation reordering.
//!
//! Cost: that of GPTQ, 17 fits a group, and K²·log(group) for H.
//!
//! **Where we differ.** Grids of least squared error are searched among 17 cuts of the range, which for MXFP4 are its power of two and the next below;
//! the authors optimize scales of NVFP4 by groups and of the tensor in turns. A group for whose size there is no Hadamard matrix is turned
//! in blocks of the greatest power of two that divides it; rows and matrices under one scale, in blocks of 128.

use super::{Gptq, Had, Method, one_by_one};
use crate::Result;
use crate::linalg::hadamard::Hadamard;
use crate::quant::calibration::Inputs;
use crate::quant::feedback::Grids;
use crate::quant::{Applied, Format, Granularity, Matrix, Quantized};

/// Micro-rotated GPTQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MrGptq;

impl MrGptq {
    /// Inputs that are turned together.
    fn block(format: &dyn Format) -> usize {
        match format.granularity() {
            Granularity::Group(group) if Hadamard::new(group).is_ok() => group,
            Granularity::Group(group) => 1 << group.trailing_zeros(),
            Granularity::Channel | Granularity::Tensor => 128,
        }
    }
}

impl Method for MrGptq {
    fn name(&self) -> String {
        "mr-gptq".to_owned()
    }

    fn needs_inputs(&self) -> bool {
        true
    }

    fn is_projection(&self) -> bool {
        false
    }

    fn is_plain(&self) -> bool {
        false
    }

    fn check(&self, format: &dyn Format) -> Result<()> {
        one_by_one(self, format)
    }

    fn choose(
        &self,
        weights: &Matrix,
        format: &dyn Format,
        inputs: Option<&Inputs>,
    ) -> Result<Quantized> {
        self.check(format)?;
        super::known(self, weights, inputs)?;
        let gptq = Gptq {
            grids: Grids::Searched,
            ..Gptq::ACT_ORDER
        };
        let turned = Had::blocks(Box::new(gptq), MrGptq::block(format));
        let found = turned.choose(weights, format, inputs)?;
        let applied = Applied {
            method: self.name(),
            ..found.applied().clone()
        };
        Ok(found.applying(applied))
    }
}

/// The one method here.
pub(super) fn members() -> Vec<Box<dyn Method>> {
    vec![Box::new(MrGptq)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::format::{IntSymmetric, Mx, Nvfp4};
    use crate::quant::method::named;
    use crate::quant::samples;

    #[test]
    fn it_is_what_its_parts_are() -> Result<()> {
        let columns = 96;
        let inputs = Inputs::of_samples("x", &samples::correlated(400, columns, 8), columns)?;
        let weights = Matrix::new(16, columns, samples::correlated(16, columns, 9))?;
        for (format, parts) in [
            (Mx::FP4.shared(), "had32-gptq-act-order-mse"),
            (Nvfp4::PLAIN.shared(), "had16-gptq-act-order-mse"),
            (
                IntSymmetric::new(4, Granularity::Group(24))?.shared(),
                "had24-gptq-act-order-mse",
            ),
            (
                IntSymmetric::new(4, Granularity::Group(72))?.shared(),
                "had72-gptq-act-order-mse",
            ),
        ] {
            let ours = MrGptq.choose(&weights, format.as_ref(), Some(&inputs))?;
            let theirs = named(parts)?.choose(&weights, format.as_ref(), Some(&inputs))?;
            assert_eq!(ours.codes(), theirs.codes(), "{}", format.name());
            assert_eq!(ours.decode()?, theirs.decode()?);
            assert_eq!(ours.applied().method, "mr-gptq");
        }
        Ok(())
    }
}
