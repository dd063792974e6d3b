//! Presence and frequency penalties: take an amount off the logits of tokens generated before, once and for each time.
//!
//! ```text
//! l_i ← l_i − [n_i > 0] · presence − n_i · frequency,   n_i times that token i was generated
//! ```
//! Source: the completions interface of OpenAI (parameters `presence_penalty`, `frequency_penalty`). Cost: one pass.
//! Where we differ: nowhere; as in vLLM the prompt does not count (in llama.cpp it does) and both come right after the repetition
//! penalty. Hugging Face has neither.

use std::collections::HashMap;

use super::{Candidates, Past, Processor};
use crate::{Error, Result};

/// Amounts; negative ones reward.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Presence {
    /// Taken off once.
    pub presence: f64,
    /// Taken off for each time.
    pub frequency: f64,
}

impl Processor for Presence {
    fn name(&self) -> String {
        format!("presence={}:frequency={}", self.presence, self.frequency)
    }

    fn family(&self) -> &'static str {
        "presence"
    }

    fn check(&self) -> Result<()> {
        match self.presence.is_finite() && self.frequency.is_finite() {
            true => Ok(()),
            false => Err(Error::argument("presence", "finite numbers", self.name())),
        }
    }

    fn apply(&self, past: Past<'_>, candidates: &mut Candidates) {
        let mut times: HashMap<u32, f64> = HashMap::new();
        for &token in past.generated {
            *times.entry(token).or_default() += 1.0;
        }
        candidates.map(|it| match times.get(&it.token) {
            Some(times) => it.logit - self.presence - times * self.frequency,
            None => it.logit,
        });
    }
}
