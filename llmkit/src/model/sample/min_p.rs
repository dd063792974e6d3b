//! Min-p: keeps tokens at least a share as likely as the likeliest one.
//!
//! ```text
//! keep i with p_i ≥ share · max p
//! ```
//! Source: Nguyen et al. 2024, *Turning Up the Heat: Min-p Sampling*, 2407.01082, section 3. Cost: one pass.
//! Where we differ: nowhere. The cut is made on logits, l_i ≥ max l + ln share, which needs no normalisation.

use super::{Candidates, Past, Processor};
use crate::{Error, Result};

/// The share, in [0, 1]; 0 = keep all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MinP(pub f64);

impl Processor for MinP {
    fn name(&self) -> String {
        format!("min_p={}", self.0)
    }

    fn family(&self) -> &'static str {
        "min_p"
    }

    fn check(&self) -> Result<()> {
        match (0.0..=1.0).contains(&self.0) {
            true => Ok(()),
            false => Err(Error::argument("min_p", "a number in [0, 1]", self.0)),
        }
    }

    fn apply(&self, _: Past<'_>, candidates: &mut Candidates) {
        let least = candidates.top() + self.0.ln();
        candidates.map(|it| match it.logit >= least {
            true => it.logit,
            false => f64::NEG_INFINITY,
        });
    }
}
