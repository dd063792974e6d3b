//! Better, worse, or a tie: two models on the same text, and how much more of it would tell them apart.
//!
//! Chunks of text differ far more from each other than models do, so the two models' sums are *paired*: their difference is taken
//! chunk by chunk, and chunks, not tokens, are redrawn ([`stats::ratio`]), because tokens of a chunk share its subject.
//!
//! | 95 % interval of model − baseline | outcome |
//! |---|---|
//! | below 0, from [`LEAST_CHUNKS`] chunks or more | [`Outcome::Better`] |
//! | above 0, likewise | [`Outcome::Worse`] |
//! | otherwise | [`Outcome::Tie`] |
//!
//! An interval shrinks with the square root of the chunks. If the difference is really what was measured, d with a half-width of h
//! from n chunks, then n·((1.96 + 0.84)/1.96 · h/d)² chunks show it with a probability of 80 % (R. Lehr, *Sixteen s-squared over
//! d-squared*, Statistics in Medicine 11, 1992: the same rule, unpaired). Neighbouring chunks of one article are not quite
//! independent, which no such rule sees.

use std::fmt;

use super::divergence::Divergence;
use super::perplexity::Perplexity;
use super::stats::{self, Estimate};
use crate::{Error, Result};

/// Chunks below which no outcome is given: a bootstrap of few observations is too narrow.
pub const LEAST_CHUNKS: usize = 16;

/// More chunks than this are nobody's plan.
const MOST_CHUNKS: f64 = 1e6;

/// (1.96 + 0.84) / 1.96: an interval that excludes 0 with probability 80 % instead of 50 %.
const POWER: f64 = (1.959_964 + 0.841_621) / 1.959_964;

/// What a comparison says of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Lower than the baseline (less is better for everything compared here).
    Better,
    /// Higher than the baseline.
    Worse,
    /// Not told apart by this sample.
    Tie,
}

/// A paired comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// What is compared, with its unit: "ln perplexity (nats a token)".
    pub quantity: String,
    /// Model − baseline, a mean over tokens; samples are chunks.
    pub difference: Estimate,
    /// The verdict.
    pub outcome: Outcome,
    /// For a tie: about how many chunks *more* would resolve a difference of the measured size; none if that is more than a million
    /// or there is no difference at all.
    pub more_chunks: Option<usize>,
}

impl Comparison {
    /// Compares sums over chunks of `counts` tokens each.
    ///
    /// # Errors
    /// Those of [`stats::ratio`].
    pub fn paired(
        quantity: impl Into<String>,
        model: &[f64],
        baseline: &[f64],
        counts: &[usize],
        seed: u64,
    ) -> Result<Comparison> {
        if model.len() != baseline.len() {
            return Err(Error::Shape {
                operation: "paired comparison".into(),
                expected: format!("[{}]", baseline.len()),
                got: format!("[{}]", model.len()),
            });
        }
        let differences: Vec<f64> = model.iter().zip(baseline).map(|(a, b)| a - b).collect();
        let difference = stats::ratio(&differences, counts, seed)?;
        let interval = difference.interval;
        let enough = counts.len() >= LEAST_CHUNKS;
        let outcome = match enough {
            true if interval.high < 0.0 => Outcome::Better,
            true if interval.low > 0.0 => Outcome::Worse,
            _ => Outcome::Tie,
        };
        let (half, n) = ((interval.high - interval.low) / 2.0, counts.len() as f64);
        // Redrawn samples of n vary by n − 1 parts of n of what they should.
        let needed = n * (POWER * half / difference.value).powi(2) * n / (n - 1.0);
        let more = needed.max(LEAST_CHUNKS as f64).ceil() - n;
        let is_plannable = outcome == Outcome::Tie && needed <= MOST_CHUNKS;
        Ok(Comparison {
            quantity: quantity.into(),
            difference,
            outcome,
            more_chunks: is_plannable.then_some((more as usize).max(1)),
        })
    }

    /// The ln of the ratio of two perplexities of the same tokens.
    ///
    /// # Errors
    /// [`Error::Argument`] if they are of different tokens; those of [`Comparison::paired`].
    pub fn of_perplexities(
        model: &Perplexity,
        baseline: &Perplexity,
        seed: u64,
    ) -> Result<Comparison> {
        if !model.is_of_the_tokens_of(baseline) {
            return Err(Error::argument(
                "perplexities",
                "two of the same tokens",
                format!("{model} and {baseline}"),
            ));
        }
        let counts = baseline.window_tokens();
        let sums = |of: &Perplexity| stats::sums_by(of.nll.iter().copied(), &counts);
        let quantity = "ln perplexity (nats a token)";
        Comparison::paired(quantity, &sums(model), &sums(baseline), &counts, seed)
    }

