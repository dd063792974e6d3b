//! How far a model's predictions are from a baseline's, token by token.
//!
//! KL divergence Σ p·ln(p/q), p the baseline's law and q the model's, at each scored position of a [`Protocol`]; whether both
//! have the same likeliest token; and both likelihoods of the true token. Logits are compared as they come, some rows at a time, and
//! never stored: memory does not grow with the text but by 26 bytes a token.
//!
//! **The noise floor.** A divergence says something about a model only where it is larger than what the baseline shows against
//! itself when it is computed in another legitimate way. Two are taken ([`Floor`](super::Floor)): other instructions in f32, which only sum in
//! another order, and bf16, the precision in which such models are published and mostly run. Two models whose divergences lie both
//! within the floor are tied, whatever their order.
//!
//! Source: llama.cpp `--kl-divergence`; Dutta et al. 2024, *Accuracy is Not All You Need*, 2407.09141 (flips). Where we differ: their
//! flips are answers to questions, ours are next tokens; llama.cpp stores the baseline's logits in 16 bits, we run both at once.

use std::fmt;
use std::sync::Mutex;

use super::likelihoods::{each_slab, log_normalisers, nll_of};
use super::perplexity::{Perplexity, Plan};
use super::protocols::Protocol;
use super::stats::{self, Estimate};
use crate::kernels::divergence::divergence;
use crate::kernels::likelihood::argmax;
use crate::model::Model;
use crate::progress::Progress;
use crate::{Error, Result};

/// What was found, token by token in text order.
#[derive(Debug, Clone, PartialEq)]
pub struct Divergence {
    /// KL divergence in nats, never negative; 0 for equal logits.
    pub kl: Vec<f64>,
    /// Whether both models' likeliest tokens are the same.
    pub agrees: Vec<bool>,
    /// Whether one model's likeliest token is the true one and the other's is not ("flips").
    pub flips: Vec<bool>,
    /// The baseline's perplexity on the same tokens, and what was scored.
    pub baseline: Perplexity,
    /// The model's.
    pub model: Perplexity,
}

/// What is gathered of one model.
#[derive(Default)]
pub(super) struct Gathered {
    kl: Vec<f64>,
    agrees: Vec<bool>,
    flips: Vec<bool>,
    nll: Vec<f64>,
}

struct Row {
    kl: f64,
    agrees: bool,
    flips: bool,
}

impl Divergence {
    /// Runs both models over the first `max_windows` windows (0 = all) of `text`.
    ///
    /// # Errors
    /// As [`Divergence::run_all`].
    pub fn run(
        protocol: Protocol,
        baseline: &Model,
        model: &Model,
        text: &str,
        max_windows: usize,
    ) -> Result<Divergence> {
        let found = Divergence::run_all(protocol, baseline, &[model], text, max_windows)?;
        let nothing = || Error::argument("models", "at least one", 0);
        found.into_iter().next().ok_or_else(nothing)
    }

    /// Runs the baseline once and each of `models` beside it, window by window; one result a model.
    ///
    /// # Errors
    /// [`Error::Argument`] if a model's tokens are others than the baseline's, or its logits are not finite; those of
    /// [`Protocol::run`].
    pub fn run_all(
        protocol: Protocol,
        baseline: &Model,
        models: &[&Model],
        text: &str,
        max_windows: usize,
    ) -> Result<Vec<Divergence>> {
        let plan = Plan::new(protocol, baseline, text, max_windows)?;
        for model in models {
            check_same_tokens(&plan, baseline, model, text, max_windows)?;
        }
        let all: Vec<&Model> = [baseline].iter().chain(models).copied().collect();
        let mut of_baseline = Vec::new();
        let mut gathered: Vec<Gathered> = models.iter().map(|_| Gathered::default()).collect();
        let mut progress = Progress::new("divergence", plan.windows.len() as u64, "windows");
        for window in &plan.windows {
            each_slab(&all, &plan.tokens, window, |logits, targets| {
                let of_p = log_normalisers(baseline, &logits[0]);
                let nll = nlls(&logits[0], &of_p, targets)?;
                of_baseline.extend(nll);
                for (q, gathered) in logits[1..].iter().zip(&mut gathered) {
                    gathered.compare(baseline, (&logits[0], &of_p), q, targets)?;
                }
                Ok(())
            })?;
            progress.advance(1)?;
        }
        let units = plan.units(baseline, text, of_baseline.len())?;
        let finish = |it: Gathered| it.finish(&plan, &of_baseline, units);
        Ok(gathered.into_iter().map(finish).collect())
    }

