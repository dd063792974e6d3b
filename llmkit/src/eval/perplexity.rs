//! Perplexity: how surprised a model is by a text, exp of the mean negative log-likelihood of its tokens.
//!
//! Numbers of different [`Protocol`]s cannot be compared, so the protocol is part of the result. Likelihoods are within 10⁻⁶ of exact for
//! the model's f32 logits.

use std::fmt;

use sha2::{Digest, Sha256};

use super::likelihoods::{negative_log_likelihoods, scored_states};
use super::protocols::{Protocol, Start, Window};
use super::stats::{self, Estimate, Interval};
use crate::Result;
use crate::model::Model;
use crate::progress::Progress;

/// A measured perplexity.
#[derive(Debug, Clone, PartialEq)]
pub struct Perplexity {
    /// exp of the mean negative log-likelihood.
    pub value: f64,
    /// Standard error of `value`, from the spread of the tokens' log-likelihoods as if they were independent (llama.cpp's).
    pub standard_error: f64,
    /// What was scored.
    pub protocol: Protocol,
    /// Windows used; their scored tokens are consecutive in `nll`.
    pub windows: Vec<Window>,
    /// Tokens of the whole text.
    pub text_tokens: usize,
    /// The beginning of the sha256 of these tokens: only results of the same text can be compared.
    pub text_id: u64,
    /// Tokens given to the model.
    pub tokens_in: usize,
    /// Negative log-likelihood of each scored token, in nats, in text order: what paired comparisons need.
    pub nll: Vec<f64>,
    /// Words or tokens that the sum was divided by.
    pub units: usize,
}

impl fmt::Display for Perplexity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "perplexity {:.4} ± {:.4} a {} ({}: {} tokens scored in {} windows; {})",
            self.value,
            self.standard_error,
            self.protocol.unit(),
            self.protocol,
            self.nll.len(),
            self.windows.len(),
            self.protocol.bos_rule(),
        )
    }
}

impl Perplexity {
    /// What follows from the likelihoods `nll` of the tokens that `plan`'s windows score.
    pub(super) fn of(plan: &Plan, nll: Vec<f64>, units: usize) -> Perplexity {
        let windows = &plan.windows;
        let count = nll.len() as f64;
        let total = nll.iter().sum::<f64>();
        let mean = total / count;
        let variance = nll.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / count;
        let value = (total / units as f64).exp();
        let error = (variance / (count - 1.0)).sqrt() * count / units as f64;
        Perplexity {
            value,
            standard_error: if nll.len() > 1 {
                value * error
            } else {
                f64::NAN
            },
            protocol: plan.protocol,
            windows: windows.clone(),
            text_tokens: plan.tokens.len(),
            text_id: text_id(&plan.tokens),
            tokens_in: windows.iter().map(|it| it.tokens.len()).sum(),
            nll,
            units,
        }
    }

    /// Whether both are of the same tokens of the same text, scored after the same contexts.
    pub fn is_of_the_tokens_of(&self, other: &Perplexity) -> bool {
        (self.text_id, &self.windows) == (other.text_id, &other.windows)
    }

    /// Scored tokens of each window.
    pub fn window_tokens(&self) -> Vec<usize> {
        self.windows.iter().map(|it| it.scored.len()).collect()
    }

    /// Mean negative log-likelihood of each window, in nats a token.
    pub fn by_window(&self) -> Vec<f64> {
        let sizes = self.window_tokens();
        let sums = stats::sums_by(self.nll.iter().copied(), &sizes);
        let mean = |(sum, &count): (f64, &usize)| sum / count as f64;
        sums.into_iter().zip(&sizes).map(mean).collect()
    }

