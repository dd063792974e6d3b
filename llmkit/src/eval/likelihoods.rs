//! From a text to logits and what is scored of them: the states that predict a window's tokens, their logits a few rows or a few columns at a
//! time, normalisers and likelihoods.

use super::protocols::{Start, Window};
use crate::kernels::likelihood::log_sum_exp;
use crate::model::head::SOME_LOGITS;
use crate::model::{Engine, Model};
use crate::{Error, Result};

/// Rows of logits that are held at a time: 64 of 49,152 are 12 MiB.
const SLAB: usize = 64;
/// Rows whose logits come some columns at a time.
const PART: usize = 256;
/// Tokens of a pass: the activations of more do not stay in caches. The bits are the same.
const CHUNK: usize = 512;

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
pub(super) fn negative_log_likelihoods(
    model: &Model,
    states: &[f32],
    targets: &[u32],
) -> Result<Vec<f64>> {
    let parts = states.chunks(PART * model.config.width);
    let parts = parts.zip(targets.chunks(PART));
    let all: Vec<Vec<f64>> = parts
        .map(|(states, targets)| of_part(model, states, targets))
        .collect::<Result<_>>()?;
    Ok(all.concat())
}

/// [`negative_log_likelihoods`] of as many rows as are held at a time.
fn of_part(model: &Model, states: &[f32], targets: &[u32]) -> Result<Vec<f64>> {
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
