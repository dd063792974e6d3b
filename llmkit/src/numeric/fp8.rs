//! The 8-bit floats E4M3 and E5M2.
//!
//! | | largest | least normal | least | infinity | not a number |
//! |---|---|---|---|---|---|
//! | E4M3 (the `fn` kind) | 448 | 2⁻⁶ | 2⁻⁹ | none | S.1111.111 |
//! | E5M2 | 57,344 | 2⁻¹⁴ | 2⁻¹⁶ | S.11111.00 | S.11111.01, .10, .11 |
//!
//! Source: P. Micikevicius et al., *FP8 Formats for Deep Learning* (arXiv 2209.05433), table 1; *OCP 8-bit Floating
//! Point Specification (OFP8)*, revision 1.0, section 5.

use super::Minifloat;

/// 4 exponent bits, 3 mantissa bits, no infinity.
pub const E4M3: Minifloat = Minifloat {
    name: "e4m3",
    exponent_bits: 4,
    mantissa_bits: 3,
    largest: 0x7e,
    infinity: None,
    nan: Some(0x7f),
};

/// 5 exponent bits, 2 mantissa bits.
pub const E5M2: Minifloat = Minifloat {
    name: "e5m2",
    exponent_bits: 5,
    mantissa_bits: 2,
    largest: 0x7b,
    infinity: Some(0x7c),
    nan: Some(0x7e),
};

#[cfg(test)]
mod tests {
    use super::super::Overflow::{Saturate, Special};
    use super::super::minifloat::oracle;
    use super::*;
    use half::f16;

    /// Written out for E4M3: eight subnormals, then eight a power of two.
    fn e4m3() -> Vec<f64> {
        let normal = (-6..=8).flat_map(|e| (8..16).map(move |m| f64::from(m) / 8.0 * 2f64.powi(e)));
        (0..8)
            .map(|m| f64::from(m) / 512.0)
            .chain(normal)
            .take(127)
            .collect()
    }

    #[test]
    fn every_code_of_e4m3() {
        let values = e4m3();
        assert_eq!(values[126], 448.0);
        oracle::check(&E4M3, &values);
        assert!(E4M3.decode(0x7f).is_nan() && E4M3.decode(0xff).is_nan());
    }

    /// E5M2 is the upper byte of an f16: an implementation that is not ours.
    #[test]
    fn every_code_of_e5m2() {
        let as_f16 = |code: u8| f16::from_bits(u16::from(code) << 8).to_f64();
        let values: Vec<f64> = (0..0x7c).map(as_f16).collect();
        oracle::check(&E5M2, &values);
        for code in 0..=255u8 {
            let (ours, theirs) = (f64::from(E5M2.decode(code)), as_f16(code));
            assert!(
                ours == theirs || ours.is_nan() && theirs.is_nan(),
                "{code:#x}"
            );
        }
    }

    #[test]
    fn what_overflows_and_what_is_no_number() {
        for (x, saturated, special) in [
            (464.0, 0x7e, 0x7e), // a tie between 448 and 480, which would be odd
            (464.1, 0x7e, 0x7f),
            (f64::INFINITY, 0x7e, 0x7f),
            (-1e9, 0xfe, 0xff),
            (f64::NAN, 0x7f, 0x7f),
        ] {
            let x: f64 = x;
            assert_eq!(E4M3.encode(x, Saturate) & 0x7f, saturated & 0x7f, "{x}");
            assert_eq!(E4M3.encode(x, Special) & 0x7f, special & 0x7f, "{x}");
        }
        for (x, saturated, special) in [
            (61_439.0, 0x7b, 0x7b),
            (61_440.0, 0x7b, 0x7c), // a tie between 57,344 and 65,536, which is even
            (f64::NEG_INFINITY, 0xfb, 0xfc),
        ] {
            assert_eq!(E5M2.encode(x, Saturate), saturated, "{x}");
            assert_eq!(E5M2.encode(x, Special), special, "{x}");
        }
        assert!(E5M2.decode(E5M2.encode(f64::NAN, Special)).is_nan());
    }
}
