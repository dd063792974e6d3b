//! Perplexity: how surprised a model is by a text, exp of the mean negative log-likelihood of its tokens.
//!
//! Numbers of different [`Protocol`]s cannot be compared, so the protocol is part of the result. Likelihoods are within 10⁻⁶ of exact for
//! the model's f32 logits.

use std::fmt;

use super::protocol::{Protocol, Start, Window};
use crate::kernels::likelihood::log_sum_exp;
use crate::model::Model;
use crate::progress::Progress;
use crate::{Error, Result};

/// Rows of logits that are held at a time: 64 of 49,152 are 12 MiB.
const SLAB: usize = 64;

/// A measured perplexity.
#[derive(Debug, Clone, PartialEq)]
pub struct Perplexity {
    /// exp of the mean negative log-likelihood.
    pub value: f64,
    /// Standard error of `value`, from the spread of the tokens' log-likelihoods as if they were independent (llama.cpp's).
    pub standard_error: f64,
    /// What was scored.
    pub protocol: Protocol,
    /// Windows used.
    pub windows: usize,
    /// Tokens given to the model.
    pub tokens_in: usize,
    /// Negative log-likelihood of each scored token, in nats, in text order: what paired comparisons need.
    pub nll: Vec<f64>,
    /// Scored tokens of each window, which are consecutive in `nll`.
    pub window_tokens: Vec<usize>,
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
            self.windows,
            self.protocol.bos_rule(),
        )
    }
}

impl Perplexity {
    fn of(protocol: Protocol, windows: &[Window], nll: Vec<f64>, units: usize) -> Perplexity {
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
            protocol,
            windows: windows.len(),
            tokens_in: windows.iter().map(|it| it.tokens.len()).sum(),
            window_tokens: windows.iter().map(|it| it.scored.len()).collect(),
            nll,
            units,
        }
    }

    /// Mean negative log-likelihood of each window, in nats a token.
    pub fn by_window(&self) -> Vec<f64> {
        let mut rest = self.nll.as_slice();
        let mean = |&count: &usize| {
            let (own, after) = rest.split_at(count);
            rest = after;
            own.iter().sum::<f64>() / count.max(1) as f64
        };
        self.window_tokens.iter().map(mean).collect()
    }

    /// Shows the line in a notebook.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl Protocol {
    /// Perplexity of `text` under `model`, over its first `max_windows` windows (0 = all).
    ///
    /// # Errors
    /// Those of [`Protocol::windows`]; [`Error::Argument`] if a window does not fit the model's context, [`Error::Interrupted`].
    pub fn run(self, model: &Model, text: &str, max_windows: usize) -> Result<Perplexity> {
        let tokens = model.encode(text)?;
        let windows = self.first_windows(tokens.len(), max_windows)?;
        let mut nll = Vec::new();
        let mut progress = Progress::new("perplexity", windows.len() as u64, "windows");
        for window in &windows {
            each_slab(&[model], &tokens, window, |logits, targets| {
                nll.extend(negative_log_likelihoods(model, &logits[0], targets)?);
                Ok(())
            })?;
            progress.advance(1)?;
        }
        let units = units(self, model, text, &tokens, &windows, nll.len())?;
        Ok(Perplexity::of(self, &windows, nll, units))
    }

    /// The first `most` windows (0 = all) of a text of `tokens` tokens.
    pub(super) fn first_windows(self, tokens: usize, most: usize) -> Result<Vec<Window>> {
        let mut windows = self.windows(tokens)?;
        if most > 0 {
            windows.truncate(most);
        }
        Ok(windows)
    }
}

/// Words (or tokens) that `windows` cover.
pub(super) fn units(
    protocol: Protocol,
    model: &Model,
    text: &str,
    tokens: &[u32],
    windows: &[Window],
    scored: usize,
) -> Result<usize> {
    if protocol.unit() == "token" {
        return Ok(scored);
    }
    let end = windows.last().map_or(0, |it| it.scored.end);
    let words = match end == tokens.len() {
        true => text.split_whitespace().count(),
        false => model.decode(&tokens[..end])?.split_whitespace().count(),
    };
    Ok(words.max(1))
}

