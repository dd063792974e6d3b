//! E8M0: a power of two in 8 bits, 2^(c − 127); 255 is not a number. The scales of microscaling.
//!
//! Source: *OCP Microscaling Formats (MX) Specification*, version 1.0, section 5.4.1.

/// The code for what is not a number.
pub const NAN: u8 = 255;

/// 2^(code − 127), or not a number for 255.
pub fn decode(code: u8) -> f32 {
    match code {
        NAN => f32::NAN,
        // 2⁻¹²⁷ is below the normal range of an f32, and exact.
        0 => f32::from_bits(1 << 22),
        code => f32::from_bits(u32::from(code) << 23),
    }
}

/// The code of 2^exponent; exponents beyond −127 … 127 become the nearest of these.
pub fn encode(exponent: i32) -> u8 {
    (exponent.clamp(-127, 127) + 127) as u8
}

/// ⌊log₂ |x|⌋, exactly; [`None`] for zero and for what is not finite.
pub fn floor_log2(x: f32) -> Option<i32> {
    if x == 0.0 || !x.is_finite() {
        return None;
    }
    // Every finite f32 is a normal f64.
    Some((f64::from(x).to_bits() >> 52 & 0x7ff) as i32 - 1023)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code() {
        for code in 0..NAN {
            let exponent = i32::from(code) - 127;
            assert_eq!(f64::from(decode(code)), 2f64.powi(exponent));
            assert_eq!(encode(exponent), code);
            assert_eq!(floor_log2(decode(code)), Some(exponent));
        }
        assert!(decode(NAN).is_nan());
        assert_eq!((encode(-128), encode(i32::MAX)), (0, 254));
    }

    #[test]
    fn logarithms_near_powers_of_two_are_not_rounded_up() {
        for exponent in -126..127 {
            let power = 2f32.powi(exponent);
            let below = f32::from_bits(power.to_bits() - 1);
            assert_eq!(floor_log2(-below), Some(exponent - 1), "{below}");
            assert_eq!(floor_log2(power * 1.999_999_9), Some(exponent));
        }
        assert_eq!(floor_log2(f32::from_bits(1)), Some(-149));
        assert_eq!((floor_log2(0.0), floor_log2(f32::NAN)), (None, None));
    }
}
