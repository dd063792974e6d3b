//! NF4: the 16 quantiles of a normal law, scaled to the greatest of each block: w ≈ a·q.
//!
//! a = max|w|. Stored: 4 bits a weight; a in f32 a block. With **double quantization** the a are quantized themselves:
//! their mean is taken off, each run of 256 of them is scaled by its greatest and becomes an 8-bit dynamic code.
//!
//! Source: T. Dettmers et al., *QLoRA: Efficient Finetuning of Quantized LLMs* (arXiv 2305.14314), section 3; the values
//! are those of [`nf4`](mod@crate::numeric::nf4), the code of [`dynamic8`](mod@crate::numeric::dynamic8).
//!
//! Cost: a search among 16 points a weight; 4 + 32/g bits a weight, 4 + 8/g + 32/(256·g) with double quantization
//! (for g = 64: 0.5 or 0.127 bits of overhead) and 32 bits a tensor for the mean.
//!
//! **Error.** Half the widest gap, a·(1 − 0.6962)/2; with double quantization also what lies beyond ±a.
//!
//! **Where we differ.** The mean is stored and counted; the paper does not mention its 32 bits.

use super::{AnyFormat, Format, Granularity, Grid, Load, Store, Whole};
use crate::Result;
use crate::numeric::{dynamic8, nearest, nf4::VALUES};
use crate::quant::Matrix;

/// Scales that share a scale in double quantization.
const RUN: usize = 256;

/// The 16 values of NormalFloat under a scale a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nf4 {
    granularity: Granularity,
    is_double: bool,
}

impl Nf4 {
    /// Scales in f32; the paper's blocks are of 64.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a group of no weights.
    pub fn new(granularity: Granularity) -> Result<Nf4> {
        Ok(Nf4 {
            granularity: granularity.check()?,
            is_double: false,
        })
    }

    /// Scales in 8 bits, in runs of 256 under an f32.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a group of no weights.
    pub fn double(granularity: Granularity) -> Result<Nf4> {
        Ok(Nf4 {
            granularity: granularity.check()?,
            is_double: true,
        })
    }

    fn greatest(block: &[f32]) -> f32 {
        block.iter().fold(0f32, |max, w| max.max(w.abs()))
    }
}

/// The scale that code `code` of block `index` stands for: mean + greatest of the run · value.
fn scale(whole: &Whole, index: usize, code: usize) -> f32 {
    whole.0[0] + whole.0[1 + index / RUN] * dynamic8::VALUES[code]
}

impl Format for Nf4 {
    fn name(&self) -> String {
        let double = if self.is_double { "-double" } else { "" };
        format!("nf4{double}-{}", self.granularity)
    }

    fn granularity(&self) -> Granularity {
        self.granularity
    }

    fn code_bits(&self) -> u32 {
        4
    }

    fn is_projection(&self) -> bool {
        !self.is_double
    }

    /// The mean of all scales, then the greatest distance from it in each run of 256.
    fn fit_whole(&self, weights: &Matrix) -> Result<Whole> {
        if !self.is_double {
            return Ok(Whole::default());
        }
        let blocks = self.granularity.blocks(weights.rows(), weights.cols());
        let scales: Vec<f32> = blocks
            .map(|block| Nf4::greatest(&weights.data()[block]))
            .collect();
        let sum: f64 = scales.iter().map(|&scale| f64::from(scale)).sum();
        let mean = (sum / scales.len() as f64) as f32;
        let runs = scales.chunks(RUN).map(|run| {
            run.iter()
                .fold(0f32, |max, scale| max.max((scale - mean).abs()))
        });
        Ok(Whole(std::iter::once(mean).chain(runs).collect()))
    }

    /// The scale; with double quantization, its code too.
    fn fit(&self, whole: &Whole, index: usize, block: &[f32]) -> Result<Grid> {
        let greatest = Nf4::greatest(block);
        if !self.is_double {
            return Ok(Grid(vec![greatest]));
        }
        let code = match whole.0[1 + index / RUN] {
            0.0 => nearest(dynamic8::VALUES.as_slice(), 0.0),
            run => nearest(dynamic8::VALUES.as_slice(), (greatest - whole.0[0]) / run),
        };
        Ok(Grid(vec![scale(whole, index, code), code as f32]))
    }

    fn round(&self, grid: &Grid, _at: usize, weights: &[f32], codes: &mut [u8]) {
        let scale = grid.0[0];
        // A scale far below the mean may come back as less than zero; the points then run the other way.
        let mut points = VALUES.map(|value| value * scale);
        if scale < 0.0 {
            points.reverse();
        }
        for (&weight, code) in weights.iter().zip(codes) {
            let at = if scale == 0.0 {
                7
            } else {
                nearest(&points, weight)
            };
            *code = if scale < 0.0 { 15 - at } else { at } as u8;
        }
    }

