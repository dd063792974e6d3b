//! Learned codebooks: w ≈ c\[q\], the 2ᵇ points of least squared error for each block.
//!
//! Stored: b bits a weight; 2ᵇ points in f16 a block, ascending. The points come from the exact algorithm on a line or, to
//! compare, from Lloyd's; both are [`numeric::kmeans`](crate::numeric::kmeans).
//!
//! Source: S. Kim et al., *SqueezeLLM: Dense-and-Sparse Quantization* (arXiv 2306.07629), section 4.1, a codebook for each
//! output channel; there weighted by sensitivity, which is the business of a method ([`SqueezeLlm`](crate::quant::method::SqueezeLlm)).
//!
//! Cost: sorting and O(2ᵇ·n·log n) for a block of n; b + 16·2ᵇ/n bits a weight.
//!
//! **Error.** Half the widest gap between points, and what lies beyond the first and the last.
//!
//! **Where we differ.** Exact by default; the paper runs Lloyd's algorithm.

use half::f16;

use super::{AnyFormat, Format, Granularity, Grid, Load, Store, Whole, width_and_granularity};
use crate::numeric::{kmeans, nearest};
use crate::{Error, Result};

/// 2ᵇ learned points a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KMeans {
    bits: u32,
    granularity: Granularity,
    seed: Option<u64>,
}

impl KMeans {
    /// Points of least squared error: codes of 1 … 8 `bits`, one codebook for each block of `granularity`.
    ///
    /// # Errors
    /// [`Error::Argument`] for other widths and for a group of no weights.
    pub fn new(bits: u32, granularity: Granularity) -> Result<KMeans> {
        if !(1..=8).contains(&bits) {
            return Err(Error::argument("bits", "1 … 8", bits));
        }
        Ok(KMeans {
            bits,
            granularity: granularity.check()?,
            seed: None,
        })
    }

    /// Points by Lloyd's algorithm from a start drawn with `seed`.
    ///
    /// # Errors
    /// Those of [`KMeans::new`].
    pub fn lloyd(bits: u32, granularity: Granularity, seed: u64) -> Result<KMeans> {
        Ok(KMeans {
            seed: Some(seed),
            ..KMeans::new(bits, granularity)?
        })
    }
}

impl KMeans {
    /// The points of least error, each weight's counting as `importance` says.
    fn points(&self, block: &[f32], importance: Option<&[f32]>) -> Result<Grid> {
        let count = 1 << self.bits;
        let points = match self.seed {
            None => kmeans::optimal(block, importance, count),
            Some(seed) => kmeans::lloyd(block, importance, count, seed),
        };
        let mut points: Vec<f32> = points.iter().map(|&x| f16::from_f64(x).to_f32()).collect();
        if let Some(point) = points.iter().find(|point| !point.is_finite()) {
            let name = format!("point of {}", self.name());
            return Err(Error::argument(name, "one that an f16 can hold", point));
        }
        let last = points.last().copied().unwrap_or(0.0);
        points.resize(count, last);
        Ok(Grid(points))
    }
}

impl Format for KMeans {
    fn name(&self) -> String {
        let kind = self
            .seed
            .map_or(String::new(), |seed| format!("-lloyd{seed}"));
        format!("kmeans{}{kind}-{}", self.bits, self.granularity)
    }

    fn granularity(&self) -> Granularity {
        self.granularity
    }

    fn code_bits(&self) -> u32 {
        self.bits
    }

    fn fit(&self, _whole: &Whole, _index: usize, block: &[f32]) -> Result<Grid> {
        self.points(block, None)
    }

    fn fit_weighted(&self, block: &[f32], importance: &[f32]) -> Option<Result<Grid>> {
        Some(self.points(block, Some(importance)))
    }

    fn round(&self, grid: &Grid, _at: usize, weights: &[f32], codes: &mut [u8]) {
        for (&weight, code) in weights.iter().zip(codes) {
            *code = nearest(&grid.0, weight) as u8;
        }
    }

    fn values(&self, grid: &Grid, _at: usize, codes: &[u8], weights: &mut [f32]) {
        for (&code, weight) in codes.iter().zip(weights) {
            *weight = grid.0[usize::from(code)];
        }
    }

    fn max_error(&self, grid: &Grid, block: &[f32]) -> f64 {
        let gap = |pair: &[f32]| (f64::from(pair[1]) - f64::from(pair[0])) / 2.0;
        let widest = grid.0.windows(2).map(gap).fold(0.0, f64::max);
        let (first, last) = (grid.0[0], grid.0[grid.0.len() - 1]);
        let outside =
            |&w: &f32| (f64::from(first) - f64::from(w)).max(f64::from(w) - f64::from(last));
        block.iter().map(outside).fold(widest, f64::max)
    }

    fn grid_bits(&self) -> usize {
        16 << self.bits
    }

    fn store(&self, grid: &Grid, codes: &[u8], to: &mut Store) {
        for &point in &grid.0 {
            to.grids.push(u32::from(f16::from_f32(point).to_bits()), 16);
        }
        to.put(codes, self.bits);
    }

    fn load(&self, _whole: &Whole, _index: usize, from: &mut Load<'_>, codes: &mut [u8]) -> Grid {
        from.take(codes, self.bits);
        let point = |_| f16::from_bits(from.grids.pull(16) as u16).to_f32();
        Grid((0..1 << self.bits).map(point).collect())
    }

    fn named(&self, name: &str) -> Result<Option<AnyFormat>> {
        let Some((bits, granularity)) = width_and_granularity(name, "kmeans", "") else {
            return Ok(None);
        };
        Ok(Some(KMeans::new(bits, granularity)?.shared()))
    }

    fn shared(&self) -> AnyFormat {
        AnyFormat::new(*self)
    }
}

/// A few widths, exact and by Lloyd's algorithm.
pub(super) fn members() -> Vec<AnyFormat> {
    [
        KMeans::new(2, Granularity::Channel),
        KMeans::new(3, Granularity::Tensor),
        KMeans::new(4, Granularity::Channel),
        KMeans::new(2, Granularity::Group(20)),
        KMeans::lloyd(3, Granularity::Channel, 0),
    ]
    .into_iter()
    .flatten()
    .map(|format| format.shared())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::format::IntAffine;
    use crate::quant::method::Rtn;
    use crate::quant::{Method, samples};

    #[test]
    fn no_uniform_grid_of_as_many_points_does_better() -> Result<()> {
        let (_, weights) = samples::all().swap_remove(0);
        for bits in 2..=5 {
            let learned = Rtn.quantize(&weights, &KMeans::new(bits, Granularity::Channel)?)?;
            let lloyd = Rtn.quantize(&weights, &KMeans::lloyd(bits, Granularity::Channel, 1)?)?;
            let uniform = Rtn.quantize(&weights, &IntAffine::new(bits, Granularity::Channel)?)?;
            let (learned, lloyd) = (learned.sqnr_db(&weights)?, lloyd.sqnr_db(&weights)?);
            assert!(learned > uniform.sqnr_db(&weights)?);
            // Rounding the points to f16 may turn the order by a hair.
            assert!(learned > lloyd - 1e-3, "{learned} {lloyd}");
        }
        assert!(KMeans::new(0, Granularity::Tensor).is_err());
        assert!(KMeans::new(9, Granularity::Tensor).is_err());
        Ok(())
    }
}
