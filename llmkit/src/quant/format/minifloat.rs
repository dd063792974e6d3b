//! Floats of few bits with a scale: w ≈ s·q, q in E4M3, E5M2 or E2M1.
//!
//! s = max|w| / max|q|. Stored: the code of q; a scale a block, f16 for E2M1 (small blocks), f32 for the 8-bit types
//! (large blocks).
//!
//! Source: P. Micikevicius et al., *FP8 Formats for Deep Learning* (arXiv 2209.05433), section 3; the elements are
//! those of [`fp8`](crate::numeric::fp8) and [`fp4`](crate::numeric::fp4).
//!
//! Cost: one division, one rounding a weight; 4 + 16/g or 8 + 32/g bits a weight for blocks of g.
//!
//! **Error.** Half the widest gap: 1·s for E2M1 (4 to 6), 16·s for E4M3, 4,096·s for E5M2; or what cutting the scale
//! takes from the end, if that is more.
//!
//! **Where we differ.** An f32 scale is cut to 20 significant bits, so that s·q is exact in f32; below 2⁻¹⁰⁰ it is
//! zero.

use half::f16;

use super::{AnyFormat, Format, Granularity, Grid, Load, Store, Whole, width_and_granularity};
use crate::Result;
use crate::numeric::fp4::E2M1;
use crate::numeric::fp8::{E4M3, E5M2};
use crate::numeric::{Minifloat as Element, Overflow};
use crate::quant::step::{LEAST_F32_SCALE, clipped, cut_f32, storable};

/// Floats of few bits with a scale a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Minifloat {
    element: Element,
    granularity: Granularity,
}

impl Minifloat {
    /// Elements E2M1 (4 bits), scales f16.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a group of no weights.
    pub fn fp4(granularity: Granularity) -> Result<Minifloat> {
        Minifloat::new(E2M1, granularity)
    }

    /// Elements E4M3 (8 bits, the `fn` kind), scales f32.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a group of no weights.
    pub fn e4m3(granularity: Granularity) -> Result<Minifloat> {
        Minifloat::new(E4M3, granularity)
    }

    /// Elements E5M2 (8 bits), scales f32.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a group of no weights.
    pub fn e5m2(granularity: Granularity) -> Result<Minifloat> {
        Minifloat::new(E5M2, granularity)
    }

    fn new(element: Element, granularity: Granularity) -> Result<Minifloat> {
        let granularity = granularity.check()?;
        Ok(Minifloat {
            element,
            granularity,
        })
    }

    fn has_f16_scales(&self) -> bool {
        self.element == E2M1
    }
}

impl Format for Minifloat {
    fn name(&self) -> String {
        let bits = self.element.bits();
        format!("fp{bits}-{}-{}", self.element.name, self.granularity)
    }

    fn granularity(&self) -> Granularity {
        self.granularity
    }

    fn code_bits(&self) -> u32 {
        self.element.bits()
    }

    fn fit(&self, _whole: &Whole, _index: usize, block: &[f32]) -> Result<Grid> {
        let greatest = block.iter().fold(0f32, |max, w| max.max(w.abs()));
        let scale = f64::from(greatest) / f64::from(self.element.max());
        Ok(Grid(vec![if self.has_f16_scales() {
            storable(scale, || self.name())?
        } else {
            cut_f32(scale, 20)
        }]))
    }

    fn round(&self, grid: &Grid, _at: usize, weights: &[f32], codes: &mut [u8]) {
        let scale = f64::from(grid.0[0]);
        for (&weight, code) in weights.iter().zip(codes) {
            *code = match scale {
                0.0 => 0,
                // In f64, where a quotient of two f32 cannot be rounded onto a tie.
                scale => self
                    .element
                    .encode(f64::from(weight) / scale, Overflow::Saturate),
            };
        }
    }