    fn values(&self, grid: &Grid, _at: usize, codes: &[u8], weights: &mut [f32]) {
        for (&code, weight) in codes.iter().zip(weights) {
            *weight = VALUES[usize::from(code & 15)] * grid.0[0];
        }
    }

    fn max_error(&self, grid: &Grid, block: &[f32]) -> f64 {
        let scale = f64::from(grid.0[0]).abs();
        // An f32 product is off by 2⁻²⁴ of itself.
        let half_gap = scale * (f64::from(VALUES[1] - VALUES[0]) / 2.0 + 2f64.powi(-24));
        half_gap.max(f64::from(Nf4::greatest(block)) - scale)
    }

    fn grid_bits(&self) -> usize {
        if self.is_double { 8 } else { 32 }
    }

    fn whole_bits(&self, blocks: usize) -> usize {
        if self.is_double {
            32 + 32 * blocks.div_ceil(RUN)
        } else {
            0
        }
    }

    fn store_whole(&self, whole: &Whole, to: &mut Store) {
        for value in &whole.0 {
            to.grids.push(value.to_bits(), 32);
        }
    }

    fn load_whole(&self, blocks: usize, from: &mut Load<'_>) -> Whole {
        let count = self.whole_bits(blocks) / 32;
        Whole(
            (0..count)
                .map(|_| f32::from_bits(from.grids.pull(32)))
                .collect(),
        )
    }

    fn store(&self, grid: &Grid, codes: &[u8], to: &mut Store) {
        if self.is_double {
            to.grids.push(grid.0[1] as u32, 8);
        } else {
            to.grids.push(grid.0[0].to_bits(), 32);
        }
        to.put(codes, 4);
    }

    fn load(&self, whole: &Whole, index: usize, from: &mut Load<'_>, codes: &mut [u8]) -> Grid {
        let grid = if self.is_double {
            let code = from.grids.pull(8) as usize;
            Grid(vec![scale(whole, index, code), code as f32])
        } else {
            Grid(vec![f32::from_bits(from.grids.pull(32))])
        };
        from.take(codes, 4);
        grid
    }

    fn named(&self, name: &str) -> Result<Option<AnyFormat>> {
        let Some(rest) = name.strip_prefix("nf4-") else {
            return Ok(None);
        };
        let (rest, is_double) = match rest.strip_prefix("double-") {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let Some(granularity) = Granularity::named(rest) else {
            return Ok(None);
        };
        let format = Nf4 {
            is_double,
            ..Nf4::new(granularity)?
        };
        Ok(Some(format.shared()))
    }

    fn shared(&self) -> AnyFormat {
        AnyFormat::new(*self)
    }
}

/// Both kinds, at the paper's block and at others.
pub(super) fn members() -> Vec<AnyFormat> {
    let granularities = [
        Granularity::Group(64),
        Granularity::Channel,
        Granularity::Group(5),
    ];
    granularities
        .into_iter()
        .flat_map(|granularity| [Nf4::new(granularity), Nf4::double(granularity)])
        .flatten()
        .map(|format| format.shared())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::method::Rtn;
    use crate::quant::{Method, samples};

    #[test]
    fn double_quantization_costs_what_the_paper_says() -> Result<()> {
        let (rows, cols) = (256, 1024);
        let weights = (rows * cols) as f64;
        let bits = |format: Nf4| 8.0 * format.bytes(rows, cols) as f64;
        assert_eq!(bits(Nf4::new(Granularity::Group(64))?) / weights, 4.5);
        let overhead = 8.0 / 64.0 + 32.0 / (64.0 * 256.0);
        assert_eq!(overhead, 0.126_953_125);
        let double = bits(Nf4::double(Granularity::Group(64))?);
        // Beside it, 32 bits for the mean.
        assert_eq!((double - 32.0) / weights, 4.0 + overhead);
        Ok(())
    }

    #[test]
    fn scales_in_eight_bits_are_nearly_those_in_32() -> Result<()> {
        let (_, weights) = samples::all().swap_remove(0);
        let plain = Rtn.quantize(&weights, &Nf4::new(Granularity::Group(16))?)?;
        let double = Rtn.quantize(&weights, &Nf4::double(Granularity::Group(16))?)?;
        let (whole, grids, _) = double.unpack();
        for (grid, exact) in grids.iter().zip(plain.grids()) {
            // Half the widest gap of the 8-bit type, 1 − 0.9859 or so, of the run's greatest.
            assert!((grid.0[0] - exact.0[0]).abs() <= 0.0071 * whole.0[1]);
        }
        assert!((plain.sqnr_db(&weights)? - double.sqnr_db(&weights)?).abs() < 0.3);
        Ok(())
    }
}