    /// Mean KL divergence, in nats.
    pub fn mean(&self) -> f64 {
        self.kl.iter().sum::<f64>() / self.kl.len() as f64
    }

    /// The mean with its 95 % interval over windows.
    ///
    /// # Errors
    /// [`Error::Argument`] for fewer than two windows.
    pub fn kl_estimate(&self, seed: u64) -> Result<Estimate> {
        self.over_windows(self.kl.iter().copied(), seed)
    }

    /// [`top1_agreement`](Self::top1_agreement) with its 95 % interval over windows.
    ///
    /// # Errors
    /// [`Error::Argument`] for fewer than two windows.
    pub fn agreement_estimate(&self, seed: u64) -> Result<Estimate> {
        self.over_windows(self.agrees.iter().map(|&it| f64::from(it)), seed)
    }

    /// [`flip_share`](Self::flip_share) with its 95 % interval over windows.
    ///
    /// # Errors
    /// [`Error::Argument`] for fewer than two windows.
    pub fn flips_estimate(&self, seed: u64) -> Result<Estimate> {
        self.over_windows(self.flips.iter().map(|&it| f64::from(it)), seed)
    }

    fn over_windows(&self, values: impl Iterator<Item = f64>, seed: u64) -> Result<Estimate> {
        let sizes = self.baseline.window_tokens();
        stats::ratio(&stats::sums_by(values, &sizes), &sizes, seed)
    }

    /// The KL divergence that a share `q` of tokens does not exceed (nearest rank); NaN if there are none.
    pub fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.kl.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (q * sorted.len() as f64).ceil() as usize;
        sorted
            .get(at.clamp(1, sorted.len().max(1)) - 1)
            .copied()
            .unwrap_or(f64::NAN)
    }

    /// Share of positions where both models' likeliest tokens are the same.
    pub fn top1_agreement(&self) -> f64 {
        share(&self.agrees)
    }

    /// Share of positions where one is right and the other is not.
    pub fn flip_share(&self) -> f64 {
        share(&self.flips)
    }

    /// Shows the line in a notebook.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl Gathered {
    /// The result, beside the baseline's likelihoods.
    pub(super) fn finish(self, plan: &Plan, of_baseline: &[f64], units: usize) -> Divergence {
        Divergence {
            kl: self.kl,
            agrees: self.agrees,
            flips: self.flips,
            baseline: Perplexity::of(plan, of_baseline.to_vec(), units),
            model: Perplexity::of(plan, self.nll, units),
        }
    }

    /// Adds rows of the model's logits `q` against the baseline's `p` and their log-normalisers.
    pub(super) fn compare(
        &mut self,
        baseline: &Model,
        (p, of_p): (&[f32], &[f64]),
        q: &[f32],
        targets: &[u32],
    ) -> Result<()> {
        let engine = &baseline.network().engine;
        let of_q = log_normalisers(baseline, q);
        self.nll.extend(nlls(q, &of_q, targets)?);
        let vocabulary = baseline.config.vocabulary;
        let rows: Vec<Mutex<Option<Row>>> = targets.iter().map(|_| Mutex::new(None)).collect();
        engine.team.tasks(targets.len(), &|i| {
            let own = i * vocabulary..(i + 1) * vocabulary;
            let (p, q) = (&p[own.clone()], &q[own]);
            let tops = (argmax(engine.isa, p), argmax(engine.isa, q));
            let target = targets[i] as usize;
            if let Ok(mut slot) = rows[i].lock() {
                *slot = Some(Row {
                    kl: divergence(engine.isa, p, of_p[i], q, of_q[i]),
                    agrees: tops.0 == tops.1,
                    flips: (tops.0 == target) != (tops.1 == target),
                });
            }
        });
        for row in rows.into_iter().filter_map(|it| it.into_inner().ok()?) {
            self.kl.push(row.kl);
            self.agrees.push(row.agrees);
            self.flips.push(row.flips);
        }
        Ok(())
    }
}