    /// Mean negative log-likelihood less `other`'s, in nats a token, for each stretch of `tokens` tokens of the text in which both
    /// score some: how two protocols, or two models, are paired whatever windows they use.
    pub fn log_ratios(&self, other: &Perplexity, tokens: usize) -> Vec<f64> {
        let means = |of: &Perplexity| of.means_by(|_, position| position / tokens.max(1));
        let pairs = means(self).into_iter().zip(means(other));
        pairs
            .map(|(own, others)| own - others)
            .filter(|it| !it.is_nan())
            .collect()
    }

    /// Mean negative log-likelihood by the number of tokens that the model saw before, in nats: element i is of 2ⁱ to 2ⁱ⁺¹ − 1 of
    /// them, NaN if there are none.
    pub fn by_context(&self) -> Vec<f64> {
        self.means_by(|window, position| {
            let in_front = usize::from(window.start == Start::Prefixed);
            let before = position - window.tokens.start + in_front;
            before.max(1).ilog2() as usize
        })
    }

    /// Means over the tokens that `group` (of a window and a position in the text) gives the same number; NaN where it gives none.
    fn means_by(&self, group: impl Fn(&Window, usize) -> usize) -> Vec<f64> {
        let mut sums: Vec<(f64, usize)> = Vec::new();
        let scored = self.windows.iter().flat_map(|window| {
            let positions = window.scored.clone();
            positions.map(move |position| (window, position))
        });
        for ((window, position), nll) in scored.zip(&self.nll) {
            let group = group(window, position);
            if sums.len() <= group {
                sums.resize(group + 1, (0.0, 0));
            }
            sums[group].0 += nll;
            sums[group].1 += 1;
        }
        sums.iter()
            .map(|&(sum, count)| sum / count as f64)
            .collect()
    }

    /// The value with its 95 % interval over windows, which are redrawn as wholes (see [`stats::ratio`]): how much the text chosen
    /// matters. It is wider than [`standard_error`](Self::standard_error) suggests where windows differ in kind.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for fewer than two windows.
    pub fn estimate(&self, seed: u64) -> Result<Estimate> {
        let sizes = self.window_tokens();
        let sums = stats::sums_by(self.nll.iter().copied(), &sizes);
        let nats = stats::ratio(&sums, &sizes, seed)?;
        let in_a_unit = self.nll.len() as f64 / self.units as f64;
        let of = |nats: f64| (nats * in_a_unit).exp();
        Ok(Estimate {
            value: self.value,
            interval: Interval::new(of(nats.interval.low), of(nats.interval.high))?,
            samples: nats.samples,
        })
    }

    /// Shows the line in a notebook.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

fn text_id(tokens: &[u32]) -> u64 {
    let mut hash = Sha256::new();
    tokens.iter().for_each(|it| hash.update(it.to_le_bytes()));
    let digest = hash.finalize();
    digest.first_chunk().map_or(0, |it| u64::from_be_bytes(*it))
}

impl Protocol {
    /// Perplexity of `text` under `model`, over its first `max_windows` windows (0 = all).
    ///
    /// # Errors
    /// Those of [`Protocol::windows`]; [`Error::Argument`](crate::Error::Argument) if a window does not fit the model's context,
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn run(self, model: &Model, text: &str, max_windows: usize) -> Result<Perplexity> {
        let plan = Plan::new(self, model, text, max_windows)?;
        let mut nll = Vec::new();
        let mut progress = Progress::new("perplexity", plan.windows.len() as u64, "windows");
        for window in &plan.windows {
            let states = scored_states(model, &plan.tokens, window)?;
            let targets = &plan.tokens[window.scored.clone()];
            nll.extend(negative_log_likelihoods(model, &states, targets)?);
            progress.advance(1)?;
        }
        let units = plan.units(model, text, nll.len())?;
        Ok(Perplexity::of(&plan, nll, units))
    }
}

/// A text cut up for a protocol.
pub(super) struct Plan {
    pub protocol: Protocol,
    pub tokens: Vec<u32>,
    pub windows: Vec<Window>,
}

impl Plan {
    /// The first `most` windows (0 = all) of `text`, with the token in front that the protocol and the model want.
    pub fn new(protocol: Protocol, model: &Model, text: &str, most: usize) -> Result<Plan> {
        let mut tokens = model.encode(text)?;
        if let (Protocol::LlamaCpp { .. }, Some(bos)) = (protocol, model.tokenizer.bos) {
            tokens.insert(0, bos);
        }
        let mut windows = protocol.windows(tokens.len())?;
        if most > 0 {
            windows.truncate(most);
        }
        Ok(Plan {
            protocol,
            tokens,
            windows,
        })
    }

