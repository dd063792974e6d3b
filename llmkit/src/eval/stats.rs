//! Estimates with confidence intervals.
//!
//! The interval of a mean is a percentile bootstrap (B. Efron, *Bootstrap methods: another look at the jackknife*,
//! Annals of Statistics 7, 1979): the sample is redrawn with replacement [`RESAMPLES`] times and the middle 95 % of the
//! redrawn means are the interval. No normality is assumed; the same seed gives the same interval on any machine.

use std::fmt;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, interrupt};

/// Redraws of a bootstrap.
pub const RESAMPLES: u64 = 2000;

/// Where a quantity lies: `low ≤ x ≤ high`, both finite.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// The interval from `low` to `high`.
    ///
    /// # Errors
    /// [`Error::Argument`] if an end is not finite or the ends are the wrong way round.
    pub fn new(low: f64, high: f64) -> Result<Interval> {
        if low.is_finite() && high.is_finite() && low <= high {
            return Ok(Interval { low, high });
        }
        let got = format!("[{low}, {high}]");
        Err(Error::argument("interval", "finite low ≤ high", got))
    }

    /// The interval of a quantity known exactly, such as a count of bytes.
    pub fn exact(value: f64) -> Interval {
        Interval {
            low: value,
            high: value,
        }
    }

    /// Whether `x` lies within, ends included.
    pub fn contains(&self, x: f64) -> bool {
        self.low <= x && x <= self.high
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}]", self.low, self.high)
    }
}

/// A mean and its 95 % interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean of the sample.
    pub value: f64,
    /// Its 95 % interval.
    pub interval: Interval,
    /// How many observations.
    pub samples: usize,
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Interval { low, high } = self.interval;
        let (value, n) = (self.value, self.samples);
        write!(
            f,
            "{value:.4} [{low:.4}, {high:.4}], 95 % interval, n = {n}"
        )
    }
}

/// The mean of `samples` with its 95 % bootstrap interval; the same `seed` gives the same interval.
///
/// Observations must be independent of each other: rows, chunks, prompts — not tokens of one text (for these: [`ratio`]).
///
/// ```
/// let estimate = llmkit::eval::stats::mean(&[1.0, 2.0, 3.0, 4.0], 0)?;
/// assert_eq!(estimate.value, 2.5);
/// assert!(estimate.interval.contains(2.5));
/// # Ok::<(), llmkit::Error>(())
/// ```
///
/// # Errors
/// [`Error::Argument`] for fewer than two observations (one says nothing of spread) or one that is not finite;
/// [`Error::Interrupted`] if the user pressed stop.
pub fn mean(samples: &[f64], seed: u64) -> Result<Estimate> {
    check(samples)?;
    let value = samples.iter().sum::<f64>() / samples.len() as f64;
    bootstrap(samples.len(), seed, value, |draw| {
        let sum: f64 = (0..samples.len()).map(|_| samples[draw()]).sum();
        sum / samples.len() as f64
    })
}

/// Σ `sums` / Σ `counts`, the mean over all members of groups, with its 95 % bootstrap interval. Groups — the chunks of a text — are
/// redrawn as wholes, because their members, the tokens, depend on each other.
///
/// ```
/// // Two nats over four tokens, and three over two.
/// let estimate = llmkit::eval::stats::ratio(&[2.0, 3.0], &[4, 2], 0)?;
/// assert!((estimate.value - 5.0 / 6.0).abs() < 1e-12);
/// # Ok::<(), llmkit::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the two differ in length; [`Error::Argument`] for fewer than two groups, a sum that is not finite or an
/// empty group; [`Error::Interrupted`].
pub fn ratio(sums: &[f64], counts: &[usize], seed: u64) -> Result<Estimate> {
    same_length("ratio", sums.len(), counts.len())?;
    check(sums)?;
    if let Some(at) = counts.iter().position(|&it| it == 0) {
        return Err(Error::argument(
            format!("counts[{at}]"),
            "a group with members",
            0,
        ));
    }
    let value = sums.iter().sum::<f64>() / counts.iter().sum::<usize>() as f64;
    bootstrap(sums.len(), seed, value, |draw| {
        let (mut sum, mut count) = (0.0, 0);
        for _ in 0..sums.len() {
            let group = draw();
            sum += sums[group];
            count += counts[group];
        }
        sum / count as f64
    })
}