    /// The KL divergence of one model against another's, or against the noise floor's; both from one baseline.
    ///
    /// # Errors
    /// [`Error::Argument`] if their baselines or tokens are not the same; those of [`Comparison::paired`].
    pub fn of_divergences(model: &Divergence, other: &Divergence, seed: u64) -> Result<Comparison> {
        if model.baseline != other.baseline {
            return Err(Error::argument(
                "divergences",
                "two from the same baseline on the same tokens",
                format!("baselines of {} and {}", model.baseline, other.baseline),
            ));
        }
        let counts = model.baseline.window_tokens();
        let sums = |of: &Divergence| stats::sums_by(of.kl.iter().copied(), &counts);
        let quantity = "KL divergence (nats a token)";
        Comparison::paired(quantity, &sums(model), &sums(other), &counts, seed)
    }

    /// Shows the line in a notebook.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Outcome::Better => "better",
            Outcome::Worse => "worse",
            Outcome::Tie => "tie",
        })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Estimate {
            value,
            interval,
            samples,
        } = &self.difference;
        write!(
            f,
            "{}: {:+.3e} [{:+.3e}, {:+.3e}], {samples} chunks: {}",
            self.quantity, value, interval.low, interval.high, self.outcome
        )?;
        match (self.outcome, self.more_chunks) {
            (Outcome::Tie, _) if *value == 0.0 && interval.low == interval.high => {
                write!(f, ", no difference at all")
            }
            (Outcome::Tie, Some(more)) if *samples < LEAST_CHUNKS => {
                write!(
                    f,
                    ", {LEAST_CHUNKS} chunks are the least; about {more} more chunks would resolve it"
                )
            }
            (Outcome::Tie, Some(more)) => {
                write!(f, ", about {more} more chunks would resolve it")
            }
            (Outcome::Tie, None) => write!(f, ", not resolvable with any text at hand"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::divergence::tests::found;
    use super::*;

    /// Tokens in a chunk of the synthetic texts.
    const TOKENS: usize = 64;

    /// A text of chunks: mean likelihoods differ by half a nat from chunk to chunk; the model is worse by `effect`, by `spread` more or
    /// less in each chunk, and its tokens scatter too. Sums a token, model and baseline.
    struct Text {
        model: Vec<f64>,
        baseline: Vec<f64>,
    }

    fn normal(rng: &mut ChaCha8Rng) -> f64 {
        // The sum of twelve uniforms: variance 1, and near enough.
        (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
    }

    fn text(chunks: usize, effect: f64, spread: f64, seed: u64) -> Text {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut model, mut baseline) = (Vec::new(), Vec::new());
        for _ in 0..chunks {
            let (level, own) = (3.0 + 0.5 * normal(&mut rng), spread * normal(&mut rng));
            for _ in 0..TOKENS {
                let token = level + normal(&mut rng);
                baseline.push(token);
                model.push(token + effect + own + 0.01 * normal(&mut rng));
            }
        }
        Text { model, baseline }
    }

    type Judge = fn(&Text) -> Result<Comparison>;

    fn ours(text: &Text) -> Result<Comparison> {
        let counts = vec![TOKENS; text.model.len() / TOKENS];
        let sums = |of: &[f64]| stats::sums_by(of.iter().copied(), &counts);
        Comparison::paired("x", &sums(&text.model), &sums(&text.baseline), &counts, 0)
    }

    /// Planted: tokens as the units of the bootstrap.
    fn tokens_as_units(text: &Text) -> Result<Comparison> {
        Comparison::paired(
            "x",
            &text.model,
            &text.baseline,
            &vec![1; text.model.len()],
            0,
        )
    }

    /// Planted: the two sides redrawn independently of each other, as if they had read different texts.
    fn unpaired(text: &Text) -> Result<Comparison> {
        let counts = vec![TOKENS; text.model.len() / TOKENS];
        let sums = |of: &[f64]| stats::sums_by(of.iter().copied(), &counts);
        let mut baseline = sums(&text.baseline);
        let shift = baseline.len() / 3;
        baseline.rotate_left(shift);
        Comparison::paired("x", &sums(&text.model), &baseline, &counts, 0)
    }

    /// How often the interval holds the true effect, and how often the outcome is `Worse`, in 100 texts of 24 chunks.
    fn record(judge: Judge, effect: f64) -> (usize, usize) {
        let (mut covered, mut worse) = (0, 0);
        for seed in 0..100 {
            let found = judge(&text(24, effect, 0.02, seed)).unwrap();
            covered += usize::from(found.difference.interval.contains(effect));
            worse += usize::from(found.outcome == Outcome::Worse);
        }
        (covered, worse)
    }

    #[test]
    fn intervals_hold_the_truth_and_see_what_is_there() {
        // 95 % less the deficit of a percentile bootstrap of 24, within three standard errors; a difference of five standard errors.
        let is_sound = |judge: Judge| {
            let (covered, worse) = record(judge, 0.02);
            let (_, false_alarms) = record(judge, 0.0);
            covered >= 86 && worse >= 95 && false_alarms <= 9
        };
        assert!(is_sound(ours));
        // Too narrow: misses the truth and sees what is not there.
        assert!(!is_sound(tokens_as_units));
        assert!(record(tokens_as_units, 0.0).1 > 20);
        // Too wide: the spread of the text hides everything.
        assert!(!is_sound(unpaired));
        assert!(record(unpaired, 0.02).1 < 20);
    }

    #[test]
    fn the_predicted_chunks_resolve_it() {
        let (effect, spread) = (0.01, 0.04);
        // A sample whose mean and spread are exactly the truth's.
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let raw: Vec<f64> = (0..20).map(|_| normal(&mut rng)).collect();
        let mean = raw.iter().sum::<f64>() / 20.0;
        let variance = raw.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / 19.0;
        let scale = |it: &f64| effect + spread * (it - mean) / variance.sqrt();
        let sample: Vec<f64> = raw.iter().map(scale).collect();
        let found = Comparison::paired("x", &sample, &[0.0; 20], &[1; 20], 0).unwrap();
        assert_eq!(found.outcome, Outcome::Tie);
        let needed = 20 + found.more_chunks.unwrap();
        // (2.80 · 0.04 / 0.01)² = 126, from the interval of a bootstrap of 2,000.
        assert!((110..=140).contains(&needed), "{needed}");
        let resolved = |chunks: usize| {
            let hits = (0..100).filter(|&seed| {
                let found = ours(&text(chunks, effect, spread, 1000 + seed)).unwrap();
                found.outcome == Outcome::Worse
            });
            hits.count()
        };
        // 80 %, within three standard errors; and a quarter of it would not do.
        let share = resolved(needed);
        assert!((68..=92).contains(&share), "{share} %");
        assert!(resolved(needed / 4) < 50);
    }

    #[test]
    fn outcomes_follow_from_the_interval() {
        let judge = |model: &[f64]| {
            let n = model.len();
            Comparison::paired("x", model, &vec![0.0; n], &vec![1; n], 0).unwrap()
        };
        let alternating = |n: usize, mean: f64| -> Vec<f64> {
            (0..n)
                .map(|i| mean + if i % 2 == 0 { 0.1 } else { -0.1 })
                .collect()
        };
        assert_eq!(judge(&alternating(16, 1.0)).outcome, Outcome::Worse);
        assert_eq!(judge(&alternating(16, -1.0)).outcome, Outcome::Better);
        assert_eq!(judge(&alternating(16, 1.0)).more_chunks, None);
        // However clear it looks, fifteen chunks say nothing, and one more would.
        let few = judge(&alternating(15, 1.0));
        assert_eq!((few.outcome, few.more_chunks), (Outcome::Tie, Some(1)));
        let nothing = judge(&[0.0; 20]);
        assert_eq!((nothing.outcome, nothing.more_chunks), (Outcome::Tie, None));
        assert!(nothing.to_string().contains("no difference at all"));
        assert_eq!(judge(&alternating(20, 1e-9)).more_chunks, None);
        let tie = judge(&alternating(20, 0.02)).to_string();
        assert!(
            tie.contains("tie, about") && tie.contains("more chunks"),
            "{tie}"
        );
        assert!(Comparison::paired("x", &[1.0], &[1.0, 2.0], &[1, 1], 0).is_err());
    }

    #[test]
    fn only_what_read_the_same_text_is_compared() {
        let (kl, one) = ([0.4, 0.1, 0.2, 0.3], [1.0; 4]);
        let a = found(2, &kl, &one, &[1.5, 1.0, 1.0, 0.5]);
        let b = found(2, &[0.1; 4], &one, &one);
        let kl = Comparison::of_divergences(&a, &b, 0).unwrap();
        assert!((kl.difference.value - 0.15).abs() < 1e-12);
        let nll = Comparison::of_perplexities(&a.model, &a.baseline, 0).unwrap();
        assert!(nll.difference.value.abs() < 1e-12 && nll.difference.samples == 2);
        let other_baseline = found(2, &[0.1; 4], &[1.0, 1.0, 1.0, 1.1], &one);
        assert!(Comparison::of_divergences(&a, &other_baseline, 0).is_err());
        let other_windows = found(4, &[0.1; 4], &one, &one);
        assert!(Comparison::of_perplexities(&a.model, &other_windows.model, 0).is_err());
    }
}
