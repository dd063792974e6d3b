//! Ternary, 1.58 bits: w ≈ γ·q, q ∈ −1, 0, 1.
//!
//! γ = mean|w|, q = w/γ rounded and clipped. Stored: five base-3 digits a byte; γ in f16 a block.
//!
//! Source: S. Ma et al., *The Era of 1-bit LLMs: All Large Language Models are in 1.58 Bits* (arXiv 2402.17764), section
//! 2, the absmean function.
//!
//! Cost: two passes; 8/5 bits a weight (log₂ 3 = 1.585) and 16 a block.
//!
//! **Error.** γ/2 within the points, and what lies beyond ±γ.
//!
//! **Where we differ.** The paper trains with these weights; rounding a model that was not ruins it. γ is rounded to f16
//! before weights are; the paper's ε of 10⁻⁵ in the denominator is not needed.

use half::f16;

use super::{AnyFormat, Format, Granularity, Grid, Load, Store, Whole};
use crate::Result;
use crate::quant::step::storable;

/// −γ, 0 or γ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ternary {
    granularity: Granularity,
}

impl Ternary {
    /// One γ for each block of `granularity`; the paper's is the tensor.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a group of no weights.
    pub fn new(granularity: Granularity) -> Result<Ternary> {
        let granularity = granularity.check()?;
        Ok(Ternary { granularity })
    }
}

impl Format for Ternary {
    fn name(&self) -> String {
        format!("ternary-{}", self.granularity)
    }

    fn granularity(&self) -> Granularity {
        self.granularity
    }

    fn code_bits(&self) -> u32 {
        2
    }

    fn levels(&self) -> u32 {
        3
    }

    fn is_projection(&self) -> bool {
        false
    }

    fn fit(&self, _whole: &Whole, _index: usize, block: &[f32]) -> Result<Grid> {
        let sum: f64 = block.iter().map(|w| f64::from(w.abs())).sum();
        Ok(Grid(vec![storable(sum / block.len() as f64, || {
            self.name()
        })?]))
    }

    fn round(&self, grid: &Grid, _at: usize, weights: &[f32], codes: &mut [u8]) {
        let half = grid.0[0] / 2.0;
        for (&weight, code) in weights.iter().zip(codes) {
            *code = 1 + u8::from(weight > half) - u8::from(weight < -half);
        }
    }

    fn values(&self, grid: &Grid, _at: usize, codes: &[u8], weights: &mut [f32]) {
        for (&code, weight) in codes.iter().zip(weights) {
            *weight = grid.0[0] * (f32::from(code) - 1.0);
        }
    }

    fn max_error(&self, grid: &Grid, block: &[f32]) -> f64 {
        let scale = f64::from(grid.0[0]);
        let greatest = block.iter().fold(0f32, |max, w| max.max(w.abs()));
        (scale / 2.0).max(f64::from(greatest) - scale)
    }

    fn grid_bits(&self) -> usize {
        16
    }

    /// Digits of different blocks do not share a byte.
    fn bytes(&self, rows: usize, cols: usize) -> usize {
        let blocks = self.granularity.blocks(rows, cols);
        blocks.map(|block| block.len().div_ceil(5) + 2).sum()
    }

    fn store(&self, grid: &Grid, codes: &[u8], to: &mut Store) {
        let bits = f16::from_f32(grid.0[0]).to_bits();
        to.grids.push(u32::from(bits), 16);
        for five in codes.chunks(5) {
            let number = five
                .iter()
                .rev()
                .fold(0, |number, &code| number * 3 + u32::from(code));
            to.codes.push(number, 8);
        }
    }

    fn load(&self, _whole: &Whole, _index: usize, from: &mut Load<'_>, codes: &mut [u8]) -> Grid {
        for five in codes.chunks_mut(5) {
            let mut number = from.codes.pull(8);
            for code in five {
                *code = (number % 3) as u8;
                number /= 3;
            }
        }
        Grid(vec![f16::from_bits(from.grids.pull(16) as u16).to_f32()])
    }

    fn named(&self, name: &str) -> Result<Option<AnyFormat>> {
        match name.strip_prefix("ternary-").and_then(Granularity::named) {
            Some(granularity) => Ok(Some(Ternary::new(granularity)?.shared())),
            None => Ok(None),
        }
    }

    fn shared(&self) -> AnyFormat {
        AnyFormat::new(*self)
    }
}

/// At every granularity, with groups that divide nothing.
pub(super) fn members() -> Vec<AnyFormat> {
    let granularities = [
        Granularity::Tensor,
        Granularity::Channel,
        Granularity::Group(64),
        Granularity::Group(7),
    ];
    let formats = granularities.into_iter().map(Ternary::new);
    formats.flatten().map(|format| format.shared()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absmean_by_hand() -> Result<()> {
        let format = Ternary::new(Granularity::Tensor)?;
        let block = [-4.0, 1.0, 0.9, 0.1, 2.0];
        let grid = format.fit(&Whole::default(), 0, &block)?;
        // Mean magnitude 1.6, cut to f16; weights beyond 0.8 are not zero.
        assert!((grid.0[0] - 1.6).abs() < 2e-3);
        let codes = block.map(|weight| format.code(&grid, 0, weight));
        assert_eq!(codes, [0, 2, 2, 1, 2]);
        // Eight bits for five weights and a scale a row.
        assert_eq!(
            Ternary::new(Granularity::Channel)?.bytes(2, 576),
            2 * (116 + 2)
        );
        Ok(())
    }
}