/// Σ `parts` / Σ `wholes` with its 95 % bootstrap interval, pairs redrawn together: how much of one effect another makes up for.
///
/// # Errors
/// [`Error::Shape`] if the two differ in length; [`Error::Argument`] for fewer than two pairs, a value that is not finite, or
/// wholes whose sum is zero, redrawn or not; [`Error::Interrupted`].
pub fn share(parts: &[f64], wholes: &[f64], seed: u64) -> Result<Estimate> {
    same_length("share", parts.len(), wholes.len())?;
    check(parts)?;
    check(wholes)?;
    let value = parts.iter().sum::<f64>() / wholes.iter().sum::<f64>();
    if !value.is_finite() {
        return Err(Error::argument(
            "wholes",
            "some that do not cancel",
            "a sum of zero",
        ));
    }
    bootstrap(parts.len(), seed, value, |draw| {
        let (mut part, mut whole) = (0.0, 0.0);
        for _ in 0..parts.len() {
            let pair = draw();
            part += parts[pair];
            whole += wholes[pair];
        }
        part / whole
    })
}

/// Pearson's correlation of `xs` and `ys` with its 95 % bootstrap interval; pairs are redrawn together.
///
/// # Errors
/// [`Error::Shape`] if the two differ in length; [`Error::Argument`] for fewer than three pairs, a value that is not finite, or xs or
/// ys that are all the same; [`Error::Interrupted`].
pub fn correlation(xs: &[f64], ys: &[f64], seed: u64) -> Result<Estimate> {
    same_length("correlation", xs.len(), ys.len())?;
    check(xs)?;
    check(ys)?;
    let of = |draw: &mut dyn FnMut() -> usize| {
        let drawn: Vec<usize> = (0..xs.len()).map(|_| draw()).collect();
        let n = drawn.len() as f64;
        let mean = |of: &[f64]| drawn.iter().map(|&i| of[i]).sum::<f64>() / n;
        let (x_mean, y_mean) = (mean(xs), mean(ys));
        let sum = |term: &dyn Fn(usize) -> f64| drawn.iter().map(|&i| term(i)).sum::<f64>();
        let xy = sum(&|i| (xs[i] - x_mean) * (ys[i] - y_mean));
        let xx = sum(&|i| (xs[i] - x_mean).powi(2));
        let yy = sum(&|i| (ys[i] - y_mean).powi(2));
        xy / (xx * yy).sqrt()
    };
    let mut next = 0..xs.len();
    let value = of(&mut || next.next().unwrap_or(0));
    if xs.len() < 3 || !value.is_finite() {
        let expected = "three pairs or more that are not all the same";
        return Err(Error::argument("pairs", expected, xs.len()));
    }
    // A redrawn sample of one pair again and again says nothing of how the two go together.
    bootstrap(xs.len(), seed, value, |draw| {
        let redone = of(draw);
        if redone.is_finite() { redone } else { 0.0 }
    })
}

/// Sums of consecutive groups of `values`, of the given sizes: what [`ratio`] takes.
pub fn sums_by(values: impl IntoIterator<Item = f64>, sizes: &[usize]) -> Vec<f64> {
    let mut values = values.into_iter();
    let sum = |&size: &usize| values.by_ref().take(size).sum();
    sizes.iter().map(sum).collect()
}

/// `value` with the middle 95 % of what `redo` makes of redrawn samples; it calls its argument for the index of each observation.
fn bootstrap(
    samples: usize,
    seed: u64,
    value: f64,
    redo: impl Fn(&mut dyn FnMut() -> usize) -> f64 + Sync,
) -> Result<Estimate> {
    let mut redone = (0..RESAMPLES)
        .into_par_iter()
        .map(|resample| {
            interrupt::check("bootstrap")?;
            // One stream a resample: the result does not depend on the number of threads.
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(resample);
            Ok(redo(&mut || rng.random_range(0..samples)))
        })
        .collect::<Result<Vec<f64>>>()?;
    redone.sort_by(f64::total_cmp);
    Ok(Estimate {
        value,
        interval: Interval::new(quantile(&redone, 0.025), quantile(&redone, 0.975))?,
        samples,
    })
}

/// The least-squares slope of `ys` over `xs`, in units of y per unit of x.
///
/// # Errors
/// [`Error::Shape`] if the two differ in length, [`Error::Argument`] for fewer than two points, a value that is not
/// finite, or xs that are all the same.
pub fn slope(xs: &[f64], ys: &[f64]) -> Result<f64> {
    same_length("slope", xs.len(), ys.len())?;
    check(xs)?;
    check(ys)?;
    let n = xs.len() as f64;
    let (x_mean, y_mean) = (xs.iter().sum::<f64>() / n, ys.iter().sum::<f64>() / n);
    let (mut xy, mut xx) = (0.0, 0.0);
    for (x, y) in xs.iter().zip(ys) {
        xy += (x - x_mean) * (y - y_mean);
        xx += (x - x_mean).powi(2);
    }
    if xx == 0.0 {
        return Err(Error::argument(
            "xs",
            "at least two different values",
            xs[0],
        ));
    }
    Ok(xy / xx)
}

