//! From values to shares of an axis, and back.

use super::spec::{Axis, Scale};
use crate::{Error, Result};

/// The values an axis has to show.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Extent {
    pub low: f64,
    pub high: f64,
    /// The ends are exact: no room is left beyond them.
    pub exact: [bool; 2],
}

impl Extent {
    pub const EMPTY: Extent = Extent {
        low: f64::INFINITY,
        high: f64::NEG_INFINITY,
        exact: [false, false],
    };

    /// Includes a value; one that is not finite is ignored.
    pub fn add(&mut self, value: f64) {
        if value.is_finite() {
            self.low = self.low.min(value);
            self.high = self.high.max(value);
        }
    }

    /// Includes a value at which the axis may end exactly, such as the foot of a bar.
    pub fn add_foot(&mut self, value: f64) {
        self.add(value);
        self.exact = [
            self.exact[0] || self.low == value,
            self.exact[1] || self.high == value && self.low < value,
        ];
    }

    /// Includes another extent.
    pub fn join(&mut self, other: Extent) {
        self.exact = [
            self.exact[0] && self.low <= other.low || other.exact[0] && other.low <= self.low,
            self.exact[1] && self.high >= other.high || other.exact[1] && other.high >= self.high,
        ];
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
    }

    pub fn is_empty(&self) -> bool {
        self.low > self.high
    }
}

/// How an axis maps values to 0…1 along its length.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Map {
    kind: Kind,
    /// The ends, transformed.
    ends: [f64; 2],
    /// The ends, as values.
    limits: [f64; 2],
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Linear,
    Log(f64),
    Symlog(f64),
}

impl Map {
    /// The map of `axis` for data of `extent`, leaving a little room at ends that are not exact.
    ///
    /// # Errors
    /// [`Error::Argument`] for a range that the scale cannot show.
    pub fn new(axis: &Axis, extent: Extent, who: &str) -> Result<Map> {
        let refuse = |expected: &str, got: String| {
            Err(Error::argument(
                format!("{who} ({:?})", axis.label),
                expected,
                got,
            ))
        };
        let kind = match &axis.scale {
            Scale::Linear => Kind::Linear,
            Scale::Categories(names) => {
                let last = names.len().max(1) as f64 - 0.5;
                return Ok(Map::between(Kind::Linear, [-0.5, last]));
            }
            Scale::Log(base @ (2 | 10)) => Kind::Log(f64::from(*base)),
            Scale::Log(base) => return refuse("a logarithm to base 2 or 10", base.to_string()),
            Scale::Symlog(threshold) if threshold.get() > 0.0 && threshold.get().is_finite() => {
                Kind::Symlog(threshold.get())
            }
            Scale::Symlog(threshold) => {
                return refuse("a threshold above 0", threshold.get().to_string());
            }
        };
        let mut limits = [extent.low, extent.high];
        let mut exact = extent.exact;
        if let Some(range) = axis.range {
            limits = range.map(|end| end.get());
            exact = [true, true];
            let is_usable = limits[0] < limits[1] && limits.iter().all(|end| end.is_finite());
            if !is_usable {
                return refuse("a range first < last", format!("{limits:?}"));
            }
            if matches!(kind, Kind::Log(_)) && limits[0] <= 0.0 {
                return refuse(
                    "a positive range on a logarithmic axis",
                    format!("{limits:?}"),
                );
            }
        } else if extent.is_empty() {
            limits = if matches!(kind, Kind::Log(_)) {
                [1.0, 10.0]
            } else {
                [0.0, 1.0]
            };
        }
        let mut ends = limits.map(|value| kind.forward(value));
        let span = ends[1] - ends[0];
        if !span.is_finite() {
            return refuse(
                "values whose span is a finite number",
                format!("{limits:?}"),
            );
        }
        let size = ends[0].abs().max(ends[1].abs());
        if span <= size * 1e-11 || span == 0.0 {
            // One value: put it in the middle of a unit (a decade, or 10 %, whichever fits the scale).
            let half = match kind {
                Kind::Linear => (size * 0.1).max(if size == 0.0 { 0.5 } else { f64::MIN_POSITIVE }),
                _ => 0.5,
            };
            ends = [ends[0] - half, ends[1] + half];
            if extent.exact[0] && axis.range.is_none() {
                ends[0] += half;
            }
        } else {
            let room = span * 0.05;
            let padded = [ends[0] - room, ends[1] + room];
            for side in [0, 1] {
                // Near the largest and smallest numbers there may be no room left to leave.
                let value = kind.backward(padded[side]);
                let exists = value.is_finite() && (value > 0.0 || !matches!(kind, Kind::Log(_)));
                if !exact[side] && exists {
                    ends[side] = padded[side];
                }
            }
        }
        let map = Map::between(kind, ends);
        if map.limits.iter().any(|end| !end.is_finite()) || (map.ends[1] - map.ends[0]) <= 0.0 {
            return refuse("values that leave room on paper", format!("{limits:?}"));
        }
        Ok(map)
    }

