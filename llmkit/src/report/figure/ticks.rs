//! Where an axis is marked, and with what words.

use super::super::number::{significant, superscript, trim_zeros};
use super::scale::Map;
use super::spec::{Axis, Scale};

/// The marks of an axis.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Ticks {
    /// Labelled marks: value and label (perhaps empty).
    pub major: Vec<(f64, String)>,
    /// Marks without a label.
    pub minor: Vec<f64>,
    /// Labels are to be multiplied by ten to this power; 0 = as they are.
    pub exponent: i32,
}

impl Ticks {
    /// Marks for an axis with room for about `count` labels.
    pub fn of(axis: &Axis, map: &Map, count: usize) -> Ticks {
        let count = count.clamp(2, 12);
        match &axis.scale {
            Scale::Categories(names) => Ticks {
                major: (0..).map(f64::from).zip(names.iter().cloned()).collect(),
                ..Ticks::default()
            },
            Scale::Linear => linear(map.limits(), count),
            Scale::Log(base) => logarithmic(f64::from(*base), map.limits(), count, axis.plain),
            Scale::Symlog(threshold) => symmetric(threshold.get(), map, count, axis.plain),
        }
    }
}

/// Steps of 1, 2, 2.5 or 5 times a power of ten.
fn linear([low, high]: [f64; 2], count: usize) -> Ticks {
    let rough = high / count as f64 - low / count as f64;
    let power = rough.log10().floor();
    let unit = 10f64.powf(power);
    let (step, parts) = [(1.0, 2), (2.0, 2), (2.5, 5), (5.0, 5), (10.0, 2)]
        .into_iter()
        .map(|(step, parts)| (step * unit, parts))
        .find(|(step, _)| *step >= rough * 0.999)
        .unwrap_or((10.0 * unit, 2));
    if !step.is_normal() {
        return Ticks::default();
    }
    let slack = step * 1e-6;
    let places = |step: f64| {
        let first = ((low - slack) / step).ceil();
        (0..100)
            .map(move |i| (first + f64::from(i)) * step)
            .take_while(move |value| *value <= high + slack)
    };
    let largest = low.abs().max(high.abs());
    let exponent = match largest.log10().floor() as i32 {
        size @ ..=-4 => size.div_euclid(3) * 3,
        size @ 5.. => size.div_euclid(3) * 3,
        _ => 0,
    };
    // Powers below 10⁻³⁰⁸ are no normal numbers: divide in two steps.
    let scaled =
        |value: f64| value / 10f64.powi(exponent / 2) / 10f64.powi(exponent - exponent / 2);
    let decimals = places(step)
        .map(|value| {
            let text = trim_zeros(&format!("{:.9}", scaled(value)));
            text.split_once('.')
                .map_or(0, |(_, decimals)| decimals.len())
        })
        .max()
        .unwrap_or(0);
    let label = |value: f64| {
        let text = format!("{:.decimals$}", scaled(value));
        let is_zero = !text.contains(|c: char| ('1'..='9').contains(&c));
        proper(if is_zero {
            text.trim_start_matches('-')
        } else {
            &text
        })
    };
    Ticks {
        major: places(step).map(|value| (value, label(value))).collect(),
        minor: places(step / f64::from(parts)).collect(),
        exponent,
    }
}

/// Whole powers; if the axis spans fewer than two, also 2 and 5 (base 10) between them.
fn logarithmic(base: f64, [low, high]: [f64; 2], count: usize, plain: bool) -> Ticks {
    let exponent_of = |value: f64| value.ln() / base.ln();
    let (first, last) = (exponent_of(low) - 1e-9, exponent_of(high) + 1e-9);
    let (first_power, last_power) = (first.ceil() as i32, last.floor() as i32);
    let powers = (last_power - first_power + 1).max(0);
    let every = round_step((powers as usize).div_ceil(count));
    let shown = |value: &f64| (first..=last).contains(&exponent_of(*value));
    let word = |value: f64, exponent: i32| {
        if plain {
            proper(&significant(value, 4))
        } else if base == 2.0 {
            format!("2{}", superscript(exponent))
        } else {
            format!("10{}", superscript(exponent))
        }
    };
    let mut major: Vec<(f64, String)> = (first_power..=last_power)
        .filter(|exponent| exponent.rem_euclid(every) == 0)
        .map(|exponent| (base.powi(exponent), word(base.powi(exponent), exponent)))
        .collect();
    let mut minor = Vec::new();
    let floor_power = first.floor() as i32;
    if base == 10.0 && every == 1 {
        let within = |digits: &[i32]| -> Vec<f64> {
            (floor_power..=last_power)
                .flat_map(|exponent| {
                    digits
                        .iter()
                        .map(move |&d| f64::from(d) * 10f64.powi(exponent))
                })
                .filter(shown)
                .collect()
        };
        minor = within(&[2, 3, 4, 5, 6, 7, 8, 9]);
        if powers <= 1 {
            let between = if powers == 0 && minor.len() <= 5 {
                within(&[2, 3, 4, 5, 6, 7, 8, 9])
            } else if count >= 5 {
                within(&[2, 3, 5])
            } else {
                within(&[2, 5])
            };
            let digit_word = |value: f64| {
                if plain || (-3..4).contains(&floor_power) {
                    return proper(&significant(value, 3));
                }
                let exponent = (value.log10() + 1e-9).floor() as i32;
                match (value / 10f64.powi(exponent)).round() as i32 {
                    1 => format!("10{}", superscript(exponent)),
                    digit => format!("{digit}×10{}", superscript(exponent)),
                }
            };
            // Beside 2, 3 and 5 the power itself is written the same way.
            for (value, text) in &mut major {
                *text = digit_word(*value);
            }
            major.extend(between.into_iter().map(|value| (value, digit_word(value))));
        }
    } else if every > 1 {
        minor = (first_power..=last_power).map(|e| base.powi(e)).collect();
    }
    if major.len() < 2 {
        // Less than any round step: the ends of an even scale will do.
        let even = linear([low, high], count);
        if even.exponent == 0 {
            major = even.major;
        } else {
            major = even
                .major
                .iter()
                .map(|(value, _)| (*value, proper(&significant(*value, 4))))
                .collect();
        }
    }
    major.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ticks {
        major,
        minor,
        exponent: 0,
    }
}

