//! Where a format puts its bits: two streams, one of grids and one of codes.

use super::{BitReader, BitWriter};

/// Two streams of bits that grow.
#[derive(Debug, Default, Clone)]
pub struct Store {
    /// What blocks share. Unused by formats that interleave.
    pub grids: BitWriter,
    /// Codes; for formats that interleave, everything.
    pub codes: BitWriter,
}

impl Store {
    /// Appends each code as a field of `bits` bits.
    pub fn put(&mut self, codes: &[u8], bits: u32) {
        for &code in codes {
            self.codes.push(u32::from(code), bits);
        }
    }
}

/// The two streams, read in the order they were written.
#[derive(Debug, Clone)]
pub struct Load<'a> {
    /// What blocks share.
    pub grids: BitReader<'a>,
    /// Codes.
    pub codes: BitReader<'a>,
}

impl Load<'_> {
    /// Reads fields of `bits` bits into all of `codes`.
    pub fn take(&mut self, codes: &mut [u8], bits: u32) {
        for code in codes {
            *code = self.codes.pull(bits) as u8;
        }
    }
}
