//! OCP microscaling: blocks of 32 small floats under one power of two, w ≈ 2^E·q.
//!
//! E = ⌊log₂ max|w|⌋ − ⌊log₂ max q⌋. Stored: the codes of q, 8, 6 or 4 bits each; E in E8M0, 8 bits a block.
//!
//! Source: *OCP Microscaling Formats (MX) Specification*, version 1.0, sections 5 and 6.3; B. D. Rouhani et al.,
//! *Microscaling Data Formats for Deep Learning* (arXiv 2310.10537), algorithm 1.
//!
//! Cost: one multiplication by a power of two, one rounding a weight; b + 8/32 bits a weight.
//!
//! **Error.** The greatest of a block lies in max q/c … 2·2^⌊log₂ max q⌋ of the scale, so it may be beyond the greatest
//! code and is cut off there. With c = 2^(⌊log₂ max q⌋ + 1) − max q: |w − ŵ| ≤ 2^E · max(c, half the widest gap), which
//! is 2 for E2M1, ½ for E2M3, 4 for E3M2, 64 for E4M3, 8,192 for E5M2.
//!
//! **Where we differ.** Nowhere; rows need not be a multiple of 32, the last block of a row may be shorter.

use super::{AnyFormat, Format, Granularity, Grid, Load, Store, Whole};
use crate::Result;
use crate::numeric::fp4::E2M1;
use crate::numeric::fp6::{E2M3, E3M2};
use crate::numeric::fp8::{E4M3, E5M2};
use crate::numeric::{Minifloat, Overflow, e8m0};

/// Blocks of 32 under a power of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mx(Minifloat);

impl Mx {
    /// MXFP4: elements E2M1.
    pub const FP4: Mx = Mx(E2M1);
    /// MXFP6 with elements E2M3, the usual choice for weights.
    pub const FP6_E2M3: Mx = Mx(E2M3);
    /// MXFP6 with elements E3M2.
    pub const FP6_E3M2: Mx = Mx(E3M2);
    /// MXFP8 with elements E4M3, the usual choice for weights and activations.
    pub const FP8_E4M3: Mx = Mx(E4M3);
    /// MXFP8 with elements E5M2.
    pub const FP8_E5M2: Mx = Mx(E5M2);

    /// Weights under one scale.
    pub const BLOCK: usize = 32;
}

impl Format for Mx {
    fn name(&self) -> String {
        format!("mxfp{}-{}", self.0.bits(), self.0.name)
    }

    fn granularity(&self) -> Granularity {
        Granularity::Group(Mx::BLOCK)
    }

    fn code_bits(&self) -> u32 {
        self.0.bits()
    }

    fn fit(&self, _whole: &Whole, _index: usize, block: &[f32]) -> Result<Grid> {
        let greatest = block.iter().fold(0f32, |max, w| max.max(w.abs()));
        // A block of zeros gets the least scale.
        let exponent = e8m0::floor_log2(greatest).map_or(i32::MIN, |e| e - self.0.max_exponent());
        Ok(Grid(vec![e8m0::decode(e8m0::encode(exponent))]))
    }

    fn round(&self, grid: &Grid, _at: usize, weights: &[f32], codes: &mut [u8]) {
        let scale = f64::from(grid.0[0]);
        for (&weight, code) in weights.iter().zip(codes) {
            *code = self.0.encode(f64::from(weight) / scale, Overflow::Saturate);
        }
    }

    fn values(&self, grid: &Grid, _at: usize, codes: &[u8], weights: &mut [f32]) {
        for (&code, weight) in codes.iter().zip(weights) {
            // Exact, below f32's normal range too: no element times 2⁻¹²⁷ is less than 2⁻¹⁴⁹.
            *weight = grid.0[0] * self.0.decode(code);
        }
    }

    fn max_error(&self, grid: &Grid, _block: &[f32]) -> f64 {
        let max = f64::from(self.0.max());
        let half_gap = (max - f64::from(self.0.decode(self.0.largest - 1))) / 2.0;
        let cut_off = 2f64.powi(self.0.max_exponent() + 1) - max;
        f64::from(grid.0[0]) * half_gap.max(cut_off)
    }

    fn grid_bits(&self) -> usize {
        8
    }

    fn store(&self, grid: &Grid, codes: &[u8], to: &mut Store) {
        let exponent = e8m0::floor_log2(grid.0[0]).unwrap_or(i32::MIN);
        to.grids.push(u32::from(e8m0::encode(exponent)), 8);
        to.put(codes, self.0.bits());
    }

    fn load(&self, _whole: &Whole, _index: usize, from: &mut Load<'_>, codes: &mut [u8]) -> Grid {
        let scale = e8m0::decode(from.grids.pull(8) as u8);
        from.take(codes, self.0.bits());
        Grid(vec![scale])
    }

    fn shared(&self) -> AnyFormat {
        AnyFormat::new(*self)
    }
}

/// All five.
pub(super) fn members() -> Vec<AnyFormat> {
    [
        Mx::FP4,
        Mx::FP6_E2M3,
        Mx::FP6_E3M2,
        Mx::FP8_E4M3,
        Mx::FP8_E5M2,
    ]
    .iter()
    .map(|format| format.shared())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_follow_the_specification() -> Result<()> {
        let fit = |format: Mx, greatest: f32| -> Result<f32> {
            Ok(format.fit(&Whole::default(), 0, &[0.0, -greatest])?.0[0])
        };
        // E2M1 reaches 6 = 2²·1.5: 4 … 8 fits under 1, and 7.9 is cut off at 6.
        for (greatest, scale) in [(4.0, 1.0), (7.9, 1.0), (8.0, 2.0), (3.99, 0.5)] {
            assert_eq!(fit(Mx::FP4, greatest)?, scale, "{greatest}");
        }
        assert_eq!(fit(Mx::FP8_E4M3, 448.0)?, 1.0);
        assert_eq!(fit(Mx::FP8_E4M3, 512.0)?, 2.0);
        assert_eq!(fit(Mx::FP6_E2M3, 7.5)?, 1.0);
        // Far below the least scale, and at the top.
        assert_eq!(fit(Mx::FP8_E5M2, 1e-40)?, e8m0::decode(0));
        assert_eq!(fit(Mx::FP4, f32::MAX)?, 2f32.powi(125));
        Ok(())
    }

    #[test]
    fn the_stated_bounds_are_those_of_the_head() {
        let bounds = [2.0, 0.5, 4.0, 64.0, 8192.0];
        for (format, bound) in members().iter().zip(bounds) {
            assert_eq!(
                format.max_error(&Grid(vec![1.0]), &[]),
                bound,
                "{}",
                format.name()
            );
        }
    }

    #[test]
    fn true_size() {
        // 576 = 18 blocks of 32.
        assert_eq!(Mx::FP4.bytes(3, 576), 3 * (288 + 18));
        assert_eq!(Mx::FP6_E2M3.bytes(3, 576), 3 * (432 + 18));
    }
}
