//! Top-k: keeps the k likeliest tokens.
//!
//! Source: Fan, Lewis & Dauphin 2018, *Hierarchical Neural Story Generation*, 1805.04833, section 5. Cost: one selection, O(V).
//! Where we differ: Hugging Face keeps all tokens whose logit equals the k-th's; here there are never more than k.

use super::{Candidates, Past, Processor};
use crate::Result;

/// How many tokens to keep; 0 = all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopK(pub usize);

impl Processor for TopK {
    fn name(&self) -> String {
        format!("top_k={}", self.0)
    }

    fn family(&self) -> &'static str {
        "top_k"
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn apply(&self, _: Past<'_>, candidates: &mut Candidates) {
        if self.0 > 0 {
            candidates.keep(self.0);
        }
    }
}