/// Runs each model over a window and hands out the logits of scored positions, some rows at a time: for each model (rows, V), and
/// the tokens they should predict.
pub(super) fn each_slab(
    models: &[&Model],
    tokens: &[u32],
    window: &Window,
    mut see: impl FnMut(&[Vec<f32>], &[u32]) -> Result<()>,
) -> Result<()> {
    let hidden: Vec<Vec<f32>> = models
        .iter()
        .map(|model| {
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
            model.hidden(&input, model.network().store().as_mut())
        })
        .collect::<Result<_>>()?;
    // The hidden state that predicts position p is that of p − 1.
    let shift = usize::from(window.start != Start::Prefixed);
    let first = window.scored.start - window.tokens.start - shift;
    for start in (0..window.scored.len()).step_by(SLAB) {
        let rows = SLAB.min(window.scored.len() - start);
        let logits: Vec<Vec<f32>> = models
            .iter()
            .zip(&hidden)
            .map(|(model, hidden)| {
                let width = model.config.width;
                model
                    .network()
                    .logits(&hidden[(first + start) * width..][..rows * width])
            })
            .collect();
        see(&logits, &tokens[window.scored.start + start..][..rows])?;
    }
    Ok(())
}

/// −ln p of each target under its row of `logits` (T, V).
fn negative_log_likelihoods(model: &Model, logits: &[f32], targets: &[u32]) -> Result<Vec<f64>> {
    let normalisers = log_normalisers(model, logits);
    let rows = logits.chunks_exact(model.config.vocabulary);
    let of = |((row, normaliser), &target): ((&[f32], f64), &u32)| nll_of(row, normaliser, target);
    rows.zip(normalisers).zip(targets).map(of).collect()
}

/// ln Σ e^logit of each row of `logits` (T, V), spread over the model's threads.
pub(super) fn log_normalisers(model: &Model, logits: &[f32]) -> Vec<f64> {
    let engine = &model.network().engine;
    let rows: Vec<_> = logits
        .chunks_exact(model.config.vocabulary)
        .map(|row| (row, std::sync::Mutex::new(f64::NAN)))
        .collect();
    engine.team.tasks(rows.len(), &|i| {
        if let Ok(mut slot) = rows[i].1.lock() {
            *slot = log_sum_exp(engine.isa, rows[i].0);
        }
    });
    let value = |slot: std::sync::Mutex<f64>| slot.into_inner().unwrap_or(f64::NAN);
    rows.into_iter().map(|(_, slot)| value(slot)).collect()
}

/// −ln p of one token.
pub(super) fn nll_of(row: &[f32], normaliser: f64, target: u32) -> Result<f64> {
    let own = row
        .get(target as usize)
        .ok_or_else(|| Error::argument("token id", format!("below {}", row.len()), target))?;
    let nll = normaliser - f64::from(*own);
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
        let windows = Protocol::LlamaCpp { ctx: 8 }.windows(18).unwrap();
        let ln2 = std::f64::consts::LN_2;
        let nll: Vec<f64> = [1.0, 2.0, 1.0, 2.0, 2.0, 3.0]
            .iter()
            .map(|bits| bits * ln2)
            .collect();
        let result = Perplexity::of(Protocol::LlamaCpp { ctx: 8 }, &windows, nll.clone(), 6);
        assert_eq!(
            (result.nll.len(), result.windows, result.tokens_in),
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
        // A word is two tokens here: twice the nats.
        let words = Perplexity::of(Protocol::LlamaCpp { ctx: 8 }, &windows, nll, 3);
        assert!((words.value - 2f64.powf(11.0 / 3.0)).abs() < 1e-12);
        assert!(
            (words.standard_error / words.value - 2.0 * result.standard_error / result.value).abs()
                < 1e-12
        );
    }

    #[test]
    fn unknown_tokens_and_bad_logits_are_refused() {
        assert!(nll_of(&[0.0, 0.0], 2f64.ln(), 2).is_err());
        assert!(nll_of(&[0.0, f32::NAN], f64::NAN, 0).is_err());
        assert!((nll_of(&[0.0, 0.0], 2f64.ln(), 1).unwrap() - 2f64.ln()).abs() < 1e-15);
    }
}
