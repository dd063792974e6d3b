//! Floating point in at most 8 bits: sign, e exponent bits, m mantissa bits.
//!
//! value = (−1)ˢ · 2^(max(E, 1) − bias) · (i + M/2ᵐ), i = 1 if E > 0 and else 0, bias = 2^(e−1) − 1. Encoding rounds to nearest, ties to the
//! code that ends in 0, subnormals included.
//!
//! Source: IEEE 754-2019, section 3 and 4.3.1, scaled down; which codes are infinite or not a number is the business
//! of the types in [`fp8`](super::fp8), [`fp6`](super::fp6) and [`fp4`](super::fp4).
//!
//! Cost: a handful of integer operations and one rounding a number, no table.

/// A type of numbers of few bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Minifloat {
    /// As the specifications write it, in lower case: `e4m3`.
    pub name: &'static str,
    /// e.
    pub exponent_bits: u32,
    /// m.
    pub mantissa_bits: u32,
    /// Code of the greatest finite number.
    pub largest: u8,
    /// Code of +∞, if there is one.
    pub infinity: Option<u8>,
    /// Code that is written for what is not a number, if there is one.
    pub nan: Option<u8>,
}

/// What becomes of a number that rounds beyond the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// The greatest finite number of its sign, also for infinities.
    Saturate,
    /// Infinity, or not a number where the type has no infinity; types that have neither saturate.
    Special,
}

impl Minifloat {
    /// Bits of a code: 1 + e + m.
    pub fn bits(&self) -> u32 {
        1 + self.exponent_bits + self.mantissa_bits
    }

    /// What is subtracted from the exponent field.
    pub fn bias(&self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    /// The greatest finite number.
    pub fn max(&self) -> f32 {
        self.decode(self.largest)
    }

    /// ⌊log₂ of the greatest finite number⌋.
    pub fn max_exponent(&self) -> i32 {
        i32::from(self.largest >> self.mantissa_bits) - self.bias()
    }

    /// The number that a code stands for; bits above the type's are ignored.
    pub fn decode(&self, code: u8) -> f32 {
        let sign_bit = 1u8 << (self.bits() - 1);
        let magnitude = code & (sign_bit - 1);
        let value = if Some(magnitude) == self.infinity {
            f64::INFINITY
        } else if magnitude > self.largest {
            f64::NAN
        } else {
            let exponent = i32::from(magnitude >> self.mantissa_bits);
            let mantissa = i32::from(magnitude) & ((1 << self.mantissa_bits) - 1);
            let hidden = i32::from(exponent > 0) << self.mantissa_bits;
            let power = exponent.max(1) - self.bias() - self.mantissa_bits as i32;
            f64::from(hidden + mantissa) * 2f64.powi(power)
        };
        // At most 4 significant bits and exponents of an f32: exact.
        (if code & sign_bit == 0 { value } else { -value }) as f32
    }

    /// The code of the nearest number, ties to the even code. What is not a number becomes the type's code for that,
    /// or −0 where it has none.
    pub fn encode(&self, x: f64, overflow: Overflow) -> u8 {
        let sign_bit = 1u8 << (self.bits() - 1);
        let sign = if x.is_sign_negative() { sign_bit } else { 0 };
        if x.is_nan() {
            return self.nan.map_or(sign_bit, |nan| sign | nan);
        }
        // Below f64's normal range the exponent field is 0; all that matters is that it is below ours.
        let field = (x.to_bits() >> 52 & 0x7ff) as i32;
        let exponent = (field - 1023).max(1 - self.bias());
        if exponent > self.max_exponent() + 1 {
            return sign | self.beyond(overflow);
        }
        // In units of the last place of that exponent: exact, a power of two.
        let places = (x.abs() * 2f64.powi(self.mantissa_bits as i32 - exponent)).round_ties_even();
        // A carry into the next power of two is a carry into the exponent field.
        let code = ((exponent + self.bias() - 1) << self.mantissa_bits) + places as i32;
        match u8::try_from(code) {
            Ok(code) if code <= self.largest => sign | code,
            _ => sign | self.beyond(overflow),
        }
    }

    fn beyond(&self, overflow: Overflow) -> u8 {
        match overflow {
            Overflow::Saturate => self.largest,
            Overflow::Special => self.infinity.or(self.nan).unwrap_or(self.largest),
        }
    }
}

/// The oracles that every type runs: all codes, all midpoints, a search over all values.
#[cfg(test)]
pub(super) mod oracle {
    use super::*;

    /// The finite numbers of a type with their codes, from the definition, least first; −0 left out.
    pub fn table(of: &Minifloat, values: &[f64]) -> Vec<(f64, u8)> {
        assert_eq!(values.len(), usize::from(of.largest) + 1);
        let sign_bit = 1u8 << (of.bits() - 1);
        let negative = (1..values.len())
            .rev()
            .map(|i| (-values[i], sign_bit | i as u8));
        let positive = values
            .iter()
            .enumerate()
            .map(|(i, &value)| (value, i as u8));
        negative.chain(positive).collect()
    }