    fn values(&self, grid: &Grid, _at: usize, codes: &[u8], weights: &mut [f32]) {
        for (&code, weight) in codes.iter().zip(weights) {
            // Exact: at most 4 bits times 20.
            *weight = grid.0[0] * self.element.decode(code);
        }
    }

    fn max_error(&self, grid: &Grid, _block: &[f32]) -> f64 {
        let (scale, max) = (grid.0[0], self.element.max());
        let half_gap = f64::from(max - self.element.decode(self.element.largest - 1)) / 2.0;
        let cut = if self.has_f16_scales() {
            clipped(scale, max as u32)
        } else {
            f64::from(max) * (f64::from(scale) * 2f64.powi(-19)).max(LEAST_F32_SCALE)
        };
        (f64::from(scale) * half_gap).max(cut)
    }

    fn grid_bits(&self) -> usize {
        if self.has_f16_scales() { 16 } else { 32 }
    }

    fn store(&self, grid: &Grid, codes: &[u8], to: &mut Store) {
        if self.has_f16_scales() {
            let bits = f16::from_f32(grid.0[0]).to_bits();
            to.grids.push(u32::from(bits), 16);
        } else {
            to.grids.push(grid.0[0].to_bits(), 32);
        }
        to.put(codes, self.element.bits());
    }

    fn load(&self, _whole: &Whole, _index: usize, from: &mut Load<'_>, codes: &mut [u8]) -> Grid {
        let scale = if self.has_f16_scales() {
            f16::from_bits(from.grids.pull(16) as u16).to_f32()
        } else {
            f32::from_bits(from.grids.pull(32))
        };
        from.take(codes, self.element.bits());
        Grid(vec![scale])
    }

    fn named(&self, name: &str) -> Result<Option<AnyFormat>> {
        let element = self.element;
        let found = width_and_granularity(name, "fp", element.name);
        match found.filter(|found| found.0 == element.bits()) {
            Some((_, granularity)) => Ok(Some(Minifloat::new(element, granularity)?.shared())),
            None => Ok(None),
        }
    }

    fn shared(&self) -> AnyFormat {
        AnyFormat::new(*self)
    }
}

/// Every element at every granularity, with groups that divide nothing.
pub(super) fn members() -> Vec<AnyFormat> {
    let granularities = [
        Granularity::Tensor,
        Granularity::Channel,
        Granularity::Group(32),
        Granularity::Group(5),
    ];
    granularities
        .into_iter()
        .flat_map(|granularity| {
            [E2M1, E4M3, E5M2].map(|element| Minifloat::new(element, granularity))
        })
        .flatten()
        .map(|format| format.shared())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_computed_block() -> Result<()> {
        let format = Minifloat::fp4(Granularity::Tensor)?;
        let block = [-12.0, 5.0, 0.4, 6.9, 7.1];
        let grid = format.fit(&Whole::default(), 0, &block)?;
        assert_eq!(grid, Grid(vec![2.0]));
        let mut codes = [0; 5];
        format.round(&grid, 0, &block, &mut codes);
        // 2.5 is a tie between 2 and 3: the even code is that of 2. 0.2 becomes 0, 3.45 is 3, 3.55 is 4.
        let mut values = [0.0; 5];
        format.values(&grid, 0, &codes, &mut values);
        assert_eq!(values, [-12.0, 4.0, 0.0, 6.0, 8.0]);
        assert_eq!(format.max_error(&grid, &block), 2.0);
        assert!(Minifloat::e4m3(Granularity::Group(0)).is_err());
        Ok(())
    }

    #[test]
    fn sizes_count_the_scales() -> Result<()> {
        // 576 inputs in groups of 128: four whole groups and a ragged one a row.
        let format = Minifloat::fp4(Granularity::Group(128))?;
        assert_eq!(format.bytes(10, 576), 10 * (288 + 5 * 2));
        let format = Minifloat::e4m3(Granularity::Channel)?;
        assert_eq!(format.bytes(10, 576), 10 * (576 + 4));
        Ok(())
    }
}
