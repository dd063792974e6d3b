//! Repetition penalty: makes tokens of the text so far less likely, by a factor, however often they came.
//!
//! ```text
//! l_i ← l_i / θ if l_i > 0, else l_i · θ, for each token i of the prompt and of what was generated (or of the last N of these)
//! ```
//! Source: Keskar et al. 2019, *CTRL*, 1909.05858, section 4.1. Cost: one pass.
//! Where we differ: the paper divides negative logits too, which would make them likelier; as in Hugging Face, they are multiplied.
//! It depends on where zero is, so it comes first, when logits are the model's own.

use std::collections::HashSet;

use super::{Candidates, Past, Processor};
use crate::{Error, Result};

/// θ and which tokens count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Repetition {
    /// θ, above 0; 1 = no penalty, below 1 rewards.
    pub penalty: f64,
    /// Only the last so many tokens count; all, if there is no number.
    pub last: Option<usize>,
}

impl Repetition {
    /// θ for all tokens so far.
    pub fn new(penalty: f64) -> Repetition {
        Repetition {
            penalty,
            last: None,
        }
    }
}

impl Processor for Repetition {
    fn name(&self) -> String {
        let last = self
            .last
            .map_or_else(String::new, |last| format!(":last{last}"));
        format!("repetition={}{last}", self.penalty)
    }

    fn family(&self) -> &'static str {
        "repetition"
    }

    fn check(&self) -> Result<()> {
        match self.penalty > 0.0 && self.penalty.is_finite() {
            true => Ok(()),
            false => Err(Error::argument(
                "repetition",
                "a finite number above 0",
                self.penalty,
            )),
        }
    }

    fn apply(&self, past: Past<'_>, candidates: &mut Candidates) {
        let seen: HashSet<u32> = past.last(self.last).collect();
        candidates.map(|it| match (seen.contains(&it.token), it.logit > 0.0) {
            (false, _) => it.logit,
            (true, true) => it.logit / self.penalty,
            (true, false) => it.logit * self.penalty,
        });
    }
}
