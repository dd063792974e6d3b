//! Unsigned integers with a zero-point that need not be an integer: w ≈ s·(q − z), q ∈ 0 … 2ᵇ − 1, z in f16.
//!
//! s = (max − min) / (2ᵇ − 1) and z = −min / s, where min ≤ 0 ≤ max always. Zero is a point of the grid only if z happens to be one.
//! Stored: b bits a weight; an f16 scale and an f16 zero-point a block.
//!
//! Source: what H. Badri and A. Shaji, *Half-Quadratic Quantization of Large Machine Learning Models* (2023) store (their `zero`): they
//! search for a zero-point that is not an integer, and rounding it would undo the search.
//!
//! Cost: one division, one rounding a weight and two points to choose from; b + 32/g bits a weight for groups of g.
//!
//! **Error.** The scale is cut to f16 by at most 2⁻¹⁰ of itself (2⁻²⁴ below the normal range), z ≤ 2ᵇ is rounded to f16 by at most
//! 2⁻¹¹ of itself, and a value is a product in f32; so |w − ŵ| ≤ s/2 + (2ᵇ − 1)·max(2⁻¹⁰s, 2⁻²⁴) + s·z·2⁻¹¹ + s·(2ᵇ + z)·2⁻²².
//!
//! **Where we differ.** The range has zero in it, so that z stays small enough for f16; the authors' range is that of the weights. Encoding
//! twice may move a scale by one f16: the ends of decoded weights are rounded products.

use half::f16;

use super::{AnyFormat, Format, Granularity, Grid, Load, Store, Whole, width_and_granularity};
use crate::Result;
use crate::quant::step::{check_bits, clipped, storable};

/// b-bit unsigned integers with a scale and an f16 zero-point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntFloatZero {
    bits: u32,
    granularity: Granularity,
}

impl IntFloatZero {
    /// Codes of 2 … 8 `bits`, one scale and zero-point for each block of `granularity`.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for other widths and for a group of no weights.
    pub fn new(bits: u32, granularity: Granularity) -> Result<IntFloatZero> {
        Ok(IntFloatZero {
            bits: check_bits(bits)?,
            granularity: granularity.check()?,
        })
    }

    /// 2ᵇ − 1, the number of steps and the greatest code.
    fn steps(&self) -> u32 {
        (1 << self.bits) - 1
    }
}

/// The f16 nearest to a zero-point, within f16's range.
fn stored(zero: f64) -> f32 {
    let most = f64::from(f16::MAX);
    f16::from_f64(zero.clamp(-most, most)).to_f32()
}

impl Format for IntFloatZero {
    fn name(&self) -> String {
        format!("int{}-float-zero-{}", self.bits, self.granularity)
    }

    fn granularity(&self) -> Granularity {
        self.granularity
    }

    fn code_bits(&self) -> u32 {
        self.bits
    }

    fn is_projection(&self) -> bool {
        false
    }

    fn fit(&self, _whole: &Whole, _index: usize, block: &[f32]) -> Result<Grid> {
        let (lo, hi) = block
            .iter()
            .fold((0f32, 0f32), |(lo, hi), &w| (lo.min(w), hi.max(w)));
        let range = f64::from(hi) - f64::from(lo);
        let scale = storable(range / f64::from(self.steps()), || self.name())?;
        let zero = match scale {
            0.0 => 0.0,
            scale => stored(-f64::from(lo) / f64::from(scale)),
        };
        Ok(Grid(vec![scale, zero]))
    }

    fn round(&self, grid: &Grid, _at: usize, weights: &[f32], codes: &mut [u8]) {
        let [scale, zero] = params(grid);
        let steps = self.steps() as f32;
        if scale == 0.0 {
            return codes.fill(0);
        }
        let value = |code: f32| f64::from(scale * (code - zero));
        for (&weight, code) in weights.iter().zip(codes) {
            let at = f64::from(weight) / f64::from(scale) + f64::from(zero);
            let below = at.floor().clamp(0.0, f64::from(steps)) as f32;
            let above = (below + 1.0).min(steps);
            // The points are rounded products: which is nearer is asked of them.
            let off = |code: f32| (f64::from(weight) - value(code)).abs();
            *code = match at.fract() {
                part if (0.01..0.49).contains(&part) => below,
                part if (0.51..0.99).contains(&part) => above,
                _ if at < 0.0 => 0.0,
                _ => [below - 1.0, below, above]
                    .into_iter()
                    .filter(|&code| code >= 0.0)
                    .fold(
                        below,
                        |best, code| if off(code) < off(best) { code } else { best },
                    ),
            } as u8;
        }
    }

