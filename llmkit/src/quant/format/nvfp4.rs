//! NVFP4: blocks of 16 E2M1 under an E4M3 scale, and one f32 scale for the tensor: w ≈ t·s·q.
//!
//! t = max|W| / (6·448); s = round_E4M3(max|w| / (6·t)). Stored: 4 bits a weight, 8 a block, 32 a tensor.
//!
//! **Four over six** tries two scales for each block, max|w|/6 and max|w|/4, and keeps the one with the smaller squared
//! error (6 on a tie): under the second the greatest code is 4, and the wide gap from 4 to 6 lies beyond the block's
//! end. Its t is max|W| / (6·256), so that one and a half times the greatest scale is still an E4M3.
//!
//! Source: NVIDIA, *Pretraining Large Language Models with NVFP4* (arXiv 2509.25149), section 2 and appendix;
//! J. Cook et al., *Four Over Six: More Accurate NVFP4 Quantization with Adaptive Block Scaling* (arXiv 2512.02010).
//!
//! Cost: one division, one rounding a weight, twice for four over six; 4 + 8/16 bits a weight and 32 a tensor.
//!
//! **Error.** Half the widest gap, t·s; the scale may round down by a sixteenth of itself, which cuts off less than
//! that, or by 2⁻¹⁰ where it is subnormal: |w − ŵ| ≤ max(t·s, 6·2⁻¹⁰·t).
//!
//! **Where we differ.** t is cut to 17 significant bits, so that t·s·q is exact in f32; below 2⁻¹⁰⁰ it is zero. Quantizing
//! twice changes nothing unless a block's scale is an E4M3 subnormal, more than 2¹³ below the greatest.

use super::{AnyFormat, Format, Granularity, Grid, Load, Store, Whole};
use crate::Result;
use crate::numeric::Overflow::Saturate;
use crate::numeric::fp4::E2M1;
use crate::numeric::fp8::E4M3;
use crate::quant::Matrix;
use crate::quant::step::{LEAST_F32_SCALE, cut_f32};

/// Blocks of 16 under E4M3 scales under one f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nvfp4 {
    greatest_scale: u16,
    is_four_over_six: bool,
}

impl Nvfp4 {
    /// Weights under one scale.
    pub const BLOCK: usize = 16;

    /// NVFP4 as the hardware's own software makes it.
    pub const PLAIN: Nvfp4 = Nvfp4 {
        greatest_scale: 448,
        is_four_over_six: false,
    };

    /// NVFP4 with the tensor scale of [`Nvfp4::FOUR_OVER_SIX`] but without the choice: what that is compared with.
    pub const PLAIN_256: Nvfp4 = Nvfp4 {
        greatest_scale: 256,
        is_four_over_six: false,
    };

    /// Each block scaled to end at 6 or at 4, whichever has the smaller squared error.
    pub const FOUR_OVER_SIX: Nvfp4 = Nvfp4 {
        greatest_scale: 256,
        is_four_over_six: true,
    };

    /// The scale of a block that should end at `end`, and the squared error that it leaves.
    fn candidate(&self, tensor: f32, block: &[f32], end: f64) -> (f32, f64) {
        let greatest = block.iter().fold(0f32, |max, w| max.max(w.abs()));
        let scale = match tensor {
            0.0 => 0.0,
            tensor => {
                E4M3.decode(E4M3.encode(f64::from(greatest) / end / f64::from(tensor), Saturate))
            }
        };
        let grid = Grid(vec![scale, tensor]);
        let (mut codes, mut values) = (vec![0; block.len()], vec![0.0; block.len()]);
        self.round(&grid, 0, block, &mut codes);
        self.values(&grid, 0, &codes, &mut values);
        let errors = block
            .iter()
            .zip(&values)
            .map(|(&w, &v)| f64::from(w) - f64::from(v));
        (scale, errors.map(|error| error * error).sum())
    }
}

impl Format for Nvfp4 {
    fn name(&self) -> String {
        match (self.is_four_over_six, self.greatest_scale) {
            (true, _) => "nvfp4-four-over-six".into(),
            (false, 448) => "nvfp4".into(),
            (false, scale) => format!("nvfp4-{scale}"),
        }
    }

    fn granularity(&self) -> Granularity {
        Granularity::Group(Nvfp4::BLOCK)
    }

    fn code_bits(&self) -> u32 {
        4
    }

    fn is_projection(&self) -> bool {
        false
    }

    fn fit_whole(&self, weights: &Matrix) -> Result<Whole> {
        let greatest = weights.data().iter().fold(0f32, |max, w| max.max(w.abs()));
        let tensor = f64::from(greatest) / (6.0 * f64::from(self.greatest_scale));
        Ok(Whole(vec![cut_f32(tensor, 17)]))
    }

    fn fit(&self, whole: &Whole, _index: usize, block: &[f32]) -> Result<Grid> {
        let tensor = whole.0[0];
        let (six, error_six) = self.candidate(tensor, block, 6.0);
        let scale = if self.is_four_over_six {
            let (four, error_four) = self.candidate(tensor, block, 4.0);
            if error_four < error_six { four } else { six }
        } else {
            six
        };
        Ok(Grid(vec![scale, tensor]))
    }

