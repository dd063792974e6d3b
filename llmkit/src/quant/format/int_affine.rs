//! Unsigned integers with a zero-point: w ≈ s·(q − z), q ∈ 0 … 2ᵇ − 1.
//!
//! s = (max − min) / (2ᵇ − 1) and z = round(−min / s), where min ≤ 0 ≤ max always, so that zero is a point of the
//! grid. Stored: b bits a weight; an f16 scale and a b-bit zero-point a block.
//!
//! Source: B. Jacob et al., *Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
//! Inference* (arXiv 1712.05877), section 2.1; the min–max fit that includes zero is the one of GPTQ's reference
//! quantizer (arXiv 2210.17323).
//!
//! Cost: one division, one rounding a weight; b + (16 + b)/g bits a weight for groups of g.
//!
//! **Error.** z is rounded by at most half a step, the scale is cut to f16 by at most 2⁻¹⁰ of itself (2⁻²⁴ below the
//! normal range), and the ends lie at most 2ᵇ − 1 steps from each other; so |w − ŵ| ≤ s/2 + (2ᵇ − 1)·max(2⁻¹⁰s, 2⁻²⁴).
//! The second term concerns only the end that the cut scale no longer reaches.
//!
//! **Where we differ.** Scales are stored in 16 bits and counted; the papers mostly keep f32 or do not count.

use super::{AnyFormat, Format, Granularity, Grid, Load, Store, Whole, width_and_granularity};
use crate::Result;
use crate::quant::step::{WIDTHS, check_bits, clipped, nearest, storable};
use half::f16;

/// b-bit unsigned integers with scale and zero-point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntAffine {
    bits: u32,
    granularity: Granularity,
}

impl IntAffine {
    /// Codes of 2 … 8 `bits`, one scale and zero-point for each block of `granularity`.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for other widths and for a group of no weights.
    pub fn new(bits: u32, granularity: Granularity) -> Result<IntAffine> {
        Ok(IntAffine {
            bits: check_bits(bits)?,
            granularity: granularity.check()?,
        })
    }

    /// Every width of `bits` at every one of `granularities`, widths running fastest.
    ///
    /// # Errors
    /// Those of [`IntAffine::new`].
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
            .map(|(bits, granularity)| Ok(IntAffine::new(bits, granularity)?.shared()))
            .collect()
    }

    /// 2ᵇ − 1, the number of steps and the greatest code.
    fn steps(&self) -> u32 {
        (1 << self.bits) - 1
    }
}

impl Format for IntAffine {
    fn name(&self) -> String {
        format!("int{}-affine-{}", self.bits, self.granularity)
    }

    fn granularity(&self) -> Granularity {
        self.granularity
    }

    fn code_bits(&self) -> u32 {
        self.bits
    }

    fn fit(&self, _whole: &Whole, _index: usize, block: &[f32]) -> Result<Grid> {
        let (lo, hi) = block
            .iter()
            .fold((0f32, 0f32), |(lo, hi), &w| (lo.min(w), hi.max(w)));
        let steps = f64::from(self.steps());
        let scale = storable((f64::from(hi) - f64::from(lo)) / steps, || self.name())?;
        let zero = match scale {
            0.0 => 0.0,
            scale => (-f64::from(lo) / f64::from(scale)).round().min(steps),
        };
        Ok(Grid(vec![scale, zero as f32]))
    }

    fn round(&self, grid: &Grid, _at: usize, weights: &[f32], codes: &mut [u8]) {
        let [scale, zero] = params(grid).map(f64::from);
        let (zero, steps) = (zero as i32, self.steps() as i32);
        for (&weight, code) in weights.iter().zip(codes) {
            // In f64: the quotient of two f32 near a tie must not be rounded before it is rounded. What is beyond 512 is beyond all codes.
            *code = match scale {
                0.0 => zero as u8,
                scale => {
                    let quotient = (f64::from(weight) / scale).clamp(-512.0, 512.0);
                    (nearest(quotient) + zero).clamp(0, steps) as u8
                }
            };
        }
    }

    fn values(&self, grid: &Grid, _at: usize, codes: &[u8], weights: &mut [f32]) {
        let [scale, zero] = params(grid);
        for (&code, weight) in codes.iter().zip(weights) {
            // Exact: at most 9 bits times the 11 bits of an f16.
            *weight = scale * (f32::from(code) - zero);
        }
    }

    fn max_error(&self, grid: &Grid, _block: &[f32]) -> f64 {
        let [scale, _] = params(grid);
        f64::from(scale) / 2.0 + clipped(scale, self.steps())
    }

