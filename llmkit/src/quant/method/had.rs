//! Incoherence: any method, in coordinates turned by Hadamard matrices, in which weights are near normal and outliers are spread.
//!
//! ```text
//! W' = Qₙᵀ·W·Qₖ,   H' = Qₖᵀ·H·Qₖ,   Ŵ = Qₙ·Ŵ'·Qₖᵀ         outputs' error is the same in both: tr(E'·H'·E'ᵀ) = tr(E·H·Eᵀ)
//! ```
//! `had-METHOD` turns inputs and outputs of each matrix by one Hadamard matrix with random signs each; `had32-METHOD` turns inputs in blocks
//! of 32, without signs.
//!
//! Source: A. Tseng et al., *QuIP#* (arXiv 2402.04396), section 3 (random Hadamard transform, both sides); V. Egiazarian et al., *Bridging the
//! Gap Between Promise and Performance for Microscaling FP4 Quantization* (arXiv 2509.23202) for blocks.
//!
//! Cost: N·K·log(N·K) additions, and 2·K²·log K for H; the seed is stored and counted. A matrix that runs on its codes has to turn its
//! inputs, K·log K additions a token; here it runs on decoded values.
//!
//! **Where we differ.** Signs come from a seed of 8 bytes, and are not stored themselves. A width without a Hadamard matrix is cut into powers
//! of two (576 and 1536 have one).

use super::{Method, named};
use crate::quant::aside::{Aside, Turn};
use crate::quant::calibration::Inputs;
use crate::quant::{Applied, Format, Matrix, Quantized};
use crate::{Error, Result};

/// A method in turned coordinates.
#[derive(Debug)]
pub struct Had {
    inner: Box<dyn Method>,
    turn: Turn,
}

/// Of random signs.
const SEED: u64 = 0x9e37_79b9;

impl Had {
    /// Inputs and outputs turned by one matrix each, with random signs.
    pub fn whole(inner: Box<dyn Method>) -> Had {
        let turn = Turn {
            block: None,
            seed: Some(SEED),
        };
        Had { inner, turn }
    }

    /// Inputs turned in blocks, without signs.
    pub fn blocks(inner: Box<dyn Method>, block: usize) -> Had {
        let turn = Turn {
            block: Some(block),
            seed: None,
        };
        Had { inner, turn }
    }
}

impl Method for Had {
    fn name(&self) -> String {
        let block = self.turn.block.map_or(String::new(), |it| it.to_string());
        format!("had{block}-{}", self.inner.name())
    }

    fn needs_inputs(&self) -> bool {
        self.inner.needs_inputs()
    }

    fn needs_drift(&self) -> bool {
        self.inner.needs_drift()
    }

    fn is_projection(&self) -> bool {
        false
    }

    fn is_plain(&self) -> bool {
        false
    }

    fn check(&self, format: &dyn Format) -> Result<()> {
        self.turn.rotations(1, 1)?;
        super::inside(self, self.inner.as_ref(), format)
    }

    fn choose(
        &self,
        weights: &Matrix,
        format: &dyn Format,
        inputs: Option<&Inputs>,
    ) -> Result<Quantized> {
        let (rows, cols) = (weights.rows(), weights.cols());
        if self.needs_inputs() {
            super::known(self, weights, inputs)?;
        }
        let mut data = weights.data().to_vec();
        self.turn.apply(&mut data, cols)?;
        if data.iter().any(|it| !it.is_finite()) {
            let what = format!("turned weights in {}", format.name());
            return Err(Error::argument(what, "finite numbers", "a greater sum"));
        }
        let turned = Matrix::new(rows, cols, data)?;
        let (rotation, _) = self.turn.rotations(rows, cols)?;
        // Those that do not look at inputs are spared the work.
        let inputs = match self.needs_inputs() {
            true => inputs.map(|it| it.turned(&rotation)).transpose()?,
            false => None,
        };
        let found = self.inner.choose(&turned, format, inputs.as_ref())?;
        let applied = Applied {
            method: self.name(),
            ..found.applied().clone()
        };
        Ok(found.with_aside(Aside::Turned(self.turn)).applying(applied))
    }

    fn named(&self, name: &str) -> Option<Box<dyn Method>> {
        let (block, inner) = name.strip_prefix("had")?.split_once('-')?;
        let inner = named(inner).ok()?;
        Some(Box::new(match block {
            "" => Had::whole(inner),
            block => Had::blocks(inner, block.parse().ok()?),
        }))
    }
}

