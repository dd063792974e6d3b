//! A published statement and the rule that judges it.
//!
//! The verdict is computed from the measured 95 % interval, never typed by hand. With A the set of values that agree
//! with the paper ([`Expected`]), and "no effect" the value that would be measured if the method did nothing:
//!
//! | in this order | verdict |
//! |---|---|
//! | the whole interval lies in A | [`Reproduced`](Verdict::Reproduced) |
//! | the claim is [`Exact`](Kind::Exact) | [`Refuted`](Verdict::Refuted) |
//! | "no effect" is not in A, and the whole interval lies on A's side of it | [`ShapeOnly`](Verdict::ShapeOnly) |
//! | the claim is [`ScaleEmergent`](Kind::ScaleEmergent) | [`ScaleLimited`](Verdict::ScaleLimited) |
//! | the interval reaches into A | [`Unresolved`](Verdict::Unresolved): measure more |
//! | otherwise | [`Refuted`](Verdict::Refuted) |
//!
//! `Unresolved` is ours beside the usual four: a wide interval that covers both "as claimed" and "nothing" is no refutation.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::stats::Interval;
use crate::{Error, Result};

/// What kind of statement a claim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// An identity or a bound: it holds at any scale or not at all.
    Exact,
    /// A statement about averages over weights, tokens or texts.
    Distributional,
    /// An effect reported to appear only in models larger than ours.
    ScaleEmergent,
}

/// What follows from the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// Direction and size agree.
    Reproduced,
    /// The direction agrees, the size does not (or is not established).
    ShapeOnly,
    /// Not seen here, and reported to need a larger model.
    ScaleLimited,
    /// The interval is too wide to tell.
    Unresolved,
    /// Measured, and not so.
    Refuted,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Reproduced => "reproduced",
            Verdict::ShapeOnly => "shape only",
            Verdict::ScaleLimited => "scale limited",
            Verdict::Unresolved => "unresolved",
            Verdict::Refuted => "refuted",
        })
    }
}