    fn between(kind: Kind, ends: [f64; 2]) -> Map {
        let limits = ends.map(|end| kind.backward(end));
        Map { kind, ends, limits }
    }

    /// Where `value` lies: 0 at the first end, 1 at the last; NaN where the scale has no place for it.
    pub fn share(&self, value: f64) -> f64 {
        (self.kind.forward(value) - self.ends[0]) / (self.ends[1] - self.ends[0])
    }

    /// The value at a share of the axis.
    pub fn value(&self, share: f64) -> f64 {
        self.kind
            .backward(self.ends[0] + share * (self.ends[1] - self.ends[0]))
    }

    /// First and last value shown.
    pub fn limits(&self) -> [f64; 2] {
        self.limits
    }

    /// Whether `value` is shown.
    pub fn shows(&self, value: f64) -> bool {
        (-1e-9..=1.0 + 1e-9).contains(&self.share(value))
    }

    /// The value where bars stand: zero, or the first end of a logarithmic axis.
    pub fn foot(&self) -> f64 {
        match self.kind {
            Kind::Log(_) => self.limits[0],
            _ => 0.0,
        }
    }
}

impl Kind {
    fn forward(self, value: f64) -> f64 {
        match self {
            Kind::Linear => value,
            Kind::Log(base) if value > 0.0 => value.ln() / base.ln(),
            Kind::Log(_) => f64::NAN,
            Kind::Symlog(threshold) if value.abs() <= threshold => value / threshold,
            Kind::Symlog(threshold) => value.signum() * (1.0 + (value.abs() / threshold).log10()),
        }
    }

    fn backward(self, place: f64) -> f64 {
        match self {
            Kind::Linear => place,
            Kind::Log(base) => base.powf(place),
            Kind::Symlog(threshold) if place.abs() <= 1.0 => place * threshold,
            Kind::Symlog(threshold) => place.signum() * threshold * 10f64.powf(place.abs() - 1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(values: &[f64]) -> Extent {
        let mut extent = Extent::EMPTY;
        values.iter().for_each(|&value| extent.add(value));
        extent
    }

    #[test]
    fn shares_and_values_are_inverse() {
        for axis in [
            Axis::linear("x"),
            Axis::log("x"),
            Axis::log2("x"),
            Axis::symlog("x", 0.1),
        ] {
            let map = Map::new(&axis, extent(&[0.02, 3.0, 500.0]), "x").unwrap();
            for value in [0.02, 0.5, 77.0, 500.0] {
                let share = map.share(value);
                assert!((0.0..=1.0).contains(&share));
                assert!((map.value(share) - value).abs() < 1e-9 * value);
            }
        }
        let symlog = Map::new(&Axis::symlog("x", 1.0), extent(&[-100.0, 100.0]), "x").unwrap();
        assert!((symlog.share(0.0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn degenerate_data_still_has_an_axis() {
        for values in [
            &[][..],
            &[0.0],
            &[5.0, 5.0],
            &[1e300],
            &[5e-324],
            &[1.0, 1.0 + 1e-15],
        ] {
            let map = Map::new(&Axis::linear("x"), extent(values), "x").unwrap();
            for &value in values {
                assert!(map.shows(value), "{values:?} {map:?}");
            }
        }
        assert!(Map::new(&Axis::linear("x"), extent(&[f64::MAX, -f64::MAX]), "x").is_err());
        assert!(Map::new(&Axis::log("x").range(0.0, 1.0), Extent::EMPTY, "x").is_err());
        assert!(Map::new(&Axis::linear("x").range(1.0, 1.0), Extent::EMPTY, "x").is_err());
        assert!(Map::new(&Axis::symlog("x", 0.0), Extent::EMPTY, "x").is_err());
    }

    #[test]
    fn bars_stand_on_zero() {
        let mut bars = extent(&[3.0, 8.0]);
        bars.add_foot(0.0);
        let map = Map::new(&Axis::linear("y"), bars, "y").unwrap();
        assert_eq!(map.limits()[0], 0.0);
        assert!(map.limits()[1] > 8.0);
    }
}
