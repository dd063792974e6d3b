//! How codes are stored.
//!
//! A format cuts the matrix into blocks ([`Granularity`]); the weights of a block share a [`Grid`] (a scale, perhaps
//! a zero-point); each weight is one code of [`Format::code_bits`] bits that names a point of that grid. Which point
//! is *chosen* is the business of [`method`](super::method).
//!
//! A new format is one new file and two lines here: `pub mod x;` and a row in [`all`]. The contract tests below and
//! every sweep loop over [`all`].
//!
//! | contract | meaning |
//! |---|---|
//! | bounded | every weight of a block is within [`Format::max_error`] of the point its code names |
//! | nearest | [`Format::code`] names the nearest of all points (ties either way) |
//! | projection | a point is its own code, and encoding a decoded matrix again changes nothing |
//! | lossless packing | what [`Format::store`] writes, [`Format::load`] reads back, bit for bit |
//! | honest size | the bytes reported are those of the codes and of the grids, each rounded up to whole bytes |

use std::fmt;
use std::sync::Arc;

pub use super::granularity::{Blocks, Granularity};
use super::{BitReader, BitWriter};
use crate::Result;

pub mod int_affine;
pub mod int_symmetric;
// cargo lab new: format modules end here

pub use int_affine::IntAffine;
pub use int_symmetric::IntSymmetric;

/// What the weights of one block share: the format's parameters, in its own order, with exactly the values that are
/// stored (an f16 scale is held as the f32 it decodes to).
#[derive(Debug, Clone, PartialEq)]
pub struct Grid(pub Vec<f32>);

/// A way to store codes.
///
/// `at` is a weight's position in its block: formats whose blocks have sub-blocks need it, uniform ones do not.
pub trait Format: fmt::Debug + Send + Sync {
    /// Unique name with all parameters: `int4-affine-g64`.
    fn name(&self) -> String;

    /// Which weights share a grid.
    fn granularity(&self) -> Granularity;

    /// Bits of one stored code, 1 … 8.
    fn code_bits(&self) -> u32;

    /// Codes in use: `0 .. levels`.
    fn levels(&self) -> u32 {
        1 << self.code_bits()
    }

    /// The grid that spans `block` (finite, not empty) from its least to its greatest weight.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if the block's range cannot be stored.
    fn fit(&self, block: &[f32]) -> Result<Grid>;

    /// The code of the point of `grid` nearest to `weight`.
    fn code(&self, grid: &Grid, at: usize, weight: f32) -> u8;

    /// The point of `grid` that `code` names.
    fn value(&self, grid: &Grid, at: usize, code: u8) -> f32;

    /// The largest error that rounding can make on the block `grid` was fitted to: half the widest gap between
    /// points, plus what storing the grid in few bits costs at its ends. Derived in each format's own file.
    fn max_error(&self, grid: &Grid) -> f64;

    /// Appends `grid` to the stored bits.
    fn store(&self, grid: &Grid, bits: &mut BitWriter);

