//! AutoRound (SignRound): whether a weight is rounded up or down, and where ranges end, learned by the sign of a gradient.
//!
//! ```text
//! ŵ = s·(clamp(round(w/s + z + v)) − z),   s = (α·max − β·min)/(2ᵇ − 1),   v ∈ [−½, ½],   α, β ∈ [0, 1]
//! (v, α, β) ← (v, α, β) − rate·sign(∂tr(E·H·Eᵀ)/∂(v, α, β)),   rate from 1/rounds to 0
//! ```
//! Source: W. Cheng et al., *Optimize Weight Rounding via Signed Gradient Descent for the Quantization of LLMs* (arXiv 2309.05516),
//! section 3, and its code (github.com/intel/auto-round): 200 rounds at a rate of 1/200 that falls to nothing, the best round kept.
//!
//! Cost (see `quant/learn`): 2·N·K² flops a round.
//!
//! **Where we differ.** The loss is that of one matrix's outputs with the inputs' second moments, not of a transformer block's outputs on
//! eight samples at a time: it needs no samples and its gradient is no estimate. Each row keeps its own best round. Any format of one
//! weight at a time: v is in units of the gap a weight lies in.

use super::{Method, parameter};
use crate::Result;
use crate::quant::calibration::Inputs;
use crate::quant::learn::{Learn, Rule};
use crate::quant::{Format, Matrix, Quantized};

/// Rounding and ranges by signed gradient descent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutoRound {
    /// Steps of descent.
    pub rounds: usize,
}

impl Default for AutoRound {
    fn default() -> AutoRound {
        AutoRound { rounds: 200 }
    }
}

impl Method for AutoRound {
    fn name(&self) -> String {
        match *self == AutoRound::default() {
            true => "autoround".to_owned(),
            false => format!("autoround-{}", self.rounds),
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
            rule: Rule::Sign {
                rate: 1.0 / self.rounds as f32,
            },
            has_offsets: true,
        };
        learn.choose(self, weights, format, inputs)
    }

    fn named(&self, name: &str) -> Option<Box<dyn Method>> {
        let rounds = parameter(name, ("autoround", "-"), AutoRound::default().rounds)?;
        Some(Box::new(AutoRound { rounds }))
    }
}

/// A short one, so that contracts are quick.
pub(super) fn members() -> Vec<Box<dyn Method>> {
    vec![Box::new(AutoRound { rounds: 20 })]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::format::{IntSymmetric, KMeans, Mx, Nvfp4};
    use crate::quant::method::{Gptq, Rtn, named};
    use crate::quant::{Granularity, samples};

    fn layer() -> Result<(Matrix, Inputs)> {
        let columns = 96;
        let inputs = Inputs::of_samples("x", &samples::correlated(400, columns, 8), columns)?;
        Ok((
            Matrix::new(24, columns, samples::smooth(24, columns, 9))?,
            inputs,
        ))
    }

    /// The paper's claim in small: far below rounding to nearest, in the neighbourhood of GPTQ; and no row is worse.
    #[test]
    fn no_row_is_worse_than_by_rounding_and_the_layer_is_near_gptq() -> Result<()> {
        let (weights, inputs) = layer()?;
        let formats: [crate::quant::format::AnyFormat; 5] = [
            IntSymmetric::new(4, Granularity::Group(32))?.shared(),
            IntSymmetric::new(3, Granularity::Channel)?.shared(),
            KMeans::new(3, Granularity::Channel)?.shared(),
            Mx::FP4.shared(),
            Nvfp4::PLAIN.shared(),
        ];
        for format in &formats {
            let method = AutoRound { rounds: 100 };
            let of = |method: &dyn Method| -> Result<Matrix> {
                method
                    .choose(&weights, format.as_ref(), Some(&inputs))?
                    .decode()
            };
            let (rtn, ours, gptq) = (of(&Rtn)?, of(&method)?, of(&Gptq::default())?);
            let row = |matrix: &Matrix, at: usize| -> Result<Matrix> {
                Matrix::new(1, 96, matrix.data()[at * 96..][..96].to_vec())
            };
            for at in 0..24 {
                let original = row(&weights, at)?;
                let lost = |matrix: &Matrix| inputs.output_error(&original, &row(matrix, at)?);
                let (ours, rtn) = (lost(&ours)?, lost(&rtn)?);
                assert!(
                    ours <= rtn * (1.0 + 1e-5),
                    "{} row {at}: {ours} {rtn}",
                    format.name()
                );
            }
            let lost = |matrix: &Matrix| inputs.output_error(&weights, matrix);
            let (rtn, ours, gptq) = (lost(&rtn)?, lost(&ours)?, lost(&gptq)?);
            assert!(
                ours < 0.8 * rtn && ours < 2.0 * gptq,
                "{}: {rtn}, {ours}, gptq {gptq}",
                format.name()
            );
        }
        Ok(())
    }

    /// Exhaustive search over up and down on a fixed grid is the least there is; the search may not be below it.
    #[test]
    fn it_is_not_below_the_best_of_all_roundings() -> Result<()> {
        let inputs = Inputs::of_samples("x", &samples::correlated(60, 8, 2), 8)?;
        let format = IntSymmetric::new(8, Granularity::Channel)?;
        let mut optimal = 0;
        for seed in 0..20 {
            let weights = Matrix::new(1, 8, samples::correlated(1, 8, 100 + seed))?;
            let found = AutoRound::default().choose(&weights, &format, Some(&inputs))?;
            let grid = &found.grids()[0];
            let mut least = f64::INFINITY;
            for up in 0..1u32 << 8 {
                let values = weights.data().iter().enumerate().map(|(at, w)| {
                    let below = (w / grid.0[0]).floor() + (up >> at & 1) as f32;
                    below.clamp(-127.0, 127.0) * grid.0[0]
                });
                let all = Matrix::new(1, 8, values.collect())?;
                least = least.min(inputs.output_error(&weights, &all)?);
            }
            let ours = inputs.output_error(&weights, &found.decode()?)?;
            assert!(ours >= least * (1.0 - 1e-4), "{ours} < {least}");
            optimal += usize::from(ours <= least * 1.5);
        }
        assert!(optimal >= 5, "{optimal} of 20 near the best");
        Ok(())
    }

    #[test]
    fn names_are_read_back() -> Result<()> {
        for name in ["autoround", "autoround-50"] {
            assert_eq!(named(name)?.name(), name);
        }
        let (weights, inputs) = layer()?;
        let format = IntSymmetric::new(4, Granularity::Group(32))?;
        let none = AutoRound { rounds: 0 };
        assert!(none.choose(&weights, &format, Some(&inputs)).is_err());
        Ok(())
    }
}