/// Both kinds, of a method that works with every format.
pub(super) fn members() -> Vec<Box<dyn Method>> {
    let ldlq = || Box::new(super::Ldlq::default());
    vec![
        Box::new(Had::whole(ldlq())),
        Box::new(Had::blocks(ldlq(), 16)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::format::{E8p, IntSymmetric, Mx, Nvfp4};
    use crate::quant::method::{Ldlq, Rtn};
    use crate::quant::{Granularity, error, samples};

    /// Weights of which every fortieth is thirty times as large.
    fn heavy(rows: usize, columns: usize) -> Result<Matrix> {
        let mut w = samples::correlated(rows, columns, 9);
        w.iter_mut().step_by(41).for_each(|w| *w *= 30.0);
        Matrix::new(rows, columns, w)
    }

    #[test]
    fn outliers_are_spread_and_bytes_are_counted() -> Result<()> {
        let weights = heavy(48, 192)?;
        let format = IntSymmetric::new(4, Granularity::Channel)?;
        let plain = Rtn.quantize(&weights, &format)?;
        for name in ["had-rtn", "had16-rtn"] {
            let turned = named(name)?.quantize(&weights, &format)?;
            assert_eq!(turned.applied().method, name);
            let gain = turned.sqnr_db(&weights)? - plain.sqnr_db(&weights)?;
            assert!(gain > 3.0, "{name}: {gain} dB");
            let seed = if name == "had-rtn" { 8 } else { 0 };
            assert_eq!(turned.bytes(), plain.bytes() + seed);
        }
        Ok(())
    }

    /// The error of outputs in turned coordinates is that in the old ones: the method saw the right Hessian. Planted: the old one.
    #[test]
    fn the_method_sees_the_hessian_in_its_own_coordinates() -> Result<()> {
        let columns = 96;
        let inputs = Inputs::of_samples("x", &samples::correlated(400, columns, 8), columns)?;
        let weights = heavy(24, columns)?;
        let format = E8p::new(Granularity::Channel)?;
        let had = Had::whole(Box::new(Ldlq::default()));
        let found = had.choose(&weights, &format, Some(&inputs))?;
        let outside = inputs.output_error(&weights, &found.decode()?)?;
        let mut data = weights.data().to_vec();
        had.turn.apply(&mut data, columns)?;
        let turned = Matrix::new(24, columns, data)?;
        let (rotation, _) = had.turn.rotations(24, columns)?;
        let own = inputs.turned(&rotation)?;
        let inside = Ldlq::default()
            .choose(&turned, &format, Some(&own))?
            .decode()?;
        let inside = own.output_error(&turned, &inside)?;
        assert!((outside / inside - 1.0).abs() < 1e-3, "{outside} {inside}");
        let planted = Ldlq::default()
            .choose(&turned, &format, Some(&inputs))?
            .decode()?;
        assert!(own.output_error(&turned, &planted)? > 1.5 * inside);
        Ok(())
    }

    /// What blocks of the group's size do to the two FP4 formats on normal weights with outliers: MXFP4 gains more than NVFP4.
    #[test]
    fn blocks_work_with_any_method_and_format() -> Result<()> {
        let weights = heavy(32, 256)?;
        let mse = |name: &str, format: &dyn Format| -> Result<f64> {
            let found = named(name)?.quantize(&weights, format)?.decode()?;
            error::mse(weights.data(), found.data())
        };
        let gain = |format: &dyn Format, block: usize| -> Result<f64> {
            Ok(mse("rtn", format)? / mse(&format!("had{block}-rtn"), format)?)
        };
        let (mx, nv) = (gain(&Mx::FP4, 32)?, gain(&Nvfp4::PLAIN, 16)?);
        assert!(mx > nv, "{mx} {nv}");
        assert!(named("had5-rtn")?.quantize(&weights, &Mx::FP4).is_err());
        for odd in ["had", "had-", "had-x", "hadx-rtn"] {
            assert!(named(odd).is_err(), "{odd}");
        }
        assert_eq!(
            named("had32-had-gptq-act-order")?.name(),
            "had32-had-gptq-act-order"
        );
        Ok(())
    }
}
