//! Integers in groups as the packed layouts need them, whatever the format they come from; and 32-bit words of codes.

use half::f16;

use crate::quant::Quantized;
use crate::quant::format::{Format, Granularity, Grid, IntAffine, IntSymmetric, Whole};
use crate::{Error, Result};

/// A matrix (N, K) of unsigned codes: w = scale·(code − zero), groups of `group` along K.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Integers {
    pub rows: usize,
    pub columns: usize,
    pub bits: u32,
    pub group: usize,
    /// Whether all zeros are 2ᵇ⁻¹, the middle.
    pub is_symmetric: bool,
    /// (N, K).
    pub codes: Vec<u8>,
    /// (N, K / group).
    pub scales: Vec<f16>,
    /// (N, K / group).
    pub zeros: Vec<u8>,
}

/// What is the same for all matrices of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scheme {
    pub bits: u32,
    /// None for one group a row.
    pub group: Option<usize>,
    pub is_symmetric: bool,
}

/// What a packing has to know of a whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Common {
    pub scheme: Scheme,
    /// The least of all zeros.
    pub least_zero: u8,
}

impl Integers {
    /// Of a quantized matrix. Symmetric codes −m … m move into the range of unsigned ones around 2ᵇ⁻¹ = m + 1.
    ///
    /// # Errors
    /// [`Error::Argument`] if the format is not one of integers in whole groups, or not of one of these widths.
    pub fn of(name: &str, matrix: &Quantized, widths: &[u32]) -> Result<Integers> {
        let format = matrix.format();
        matrix.check_plain(name)?;
        let (bits, columns) = (format.code_bits(), matrix.cols());
        let is = |other: Result<String>| other.is_ok_and(|it| it == format.name());
        let granularity = format.granularity();
        let is_symmetric = is(IntSymmetric::new(bits, granularity).map(|it| it.name()));
        let is_affine = is(IntAffine::new(bits, granularity).map(|it| it.name()));
        let group = match granularity {
            Granularity::Group(group) => group,
            Granularity::Channel => columns,
            Granularity::Tensor => 0,
        };
        let is_whole = group > 0 && columns.is_multiple_of(group);
        if !(is_symmetric || is_affine) || !widths.contains(&bits) || !is_whole {
            let expected = format!(
                "integers of {widths:?} bits in groups that divide {columns}, or one a row"
            );
            return Err(Error::argument(
                format!("format of {name}"),
                expected,
                format.name(),
            ));
        }
        let middle = 1u8 << (bits - 1);
        let (_, grids, mut codes) = matrix.unpack();
        if is_symmetric {
            // −m is code 0 there; here it is 1, so that zero is the middle.
            codes.iter_mut().for_each(|code| *code += 1);
        }
        let zero = |grid: &Grid| {
            if is_symmetric {
                middle
            } else {
                grid.0[1] as u8
            }
        };
        Ok(Integers {
            rows: matrix.rows(),
            columns,
            bits,
            group,
            is_symmetric,
            codes,
            scales: grids.iter().map(|grid| f16::from_f32(grid.0[0])).collect(),
            zeros: grids.iter().map(zero).collect(),
        })
    }

    /// The way back.
    ///
    /// # Errors
    /// [`Error::Argument`] if a symmetric matrix has a code that ours has not (−2ᵇ⁻¹), or a scale is no number.
    pub fn quantized(&self, name: &str) -> Result<Quantized> {
        let granularity = match self.group == self.columns {
            true => Granularity::Channel,
            false => Granularity::Group(self.group),
        };
        if let Some(bad) = self.scales.iter().find(|it| !it.is_finite()) {
            return Err(Error::argument(
                format!("scale of {name}"),
                "a finite number",
                bad,
            ));
        }
        let scales = self.scales.iter().map(|it| it.to_f32());
        if self.is_symmetric && !self.codes.contains(&0) {
            let format = IntSymmetric::new(self.bits, granularity)?;
            let codes: Vec<u8> = self.codes.iter().map(|code| code - 1).collect();
            let grids: Vec<Grid> = scales.map(|scale| Grid(vec![scale])).collect();
            return Quantized::pack(
                &format,
                self.rows,
                self.columns,
                &Whole::default(),
                &codes,
                &grids,
            );
        }
        // Theirs may use all 2ᵇ codes with the zero in the middle; that is an affine grid.
        let format = IntAffine::new(self.bits, granularity)?;
        let grids = scales
            .zip(&self.zeros)
            .map(|(scale, &zero)| Grid(vec![scale, f32::from(zero)]));
        let grids: Vec<Grid> = grids.collect();
        Quantized::pack(
            &format,
            self.rows,
            self.columns,
            &Whole::default(),
            &self.codes,
            &grids,
        )
    }