    fn values(&self, grid: &Grid, _at: usize, codes: &[u8], weights: &mut [f32]) {
        let [scale, zero] = params(grid);
        for (&code, weight) in codes.iter().zip(weights) {
            *weight = scale * (f32::from(code) - zero);
        }
    }

    fn max_error(&self, grid: &Grid, _block: &[f32]) -> f64 {
        let [scale, zero] = params(grid).map(f64::from);
        let products = f64::from(self.steps() + 1) + zero.abs();
        scale / 2.0
            + clipped(scale as f32, self.steps())
            + scale * (zero.abs() * 2f64.powi(-11) + products * 2f64.powi(-22))
    }

    fn grid_bits(&self) -> usize {
        32
    }

    fn store(&self, grid: &Grid, codes: &[u8], to: &mut Store) {
        for param in params(grid) {
            to.grids.push(u32::from(f16::from_f32(param).to_bits()), 16);
        }
        to.put(codes, self.bits);
    }

    fn load(&self, _whole: &Whole, _index: usize, from: &mut Load<'_>, codes: &mut [u8]) -> Grid {
        let [scale, zero] = [(); 2].map(|()| f16::from_bits(from.grids.pull(16) as u16).to_f32());
        from.take(codes, self.bits);
        Grid(vec![scale, zero])
    }

    fn with_zero(&self, grid: &Grid, zero: f64) -> Option<Grid> {
        Some(Grid(vec![params(grid)[0], stored(zero)]))
    }

    fn named(&self, name: &str) -> Result<Option<AnyFormat>> {
        let Some((bits, granularity)) = width_and_granularity(name, "int", "float-zero") else {
            return Ok(None);
        };
        Ok(Some(IntFloatZero::new(bits, granularity)?.shared()))
    }

    fn shared(&self) -> AnyFormat {
        AnyFormat::new(*self)
    }
}

/// Scale and zero-point; a grid of another format reads as zeros.
fn params(grid: &Grid) -> [f32; 2] {
    let at = |i: usize| grid.0.get(i).copied().unwrap_or(0.0);
    [at(0), at(1)]
}

/// A few widths, at every granularity.
pub(super) fn members() -> Vec<AnyFormat> {
    [
        IntFloatZero::new(2, Granularity::Group(64)),
        IntFloatZero::new(3, Granularity::Channel),
        IntFloatZero::new(4, Granularity::Group(5)),
        IntFloatZero::new(8, Granularity::Tensor),
    ]
    .into_iter()
    .flatten()
    .map(|format| format.shared())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_computed_grid() -> Result<()> {
        let format = IntFloatZero::new(2, Granularity::Tensor)?;
        // Range −1.25 … 1.75 in three steps of 1; the zero-point is 1.25 and zero no point.
        let grid = format.fit(&Whole::default(), 0, &[-1.25, 1.75, 0.4])?;
        assert_eq!(grid, Grid(vec![1.0, 1.25]));
        let codes: Vec<u8> = [-1.25, 1.75, 0.0, -0.6, 0.2, 9.0, -9.0]
            .iter()
            .map(|&w| format.code(&grid, 0, w))
            .collect();
        assert_eq!(codes, [0, 3, 1, 1, 1, 3, 0]);
        assert_eq!(format.value(&grid, 0, 1), -0.25);
        let moved = format.with_zero(&grid, 1.0).unwrap();
        assert_eq!(format.value(&moved, 0, 1), 0.0);
        // Two f16 a block.
        assert_eq!(format.bytes(1, 64), 16 + 4);
        Ok(())
    }

    #[test]
    fn zero_points_beyond_f16_are_its_end_and_not_infinite() -> Result<()> {
        let format = IntFloatZero::new(4, Granularity::Tensor)?;
        let grid = format.with_zero(&Grid(vec![1.0, 0.0]), 1e9).unwrap();
        assert_eq!(grid.0[1], 65504.0);
        assert!(IntFloatZero::new(9, Granularity::Tensor).is_err());
        Ok(())
    }
}
