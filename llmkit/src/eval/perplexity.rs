//! Perplexity: how surprised a model is by a text, exp of the mean negative log-likelihood of its tokens.
//!
//! Numbers of different [`Protocol`]s cannot be compared, so the protocol is part of the result. Likelihoods are within 10⁻⁶ of exact for
//! the model's f32 logits.

use std::fmt;

use sha2::{Digest, Sha256};

use super::protocols::{Protocol, Start, Window};
use super::stats::{self, Estimate, Interval};
use crate::kernels::likelihood::log_sum_exp;
use crate::model::llama::SOME_LOGITS;
use crate::model::{Engine, Model};
use crate::progress::Progress;
use crate::{Error, Result};

/// Rows of logits that are held at a time: 64 of 49,152 are 12 MiB.
const SLAB: usize = 64;
/// Rows whose logits come some columns at a time.
const PART: usize = 256;
/// Tokens of a pass: the activations of more do not stay in caches. The bits are the same.
const CHUNK: usize = 512;

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
    /// [`Error::Argument`] for fewer than two windows.
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
    /// Those of [`Protocol::windows`]; [`Error::Argument`] if a window does not fit the model's context, [`Error::Interrupted`].
    pub fn run(self, model: &Model, text: &str, max_windows: usize) -> Result<Perplexity> {
        let plan = Plan::new(self, model, text, max_windows)?;
        let mut nll = Vec::new();
        let mut progress = Progress::new("perplexity", plan.windows.len() as u64, "windows");
        for window in &plan.windows {
            let states = scored_states(model, &plan.tokens, window)?;
            let targets = &plan.tokens[window.scored.clone()];
            let parts = states.chunks(PART * model.config.width);
            for (states, targets) in parts.zip(targets.chunks(PART)) {
                nll.extend(negative_log_likelihoods(model, states, targets)?);
            }
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

/// The states of a model (rows, K) from which the scored tokens of a window are predicted.
pub(super) fn scored_states(model: &Model, tokens: &[u32], window: &Window) -> Result<Vec<f32>> {
    let mut input = tokens[window.tokens.clone()].to_vec();
    let bos = model.tokenizer.bos;
    match (window.start, bos) {
        (Start::Replaced, Some(bos)) => input[0] = bos,
        (Start::Prefixed, bos) => {
            let first = bos.or_else(|| model.tokenizer.ends.iter().min().copied());
            input.insert(
                0,
                first.ok_or_else(|| {
                    Error::argument("model", "a BOS or an end-of-text token", "neither")
                })?,
            );
        }
        _ => {}
    }
    let mut store = model.network().store();
    let mut hidden = Vec::with_capacity(input.len() * model.config.width);
    for chunk in input.chunks(CHUNK) {
        hidden.extend(model.hidden(chunk, store.as_mut())?);
    }
    // The hidden state that predicts position p is that of p − 1.
    let shift = usize::from(window.start != Start::Prefixed);
    let first = window.scored.start - window.tokens.start - shift;
    hidden.truncate((first + window.scored.len()) * model.config.width);
    hidden.drain(..first * model.config.width);
    Ok(hidden)
}

/// Hands out the logits of scored positions, some rows at a time: for each model (rows, V), and the tokens they should predict;
/// `states` are those of the models, one after the other.
pub(super) fn each_part(
    models: &[&Model],
    states: &[&[f32]],
    targets: &[u32],
    mut see: impl FnMut(&[Vec<f32>], std::ops::Range<usize>) -> Result<()>,
) -> Result<()> {
    let mut logits: Vec<Vec<f32>> = models.iter().map(|_| Vec::new()).collect();
    for start in (0..targets.len()).step_by(SLAB) {
        let rows = start..targets.len().min(start + SLAB);
        for ((model, states), logits) in models.iter().zip(states).zip(&mut logits) {
            let width = model.config.width;
            let states = &states[rows.start * width..rows.end * width];
            model.network().logits_into(states, logits);
        }
        see(&logits, rows)?;
    }
    Ok(())
}

/// Runs each model over a window and hands out its logits as [`each_part`] does, with the tokens they should predict.
pub(super) fn each_slab(
    models: &[&Model],
    tokens: &[u32],
    window: &Window,
    mut see: impl FnMut(&[Vec<f32>], &[u32]) -> Result<()>,
) -> Result<()> {
    let states: Vec<Vec<f32>> = models
        .iter()
        .map(|model| scored_states(model, tokens, window))
        .collect::<Result<_>>()?;
    let states: Vec<&[f32]> = states.iter().map(Vec::as_slice).collect();
    let targets = &tokens[window.scored.clone()];
    each_part(models, &states, targets, |logits, rows| {
        see(logits, &targets[rows])
    })
}

/// −ln p of each target after its state of `states` (T, K). Logits come and go some columns at a time.
fn negative_log_likelihoods(model: &Model, states: &[f32], targets: &[u32]) -> Result<Vec<f64>> {
    let mut normalisers = vec![f64::NEG_INFINITY; targets.len()];
    let mut own = vec![None; targets.len()];
    let engine = &model.network().engine;
    model
        .network()
        .logits_by_columns(states, &mut |first, logits| {
            let columns = logits.len() / targets.len().max(1);
            for (normaliser, here) in
                (normalisers.iter_mut()).zip(normalisers_of(engine, logits, columns))
            {
                *normaliser = log_sum(*normaliser, here);
            }
            let rows = logits.chunks_exact(columns);
            for ((own, &target), row) in own.iter_mut().zip(targets).zip(rows) {
                let here = (target as usize).checked_sub(first);
                *own = own.or(here.and_then(|at| row.get(at).copied()));
            }
            Ok(())
        })?;
    let vocabulary = model.config.vocabulary;
    let of = |((normaliser, own), &target): ((f64, Option<f32>), &u32)| {
        let own = own.ok_or_else(|| unknown(vocabulary, target))?;
        nll(own, normaliser)
    };
    normalisers
        .into_iter()
        .zip(own)
        .zip(targets)
        .map(of)
        .collect()
}

/// ln (e^a + e^b), NaN if one is.
fn log_sum(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    match low == f64::NEG_INFINITY {
        true => high,
        false => high + (low - high).exp().ln_1p(),
    }
}

/// ln Σ e^logit of each row of `logits` (T, V), spread over the model's threads.
pub(super) fn log_normalisers(model: &Model, logits: &[f32]) -> Vec<f64> {
    normalisers_of(&model.network().engine, logits, model.config.vocabulary)
}

/// Of rows of `columns`. The same bits, whether a row comes whole or in parts.
fn normalisers_of(engine: &Engine, logits: &[f32], columns: usize) -> Vec<f64> {
    let rows: Vec<_> = logits
        .chunks_exact(columns)
        .map(|row| (row, std::sync::Mutex::new(f64::NAN)))
        .collect();
    engine.team.tasks(rows.len(), &|i| {
        if let Ok(mut slot) = rows[i].1.lock() {
            let parts = rows[i].0.chunks(SOME_LOGITS);
            let of_parts = parts.map(|it| log_sum_exp(engine.isa, it));
            *slot = of_parts.fold(f64::NEG_INFINITY, log_sum);
        }
    });
    let value = |slot: std::sync::Mutex<f64>| slot.into_inner().unwrap_or(f64::NAN);
    rows.into_iter().map(|(_, slot)| value(slot)).collect()
}

/// −ln p of one token.
pub(super) fn nll_of(row: &[f32], normaliser: f64, target: u32) -> Result<f64> {
    let own = row.get(target as usize);
    nll(*own.ok_or_else(|| unknown(row.len(), target))?, normaliser)
}

fn unknown(vocabulary: usize, target: u32) -> Error {
    Error::argument("token id", format!("below {vocabulary}"), target)
}

/// −ln p of a token whose logit is `own`.
fn nll(own: f32, normaliser: f64) -> Result<f64> {
    let nll = normaliser - f64::from(own);
    match normaliser.is_finite() && !nll.is_nan() {
        true => Ok(nll),
        false => Err(Error::argument("logits", "finite numbers", normaliser)),
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

    #[test]
    fn parts_of_a_normaliser_are_put_together() {
        let (none, nan) = (f64::NEG_INFINITY, f64::NAN);
        assert!((log_sum(2f64.ln(), 3f64.ln()) - 5f64.ln()).abs() < 1e-15);
        assert!((log_sum(700.0, -700.0) - 700.0).abs() < 1e-12);
        assert_eq!((log_sum(none, 1.5), log_sum(1.5, none)), (1.5, 1.5));
        assert_eq!(log_sum(none, none), none);
        for other in [none, 0.0, nan] {
            assert!(log_sum(other, nan).is_nan() && log_sum(nan, other).is_nan());
        }
    }

    #[test]
    fn unknown_tokens_and_bad_logits_are_refused() {
        assert!(nll_of(&[0.0, 0.0], 2f64.ln(), 2).is_err());
        assert!(nll_of(&[0.0, f32::NAN], f64::NAN, 0).is_err());
        assert!((nll_of(&[0.0, 0.0], 2f64.ln(), 1).unwrap() - 2f64.ln()).abs() < 1e-15);
    }
}
