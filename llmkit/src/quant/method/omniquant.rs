//! OmniQuant's learnable weight clipping (LWC): where the range of each block ends, learned by gradient descent.
//!
//! ```text
//! s = (σ(γ)·max − σ(β)·min)/(2ᵇ − 1),   (γ, β) by Adam on tr(E·H·Eᵀ),   σ(4) = 0.98 to begin with
//! ```
//! Source: W. Shao et al., *OmniQuant: Omnidirectionally Calibrated Quantization for Large Language Models* (arXiv 2308.13137),
//! section 3.2; start and optimizer of its code (github.com/OpenGVLab/OmniQuant).
//!
//! Cost (see `quant/learn`): 2·N·K² flops a round.
//!
//! **Where we differ.** One matrix at a time and its outputs' error, not a transformer block's; 100 rounds at a rate of 0.05 on the exact
//! gradient, the authors take 2,560 at 0.01 on samples. Each row keeps its best round, rounding to nearest being the first. The other half of
//! OmniQuant, learnable equivalent transformations (LET), is not here.

use super::{Method, parameter};
use crate::Result;
use crate::quant::calibration::Inputs;
use crate::quant::learn::{Learn, Rule};
use crate::quant::{Format, Matrix, Quantized};

/// Learned clipping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OmniQuant {
    /// Steps of descent.
    pub rounds: usize,
}

impl Default for OmniQuant {
    fn default() -> OmniQuant {
        OmniQuant { rounds: 100 }
    }
}

/// How far Adam goes in a step.
const RATE: f32 = 0.05;

impl Method for OmniQuant {
    fn name(&self) -> String {
        match *self == OmniQuant::default() {
            true => "lwc".to_owned(),
            false => format!("lwc-{}", self.rounds),
        }
    }

    fn needs_inputs(&self) -> bool {
        true
    }

    fn check(&self, format: &dyn Format) -> Result<()> {
        Learn::check(self, format, self.rounds)
    }

    fn choose(
        &self,
        weights: &Matrix,
        format: &dyn Format,
        inputs: Option<&Inputs>,
    ) -> Result<Quantized> {
        let learn = Learn {
            rounds: self.rounds,
            rule: Rule::Adam { rate: RATE },
            has_offsets: false,
        };
        learn.choose(self, weights, format, inputs)
    }

    fn named(&self, name: &str) -> Option<Box<dyn Method>> {
        let rounds = parameter(name, ("lwc", "-"), OmniQuant::default().rounds)?;
        Some(Box::new(OmniQuant { rounds }))
    }
}

/// A short one, so that contracts are quick.
pub(super) fn members() -> Vec<Box<dyn Method>> {
    vec![Box::new(OmniQuant { rounds: 10 })]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::format::{IntAffine, IntSymmetric};
    use crate::quant::method::{Clip, Rtn, named};
    use crate::quant::{Granularity, samples};

    /// The claim in small: strictly below min–max and below the grid of least squared error.
    #[test]
    fn outputs_are_nearer_than_with_any_other_range() -> Result<()> {
        let columns = 128;
        let inputs = Inputs::of_samples("x", &samples::correlated(500, columns, 8), columns)?;
        let weights = Matrix::new(32, columns, samples::smooth(32, columns, 9))?;
        let formats: [crate::quant::format::AnyFormat; 3] = [
            IntAffine::new(2, Granularity::Group(64))?.shared(),
            IntAffine::new(3, Granularity::Channel)?.shared(),
            IntSymmetric::new(4, Granularity::Channel)?.shared(),
        ];
        for format in &formats {
            let lost = |method: &dyn Method| -> Result<f64> {
                let found = method.choose(&weights, format.as_ref(), Some(&inputs))?;
                inputs.output_error(&weights, &found.decode()?)
            };
            let (rtn, clip) = (lost(&Rtn)?, lost(&Clip::Mse)?);
            let ours = lost(&OmniQuant::default())?;
            assert!(
                ours < rtn && ours < clip,
                "{}: {rtn}, {clip}, {ours}",
                format.name()
            );
        }
        for name in ["lwc", "lwc-20"] {
            assert_eq!(named(name)?.name(), name);
        }
        Ok(())
    }
}
