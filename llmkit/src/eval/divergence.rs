//! How far a model's predictions are from a baseline's, token by token.
//!
//! KL divergence Σ p·ln(p/q), p the baseline's law and q the model's, at each scored position of a [`Protocol`]; whether both
//! have the same likeliest token; and both likelihoods of the true token. Logits are compared as they come, window by window, and
//! never stored.
//!
//! Source: llama.cpp `--kl-divergence`; Dutta et al. 2024, *Accuracy is Not All You Need*, 2407.09141 (flips).

use std::fmt;
use std::sync::Mutex;

use super::perplexity::{each_slab, log_normalisers, nll_of};
use super::protocol::Protocol;
use crate::kernels::likelihood::{argmax, divergence};
use crate::model::Model;
use crate::progress::Progress;
use crate::{Error, Result};

/// What was found, token by token in text order.
#[derive(Debug, Clone, PartialEq)]
pub struct Divergence {
    /// What was scored.
    pub protocol: Protocol,
    /// Windows used.
    pub windows: usize,
    /// KL divergence in nats. Rounding can make one slightly negative.
    pub kl: Vec<f64>,
    /// Whether both models' likeliest tokens are the same.
    pub agrees: Vec<bool>,
    /// Whether one model's likeliest token is the true one and the other's is not ("flips").
    pub flips: Vec<bool>,
    /// Negative log-likelihood of the true token under the baseline, in nats.
    pub baseline_nll: Vec<f64>,
    /// The same under the model.
    pub nll: Vec<f64>,
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
    /// [`Error::Argument`] if the models have different vocabularies; those of [`Protocol::run`].
    pub fn run(
        protocol: Protocol,
        baseline: &Model,
        model: &Model,
        text: &str,
        max_windows: usize,
    ) -> Result<Divergence> {
        let tokens = baseline.encode(text)?;
        let vocabularies = (baseline.config.vocabulary, model.config.vocabulary);
        if vocabularies.0 != vocabularies.1 || model.encode(text)? != tokens {
            let expected = "a baseline with the model's tokenizer";
            return Err(Error::argument(
                "models",
                expected,
                format!("vocabularies of {} and {}", vocabularies.0, vocabularies.1),
            ));
        }
        let windows = protocol.first_windows(tokens.len(), max_windows)?;
        let mut out = Divergence {
            protocol,
            windows: windows.len(),
            kl: Vec::new(),
            agrees: Vec::new(),
            flips: Vec::new(),
            baseline_nll: Vec::new(),
            nll: Vec::new(),
        };
        let mut progress = Progress::new("divergence", windows.len() as u64, "windows");
        let engine = &model.network().engine;
        let vocabulary = vocabularies.0;
        for window in &windows {
            each_slab(&[baseline, model], &tokens, window, |logits, targets| {
                let of_p = log_normalisers(model, &logits[0]);
                let of_q = log_normalisers(model, &logits[1]);
                let row =
                    |side: usize, i: usize| &logits[side][i * vocabulary..(i + 1) * vocabulary];
                let rows: Vec<Mutex<Option<Row>>> =
                    targets.iter().map(|_| Mutex::new(None)).collect();
                engine.team.tasks(targets.len(), &|i| {
                    let (p, q) = (row(0, i), row(1, i));
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
                for (i, slot) in rows.into_iter().enumerate() {
                    out.baseline_nll
                        .push(nll_of(row(0, i), of_p[i], targets[i])?);
                    out.nll.push(nll_of(row(1, i), of_q[i], targets[i])?);
                    if let Some(row) = slot.into_inner().ok().flatten() {
                        out.kl.push(row.kl);
                        out.agrees.push(row.agrees);
                        out.flips.push(row.flips);
                    }
                }
                Ok(())
            })?;
            progress.advance(1)?;
        }
        Ok(out)
    }

    /// Mean KL divergence, in nats.
    pub fn mean(&self) -> f64 {
        self.kl.iter().sum::<f64>() / self.kl.len() as f64
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
    pub fn flips(&self) -> f64 {
        share(&self.flips)
    }

    /// ln of the ratio of perplexities, token by token: what a paired interval is made of.
    pub fn nll_differences(&self) -> Vec<f64> {
        self.nll
            .iter()
            .zip(&self.baseline_nll)
            .map(|(a, b)| a - b)
            .collect()
    }

    /// Everything token by token as a table: kl, agrees, flips, baseline_nll, nll.
    ///
    /// # Errors
    /// [`Error::Table`] if polars refuses it.
    #[cfg(feature = "notebook")]
    pub fn table(&self) -> Result<polars::prelude::DataFrame> {
        use polars::prelude::*;
        Ok(df!(
            "kl" => &self.kl,
            "agrees" => &self.agrees,
            "flips" => &self.flips,
            "baseline_nll" => &self.baseline_nll,
            "nll" => &self.nll,
        )?)
    }

    /// Shows the line in a notebook.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

fn share(of: &[bool]) -> f64 {
    of.iter().filter(|&&it| it).count() as f64 / of.len() as f64
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "KL divergence: mean {:.5}, median {:.5}, 99 % {:.4} nats; same top token {:.2} %, flips {:.2} % ({}: {} tokens in {} windows)",
            self.mean(),
            self.quantile(0.5),
            self.quantile(0.99),
            100.0 * self.top1_agreement(),
            100.0 * self.flips(),
            self.protocol,
            self.kl.len(),
            self.windows,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_those_of_the_tokens() {
        let found = Divergence {
            protocol: Protocol::LLAMA_CPP,
            windows: 1,
            kl: vec![0.4, 0.1, 0.2, 0.3],
            agrees: vec![true, true, false, true],
            flips: vec![false, true, false, false],
            baseline_nll: vec![1.0; 4],
            nll: vec![1.5, 1.0, 1.0, 0.5],
        };
        assert!((found.mean() - 0.25).abs() < 1e-12);
        assert_eq!(
            (
                found.quantile(0.5),
                found.quantile(0.99),
                found.quantile(0.0)
            ),
            (0.2, 0.4, 0.1)
        );
        assert_eq!((found.top1_agreement(), found.flips()), (0.75, 0.25));
        assert_eq!(found.nll_differences(), [0.5, 0.0, 0.0, -0.5]);
    }
}