fn same_length(operation: &str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::Shape {
        operation: operation.into(),
        expected: format!("[{expected}]"),
        got: format!("[{got}]"),
    })
}

fn check(samples: &[f64]) -> Result<()> {
    if samples.len() < 2 {
        return Err(Error::argument("samples", "at least two", samples.len()));
    }
    match samples.iter().position(|x| !x.is_finite()) {
        Some(at) => Err(Error::argument(
            format!("samples[{at}]"),
            "a finite number",
            samples[at],
        )),
        None => Ok(()),
    }
}

/// The `share` quantile of `sorted`, interpolated between neighbours.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_covers_the_truth_as_often_as_it_says() -> Result<()> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let trials = 300;
        let mut covered = 0;
        for trial in 0..trials {
            // Skewed on purpose: exponential with mean 1.
            let sample: Vec<f64> = (0..80).map(|_| -(1.0 - rng.random::<f64>()).ln()).collect();
            covered += usize::from(mean(&sample, trial)?.interval.contains(1.0));
        }
        // 95 % less the known deficit of the percentile bootstrap on skewed samples, within 3 standard errors.
        let share = covered as f64 / trials as f64;
        assert!((0.89..=0.985).contains(&share), "covered {share}");
        Ok(())
    }

    #[test]
    fn same_seed_same_interval_and_constants_have_no_width() -> Result<()> {
        let sample = [0.3, 1.7, 2.2, 9.1, -4.0];
        assert_eq!(mean(&sample, 3)?, mean(&sample, 3)?);
        assert_ne!(mean(&sample, 3)?.interval, mean(&sample, 4)?.interval);
        assert_eq!(mean(&[2.0; 10], 0)?.interval, Interval::exact(2.0));
        Ok(())
    }

    #[test]
    fn samples_that_say_nothing_are_refused() {
        assert!(mean(&[], 0).is_err() && mean(&[1.0], 0).is_err());
        let error = mean(&[1.0, f64::INFINITY], 0).unwrap_err().to_string();
        assert!(error.contains("samples[1]"), "{error}");
        assert!(slope(&[1.0, 1.0], &[0.0, 2.0]).is_err());
        assert!(slope(&[1.0, 2.0], &[0.0]).is_err());
        assert!(slope(&[1.0, f64::NAN], &[0.0, 0.0]).is_err());
        assert!(Interval::new(2.0, 1.0).is_err() && Interval::new(f64::NAN, 1.0).is_err());
    }

    #[test]
    fn groups_of_one_are_the_mean_and_large_groups_count_for_more() -> Result<()> {
        let sample = [0.3, 1.7, 2.2, 9.1, -4.0];
        assert_eq!(ratio(&sample, &[1; 5], 3)?, mean(&sample, 3)?);
        let values = [1.0, 2.0, 3.0, 10.0, 20.0, 5.0];
        assert_eq!(sums_by(values, &[3, 1, 2]), [6.0, 10.0, 25.0]);
        assert_eq!(ratio(&[6.0, 10.0, 25.0], &[3, 1, 2], 0)?.value, 41.0 / 6.0);
        // A mean that is the same in all groups has no width, whatever their sizes.
        assert_eq!(
            ratio(&[6.0, 2.0], &[3, 1], 0)?.interval,
            Interval::exact(2.0)
        );
        assert!(ratio(&[1.0, 2.0], &[1], 0).is_err() && ratio(&[1.0, 2.0], &[0, 1], 0).is_err());
        assert!(ratio(&[1.0], &[4], 0).is_err());
        Ok(())
    }

    #[test]
    fn correlations_are_known_ones() -> Result<()> {
        let xs: Vec<f64> = (0..40).map(f64::from).collect();
        let line: Vec<f64> = xs.iter().map(|x| 3.0 - 2.0 * x).collect();
        let perfect = correlation(&xs, &line, 0)?;
        assert!((perfect.value + 1.0).abs() < 1e-12 && perfect.interval.high < -0.999);
        // Even and odd in turn: next to nothing in common with the order.
        let turns: Vec<f64> = (0..40).map(|i| f64::from(i % 2)).collect();
        let none = correlation(&xs, &turns, 0)?;
        assert!(none.value.abs() < 0.05 && none.interval.contains(0.0));
        assert!(correlation(&xs, &[1.0; 40], 0).is_err() && correlation(&xs, &xs[1..], 0).is_err());
        assert!(correlation(&[0.0, 1.0], &[0.0, 1.0], 0).is_err());
        Ok(())
    }

    #[test]
    fn the_slope_of_a_line_is_its_slope() -> Result<()> {
        assert!((slope(&[2.0, 4.0, 8.0], &[1.0, 7.0, 19.0])? - 3.0).abs() < 1e-12);
        Ok(())
    }
}
