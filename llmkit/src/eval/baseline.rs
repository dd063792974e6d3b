//! A baseline that many models are compared with: it goes through the text once.
//!
//! What is kept are the states that its head sees, K numbers a token; logits (V of them, 85 times as many for SmolLM2) are made from these
//! again for each lot of models, a fifth of a forward pass. The results are those of [`Divergence::run_all`], bit for bit.

use super::divergence::{Divergence, Gathered, check_same_tokens, nlls};
use super::likelihoods::{each_part, log_normalisers, scored_states};
use super::perplexity::Plan;
use super::protocols::Protocol;
use crate::model::Model;
use crate::progress::Progress;
use crate::{Error, Result};

/// A baseline and what it makes of a text.
pub struct Baseline {
    model: Model,
    text: String,
    most: usize,
    plan: Plan,
    /// Of each window, (scored tokens, K).
    states: Vec<Vec<f32>>,
    normalisers: Vec<Vec<f64>>,
    nll: Vec<f64>,
    units: usize,
}

impl Baseline {
    /// Runs `model` over the first `max_windows` windows (0 = all) of `text`.
    ///
    /// # Errors
    /// As [`Protocol::run`].
    pub fn new(
        protocol: Protocol,
        model: &Model,
        text: &str,
        max_windows: usize,
    ) -> Result<Baseline> {
        let plan = Plan::new(protocol, model, text, max_windows)?;
        let (mut states, mut normalisers, mut nll) = (Vec::new(), Vec::new(), Vec::new());
        let mut progress = Progress::new("baseline", plan.windows.len() as u64, "windows");
        for window in &plan.windows {
            let of_window = scored_states(model, &plan.tokens, window)?;
            let targets = &plan.tokens[window.scored.clone()];
            let mut of_tokens = Vec::with_capacity(targets.len());
            each_part(&[model], &[&of_window], targets, |logits, rows| {
                let found = log_normalisers(model, &logits[0]);
                nll.extend(nlls(&logits[0], &found, &targets[rows])?);
                of_tokens.extend(found);
                Ok(())
            })?;
            normalisers.push(of_tokens);
            states.push(of_window);
            progress.advance(1)?;
        }
        let units = plan.units(model, text, nll.len())?;
        Ok(Baseline {
            model: model.clone(),
            text: text.to_owned(),
            most: max_windows,
            plan,
            states,
            normalisers,
            nll,
            units,
        })
    }

    /// Scored tokens.
    pub fn tokens(&self) -> usize {
        self.nll.len()
    }

    /// How far each of `models` is from it, window by window side by side; one result a model.
    ///
    /// # Errors
    /// As [`Divergence::run_all`].
    pub fn compare(&self, models: &[&Model]) -> Result<Vec<Divergence>> {
        if models.is_empty() {
            return Err(Error::argument("models", "at least one", "none"));
        }
        for model in models {
            check_same_tokens(&self.plan, &self.model, model, &self.text, self.most)?;
        }
        let all: Vec<&Model> = [&self.model]
            .into_iter()
            .chain(models.iter().copied())
            .collect();
        let mut gathered: Vec<Gathered> = models.iter().map(|_| Gathered::default()).collect();
        let windows = &self.plan.windows;
        let mut progress = Progress::new("divergence", windows.len() as u64, "windows");
        for (at, window) in windows.iter().enumerate() {
            let others = models
                .iter()
                .map(|model| scored_states(model, &self.plan.tokens, window))
                .collect::<Result<Vec<_>>>()?;
            let mut states: Vec<&[f32]> = vec![&self.states[at]];
            states.extend(others.iter().map(Vec::as_slice));
            let targets = &self.plan.tokens[window.scored.clone()];
            each_part(&all, &states, targets, |logits, rows| {
                let of_p = &self.normalisers[at][rows.clone()];
                for (q, gathered) in logits[1..].iter().zip(&mut gathered) {
                    gathered.compare(&self.model, (&logits[0], of_p), q, &targets[rows.clone()])?;
                }
                Ok(())
            })?;
            progress.advance(1)?;
        }
        let finish = |it: Gathered| it.finish(&self.plan, &self.nll, self.units);
        Ok(gathered.into_iter().map(finish).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WeightType;
    use crate::model::tests::tiny;

    #[test]
    fn a_kept_baseline_gives_what_both_models_side_by_side_give() -> Result<()> {
        let baseline = tiny::model(WeightType::F32);
        let models = [tiny::model(WeightType::Int8), tiny::model(WeightType::Int4)];
        let models: Vec<&Model> = models.iter().collect();
        let text = "the quick brown fox jumps over the lazy dog. ".repeat(12);
        for protocol in [
            Protocol::LlamaCpp { ctx: 24 },
            Protocol::Gptq { ctx: 100 },
            Protocol::Strided { ctx: 30, stride: 7 },
            Protocol::WordLevel { ctx: 40 },
        ] {
            let kept = Baseline::new(protocol, &baseline, &text, 4)?;
            let expected = Divergence::run_all(protocol, &baseline, &models, &text, 4)?;
            assert_eq!(kept.compare(&models)?, expected, "{protocol}");
            assert_eq!(kept.tokens(), expected[0].kl.len());
            assert!(
                kept.compare(&[&baseline])?[0]
                    .kl
                    .iter()
                    .all(|kl| *kl == 0.0)
            );
        }
        let kept = Baseline::new(Protocol::Gptq { ctx: 100 }, &baseline, &text, 1)?;
        assert!(kept.compare(&[]).is_err());
        Ok(())
    }
}