    /// Row n becomes what row `order[n]` was.
    pub fn permute_rows(&mut self, order: &[usize]) {
        fn moved<T: Copy>(values: &[T], order: &[usize]) -> Vec<T> {
            let width = values.len() / order.len().max(1);
            let row = |&from: &usize| &values[from * width..(from + 1) * width];
            order.iter().flat_map(row).copied().collect()
        }
        self.codes = moved(&self.codes, order);
        self.scales = moved(&self.scales, order);
        self.zeros = moved(&self.zeros, order);
    }

    /// What it has in common with others.
    pub fn scheme(&self) -> Scheme {
        Scheme {
            bits: self.bits,
            group: (self.group != self.columns).then_some(self.group),
            is_symmetric: self.is_symmetric,
        }
    }
}

/// Words of `32 / bits` codes along the columns of a matrix (rows, columns), filled up with zero: code j of eight in field `order[j]`.
pub(super) fn along_columns(codes: &[u8], columns: usize, bits: u32, order: Order) -> Vec<u8> {
    let per_word = 32 / bits as usize;
    let rows = codes.chunks_exact(columns.max(1));
    rows.flat_map(|row| row.chunks(per_word))
        .flat_map(|codes| {
            let fields = codes.iter().enumerate();
            let word = fields.fold(0u32, |word, (j, &code)| {
                word | u32::from(code) << (bits as usize * order.field(j))
            });
            word.to_le_bytes()
        })
        .collect()
}

/// The codes of words that [`along_columns`] made.
pub(super) fn from_columns(words: &[u8], columns: usize, bits: u32, order: Order) -> Vec<u8> {
    let per_word = 32 / bits as usize;
    let in_row = 4 * columns.div_ceil(per_word);
    let mask = (1u32 << bits) - 1;
    let rows = words.chunks_exact(in_row.max(1));
    rows.flat_map(|row| {
        (0..columns).map(move |j| {
            let at = j / per_word * 4;
            let word = u32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
            (word >> (bits as usize * order.field(j % per_word)) & mask) as u8
        })
    })
    .collect()
}

/// In which field of a word a code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The first in the lowest bits.
    InTurn,
    /// AWQ's, for eight codes of 4 bits: fields hold codes 0, 2, 4, 6, 1, 3, 5, 7.
    Interleaved,
}

impl Order {
    fn field(self, code: usize) -> usize {
        match self {
            Order::InTurn => code,
            Order::Interleaved => code / 2 + code % 2 * 4,
        }
    }
}

/// (rows, columns) to (columns, rows).
pub(super) fn transposed<T: Copy>(values: &[T], columns: usize) -> Vec<T> {
    let rows = values.len() / columns.max(1);
    (0..values.len())
        .map(|at| values[at % rows * columns + at / rows])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_as_the_peers_pack_them() {
        // By hand: codes 1 … 8 in turn are 0x87654321; AWQ puts code 0, 2, 4, 6, 1, 3, 5, 7 from the lowest field up.
        let codes = [1, 2, 3, 4, 5, 6, 7, 8];
        let word =
            |order| u32::from_le_bytes(along_columns(&codes, 8, 4, order).try_into().unwrap());
        assert_eq!(word(Order::InTurn), 0x8765_4321);
        assert_eq!(word(Order::Interleaved), 0x8642_7531);
    }

    #[test]
    fn words_come_apart_again_whatever_their_number() {
        for bits in [2u32, 4, 8] {
            for columns in [1, 7, 8, 16, 19] {
                let codes: Vec<u8> = (0..3 * columns)
                    .map(|i| (i * 7 % (1 << bits)) as u8)
                    .collect();
                for order in [Order::InTurn, Order::Interleaved] {
                    if order == Order::Interleaved && bits != 4 {
                        continue;
                    }
                    let words = along_columns(&codes, columns, bits, order);
                    assert_eq!(words.len(), 3 * columns.div_ceil(32 / bits as usize) * 4);
                    assert_eq!(from_columns(&words, columns, bits, order), codes);
                }
            }
        }
        assert_eq!(transposed(&[1, 2, 3, 4, 5, 6], 3), [1, 4, 2, 5, 3, 6]);
    }
}