    /// Reads what [`Format::store`] wrote, for a block of `len` weights.
    fn load(&self, bits: &mut BitReader<'_>, len: usize) -> Grid;

    /// This format, shareable; one line: `AnyFormat::new(*self)`.
    fn shared(&self) -> AnyFormat;

    /// The nearest code of every weight of a block.
    fn encode_block(&self, grid: &Grid, block: &[f32], codes: &mut [u8]) {
        for (at, (weight, code)) in block.iter().zip(codes).enumerate() {
            *code = self.code(grid, at, *weight);
        }
    }

    /// The value of every code of a block.
    fn decode_block(&self, grid: &Grid, codes: &[u8], weights: &mut [f32]) {
        for (at, (code, weight)) in codes.iter().zip(weights).enumerate() {
            *weight = self.value(grid, at, *code);
        }
    }
}

/// Any format, shareable. A type with a name of its own, because notebooks cannot keep a variable whose type is
/// spelt with `dyn`.
#[derive(Clone)]
pub struct AnyFormat(Arc<dyn Format>);

impl AnyFormat {
    /// Wraps a format.
    pub fn new(format: impl Format + 'static) -> AnyFormat {
        AnyFormat(Arc::new(format))
    }
}

impl AsRef<dyn Format> for AnyFormat {
    fn as_ref(&self) -> &(dyn Format + 'static) {
        &*self.0
    }
}

impl std::ops::Deref for AnyFormat {
    type Target = dyn Format;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl std::fmt::Debug for AnyFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

/// A row of [`all`]: the file's name and a sample of the formats in it, spanning its widths and granularities.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Name of the module: `int_affine`.
    pub name: &'static str,
    /// Formats of this family that contracts and benches run over.
    pub members: fn() -> Vec<AnyFormat>,
}

/// Every format family, one row a file.
pub fn all() -> Vec<Family> {
    vec![
        Family {
            name: "int_affine",
            members: int_affine::members,
        },
        Family {
            name: "int_symmetric",
            members: int_symmetric::members,
        },
        // cargo lab new: format rows end here
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Matrix, Quantized, samples};
    use half::f16;

    /// Every contract on one format and one matrix; the first that is broken, in words.
    fn broken_contract(format: &dyn Format, weights: &Matrix) -> Result<(), String> {
        let (rows, cols) = (weights.rows(), weights.cols());
        let blocks = || format.granularity().blocks(rows, cols);
        let say = |error: crate::Error| error.to_string();
        let mut codes = vec![0; rows * cols];
        let mut grids = Vec::new();
        for block in blocks() {
            let grid = format.fit(&weights.data()[block.clone()]).map_err(say)?;
            format.encode_block(
                &grid,
                &weights.data()[block.clone()],
                &mut codes[block.clone()],
            );
            for (at, i) in block.enumerate() {
                let (weight, code) = (f64::from(weights.data()[i]), codes[i]);
                let error_of = |code| (weight - f64::from(format.value(&grid, at, code))).abs();
                let bound = format.max_error(&grid);
                if error_of(code) > bound {
                    return Err(format!(
                        "bounded: {weight} is off by {}, bound {bound}",
                        error_of(code)
                    ));
                }
                if u32::from(code) >= format.levels() {
                    return Err(format!("levels: code {code} of {}", format.levels()));
                }
                for other in (0..format.levels()).map(|code| code as u8) {
                    if error_of(other) < error_of(code) {
                        return Err(format!(
                            "nearest: {weight} became {code}, {other} is nearer"
                        ));
                    }
                    let point = format.value(&grid, at, other);
                    if format.value(&grid, at, format.code(&grid, at, point)) != point {
                        return Err(format!("projection: point {point} is not its own code"));
                    }
                }
            }
            grids.push(grid);
        }

        let packed = Quantized::pack(format, rows, cols, &codes, &grids).map_err(say)?;
        if packed.codes() != codes || packed.grids() != grids {
            return Err("lossless packing: codes or grids changed".into());
        }
        let mut grid_bits = BitWriter::default();
        grids
            .iter()
            .for_each(|grid| format.store(grid, &mut grid_bits));
        let bytes =
            (codes.len() * format.code_bits() as usize).div_ceil(8) + grid_bits.finish().len();
        if packed.bytes() != bytes {
            return Err(format!(
                "honest size: {} reported, {bytes} stored",
                packed.bytes()
            ));
        }

        let decoded = packed.decode().map_err(say)?;
        for (block, grid) in blocks().zip(&grids) {
            let again = format.fit(&decoded.data()[block.clone()]).map_err(say)?;
            let once = &decoded.data()[block.clone()];
            let mut codes = vec![0; block.len()];
            let mut twice = vec![0.0; block.len()];
            format.encode_block(&again, once, &mut codes);
            format.decode_block(&again, &codes, &mut twice);
            if once != twice {
                return Err(format!(
                    "projection: encoding again moved {block:?}: {grid:?}, {again:?}"
                ));
            }
        }
        Ok(())
    }

    #[test]
    fn every_format_keeps_every_contract_on_every_sample() {
        for family in all() {
            let members = (family.members)();
            assert!(!members.is_empty(), "{} has no members", family.name);
            for format in members {
                for (sample, weights) in samples::all() {
                    if let Err(broken) = broken_contract(format.as_ref(), &weights) {
                        panic!("{} on {sample}: {broken}", format.name());
                    }
                }
            }
        }
    }

    #[test]
    fn names_are_unique_and_formats_share_themselves() {
        let mut names: Vec<String> = all()
            .iter()
            .flat_map(|family| (family.members)())
            .inspect(|format| assert_eq!(format.shared().name(), format.name()))
            .map(|format| format.name())
            .collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_range_that_no_f16_step_spans_is_an_error_not_an_infinity() {
        let block = [f32::MAX, f32::MIN];
        for format in all().iter().flat_map(|family| (family.members)()) {
            if let Ok(grid) = format.fit(&block) {
                let decoded = format.value(&grid, 0, format.code(&grid, 0, block[0]));
                assert!(decoded.is_finite(), "{}", format.name());
            }
        }
        let error = IntAffine::new(8, Granularity::Tensor).and_then(|format| format.fit(&block));
        assert!(error.is_err_and(|error| error.to_string().contains("int8-affine-tensor")));
    }

    /// Bugs that real quantizers have shipped, on top of a sound format.
    #[derive(Debug, Clone, Copy)]
    enum Bug {
        /// z = ⌊−min/s⌋ instead of the nearest integer.
        ZeroPointFloored,
        /// s = range / 2ᵇ instead of range / (2ᵇ − 1).
        StepsOffByOne,
        /// Codes truncated toward zero instead of rounded.
        CodesTruncated,
        /// The grid used for encoding has an f32 scale, the stored one an f16.
        ScaleRoundedOnlyWhenStored,
        /// Range min … max without zero, zero-point clamped into the codes: wrong for blocks of one sign.
        RangeWithoutZero,
    }

    #[derive(Debug, Clone, Copy)]
    struct Planted(IntAffine, Bug);

    impl Format for Planted {
        fn name(&self) -> String {
            format!("{} with {:?}", self.0.name(), self.1)
        }
        fn granularity(&self) -> Granularity {
            self.0.granularity()
        }
        fn code_bits(&self) -> u32 {
            self.0.code_bits()
        }
        fn fit(&self, block: &[f32]) -> Result<Grid> {
            let Grid(mut params) = self.0.fit(block)?;
            let steps = (self.levels() - 1) as f32;
            let lo = block.iter().fold(0f32, |lo, &w| lo.min(w));
            let (least, most) = block
                .iter()
                .fold((f32::MAX, f32::MIN), |(lo, hi), &w| (lo.min(w), hi.max(w)));
            match self.1 {
                Bug::ZeroPointFloored if params[0] > 0.0 => {
                    params[1] = (-lo / params[0]).floor().min(steps)
                }
                Bug::StepsOffByOne => params[0] *= steps / (steps + 1.0),
                Bug::ScaleRoundedOnlyWhenStored => params[0] *= 1.0 + 1e-4,
                Bug::RangeWithoutZero if most > least => {
                    params[0] = f16::from_f32((most - least) / steps)
                        .to_f32()
                        .max(f16::MIN_POSITIVE.to_f32());
                    params[1] = (-least / params[0]).round().clamp(0.0, steps);
                }
                _ => {}
            }
            Ok(Grid(params))
        }
        fn code(&self, grid: &Grid, at: usize, weight: f32) -> u8 {
            match self.1 {
                Bug::CodesTruncated if grid.0[0] > 0.0 => {
                    ((weight / grid.0[0]).trunc() + grid.0[1])
                        .clamp(0.0, (self.levels() - 1) as f32) as u8
                }
                _ => self.0.code(grid, at, weight),
            }
        }
        fn value(&self, grid: &Grid, at: usize, code: u8) -> f32 {
            self.0.value(grid, at, code)
        }
        fn max_error(&self, grid: &Grid) -> f64 {
            self.0.max_error(grid)
        }
        fn store(&self, grid: &Grid, bits: &mut BitWriter) {
            self.0.store(grid, bits);
        }
        fn load(&self, bits: &mut BitReader<'_>, len: usize) -> Grid {
            self.0.load(bits, len)
        }
        fn shared(&self) -> AnyFormat {
            AnyFormat::new(*self)
        }
    }

    #[test]
    fn planted_bugs_are_caught_at_every_width() -> Result<()> {
        for (bug, contract) in [
            (Bug::ZeroPointFloored, "bounded"),
            (Bug::StepsOffByOne, "bounded"),
            (Bug::CodesTruncated, "bounded"),
            (Bug::ScaleRoundedOnlyWhenStored, "lossless packing"),
            (Bug::RangeWithoutZero, "bounded"),
        ] {
            for bits in 2..=8 {
                let planted = Planted(IntAffine::new(bits, Granularity::Channel)?, bug);
                let caught: Vec<String> = samples::all()
                    .iter()
                    .filter_map(|(_, weights)| broken_contract(&planted, weights).err())
                    .collect();
                assert!(
                    caught.iter().any(|broken| broken.starts_with(contract)),
                    "{}: {caught:?}",
                    planted.name()
                );
            }
        }
        Ok(())
    }
}
