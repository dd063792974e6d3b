//! Locally typical sampling: keeps the tokens about as surprising as a token is on average.
//!
//! ```text
//! H = −Σ p_i ln p_i;   keep the fewest tokens with the smallest |−ln p_i − H| whose probability together reaches τ
//! ```
//! The likeliest token may be dropped: certainty is not typical of an uncertain law.
//!
//! Source: Meister et al. 2022, *Locally Typical Sampling*, 2202.00666, section 4. Cost: two sorts.
//! Where we differ: of tokens equally typical, the likelier comes first, then the lower id; Hugging Face keeps all that are as typical
//! as the last one.

use super::top_p::check_share;
use super::{Candidates, Past, Processor};
use crate::Result;

/// τ, above 0; 1 = all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Typical(pub f64);

impl Processor for Typical {
    fn name(&self) -> String {
        format!("typical={}", self.0)
    }

    fn family(&self) -> &'static str {
        "typical"
    }

    fn check(&self) -> Result<()> {
        check_share("typical", self.0)
    }

    fn apply(&self, _: Past<'_>, candidates: &mut Candidates) {
        if self.0 == 1.0 {
            return;
        }
        let probabilities = candidates.probabilities();
        // p ln p is 0 where p is.
        let surprise = |p: f64| if p > 0.0 { -p.ln() } else { f64::INFINITY };
        let terms = probabilities.iter().filter(|&&p| p > 0.0);
        let entropy: f64 = terms.map(|&p| p * surprise(p)).sum();
        let oddity = |at: usize| (surprise(probabilities[at]) - entropy).abs();
        let mut order: Vec<usize> = (0..probabilities.len()).collect();
        order.sort_by(|&a, &b| oddity(a).total_cmp(&oddity(b)));
        let mut mass = 0.0;
        let reaches = |&at: &usize| {
            mass += probabilities[at];
            mass >= self.0
        };
        let crossing = order.iter().position(reaches);
        order.truncate(crossing.map_or(order.len(), |at| at + 1));
        candidates.keep_at(&order);
    }
}