    /// Words (or tokens) that the windows cover.
    pub fn units(&self, model: &Model, text: &str, scored: usize) -> Result<usize> {
        if self.protocol.unit() == "token" {
            return Ok(scored);
        }
        let end = self.windows.last().map_or(0, |it| it.scored.end);
        let words = match end == self.tokens.len() {
            true => text.split_whitespace().count(),
            false => model
                .decode(&self.tokens[..end])?
                .split_whitespace()
                .count(),
        };
        Ok(words.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_and_error_are_those_of_the_formulas() {
        let protocol = Protocol::LlamaCpp { ctx: 8 };
        let plan = Plan {
            protocol,
            tokens: vec![0; 18],
            windows: protocol.windows(18).unwrap(),
        };
        let ln2 = std::f64::consts::LN_2;
        let nll: Vec<f64> = [1.0, 2.0, 1.0, 2.0, 2.0, 3.0]
            .iter()
            .map(|bits| bits * ln2)
            .collect();
        let result = Perplexity::of(&plan, nll.clone(), 6);
        assert_eq!(
            (result.nll.len(), result.windows.len(), result.tokens_in),
            (6, 2, 16)
        );
        assert!((result.value - 2f64.powf(11.0 / 6.0)).abs() < 1e-12);
        // Spread of (1, 2, 1, 2, 2, 3) bits: variance 17/36, over 5 degrees of freedom.
        let expected = result.value * (17.0f64 / 36.0 / 5.0).sqrt() * ln2;
        assert!((result.standard_error - expected).abs() < 1e-12);
        let by_window: Vec<f64> = result.by_window().iter().map(|it| it / ln2).collect();
        assert!(
            (by_window[0] - 4.0 / 3.0).abs() < 1e-12 && (by_window[1] - 7.0 / 3.0).abs() < 1e-12
        );
        // Redrawn, both windows may be the first or the second: the interval of two is its whole range.
        let Interval { low, high } = result.estimate(0).unwrap().interval;
        assert!((low - 2f64.powf(4.0 / 3.0)).abs() < 1e-12, "{low}");
        assert!((high - 2f64.powf(7.0 / 3.0)).abs() < 1e-12, "{high}");
        // Tokens 5, 6, 7 of the text and 13, 14, 15: stretches of 7 tokens, and contexts of 4 … 7.
        let bits = |of: Vec<f64>| of.iter().map(|it| it / ln2).collect::<Vec<_>>();
        let mut other = result.clone();
        other.nll = vec![ln2; 6];
        let stretches = bits(result.log_ratios(&other, 7));
        assert_eq!(stretches.len(), 3);
        for (got, expected) in stretches.iter().zip([0.5, 0.5, 1.5]) {
            assert!((got - expected).abs() < 1e-12, "{stretches:?}");
        }
        let contexts = bits(result.by_context());
        assert!(contexts.len() == 3 && contexts[0].is_nan() && contexts[1].is_nan());
        assert!((contexts[2] - 11.0 / 6.0).abs() < 1e-12);
        // A word is two tokens here: twice the nats.
        let words = Perplexity::of(&plan, nll, 3);
        assert!((words.value - 2f64.powf(11.0 / 3.0)).abs() < 1e-12);
        assert!(
            (words.standard_error / words.value - 2.0 * result.standard_error / result.value).abs()
                < 1e-12
        );
    }
}
