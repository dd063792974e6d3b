//! Signed integers without a zero-point: w ≈ s·q, q ∈ −m … m with m = 2ᵇ⁻¹ − 1.
//!
//! s = max|w| / m. Stored: q + m in b bits a weight (the code 2ᵇ − 1 is never used); an f16 scale a block.
//!
//! Source: the absmax quantization of T. Dettmers et al., *LLM.int8()* (arXiv 2208.07339), section 2.1, for any
//! width; the restricted range keeps −w and w equally exact.
//!
//! Cost: one division, one rounding a weight; b + 16/g bits a weight for groups of g.
//!
//! **Error.** The scale is cut to f16 by at most 2⁻¹⁰ of itself (2⁻²⁴ below the normal range) and the ends lie m
//! steps from zero; so |w − ŵ| ≤ max(s/2, m·max(2⁻¹⁰s, 2⁻²⁴)).
//!
//! **Where we differ.** Scales are stored in 16 bits and counted.

use super::{AnyFormat, Format, Granularity, Grid, Load, Store, Whole, width_and_granularity};
use crate::Result;
use crate::quant::step::{WIDTHS, check_bits, clipped, nearest, storable};
use half::f16;

/// b-bit signed integers with a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntSymmetric {
    bits: u32,
    granularity: Granularity,
}

impl IntSymmetric {
    /// Codes of 2 … 8 `bits`, one scale for each block of `granularity`.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for other widths and for a group of no weights.
    pub fn new(bits: u32, granularity: Granularity) -> Result<IntSymmetric> {
        Ok(IntSymmetric {
            bits: check_bits(bits)?,
            granularity: granularity.check()?,
        })
    }

    /// Every width of `bits` at every one of `granularities`, widths running fastest.
    ///
    /// # Errors
    /// Those of [`IntSymmetric::new`].
    pub fn family(
        bits: impl IntoIterator<Item = u32> + Clone,
        granularities: &[Granularity],
    ) -> Result<Vec<AnyFormat>> {
        granularities
            .iter()
            .flat_map(|&granularity| {
                bits.clone()
                    .into_iter()
                    .map(move |bits| (bits, granularity))
            })
            .map(|(bits, granularity)| Ok(IntSymmetric::new(bits, granularity)?.shared()))
            .collect()
    }

    /// m = 2ᵇ⁻¹ − 1, the steps on either side of zero.
    fn steps(&self) -> u32 {
        (1 << (self.bits - 1)) - 1
    }
}

impl Format for IntSymmetric {
    fn name(&self) -> String {
        format!("int{}-symmetric-{}", self.bits, self.granularity)
    }

    fn granularity(&self) -> Granularity {
        self.granularity
    }

    fn code_bits(&self) -> u32 {
        self.bits
    }

    fn levels(&self) -> u32 {
        2 * self.steps() + 1
    }

    fn fit(&self, _whole: &Whole, _index: usize, block: &[f32]) -> Result<Grid> {
        let greatest = block.iter().fold(0f32, |max, w| max.max(w.abs()));
        let step = f64::from(greatest) / f64::from(self.steps());
        Ok(Grid(vec![storable(step, || self.name())?]))
    }

    fn round(&self, grid: &Grid, _at: usize, weights: &[f32], codes: &mut [u8]) {
        let (scale, steps) = (f64::from(scale(grid)), self.steps() as i32);
        for (&weight, code) in weights.iter().zip(codes) {
            // In f64: the quotient of two f32 near a tie must not be rounded before it is rounded.
            *code = match scale {
                0.0 => steps as u8,
                scale => (nearest(f64::from(weight) / scale).clamp(-steps, steps) + steps) as u8,
            };
        }
    }

    fn values(&self, grid: &Grid, _at: usize, codes: &[u8], weights: &mut [f32]) {
        let (scale, steps) = (scale(grid), self.steps() as f32);
        for (&code, weight) in codes.iter().zip(weights) {
            // Exact: at most 8 bits times the 11 bits of an f16.
            *weight = scale * (f32::from(code) - steps);
        }
    }

    fn max_error(&self, grid: &Grid, _block: &[f32]) -> f64 {
        let scale = scale(grid);
        (f64::from(scale) / 2.0).max(clipped(scale, self.steps()))
    }

    fn grid_bits(&self) -> usize {
        16
    }

    fn store(&self, grid: &Grid, codes: &[u8], to: &mut Store) {
        to.grids
            .push(u32::from(f16::from_f32(scale(grid)).to_bits()), 16);
        to.put(codes, self.bits);
    }

    fn load(&self, _whole: &Whole, _index: usize, from: &mut Load<'_>, codes: &mut [u8]) -> Grid {
        let scale = f16::from_bits(from.grids.pull(16) as u16).to_f32();
        from.take(codes, self.bits);
        Grid(vec![scale])
    }

    fn zero_point(&self) -> Option<u8> {
        Some(self.steps() as u8)
    }

    /// `int4-g64` is `int4-symmetric-g64`.
    fn named(&self, name: &str) -> Result<Option<AnyFormat>> {
        let full = width_and_granularity(name, "int", "symmetric");
        let Some((bits, granularity)) = full.or_else(|| width_and_granularity(name, "int", ""))
        else {
            return Ok(None);
        };
        Ok(Some(IntSymmetric::new(bits, granularity)?.shared()))
    }

    fn shared(&self) -> AnyFormat {
        AnyFormat::new(*self)
    }
}

/// The scale; a grid of another format reads as zero.
fn scale(grid: &Grid) -> f32 {
    grid.0.first().copied().unwrap_or(0.0)
}

/// Every width at every granularity, with groups that divide nothing.
pub(super) fn members() -> Vec<AnyFormat> {
    let granularities = [
        Granularity::Tensor,
        Granularity::Channel,
        Granularity::Group(64),
        Granularity::Group(5),
    ];
    IntSymmetric::family(WIDTHS, &granularities).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_out_of_range_are_named() {
        for bits in [0, 1, 9] {
            assert!(IntSymmetric::new(bits, Granularity::Tensor).is_err());
        }
        assert!(IntSymmetric::new(4, Granularity::Group(0)).is_err());
    }

    #[test]
    fn a_hand_computed_grid_is_odd() -> Result<()> {
        let format = IntSymmetric::new(3, Granularity::Tensor)?;
        // max|w| = 1.5 in three steps of 0.5 on either side.
        let grid = format.fit(&Whole::default(), 0, &[-1.5, 0.3])?;
        assert_eq!(grid, Grid(vec![0.5]));
        for weight in [0.0, 0.2, 0.3, 0.9, 1.5] {
            let round = |w: f32| format.value(&grid, 0, format.code(&grid, 0, w));
            assert_eq!(round(-weight), -round(weight));
        }
        assert_eq!(format.code(&grid, 0, -1.5), 0);
        assert_eq!(format.code(&grid, 0, 1.5), 6);
        Ok(())
    }

    #[test]
    fn two_bits_are_ternary() -> Result<()> {
        let format = IntSymmetric::new(2, Granularity::Tensor)?;
        assert_eq!(format.levels(), 3);
        let grid = format.fit(&Whole::default(), 0, &[-0.5, 0.25])?;
        assert_eq!(
            format.value(&grid, 0, format.code(&grid, 0, 0.25)).abs(),
            0.5
        );
        assert_eq!(format.value(&grid, 0, format.code(&grid, 0, 0.24)), 0.0);
        Ok(())
    }
}
