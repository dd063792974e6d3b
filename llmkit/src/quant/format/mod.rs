//! How codes are stored.
//!
//! A format cuts the matrix into blocks ([`Granularity`]). The weights of a block share a [`Grid`] (a scale, perhaps a
//! zero-point, the scales of sub-blocks); all blocks may share a [`Whole`] (the tensor scale of NVFP4, the second
//! level of scales of NF4). Each weight is one code of [`Format::code_bits`] bits. Which code is *chosen* is the
//! business of [`method`](super::method).
//!
//! A new format is one new file and two lines here: `pub mod x;` and a row in [`all`]. The contract tests
//! (`quant/contract.rs`) and every sweep loop over [`all`].
//!
//! | contract | meaning |
//! |---|---|
//! | bounded | every weight of a block is within [`Format::max_error`] of the point its code names |
//! | nearest | [`Format::round`] names the nearest of all points (ties either way), if weights are rounded one by one |
//! | runs | rounding a block at once or vector by vector is the same |
//! | rest | what is decided of a block stays when [`Format::round_rest`] rounds the rest of it again |
//! | projection | a point is its own code; encoding a decoded matrix again changes nothing if [`Format::is_projection`] |
//! | lossless packing | what [`Format::store`] writes, [`Format::load`] reads back, bit for bit |
//! | honest size | [`Format::bytes`] says beforehand exactly how many bytes are stored |
//!
//! # Why the pieces are these
//!
//! *Fit and round are apart* because error feedback (GPTQ) needs them apart: it fits the grid of a block when it
//! reaches the block's first column, then rounds column by column on that fixed grid while the weights still move.
//! So [`Format::round`] takes a run of weights at a position in the block, and [`Format::vector`] says how long such
//! a run must be: 1 for every format whose points are per weight, 8 for a lattice in eight dimensions, the block for
//! a trellis. A caller that steps by `vector()` works with all of them.
//!
//! *[`Whole`] is fitted first, once*, from the original matrix: a block's grid may be rounded with it, but never
//! changes it, so blocks stay independent and may be fitted in any order.
//!
//! *[`Format::encode`] does both* and is what round to nearest runs. It is a method of its own because some formats
//! come with a reference encoder that is not "fit, then nearest" (ggml rounds Q4_0 with the scale before it is cut to
//! f16), and files must be equal to theirs byte by byte.
//!
//! *[`Format::store`] writes codes and grid together*, into two streams or interleaved into one, so that a packed
//! kernel or a file gets the layout its format prescribes.

use std::fmt;
use std::sync::Arc;

pub(super) use super::granularity::width_and_granularity;
pub use super::granularity::{Blocks, Granularity};
pub use super::stored::{Load, Store};
use crate::quant::Matrix;
use crate::{Error, Result};

pub mod e8p;
pub mod ggml;
pub mod int_affine;
pub mod int_float_zero;
pub mod int_symmetric;
pub mod kmeans;
pub mod minifloat;
pub mod mx;
pub mod nf4;
pub mod nvfp4;
pub mod ternary;
pub mod trellis;
// cargo lab new: format modules end here

pub use e8p::E8p;
pub use ggml::Ggml;
pub use int_affine::IntAffine;
pub use int_float_zero::IntFloatZero;
pub use int_symmetric::IntSymmetric;
pub use kmeans::KMeans;
pub use minifloat::Minifloat;
pub use mx::Mx;
pub use nf4::Nf4;
pub use nvfp4::Nvfp4;
pub use ternary::Ternary;
pub use trellis::Trellis;

/// What the weights of one block share: the format's parameters, in its own order, with exactly the values that are
/// stored (an f16 scale is held as the f32 it decodes to).
#[derive(Debug, Clone, PartialEq)]
pub struct Grid(pub Vec<f32>);

/// What all blocks of a matrix share, as [`Grid`] is what the weights of a block share. Empty for most formats.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Whole(pub Vec<f32>);

/// A way to store codes.
///
/// `at` is a weight's position in its block: formats whose blocks have sub-blocks need it, uniform ones do not.
/// `index` is a block's number in the order of [`Granularity::blocks`].
pub trait Format: fmt::Debug + Send + Sync {
    /// Unique name with all parameters: `int4-affine-g64`.
    fn name(&self) -> String;

    /// Which weights share a grid.
    fn granularity(&self) -> Granularity;

    /// Bits of one code, 1 … 8, where each code has a field of its own.
    fn code_bits(&self) -> u32;

    /// Codes are `0 .. levels`; those whose value is not finite are never used.
    fn levels(&self) -> u32 {
        1 << self.code_bits()
    }

    /// How many neighbouring weights are rounded together: 1, or a number that divides the length of every block, or
    /// `usize::MAX` for all of a block.
    fn vector(&self) -> usize {
        1
    }

