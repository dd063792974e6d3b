//! The 4-bit float E2M1: ±{0, ½, 1, 1½, 2, 3, 4, 6}.
//!
//! Source: *OCP Microscaling Formats (MX) Specification*, version 1.0, section 5.3.3.

use super::Minifloat;

/// 2 exponent bits, 1 mantissa bit; no infinity, no code that is not a number.
pub const E2M1: Minifloat = Minifloat {
    name: "e2m1",
    exponent_bits: 2,
    mantissa_bits: 1,
    largest: 0x7,
    infinity: None,
    nan: None,
};

#[cfg(test)]
mod tests {
    use super::super::Overflow;
    use super::super::minifloat::oracle;
    use super::*;

    #[test]
    fn every_code() {
        oracle::check(&E2M1, &[0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
    }

    #[test]
    fn ties_go_to_even_codes() {
        let ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
        let codes = ties.map(|x| E2M1.decode(E2M1.encode(x, Overflow::Saturate)));
        assert_eq!(codes, [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]);
        // There is no code for it; negative zero says so at least to those who look.
        assert_eq!(E2M1.encode(f64::NAN, Overflow::Special), 0x8);
    }
}
