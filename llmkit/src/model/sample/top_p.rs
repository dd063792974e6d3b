//! Top-p ("nucleus"): keeps the fewest likeliest tokens whose probability together reaches p.
//!
//! ```text
//! keep 1 … n, likeliest first, with the smallest n for which Σ p_i ≥ p: the token that crosses the line belongs to the set
//! ```
//! Source: Holtzman et al. 2020, *The Curious Case of Neural Text Degeneration*, 1904.09751, section 3.1. Cost: one sort.
//! Where we differ: nowhere; Hugging Face sums from the unlikely end, which is the same up to rounding.

use super::{Candidates, Past, Processor};
use crate::{Error, Result};

/// p, above 0; 1 = all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopP(pub f64);

/// Whether `share` is in (0, 1].
pub(super) fn check_share(name: &str, share: f64) -> Result<()> {
    match share > 0.0 && share <= 1.0 {
        true => Ok(()),
        false => Err(Error::argument(name, "a number in (0, 1]", share)),
    }
}

impl Processor for TopP {
    fn name(&self) -> String {
        format!("top_p={}", self.0)
    }

    fn family(&self) -> &'static str {
        "top_p"
    }

    fn check(&self) -> Result<()> {
        check_share("top_p", self.0)
    }

    fn apply(&self, _: Past<'_>, candidates: &mut Candidates) {
        // A sum of all probabilities may round to less than 1.
        if self.0 < 1.0 {
            let mut mass = 0.0;
            let reaches = |probability: &f64| {
                mass += probability;
                mass >= self.0
            };
            let crossing = candidates.probabilities().iter().position(reaches);
            candidates.keep(crossing.map_or(usize::MAX, |at| at + 1));
        }
    }
}