/// Refuses a model that cuts the text into other tokens than the baseline's plan.
pub(super) fn check_same_tokens(
    plan: &Plan,
    baseline: &Model,
    model: &Model,
    text: &str,
    max_windows: usize,
) -> Result<()> {
    let vocabularies = (baseline.config.vocabulary, model.config.vocabulary);
    let same = vocabularies.0 == vocabularies.1
        && Plan::new(plan.protocol, model, text, max_windows)?.tokens == plan.tokens;
    match same {
        true => Ok(()),
        false => {
            let expected = "a baseline with the model's tokenizer";
            let got = format!("vocabularies of {} and {}", vocabularies.0, vocabularies.1);
            Err(Error::argument("models", expected, got))
        }
    }
}

/// −ln p of each target under its row of `logits` (T, V) with these log-normalisers.
pub(super) fn nlls(logits: &[f32], normalisers: &[f64], targets: &[u32]) -> Result<Vec<f64>> {
    let vocabulary = logits.len() / targets.len().max(1);
    let rows = logits.chunks_exact(vocabulary.max(1));
    rows.zip(normalisers)
        .zip(targets)
        .map(|((row, &normaliser), &target)| nll_of(row, normaliser, target))
        .collect()
}

fn share(of: &[bool]) -> f64 {
    of.iter().filter(|&&it| it).count() as f64 / of.len() as f64
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "KL divergence: mean {:.3e}, median {:.3e}, 99 % {:.3e} nats; same top token {:.2} %, flips {:.2} % ({}: {} tokens in {} windows)",
            self.mean(),
            self.quantile(0.5),
            self.quantile(0.99),
            100.0 * self.top1_agreement(),
            100.0 * self.flip_share(),
            self.baseline.protocol,
            self.kl.len(),
            self.baseline.windows.len(),
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Divergences and likelihoods in windows of `size` tokens.
    pub(in crate::eval) fn found(
        size: usize,
        kl: &[f64],
        baseline: &[f64],
        model: &[f64],
    ) -> Divergence {
        let protocol = Protocol::Gptq { ctx: size + 1 };
        let tokens = kl.len() / size * (size + 1);
        let plan = Plan {
            protocol,
            tokens: vec![0; tokens],
            windows: protocol.windows(tokens).unwrap(),
        };
        Divergence {
            kl: kl.to_vec(),
            agrees: kl.iter().map(|&kl| kl < 0.3).collect(),
            flips: kl.iter().map(|&kl| kl > 0.3).collect(),
            baseline: Perplexity::of(&plan, baseline.to_vec(), kl.len()),
            model: Perplexity::of(&plan, model.to_vec(), kl.len()),
        }
    }

    #[test]
    fn summaries_are_those_of_the_tokens() {
        let found = found(2, &[0.4, 0.1, 0.2, 0.3], &[1.0; 4], &[1.5, 1.0, 1.0, 0.5]);
        assert!((found.mean() - 0.25).abs() < 1e-12);
        assert_eq!(
            (
                found.quantile(0.5),
                found.quantile(0.99),
                found.quantile(0.0)
            ),
            (0.2, 0.4, 0.1)
        );
        assert_eq!((found.top1_agreement(), found.flip_share()), (0.5, 0.25));
        let kl = found.kl_estimate(0).unwrap();
        // Both windows have a mean of ¼, so redrawing them changes nothing; redrawing tokens would.
        assert!((kl.interval.high - kl.interval.low).abs() < 1e-12 && kl.samples == 2);
        assert!(found.agreement_estimate(0).is_ok() && found.flips_estimate(0).is_ok());
    }
}