    /// Whether decoded weights fit the same grid again, so that quantizing twice changes nothing. No where grids are
    /// searched or averaged, or not stored in a precision that their own fit returns.
    fn is_projection(&self) -> bool {
        true
    }

    /// Refuses shapes `[N, K]` that cannot be stored.
    ///
    /// # Errors
    /// [`Error::Argument`] with the reason.
    fn check(&self, _rows: usize, _cols: usize) -> Result<()> {
        Ok(())
    }

    /// What all blocks of `weights` will share.
    ///
    /// # Errors
    /// [`Error::Argument`] if the range cannot be stored.
    fn fit_whole(&self, _weights: &Matrix) -> Result<Whole> {
        Ok(Whole::default())
    }

    /// The grid for the weights of block number `index` (finite, not empty).
    ///
    /// # Errors
    /// [`Error::Argument`] if the block's range cannot be stored.
    fn fit(&self, whole: &Whole, index: usize, block: &[f32]) -> Result<Grid>;

    /// Codes of the points of `grid` nearest to `weights`, which start at position `at` of the block and are a whole
    /// number of [vectors](Format::vector).
    fn round(&self, grid: &Grid, at: usize, weights: &[f32], codes: &mut [u8]);

    /// How many weights are decided at a time where those of a block hang together ([`vector`](Format::vector) is `usize::MAX`) and
    /// what is left of it can be rounded anew.
    fn stride(&self) -> usize {
        usize::MAX
    }

    /// Rounds what is left of a block: `codes` are those of all of it, decided before `from`, a whole number of [strides](Format::stride);
    /// `rest` are the weights from there on, which may have changed since. From 0 on it does what [`round`](Format::round) does, nearly.
    fn round_rest(&self, grid: &Grid, from: usize, rest: &[f32], codes: &mut [u8]) {
        if from == 0 {
            self.round(grid, 0, rest, codes);
        }
    }

    /// The points that `codes` name: the way back from [`Format::round`], with the same runs.
    fn values(&self, grid: &Grid, at: usize, codes: &[u8], weights: &mut [f32]);

    /// Grid and codes of a block as the authors of the format choose them: fit, then round, unless said otherwise.
    ///
    /// # Errors
    /// Those of [`Format::fit`].
    fn encode(&self, whole: &Whole, index: usize, block: &[f32], codes: &mut [u8]) -> Result<Grid> {
        let grid = self.fit(whole, index, block)?;
        self.round(&grid, 0, block, codes);
        Ok(grid)
    }

    /// [`encode`](Format::encode) with errors of columns as `importance` says, where authors have one; `power`: mean square of the row.
    fn encode_weighted(
        &self,
        _block: &[f32],
        _importance: &[f32],
        _power: f32,
        _codes: &mut [u8],
    ) -> Option<Result<Grid>> {
        None
    }

    /// [`fit`](Format::fit) where the errors of columns count as `importance` says, for formats whose points are learned.
    fn fit_weighted(&self, _block: &[f32], _importance: &[f32]) -> Option<Result<Grid>> {
        None
    }

    /// The largest error that rounding can make on the `block` that `grid` was fitted to: half the widest gap between
    /// points, plus what storing the grid in few bits costs at its ends. Derived in each format's own file; `block` is
    /// looked at only by formats that cut off what lies beyond their points.
    fn max_error(&self, grid: &Grid, block: &[f32]) -> f64;

    /// Bits of one stored grid.
    fn grid_bits(&self) -> usize;

    /// Bits of the stored [`Whole`] of a matrix of so many blocks.
    fn whole_bits(&self, _blocks: usize) -> usize {
        0
    }

    /// Bytes of a stored matrix `[N, K]`: everything, before anything is quantized.
    fn bytes(&self, rows: usize, cols: usize) -> usize {
        let blocks = self.granularity().blocks(rows, cols).len();
        let codes = rows * cols * self.code_bits() as usize;
        let grids = self.whole_bits(blocks) + blocks * self.grid_bits();
        codes.div_ceil(8) + grids.div_ceil(8)
    }

    /// Appends what all blocks share; called first.
    fn store_whole(&self, _whole: &Whole, _to: &mut Store) {}

    /// Reads what [`Format::store_whole`] wrote for so many `blocks`.
    fn load_whole(&self, _blocks: usize, _from: &mut Load<'_>) -> Whole {
        Whole::default()
    }

    /// Appends one block.
    fn store(&self, grid: &Grid, codes: &[u8], to: &mut Store);