    /// The code of the nearest number by search, ties to the even code.
    fn search(table: &[(f64, u8)], x: f64) -> u8 {
        let mut best = table[0];
        for &(value, code) in table {
            let (new, old) = ((value - x).abs(), (best.0 - x).abs());
            if new < old || new == old && code.is_multiple_of(2) {
                best = (value, code);
            }
        }
        best.1
    }

    /// What is wrong with an encoder and a decoder of `of`, whose magnitudes must be `values`; nothing if they are right.
    pub fn broken(
        of: &Minifloat,
        values: &[f64],
        decode: impl Fn(u8) -> f32,
        encode: impl Fn(f64) -> u8,
    ) -> Option<String> {
        let table = table(of, values);
        for &(value, code) in &table {
            if f64::from(decode(code)) != value {
                return Some(format!("decode {code:#x}: {}, not {value}", decode(code)));
            }
            if encode(value) != code {
                return Some(format!(
                    "encode {value}: {:#x}, not {code:#x}",
                    encode(value)
                ));
            }
        }
        for pair in table.windows(2) {
            if pair[0].0 >= pair[1].0 {
                return Some(format!("not ascending at {pair:?}"));
            }
            let tie = (pair[0].0 + pair[1].0) / 2.0;
            let ulp = tie.abs().max(1e-300) * f64::EPSILON;
            for x in [
                tie,
                tie - ulp,
                tie + ulp,
                pair[0].0 * 0.75 + pair[1].0 * 0.25,
            ] {
                let (got, right) = (encode(x), search(&table, x));
                // Zero has two codes; a negative that rounds to zero keeps its sign.
                if decode(got) != decode(right) {
                    return Some(format!("encode {x:e}: {got:#x}, not {right:#x}"));
                }
            }
        }
        let greatest = values[values.len() - 1];
        for x in [greatest * 1.001, greatest * 100.0, f64::MAX, f64::INFINITY] {
            if decode(encode(x)) as f64 != greatest || decode(encode(-x)) as f64 != -greatest {
                return Some(format!("encode {x:e}: does not saturate"));
            }
        }
        let tiny = [5e-324, values[1] / 2.0];
        tiny.into_iter()
            .find(|&x| decode(encode(x)) != 0.0 || decode(encode(-x)) != 0.0)
            .map(|x| format!("encode {x:e}: not zero"))
    }

    /// [`broken`] on the type's own code.
    pub fn check(of: &Minifloat, values: &[f64]) {
        let encode = |x| of.encode(x, Overflow::Saturate);
        assert_eq!(broken(of, values, |code| of.decode(code), encode), None);
        assert!(of.encode(-0.0, Overflow::Saturate) == 1 << (of.bits() - 1));
        assert_eq!(f64::from(of.max()), values[values.len() - 1]);
        assert_eq!(
            of.max_exponent(),
            values[values.len() - 1].log2().floor() as i32
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::fp8::E4M3;
    use super::*;

    /// Bugs that real converters have shipped; the oracle names each.
    #[test]
    fn planted_bugs_are_caught() {
        let values: Vec<f64> = (0..=E4M3.largest)
            .map(|c| f64::from(E4M3.decode(c)))
            .collect();
        let right = |x: f64| E4M3.encode(x, Overflow::Saturate);
        let half_up = |x: f64| {
            // Half a place is added to the bits and the rest cut off: ties go away from zero.
            let nudged = f64::from_bits(x.to_bits() + (1u64 << 48));
            let code = right(nudged);
            if f64::from(E4M3.decode(code)).abs() > nudged.abs() {
                code - 1
            } else {
                code
            }
        };
        let flushed = |x: f64| if x.abs() < 2f64.powi(-6) { 0 } else { right(x) };
        let wrapped = |x: f64| {
            if x.abs() > 464.0 {
                E4M3.encode(x, Overflow::Special)
            } else {
                right(x)
            }
        };
        let via_f32 = |x: f64| right(f64::from(x as f32));
        let decode = |code| E4M3.decode(code);
        let caught = |encode: &dyn Fn(f64) -> u8| oracle::broken(&E4M3, &values, decode, encode);
        assert_eq!(caught(&right), None);
        for (bug, encode) in [
            ("ties away from zero", &half_up as &dyn Fn(f64) -> u8),
            ("subnormals flushed", &flushed),
            ("no saturation", &wrapped),
            ("rounded twice", &via_f32),
        ] {
            assert!(caught(encode).is_some(), "{bug}");
        }
        let no_subnormals = |code: u8| {
            if code & 0x78 == 0 {
                0.0
            } else {
                E4M3.decode(code)
            }
        };
        assert!(oracle::broken(&E4M3, &values, no_subnormals, right).is_some());
    }
}
