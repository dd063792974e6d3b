//! IQ4_NL: 32 codes of 4 bits that name the entries of a fixed table, times a scale d in f16.
//!
//! The table is denser near zero, where weights are: element = d · table\[q\]. Block: d, 16 bytes.

use super::{half_at, nibble};

pub(super) const IQ4_NL_BYTES: usize = 2 + 32 / 2;
const _: () = assert!(IQ4_NL_BYTES == 18);

/// ggml's `kvalues_iq4nl`.
const TABLE: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

pub(super) fn iq4_nl(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(TABLE[usize::from(nibble(&block[2..], i))]);
    }
}