    /// Reads what [`Format::store`] wrote for block number `index` of `codes.len()` weights.
    fn load(&self, whole: &Whole, index: usize, from: &mut Load<'_>, codes: &mut [u8]) -> Grid;

    /// z, if the value of every code is `grid[0] · (code − z)` and the grid nothing else: what the kernels for integers multiply with.
    fn zero_point(&self) -> Option<u8> {
        None
    }

    /// The grid with the zero-point that can be stored nearest to `zero`, if values are `grid[0] · (code − grid[1])`.
    fn with_zero(&self, _grid: &Grid, _zero: f64) -> Option<Grid> {
        None
    }

    /// The format of this family that `name` names, if there is one: `int5-affine-g32` for any affine integers. A family whose members
    /// are all it has need not say it.
    ///
    /// # Errors
    /// [`Error::Argument`] for a name of this family with a width or a group that it refuses.
    fn named(&self, _name: &str) -> Result<Option<AnyFormat>> {
        Ok(None)
    }

    /// This format, shareable; one line: `AnyFormat::new(*self)`.
    fn shared(&self) -> AnyFormat;

    /// The code of the point of `grid` nearest to one weight, where weights are rounded one by one.
    fn code(&self, grid: &Grid, at: usize, weight: f32) -> u8 {
        let mut code = [0];
        self.round(grid, at, &[weight], &mut code);
        code[0]
    }

    /// The point of `grid` that `code` names, where weights are rounded one by one.
    fn value(&self, grid: &Grid, at: usize, code: u8) -> f32 {
        let mut value = [0.0];
        self.values(grid, at, &[code], &mut value);
        value[0]
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

/// The format of a name: that of a member of [`all`], or another width and granularity of its family. `int4-g64` is short for
/// `int4-symmetric-g64`.
///
/// # Errors
/// [`Error::Argument`] if there is none, or it cannot be.
pub fn named(name: &str) -> Result<AnyFormat> {
    let members = || all().into_iter().flat_map(|family| (family.members)());
    if let Some(member) = members().find(|member| member.name() == name) {
        return Ok(member);
    }
    for member in members() {
        if let Some(found) = member.named(name)? {
            return Ok(found);
        }
    }
    let families: Vec<&str> = all().iter().map(|family| family.name).collect();
    let expected = format!(
        "a format such as int4-g64 or nf4-g64, of {}",
        families.join(", ")
    );
    Err(Error::argument("format", expected, name))
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
            name: "e8p",
            members: e8p::members,
        },
        Family {
            name: "ggml",
            members: ggml::members,
        },
        Family {
            name: "int_affine",
            members: int_affine::members,
        },
        Family {
            name: "int_float_zero",
            members: int_float_zero::members,
        },
        Family {
            name: "int_symmetric",
            members: int_symmetric::members,
        },
        Family {
            name: "kmeans",
            members: kmeans::members,
        },
        Family {
            name: "minifloat",
            members: minifloat::members,
        },
        Family {
            name: "mx",
            members: mx::members,
        },
        Family {
            name: "nf4",
            members: nf4::members,
        },
        Family {
            name: "nvfp4",
            members: nvfp4::members,
        },
        Family {
            name: "ternary",
            members: ternary::members,
        },
        Family {
            name: "trellis",
            members: trellis::members,
        },
        // cargo lab new: format rows end here
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() -> Result<()> {
        for member in all().iter().flat_map(|family| (family.members)()) {
            assert_eq!(named(&member.name())?.name(), member.name());
        }
        for (name, full) in [
            ("int4-g64", "int4-symmetric-g64"),
            ("int3-channel", "int3-symmetric-channel"),
            ("int6-symmetric-g96", "int6-symmetric-g96"),
            ("int3-affine-g128", "int3-affine-g128"),
            ("nf4-g96", "nf4-g96"),
            ("nf4-double-tensor", "nf4-double-tensor"),
            ("kmeans3-g192", "kmeans3-g192"),
            ("ternary-g32", "ternary-g32"),
            ("e8p-g96", "e8p-g96"),
            ("trellis2-3inst-l12-g96", "trellis2-3inst-l12-g96"),
            ("fp4-e2m1-g64", "fp4-e2m1-g64"),
            ("fp8-e4m3-g64", "fp8-e4m3-g64"),
            ("mxfp4-e2m1", "mxfp4-e2m1"),
            ("Q4_0", "Q4_0"),
        ] {
            assert_eq!(named(name)?.name(), full, "{name}");
        }
        for (odd, says) in [
            ("int9-g64", "2 … 8"),
            ("int4-g0", "at least one weight"),
            ("nf4-g0", "at least one weight"),
            ("int4", "such as int4-g64"),
            ("", "such as int4-g64"),
            ("int4-affine-g64-x", "such as int4-g64"),
        ] {
            let error = named(odd).unwrap_err().to_string();
            assert!(error.contains(says), "{odd}: {error}");
        }
        Ok(())
    }
}
