//! Fields of 1 … 32 bits, one after the other, least significant bit first; a byte is shared wherever fields meet.

/// Appends bit fields to a byte buffer.
#[derive(Debug, Default, Clone)]
pub struct BitWriter {
    bytes: Vec<u8>,
    pending: u64,
    pending_bits: u32,
}

impl BitWriter {
    /// A writer with room for `bits` bits.
    pub fn with_capacity(bits: usize) -> BitWriter {
        BitWriter {
            bytes: Vec::with_capacity(bits.div_ceil(8)),
            ..BitWriter::default()
        }
    }

    /// Appends the low `bits` bits of `value`; higher bits are dropped.
    pub fn push(&mut self, value: u32, bits: u32) {
        let mask = (1u64 << bits) - 1;
        self.pending |= (u64::from(value) & mask) << self.pending_bits;
        self.pending_bits += bits;
        while self.pending_bits >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.pending_bits -= 8;
        }
    }

    /// The bytes; the last one is filled up with zero bits.
    pub fn finish(mut self) -> Vec<u8> {
        if self.pending_bits > 0 {
            self.bytes.push(self.pending as u8);
        }
        self.bytes
    }
}

/// Reads bit fields in the order they were written.
#[derive(Debug, Clone)]
pub struct BitReader<'a> {
    bytes: std::slice::Iter<'a, u8>,
    pending: u64,
    pending_bits: u32,
}

impl<'a> BitReader<'a> {
    /// A reader at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> BitReader<'a> {
        BitReader {
            bytes: bytes.iter(),
            pending: 0,
            pending_bits: 0,
        }
    }

    /// The next field of `bits` bits; zeros past the end.
    pub fn pull(&mut self, bits: u32) -> u32 {
        while self.pending_bits < bits {
            let byte = self.bytes.next().copied().unwrap_or(0);
            self.pending |= u64::from(byte) << self.pending_bits;
            self.pending_bits += 8;
        }
        let value = self.pending & ((1u64 << bits) - 1);
        self.pending >>= bits;
        self.pending_bits -= bits;
        value as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_every_width_come_back_in_ragged_counts() {
        for bits in 1..=32 {
            for count in [0usize, 1, 2, 7, 8, 9, 33] {
                let mask = ((1u64 << bits) - 1) as u32;
                let fields: Vec<u32> = (0..count as u32)
                    .map(|i| i.wrapping_mul(2_654_435_761) & mask)
                    .collect();
                let mut writer = BitWriter::default();
                fields.iter().for_each(|&field| writer.push(field, bits));
                let bytes = writer.finish();
                assert_eq!(bytes.len(), (count * bits as usize).div_ceil(8));
                let mut reader = BitReader::new(&bytes);
                let back: Vec<u32> = (0..count).map(|_| reader.pull(bits)).collect();
                assert_eq!(back, fields, "{count} fields of {bits} bits");
            }
        }
    }

    #[test]
    fn widths_mix_and_the_layout_is_pinned() {
        let mut writer = BitWriter::default();
        writer.push(0b101, 3);
        writer.push(0xBEEF, 16);
        writer.push(0b11, 2);
        // From the least significant bit: 101, then BEEF, then 11.
        assert_eq!(writer.finish(), [0x7D, 0xF7, 0x1D]);
    }

    #[test]
    fn bits_above_the_field_never_leak_into_the_next() {
        let mut writer = BitWriter::default();
        writer.push(0xFF, 3);
        writer.push(0, 5);
        assert_eq!(writer.finish(), [0b111]);
    }
}
