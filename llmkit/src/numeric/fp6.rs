//! The 6-bit floats E2M3 and E3M2: no infinity, no code that is not a number.
//!
//! E2M3 reaches 7.5 in steps of 1/8 below 2; E3M2 reaches 28 in steps of 1/16 below 1/2.
//!
//! Source: *OCP Microscaling Formats (MX) Specification*, version 1.0, section 5.3.2.

use super::Minifloat;

/// 2 exponent bits, 3 mantissa bits.
pub const E2M3: Minifloat = Minifloat {
    name: "e2m3",
    exponent_bits: 2,
    mantissa_bits: 3,
    largest: 0x1f,
    infinity: None,
    nan: None,
};

/// 3 exponent bits, 2 mantissa bits.
pub const E3M2: Minifloat = Minifloat {
    name: "e3m2",
    exponent_bits: 3,
    mantissa_bits: 2,
    largest: 0x1f,
    infinity: None,
    nan: None,
};

#[cfg(test)]
mod tests {
    use super::super::minifloat::oracle;
    use super::*;

    #[test]
    fn every_code() {
        let eighths = |numbers: &[i32]| {
            numbers
                .iter()
                .map(|&n| f64::from(n) / 8.0)
                .collect::<Vec<_>>()
        };
        let e2m3 = eighths(&[
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 26, 28, 30,
            32, 36, 40, 44, 48, 52, 56, 60,
        ]);
        oracle::check(&E2M3, &e2m3);
        let e3m2 = [
            0.0, 0.0625, 0.125, 0.1875, 0.25, 0.3125, 0.375, 0.4375, 0.5, 0.625, 0.75, 0.875, 1.0,
            1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 14.0, 16.0,
            20.0, 24.0, 28.0,
        ];
        oracle::check(&E3M2, &e3m2);
    }
}