    fn round(&self, grid: &Grid, _at: usize, weights: &[f32], codes: &mut [u8]) {
        let scale = f64::from(grid.0[0]) * f64::from(grid.0[1]);
        for (&weight, code) in weights.iter().zip(codes) {
            *code = match scale {
                0.0 => 0,
                // In f64, where a quotient of two f32 cannot be rounded onto a tie.
                scale => E2M1.encode(f64::from(weight) / scale, Saturate),
            };
        }
    }

    fn values(&self, grid: &Grid, _at: usize, codes: &[u8], weights: &mut [f32]) {
        let scale = grid.0[0] * grid.0[1];
        for (&code, weight) in codes.iter().zip(weights) {
            // Exact: 2 bits times 4 bits times 17.
            *weight = scale * E2M1.decode(code);
        }
    }

    fn max_error(&self, grid: &Grid, _block: &[f32]) -> f64 {
        let (scale, tensor) = (f64::from(grid.0[0]), f64::from(grid.0[1]));
        let subnormal = 6.0 * 2f64.powi(-10) * tensor;
        // The last: what a tensor loses whose scale is cut or too small to be stored.
        let least = 6.0 * 448.0 * LEAST_F32_SCALE;
        (scale * tensor).max(subnormal).max(least)
    }

    fn grid_bits(&self) -> usize {
        8
    }

    fn whole_bits(&self, _blocks: usize) -> usize {
        32
    }

    fn store_whole(&self, whole: &Whole, to: &mut Store) {
        to.grids.push(whole.0[0].to_bits(), 32);
    }

    fn load_whole(&self, _blocks: usize, from: &mut Load<'_>) -> Whole {
        Whole(vec![f32::from_bits(from.grids.pull(32))])
    }

    fn store(&self, grid: &Grid, codes: &[u8], to: &mut Store) {
        let scale = E4M3.encode(f64::from(grid.0[0]), Saturate);
        to.grids.push(u32::from(scale), 8);
        to.put(codes, 4);
    }

    fn load(&self, whole: &Whole, _index: usize, from: &mut Load<'_>, codes: &mut [u8]) -> Grid {
        let scale = E4M3.decode(from.grids.pull(8) as u8);
        from.take(codes, 4);
        Grid(vec![scale, whole.0[0]])
    }

    fn shared(&self) -> AnyFormat {
        AnyFormat::new(*self)
    }
}

/// With and without the choice.
pub(super) fn members() -> Vec<AnyFormat> {
    [Nvfp4::PLAIN, Nvfp4::PLAIN_256, Nvfp4::FOUR_OVER_SIX]
        .iter()
        .map(|format| format.shared())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::method::Rtn;
    use crate::quant::{Method, error, samples};

    #[test]
    fn a_hand_computed_matrix() -> Result<()> {
        // t = 2688/2688 = 1; the second block ends at 13, whose scale 13/6 = 2.1667 becomes 2.25 (2.125 is farther).
        let mut weights = vec![0.0; 32];
        (weights[0], weights[16], weights[17]) = (2688.0, 13.0, -3.4);
        let quantized = Rtn.quantize(&Matrix::new(1, 32, weights)?, &Nvfp4::PLAIN)?;
        let (whole, grids, _) = quantized.unpack();
        assert_eq!(whole, Whole(vec![1.0]));
        assert_eq!(grids[0], Grid(vec![448.0, 1.0]));
        assert_eq!(grids[1], Grid(vec![2.25, 1.0]));
        let decoded = quantized.decode()?;
        assert_eq!(decoded.data()[16..18], [13.5, -3.375]);
        // 32 · 4 bits, two scales, one tensor scale.
        assert_eq!(quantized.bytes(), 16 + 2 + 4);
        Ok(())
    }

    #[test]
    fn four_over_six_is_never_worse_on_any_block() -> Result<()> {
        let mut gains = 0;
        for (sample, weights) in samples::all() {
            let plain = Rtn.quantize(&weights, &Nvfp4::PLAIN_256)?.decode()?;
            let chosen = Rtn.quantize(&weights, &Nvfp4::FOUR_OVER_SIX)?.decode()?;
            for block in Nvfp4::PLAIN
                .granularity()
                .blocks(weights.rows(), weights.cols())
            {
                let original = &weights.data()[block.clone()];
                let before = error::mse(original, &plain.data()[block.clone()])?;
                let after = error::mse(original, &chosen.data()[block])?;
                assert!(after <= before, "{sample}: {after} > {before}");
                gains += usize::from(after < before);
            }
        }
        assert!(gains > 30, "the choice was made {gains} times");
        Ok(())
    }

    #[test]
    fn quantizing_twice_changes_nothing_above_the_subnormal_scales() -> Result<()> {
        for (sample, weights) in samples::all() {
            let once = Rtn.quantize(&weights, &Nvfp4::PLAIN)?;
            let is_subnormal = |grid: &Grid| grid.0[0] > 0.0 && grid.0[0] < 2f32.powi(-6);
            if once.grids().iter().any(is_subnormal) {
                continue;
            }
            let decoded = once.decode()?;
            let twice = Rtn.quantize(&decoded, &Nvfp4::PLAIN)?.decode()?;
            assert_eq!(decoded, twice, "{sample}");
        }
        Ok(())
    }
}
