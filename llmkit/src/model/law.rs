//! The law of the next token: which may come, how likely each is, and a draw.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result};

/// A token id and its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chance {
    /// Token id.
    pub token: u32,
    /// Its probability, above 0.
    pub probability: f64,
}

/// One token of a law. Uses one f64 of the generator, whatever the law.
pub fn draw(law: &[Chance], generator: &mut ChaCha8Rng) -> Option<u32> {
    let mut left: f64 = generator.random();
    for chance in law {
        left -= chance.probability;
        if left < 0.0 {
            return Some(chance.token);
        }
    }
    law.last().map(|chance| chance.token)
}

/// A token that may still come, and its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Token id.
    pub token: u32,
    /// Above −∞.
    pub logit: f64,
}

/// Tokens that may still come: what processors work on. There is always at least one.
#[derive(Debug, Clone)]
pub struct Candidates {
    all: Vec<Candidate>,
    /// Whether the likeliest come first, and the lower id of equals.
    is_sorted: bool,
}

fn likelier(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

impl Candidates {
    /// All tokens whose logit is above −∞.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are none, or one is NaN or +∞.
    pub fn new(logits: &[f32]) -> Result<Candidates> {
        if let Some(at) = logits
            .iter()
            .position(|it| it.is_nan() || *it == f32::INFINITY)
        {
            let got = format!("{} at {at}", logits[at]);
            return Err(Error::argument("logits", "finite numbers or -inf", got));
        }
        let candidate = |(token, &logit): (u32, &f32)| Candidate {
            token,
            logit: f64::from(logit),
        };
        let all: Vec<Candidate> = (0..)
            .zip(logits)
            .map(candidate)
            .filter(|it| it.logit > f64::NEG_INFINITY)
            .collect();
        match all.is_empty() {
            true => Err(Error::argument(
                "logits",
                "at least one above -inf",
                logits.len(),
            )),
            false => Ok(Candidates {
                all,
                is_sorted: false,
            }),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The candidates, likeliest first, the lower id of equals before the other.
    pub fn sorted(&mut self) -> &[Candidate] {
        if !self.is_sorted {
            self.all.sort_unstable_by(likelier);
            self.is_sorted = true;
        }
        &self.all
    }

    /// The largest logit.
    pub fn top(&self) -> f64 {
        let top = |top: f64, it: &Candidate| top.max(it.logit);
        self.all.iter().fold(f64::NEG_INFINITY, top)
    }

    /// Probabilities of [`sorted`](Self::sorted), in its order; they sum to 1.
    pub fn probabilities(&mut self) -> Vec<f64> {
        let top = self.top();
        let weight = |it: &Candidate| (it.logit - top).exp();
        let mut weights: Vec<f64> = self.sorted().iter().map(weight).collect();
        let total: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|it| *it /= total);
        weights
    }

    /// Replaces each logit. One that becomes −∞ (or NaN) is dropped, unless that were all; +∞ becomes the largest number.
    pub fn map(&mut self, mut logit: impl FnMut(Candidate) -> f64) {
        let mapped = |it: &Candidate| Candidate {
            logit: logit(*it).min(f64::MAX),
            ..*it
        };
        let mapped: Vec<Candidate> = self.all.iter().map(mapped).collect();
        let is_possible = |it: &&Candidate| it.logit > f64::NEG_INFINITY;
        if mapped.iter().any(|it| is_possible(&it)) {
            self.all = mapped.iter().filter(is_possible).copied().collect();
            self.is_sorted = false;
        }
    }

    /// Keeps the `count` likeliest, at least one.
    pub fn keep(&mut self, count: usize) {
        let count = count.max(1);
        if count >= self.all.len() {
            return;
        }
        if !self.is_sorted {
            self.all.select_nth_unstable_by(count - 1, likelier);
        }
        self.all.truncate(count);
    }

    /// Keeps the candidates at these places of [`sorted`](Self::sorted); none at all: nothing happens.
    pub fn keep_at(&mut self, places: &[usize]) {
        self.sorted();
        let mut places: Vec<usize> = places
            .iter()
            .copied()
            .filter(|&at| at < self.all.len())
            .collect();
        places.sort_unstable();
        places.dedup();
        if !places.is_empty() {
            self.all = places.iter().map(|&at| self.all[at]).collect();
        }
    }

    /// The law: likeliest first, renormalised, without what is so unlikely that its probability is 0.
    pub fn law(mut self) -> Vec<Chance> {
        let probabilities = self.probabilities();
        let chances = self
            .all
            .iter()
            .zip(probabilities)
            .map(|(it, probability)| Chance {
                token: it.token,
                probability,
            });
        chances.filter(|it| it.probability > 0.0).collect()
    }
}
