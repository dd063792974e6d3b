//! The points of a grid in order, and the two on either side of a weight.

use crate::quant::{Format, Grid};

/// Where a weight lies among the points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Between two, or on one.
    Inside,
    /// Beyond the last.
    Above,
    /// Before the first.
    Below,
}

/// Points in ascending order with their codes.
#[derive(Debug, Clone, Default)]
pub(super) struct Points {
    values: Vec<f32>,
    codes: Vec<u8>,
    /// 1/step and the step, if all gaps are equal.
    step: Option<(f32, f32)>,
}

impl Points {
    /// How many weights from position 0 on share their points: all of a block of `length`, or a sub-block of 16.
    pub fn run(format: &dyn Format, grid: &Grid, length: usize) -> usize {
        let last = (format.levels() - 1) as u8;
        let ends = |at| (format.value(grid, at, 0), format.value(grid, at, last));
        let first = ends(0);
        match (0..length).step_by(16).all(|at| ends(at) == first) {
            true => length,
            false => 16,
        }
    }

    /// The points at position `at` of a block.
    pub fn read(&mut self, format: &dyn Format, grid: &Grid, at: usize) {
        self.codes.clear();
        self.values.clear();
        let mut is_sorted = true;
        for code in 0..format.levels() {
            let value = format.value(grid, at, code as u8);
            if value.is_finite() {
                is_sorted &= self.values.last().is_none_or(|&last| last <= value);
                self.codes.push(code as u8);
                self.values.push(value);
            }
        }
        if !is_sorted {
            let mut order: Vec<usize> = (0..self.values.len()).collect();
            order.sort_by(|&a, &b| self.values[a].total_cmp(&self.values[b]));
            self.codes = order.iter().map(|&i| self.codes[i]).collect();
            self.values = order.iter().map(|&i| self.values[i]).collect();
        }
        let (first, last) = (self.values[0], self.values[self.values.len() - 1]);
        let step = (last - first) / (self.values.len() - 1).max(1) as f32;
        let is_even = step > 0.0
            && (self.values.windows(2)).all(|pair| (pair[1] - pair[0] - step).abs() <= 1e-4 * step);
        self.step = is_even.then_some((1.0 / step, step));
    }

    /// The code, the value and the place of a weight that is rounded up from `0.5 − offset` of a gap on; `offset` is −½ … ½.
    #[inline]
    pub fn round(&self, weight: f32, offset: f32) -> (u8, f32, Place) {
        let (first, end) = (self.values[0], self.values.len() - 1);
        if weight > self.values[end] {
            return (self.codes[end], self.values[end], Place::Above);
        }
        if weight < first {
            return (self.codes[0], first, Place::Below);
        }
        if end == 0 {
            return (self.codes[0], first, Place::Inside);
        }
        let (below, part) = match self.step {
            Some((inverse, _)) => {
                let at = (weight - first) * inverse;
                let below = (at as usize).min(end - 1);
                (below, at - below as f32)
            }
            None => {
                let below = self.values[1..end].partition_point(|&value| value <= weight);
                let gap = self.values[below + 1] - self.values[below];
                (
                    below,
                    if gap > 0.0 {
                        (weight - self.values[below]) / gap
                    } else {
                        0.0
                    },
                )
            }
        };
        let at = below + usize::from(part + offset >= 0.5);
        (self.codes[at], self.values[at], Place::Inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{format, samples};

    /// Without an offset it is the format's own rounding, for every format that rounds one by one; with one, a neighbour.
    #[test]
    fn without_offset_it_is_rounding_to_nearest() {
        for format in format::all().iter().flat_map(|family| (family.members)()) {
            for (sample, weights) in samples::all() {
                let (rows, cols) = (weights.rows(), weights.cols());
                if format.vector() > 1 || format.check(rows, cols).is_err() {
                    continue;
                }
                let Ok(whole) = format.fit_whole(&weights) else {
                    continue;
                };
                for (index, block) in format.granularity().blocks(rows, cols).enumerate() {
                    let block = &weights.data()[block];
                    let Ok(grid) = format.fit(&whole, index, block) else {
                        continue;
                    };
                    let run = Points::run(format.as_ref(), &grid, block.len());
                    let mut points = Points::default();
                    for (at, &weight) in block.iter().enumerate() {
                        if at % run == 0 {
                            points.read(format.as_ref(), &grid, at);
                        }
                        let nearest = format.value(&grid, at, format.code(&grid, at, weight));
                        let (code, value, _) = points.round(weight, 0.0);
                        assert_eq!(format.value(&grid, at, code), value);
                        let off = |v: f32| (f64::from(weight) - f64::from(v)).abs();
                        // Near ties either is right.
                        assert!(
                            off(value) <= off(nearest) * 1.001,
                            "{} on {sample}: {weight} to {value}, {nearest}",
                            format.name()
                        );
                        let (_, up, _) = points.round(weight, 0.5);
                        let (_, down, _) = points.round(weight, -0.499_999);
                        assert!(down <= value && value <= up, "{down} {value} {up}");
                    }
                }
            }
        }
    }
}