/// The values that agree with the paper.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Expected {
    /// `value ± tolerance`.
    Near {
        /// The paper's value.
        value: f64,
        /// How far off still counts as the same; 0 for an exact value.
        tolerance: f64,
    },
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Expected {
    /// Whether all values of `measured` agree.
    pub fn holds_for(self, measured: Interval) -> bool {
        let (low, high) = self.ends();
        low <= measured.low && measured.high <= high
    }

    /// The ends of the set of values that agree.
    fn ends(self) -> (f64, f64) {
        match self {
            Expected::Near { value, tolerance } => (value - tolerance, value + tolerance),
            Expected::AtLeast(least) => (least, f64::INFINITY),
            Expected::AtMost(most) => (f64::NEG_INFINITY, most),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Expected::Near {
                value,
                tolerance: 0.0,
            } => write!(f, "= {value}"),
            Expected::Near { value, tolerance } => write!(f, "{value} ± {tolerance}"),
            Expected::AtLeast(least) => write!(f, "≥ {least}"),
            Expected::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

impl FromStr for Expected {
    type Err = Error;

    /// Reads what [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Expected> {
        let wrong = || Error::argument("expected", "≥ x, ≤ x, = x or x ± y", text);
        let number = |text: &str| {
            let number = text.trim().parse::<f64>().map_err(|_| wrong())?;
            number.is_finite().then_some(number).ok_or_else(wrong)
        };
        if let Some(least) = text.strip_prefix('≥') {
            return Ok(Expected::AtLeast(number(least)?));
        }
        if let Some(most) = text.strip_prefix('≤') {
            return Ok(Expected::AtMost(number(most)?));
        }
        let (value, tolerance) = match text.strip_prefix('=') {
            Some(value) => (value, "0"),
            None => text.split_once('±').ok_or_else(wrong)?,
        };
        Ok(Expected::Near {
            value: number(value)?,
            tolerance: number(tolerance)?,
        })
    }
}

/// A published statement, to be [measured](Claim::measure).
///
/// ```
/// use llmkit::eval::{Claim, Expected, Interval, Kind, Verdict};
/// let claim = Claim::new("quant/gptq", "GPTQ closes most of the gap between RTN and full precision")
///     .source("frantar2022gptq", "table 3")
///     .kind(Kind::Distributional)
///     .expect(Expected::AtLeast(0.6), "share of the ln-perplexity gap");
/// assert_eq!(claim.judge(Interval::new(0.65, 0.8)?), Verdict::Reproduced);
/// assert_eq!(claim.judge(Interval::new(0.1, 0.4)?), Verdict::ShapeOnly);
/// assert_eq!(claim.judge(Interval::new(-0.2, 0.1)?), Verdict::Refuted);
/// # Ok::<(), llmkit::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// What it belongs to: `quant/rtn`, or a figure's stem.
    pub stem: String,
    /// Key of the paper in `resources/llmkit.bib`.
    pub paper: String,
    /// Where in the paper: "table 3", "eq. 4".
    #[serde(rename = "where")]
    pub where_: String,
    /// The statement, one sentence.
    pub text: String,
    /// The values that agree with it.
    pub expected: Expected,
    /// Unit of the value.
    pub unit: String,
    /// What would be measured if there were no effect; 0 unless said otherwise, 1 for ratios.
    pub no_effect: f64,
    /// What kind of statement it is.
    pub kind: Kind,
}

impl Claim {
    /// A claim of `stem` in one sentence; distributional, to be completed by the methods below.
    pub fn new(stem: impl Into<String>, text: impl Into<String>) -> Claim {
        Claim {
            stem: stem.into(),
            paper: String::new(),
            where_: String::new(),
            text: text.into(),
            expected: Expected::Near {
                value: 0.0,
                tolerance: 0.0,
            },
            unit: String::new(),
            no_effect: 0.0,
            kind: Kind::Distributional,
        }
    }

    /// The paper (key in `resources/llmkit.bib`) and the place in it.
    pub fn source(mut self, paper: impl Into<String>, place: impl Into<String>) -> Claim {
        self.paper = paper.into();
        self.where_ = place.into();
        self
    }

    /// The values that agree with the paper, and their unit.
    pub fn expect(mut self, expected: Expected, unit: impl Into<String>) -> Claim {
        self.expected = expected;
        self.unit = unit.into();
        self
    }

    /// What would be measured if there were no effect (1 for ratios).
    pub fn no_effect(mut self, value: f64) -> Claim {
        self.no_effect = value;
        self
    }

    /// What kind of statement it is.
    pub fn kind(mut self, kind: Kind) -> Claim {
        self.kind = kind;
        self
    }

    /// The verdict that follows from a measured 95 % interval; the rule is the table at the head of this
    /// [module](self).
    pub fn judge(&self, measured: Interval) -> Verdict {
        let (low, high) = self.expected.ends();
        let Interval {
            low: from,
            high: to,
        } = measured;
        let no_effect_agrees = low <= self.no_effect && self.no_effect <= high;
        let is_on_its_side = if low > self.no_effect {
            from > self.no_effect
        } else {
            to < self.no_effect
        };
        if self.expected.holds_for(measured) {
            Verdict::Reproduced
        } else if self.kind == Kind::Exact {
            Verdict::Refuted
        } else if !no_effect_agrees && is_on_its_side {
            Verdict::ShapeOnly
        } else if self.kind == Kind::ScaleEmergent {
            Verdict::ScaleLimited
        } else if from <= high && low <= to {
            Verdict::Unresolved
        } else {
            Verdict::Refuted
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(expected: Expected, kind: Kind, low: f64, high: f64) -> Verdict {
        let claim = Claim::new("quant/x", "x").expect(expected, "").kind(kind);
        claim.judge(Interval { low, high })
    }

    #[test]
    fn every_line_of_the_rule() {
        use Kind::*;
        use Verdict::*;
        let near = Expected::Near {
            value: 6.02,
            tolerance: 0.12,
        };
        let exact = Expected::Near {
            value: 64.0,
            tolerance: 0.0,
        };
        for (expected, kind, low, high, verdict) in [
            (near, Distributional, 5.95, 6.1, Reproduced),
            (near, Distributional, 5.90, 6.14, Reproduced),
            (near, Distributional, 5.5, 5.8, ShapeOnly),
            (near, Distributional, 1.0, 11.0, ShapeOnly),
            (near, Distributional, -1.0, 11.0, Unresolved),
            (near, Distributional, -1.0, 0.5, Refuted),
            (near, Distributional, -6.1, -6.0, Refuted),
            (near, ScaleEmergent, -1.0, 0.5, ScaleLimited),
            (near, ScaleEmergent, 1.0, 2.0, ShapeOnly),
            (exact, Exact, 64.0, 64.0, Reproduced),
            (exact, Exact, 64.0, 64.1, Refuted),
            (exact, Exact, 60.0, 70.0, Refuted),
            (Expected::AtLeast(0.4), Distributional, 0.5, 0.7, Reproduced),
            (Expected::AtLeast(0.4), Distributional, 0.3, 0.7, ShapeOnly),
            (Expected::AtLeast(0.4), Distributional, 0.0, 0.3, Refuted),
            // "No effect" agrees with the claim: there is no shape to keep.
            (
                Expected::AtMost(0.01),
                Distributional,
                -0.5,
                0.005,
                Reproduced,
            ),
            (
                Expected::AtMost(0.01),
                Distributional,
                -0.5,
                0.5,
                Unresolved,
            ),
            (Expected::AtMost(0.01), Distributional, 0.02, 0.5, Refuted),
            // A negative effect.
            (
                Expected::AtMost(-2.0),
                Distributional,
                -1.5,
                -0.5,
                ShapeOnly,
            ),
            (Expected::AtMost(-2.0), Distributional, -1.5, 0.5, Refuted),
        ] {
            assert_eq!(
                judge(expected, kind, low, high),
                verdict,
                "{expected}, {kind:?}, [{low}, {high}]"
            );
        }
    }

    #[test]
    fn expectations_are_read_back() {
        for expected in [
            Expected::AtLeast(0.1 + 0.2),
            Expected::AtMost(-1e-9),
            Expected::Near {
                value: 6.02,
                tolerance: 0.12,
            },
            Expected::Near {
                value: 64.0,
                tolerance: 0.0,
            },
        ] {
            assert_eq!(expected.to_string().parse::<Expected>().unwrap(), expected);
        }
        for odd in [
            "",
            "6",
            "≥",
            "≥ NaN",
            "≤ inf",
            "6 ± ",
            "± 1",
            "= x",
            "≥ 1 ± 2",
        ] {
            assert!(odd.parse::<Expected>().is_err(), "{odd}");
        }
    }

    #[test]
    fn a_ratio_has_no_effect_at_one() {
        let claim = Claim::new("quant/x", "x")
            .expect(Expected::AtLeast(1.5), "×")
            .no_effect(1.0);
        assert_eq!(
            claim.judge(Interval {
                low: 1.1,
                high: 1.2
            }),
            Verdict::ShapeOnly
        );
        assert_eq!(
            claim.judge(Interval {
                low: 0.8,
                high: 1.2
            }),
            Verdict::Refuted
        );
    }
}
