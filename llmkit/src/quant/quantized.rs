//! A quantized matrix: packed codes, packed grids, and the format that reads them.

use candle_core::Tensor;
use std::fmt;

use super::aside::Aside;
use super::format::{AnyFormat, Load, Store, Whole};
use super::{Applied, BitReader, Format, Grid, Matrix, error};
use crate::{Error, Result};

/// A weight matrix `[N, K]` as it would lie in a file or in memory: nothing is kept but the packed bytes, and how they were chosen.
#[derive(Clone)]
pub struct Quantized {
    rows: usize,
    cols: usize,
    format: AnyFormat,
    codes: Vec<u8>,
    grids: Vec<u8>,
    asides: Vec<Aside>,
    applied: Applied,
}

impl Quantized {
    /// Packs `codes` (one a weight, row-major) and `grids` (one a block, in the order of
    /// [`Granularity::blocks`](super::Granularity::blocks)) that share `whole`.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not exactly `rows * cols` codes and one grid a block; [`Error::Argument`] if a
    /// code is not one of the format's, or the format refuses the shape ([`Format::check`]).
    pub fn pack(
        format: &dyn Format,
        rows: usize,
        cols: usize,
        whole: &Whole,
        codes: &[u8],
        grids: &[Grid],
    ) -> Result<Quantized> {
        format.check(rows, cols)?;
        let blocks = format.granularity().blocks(rows, cols);
        if rows.checked_mul(cols) != Some(codes.len()) || grids.len() != blocks.len() {
            return Err(Error::Shape {
                operation: format!("pack {}", format.name()),
                expected: format!("[{rows}, {cols}] codes in {} blocks", blocks.len()),
                got: format!("{} codes, {} grids", codes.len(), grids.len()),
            });
        }
        let bits = format.code_bits();
        if let Some(code) = codes.iter().find(|&&code| u32::from(code) >> bits != 0) {
            let name = format!("code of {}", format.name());
            return Err(Error::argument(name, format!("at most {bits} bits"), code));
        }
        let mut store = Store::default();
        format.store_whole(whole, &mut store);
        for (block, grid) in blocks.zip(grids) {
            format.store(grid, &codes[block], &mut store);
        }
        Ok(Quantized {
            rows,
            cols,
            format: format.shared(),
            codes: store.codes.finish(),
            grids: store.grids.finish(),
            asides: Vec::new(),
            applied: Applied::default(),
        })
    }

    /// The same, chosen as `applied` says.
    pub fn applying(mut self, applied: Applied) -> Quantized {
        self.applied = applied;
        self
    }

    /// The same, with what `aside` does to the decoded weights; it is counted.
    pub fn with_aside(mut self, aside: Aside) -> Quantized {
        self.asides.push(aside);
        self
    }

    /// What is stored beside codes and grids.
    pub fn asides(&self) -> &[Aside] {
        &self.asides
    }

