//! Numbers as people write them: a sensible number of digits, powers as superscripts, a real minus sign.

/// `value` with `digits` significant digits: fixed point from 10⁻⁴ up to 10⁷, else `1.23×10⁻⁷`. Minus is ASCII.
pub(super) fn significant(value: f64, digits: usize) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    if value == 0.0 {
        return "0".into();
    }
    let exponent = value.abs().log10().floor() as i32;
    if (-4..7).contains(&exponent) {
        let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
        trim_zeros(&format!("{value:.decimals$}"))
    } else {
        scientific(value, digits.saturating_sub(1))
    }
}

/// `1.23×10⁻⁷` with `decimals` digits after the point.
pub(super) fn scientific(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let exponent: i32 = exponent.parse().unwrap_or(0);
            format!("{mantissa}×10{}", superscript(exponent))
        }
        None => text,
    }
}

/// An integer in Unicode superscripts: −3 → `⁻³`.
pub(super) fn superscript(number: i32) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    number
        .to_string()
        .chars()
        .map(|c| c.to_digit(10).map_or('⁻', |digit| DIGITS[digit as usize]))
        .collect()
}

/// Drops zeros (and the point) at the end of a fixed-point number.
pub(super) fn trim_zeros(text: &str) -> String {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text.to_owned()
    }
}

/// How a column of numbers is written: one choice for the whole column, so that points line up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Notation {
    /// This many decimals.
    Fixed(usize),
    /// Powers of ten, with this many decimals.
    Scientific(usize),
}

impl Notation {
    /// The notation in which the column's largest and smallest magnitudes both show about four digits.
    pub(super) fn of_column(values: impl Iterator<Item = f64>) -> Notation {
        let (mut smallest, mut largest, mut is_whole) = (f64::INFINITY, 0.0f64, true);
        for value in values.filter(|value| value.is_finite()) {
            let magnitude = value.abs();
            is_whole &= magnitude.fract() == 0.0;
            largest = largest.max(magnitude);
            if magnitude > 0.0 {
                smallest = smallest.min(magnitude);
            }
        }
        if largest == 0.0 || (is_whole && largest < 1e9) {
            return Notation::Fixed(usize::from(largest != 0.0 && !is_whole));
        }
        if !(1e-3..1e9).contains(&largest) || largest / smallest > 1e7 {
            return Notation::Scientific(3);
        }
        let digits = 3 - smallest.max(largest * 1e-3).log10().floor() as i32;
        Notation::Fixed(digits.clamp(1, 6) as usize)
    }

    /// One number of the column.
    pub(super) fn write(self, value: f64) -> String {
        if !value.is_finite() || value == 0.0 && matches!(self, Notation::Scientific(_)) {
            return significant(value, 1);
        }
        match self {
            Notation::Fixed(decimals) => format!("{value:.decimals$}"),
            Notation::Scientific(decimals) => scientific(value, decimals),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn significant_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.001_234_5, "0.001234"),
            (1.234_56e-7, "1.235×10⁻⁷"),
            (-65_504.0, "-65504"),
            (1e300, "1.000×10³⁰⁰"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(significant(value, 4), text);
        }
    }

    #[test]
    fn superscripts() {
        assert_eq!(superscript(-320), "⁻³²⁰");
        assert_eq!(superscript(i32::MIN), "⁻²¹⁴⁷⁴⁸³⁶⁴⁸");
    }

    #[test]
    fn a_column_has_one_notation() {
        let of = |values: &[f64]| Notation::of_column(values.iter().copied());
        assert_eq!(of(&[27.8419, 1.22]), Notation::Fixed(3));
        assert_eq!(of(&[1.0, 2.0, f64::NAN]), Notation::Fixed(0));
        assert_eq!(of(&[1e-9, 3e-5]), Notation::Scientific(3));
        assert_eq!(of(&[]), Notation::Fixed(0));
        assert_eq!(of(&[f64::MAX]), Notation::Scientific(3));
    }
}
