//! Temperature: divides logits, so that likely tokens become more likely (below 1) or less (above).
//!
//! ```text
//! l_i ← l_i / T;   T = 0: the likeliest token alone, the lowest id of equals
//! ```
//! Source: Ackley, Hinton & Sejnowski 1985, *A Learning Algorithm for Boltzmann Machines*. Cost: one pass.
//! Where we differ: Hugging Face refuses T = 0 and has a switch for greedy decoding instead.

use super::{Candidates, Past, Processor};
use crate::{Error, Result};

/// T, at least 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature(pub f64);

impl Processor for Temperature {
    fn name(&self) -> String {
        format!("temperature={}", self.0)
    }

    fn family(&self) -> &'static str {
        "temperature"
    }

    fn check(&self) -> Result<()> {
        match self.0 >= 0.0 && self.0.is_finite() {
            true => Ok(()),
            false => Err(Error::argument(
                "temperature",
                "a finite number of at least 0",
                self.0,
            )),
        }
    }

    fn apply(&self, _: Past<'_>, candidates: &mut Candidates) {
        if self.0 == 0.0 {
            return candidates.keep(1);
        }
        // Only differences matter; where quotients overflow, those to the largest logit do not (below, they are −∞, which is right).
        let top = candidates.top();
        let shift = match (top / self.0).is_finite() {
            true => 0.0,
            false => top,
        };
        candidates.map(|it| (it.logit - shift) / self.0);
    }
}