    /// Refuses what codes and grids alone do not say: files and kernels have nothing but those.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub fn check_plain(&self, name: &str) -> Result<()> {
        match self.asides.is_empty() {
            true => Ok(()),
            false => {
                let got = format!("{} that did more", self.applied.method);
                let expected = "codes and grids that say all there is";
                Err(Error::argument(format!("codes of {name}"), expected, got))
            }
        }
    }

    /// How the codes were chosen.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// What all blocks share, the grids, one a block, and the codes, one a weight, row-major.
    pub fn unpack(&self) -> (Whole, Vec<Grid>, Vec<u8>) {
        let mut load = Load {
            grids: BitReader::new(&self.grids),
            codes: BitReader::new(&self.codes),
        };
        let blocks = self.format.granularity().blocks(self.rows, self.cols);
        let whole = self.format.load_whole(blocks.len(), &mut load);
        let mut codes = vec![0; self.rows * self.cols];
        let grids = blocks
            .enumerate()
            .map(|(index, block)| {
                self.format
                    .load(&whole, index, &mut load, &mut codes[block])
            })
            .collect();
        (whole, grids, codes)
    }

    /// The codes, one a weight, row-major.
    pub fn codes(&self) -> Vec<u8> {
        self.unpack().2
    }

    /// The grids, one a block.
    pub fn grids(&self) -> Vec<Grid> {
        self.unpack().1
    }

    /// The stored bytes of the codes; for formats that interleave codes and grids (ggml's), all there is.
    pub fn code_bytes(&self) -> &[u8] {
        &self.codes
    }

    /// The stored bytes of what blocks and the whole matrix share.
    pub fn grid_bytes(&self) -> &[u8] {
        &self.grids
    }

    /// The weights these bytes stand for, `[N, K]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the bytes stand for a weight that is not finite.
    pub fn decode(&self) -> Result<Matrix> {
        let (_, grids, codes) = self.unpack();
        let mut weights = vec![0.0; codes.len()];
        let blocks = self.format.granularity().blocks(self.rows, self.cols);
        for (block, grid) in blocks.zip(&grids) {
            let (codes, weights) = (&codes[block.clone()], &mut weights[block]);
            self.format.values(grid, 0, codes, weights);
        }
        for aside in &self.asides {
            aside.restore(&mut weights, self.cols)?;
        }
        Matrix::new(self.rows, self.cols, weights)
    }

    /// [`Quantized::decode`] as a candle tensor `[N, K]`, f32, on the CPU.
    ///
    /// # Errors
    /// Those of [`Quantized::decode`] and [`Matrix::to_tensor`].
    pub fn to_tensor(&self) -> Result<Tensor> {
        self.decode()?.into_tensor()
    }

    /// Outputs N.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs K.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The format that reads the bytes.
    pub fn format(&self) -> &dyn Format {
        self.format.as_ref()
    }

    /// Bytes stored: codes, everything the blocks share, and what lies beside them.
    pub fn bytes(&self) -> usize {
        let asides: usize = self.asides.iter().map(Aside::bytes).sum();
        self.codes.len() + self.grids.len() + asides
    }

    /// True bits a weight: all stored bytes over all weights, never the nominal width of a code.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes() as f64 / (self.rows * self.cols) as f64
    }

    /// Signal to noise ratio in dB against the `original` weights.
    ///
    /// # Errors
    /// [`Error::Shape`] if `original` has another shape.
    pub fn sqnr_db(&self, original: &Matrix) -> Result<f64> {
        if (original.rows(), original.cols()) != (self.rows, self.cols) {
            return Err(Error::Shape {
                operation: "SQNR".into(),
                expected: format!("[{}, {}]", self.rows, self.cols),
                got: format!("[{}, {}]", original.rows(), original.cols()),
            });
        }
        error::sqnr_db(original.data(), self.decode()?.data())
    }
}

impl fmt::Display for Quantized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} [{}, {}]: {} bytes, {:.4} bits a weight",
            self.format.name(),
            self.rows,
            self.cols,
            self.bytes(),
            self.bits_per_weight()
        )
    }
}

impl fmt::Debug for Quantized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Granularity;
    use super::super::format::IntSymmetric;
    use super::*;

    #[test]
    fn counts_that_do_not_fit_and_codes_too_wide_are_refused() -> Result<()> {
        let format = IntSymmetric::new(3, Granularity::Group(2))?;
        let grid = format.fit(&Whole::default(), 0, &[1.0, 2.0])?;
        let pack = |codes: &[u8], grids: usize| {
            let grids = vec![grid.clone(); grids];
            Quantized::pack(&format, 1, 3, &Whole::default(), codes, &grids)
        };
        assert!(pack(&[0, 1, 6], 2).is_ok());
        assert!(pack(&[0, 1], 2).is_err());
        let error = pack(&[0, 1, 6], 1).unwrap_err().to_string();
        assert!(error.contains("2 blocks"), "{error}");
        let error = pack(&[0, 1, 8], 2).unwrap_err().to_string();
        assert!(error.contains("at most 3 bits"), "{error}");
        Ok(())
    }
}
