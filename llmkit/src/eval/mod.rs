//! Judging: what was claimed, what was measured, and the verdict that follows.
//!
//! * [`protocol`] — which tokens are scored, after which context; [`perplexity`] — how surprised a model is by them;
//! * [`divergence`] — how far a model is from a baseline, token by token;
//! * [`tasks`] — short questions with computed answers, judged by a [`scorer`];
//! * [`stats`] — estimates with confidence intervals, seeded and reproducible;
//! * [`claim`] — a published statement, and the rule that turns a measured interval into a [`Verdict`];
//! * [`ledger`] — every verdict with everything needed to repeat it, in one CSV file.

pub mod claim;
mod display;
pub mod divergence;
pub mod ledger;
pub mod origin;
pub mod perplexity;
pub mod protocol;
pub mod scorer;
pub mod stats;
pub mod tasks;

pub use claim::{Claim, Expected, Kind, Verdict};
pub use divergence::Divergence;
pub use ledger::{Ledger, Row};
pub use perplexity::Perplexity;
pub use protocol::Protocol;
pub use stats::{Estimate, Interval};