/// Zero, and powers of ten on both sides from the threshold on.
fn symmetric(threshold: f64, map: &Map, count: usize, plain: bool) -> Ticks {
    let [low, high] = map.limits();
    let largest = low.abs().max(high.abs());
    let first = (threshold.log10() - 1e-9).ceil() as i32;
    let last = (largest.log10() + 1e-9).floor() as i32;
    if last < first {
        return linear([low, high], count);
    }
    let sides = if low < 0.0 && high > 0.0 { 2 } else { 1 };
    let every = round_step(((last - first + 1) as usize * sides + 1).div_ceil(count));
    let word = |exponent: i32, sign: &str| {
        if plain {
            proper(&format!("{sign}{}", significant(10f64.powi(exponent), 4)))
        } else {
            format!("{sign}10{}", superscript(exponent))
        }
    };
    let mut ticks = Ticks::default();
    if map.shows(0.0) {
        ticks.major.push((0.0, "0".into()));
    }
    for exponent in first..=last {
        let is_major = (last - exponent) % every == 0;
        for (sign, text) in [(1.0, ""), (-1.0, "−")] {
            let value = sign * 10f64.powi(exponent);
            if is_major && map.shows(value) {
                ticks.major.push((value, word(exponent, text)));
            }
            let digits = if every == 1 { 1..10 } else { 1..2 };
            let minor = digits.map(|digit| value * f64::from(digit));
            ticks.minor.extend(minor.filter(|value| map.shows(*value)));
        }
    }
    ticks.major.sort_by(|a, b| a.0.total_cmp(&b.0));
    ticks
}

/// The least step of exponents from `least` on that people count in.
fn round_step(least: usize) -> i32 {
    let steps = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 100];
    steps
        .into_iter()
        .find(|&step| step as usize >= least)
        .unwrap_or(200)
}

/// With a real minus sign.
fn proper(number: &str) -> String {
    number.replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::super::scale::Extent;
    use super::*;

    fn labels(axis: &Axis, low: f64, high: f64, count: usize) -> (Vec<String>, i32) {
        let mut extent = Extent::EMPTY;
        extent.add(low);
        extent.add(high);
        extent.exact = [true, true];
        let map = Map::new(axis, extent, "x").unwrap();
        let ticks = Ticks::of(axis, &map, count);
        assert!(
            ticks.major.iter().all(|(value, _)| map.shows(*value)),
            "{ticks:?}"
        );
        (
            ticks.major.into_iter().map(|(_, label)| label).collect(),
            ticks.exponent,
        )
    }

    #[test]
    fn linear_labels() {
        let axis = Axis::linear("x");
        assert_eq!(
            labels(&axis, 0.0, 1.0, 5).0,
            ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(
            labels(&axis, -5.0, 5.0, 4).0,
            ["−5.0", "−2.5", "0.0", "2.5", "5.0"]
        );
        let (text, exponent) = labels(&axis, 0.0, 4e6, 4);
        assert_eq!(
            (text, exponent),
            (
                vec!["0".into(), "1".into(), "2".into(), "3".into(), "4".into()],
                6
            )
        );
        assert_eq!(labels(&axis, 0.0, 3e-7, 3).1, -9);
        assert!(labels(&axis, 1.0, 1.0 + 1e-9, 5).0.len() <= 12);
        labels(&axis, -1e307, 1e307, 5);
        labels(&axis, 0.0, 1e-310, 5);
    }

    #[test]
    fn powers_are_superscripts() {
        assert_eq!(
            labels(&Axis::log("x"), 1e-3, 10.0, 6).0,
            ["10⁻³", "10⁻²", "10⁻¹", "10⁰", "10¹"]
        );
        assert_eq!(
            labels(&Axis::log2("x"), 128.0, 512.0, 6).0,
            ["2⁷", "2⁸", "2⁹"]
        );
        assert_eq!(
            labels(&Axis::log2("x").plain(), 128.0, 512.0, 6).0,
            ["128", "256", "512"]
        );
        assert_eq!(
            labels(&Axis::log("x"), 1e-30, 1e30, 4).0,
            ["10⁻²⁰", "10⁰", "10²⁰"]
        );
        let (short, _) = labels(&Axis::log("x"), 1.5, 9.0, 5);
        assert_eq!(short, ["2", "3", "5"]);
        assert!(labels(&Axis::log("x"), 100.0, 101.0, 5).0.len() >= 2);
    }

    #[test]
    fn symlog_has_both_sides() {
        let (text, _) = labels(&Axis::symlog("x", 0.1), -10.0, 10.0, 7);
        assert_eq!(text, ["−10¹", "−10⁰", "−10⁻¹", "0", "10⁻¹", "10⁰", "10¹"]);
    }
}