    fn grid_bits(&self) -> usize {
        16 + self.bits as usize
    }

    fn store(&self, grid: &Grid, codes: &[u8], to: &mut Store) {
        let [scale, zero] = params(grid);
        to.grids.push(u32::from(f16::from_f32(scale).to_bits()), 16);
        to.grids.push(zero as u32, self.bits);
        to.put(codes, self.bits);
    }

    fn load(&self, _whole: &Whole, _index: usize, from: &mut Load<'_>, codes: &mut [u8]) -> Grid {
        let scale = f16::from_bits(from.grids.pull(16) as u16).to_f32();
        let zero = from.grids.pull(self.bits) as f32;
        from.take(codes, self.bits);
        Grid(vec![scale, zero])
    }

    fn with_zero(&self, grid: &Grid, zero: f64) -> Option<Grid> {
        let zero = zero.round().clamp(0.0, f64::from(self.steps()));
        Some(Grid(vec![params(grid)[0], zero as f32]))
    }

    fn named(&self, name: &str) -> Result<Option<AnyFormat>> {
        let Some((bits, granularity)) = width_and_granularity(name, "int", "affine") else {
            return Ok(None);
        };
        Ok(Some(IntAffine::new(bits, granularity)?.shared()))
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

/// Every width at every granularity, with groups that divide nothing.
pub(super) fn members() -> Vec<AnyFormat> {
    let granularities = [
        Granularity::Tensor,
        Granularity::Channel,
        Granularity::Group(64),
        Granularity::Group(5),
    ];
    IntAffine::family(WIDTHS, &granularities).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::method::Rtn;
    use crate::quant::{Matrix, Method, error};

    #[test]
    fn arguments_out_of_range_are_named() {
        for bits in [0, 1, 9, 32] {
            let error = IntAffine::new(bits, Granularity::Tensor).unwrap_err();
            assert!(
                error.to_string().contains("bits: expected 2 … 8"),
                "{error}"
            );
        }
        let error = IntAffine::new(4, Granularity::Group(0)).unwrap_err();
        assert!(error.to_string().contains("group"), "{error}");
    }

    #[test]
    fn a_hand_computed_grid() -> Result<()> {
        let format = IntAffine::new(2, Granularity::Tensor)?;
        // Range −1 … 2 in three steps of 1; zero-point 1.
        let grid = format.fit(&Whole::default(), 0, &[-1.0, 2.0, 0.4])?;
        assert_eq!(grid, Grid(vec![1.0, 1.0]));
        let codes: Vec<u8> = [-1.0, 2.0, 0.4, 0.6, 9.0, -9.0]
            .iter()
            .map(|&w| format.code(&grid, 0, w))
            .collect();
        assert_eq!(codes, [0, 3, 1, 2, 3, 0]);
        Ok(())
    }

    /// The papers' groups of 128 on a model whose rows are of 576: four whole groups and one of 64 a row.
    #[test]
    fn groups_that_do_not_divide_the_row() -> Result<()> {
        let format = IntAffine::new(4, Granularity::Group(128))?;
        let ramp = (0..2 * 576).map(|i| ((i * 37) % 101) as f32 - 50.0);
        let weights = Matrix::new(2, 576, ramp.collect())?;
        let quantized = Rtn.quantize(&weights, &format)?;
        assert_eq!(quantized.grids().len(), 10);
        // Ten grids of 16 + 4 bits, 1,152 codes of 4.
        assert_eq!(quantized.bytes(), 25 + 576);
        let worst = error::max_abs(weights.data(), quantized.decode()?.data())?;
        assert!(worst <= 100.0 / 15.0 / 2.0 + 0.1, "{worst}");
        Ok(())
    }

    #[test]
    fn zero_is_always_a_point() -> Result<()> {
        let format = IntAffine::new(3, Granularity::Tensor)?;
        for block in [[3.0, 5.0], [-5.0, -3.0], [-0.1, 0.7], [0.0, 0.0]] {
            let grid = format.fit(&Whole::default(), 0, &block)?;
            assert_eq!(format.value(&grid, 0, format.code(&grid, 0, 0.0)), 0.0);
        }
        Ok(())
    }

    #[test]
    fn the_stated_bound_is_the_stated_formula() -> Result<()> {
        let format = IntAffine::new(4, Granularity::Tensor)?;
        let bound = format.max_error(&Grid(vec![0.5, 3.0]), &[]);
        assert_eq!(bound, 0.25 + 15.0 * 0.5 / 1024.0);
        Ok(())
    }
}
