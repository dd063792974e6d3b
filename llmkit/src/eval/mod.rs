//! Judging: what was claimed, what was measured, and the verdict that follows.
//!
//! * [`protocols`] — which tokens are scored, after which context; [`perplexity`] — how surprised a model is by them;
//! * [`divergence`] — how far a model is from a baseline, token by token;
//! * [`baseline`] — a baseline that is run once for many models;
//! * [`tasks`] — short questions with computed answers, judged by a [`scorer`];
//! * [`floor`] — how far the baseline is from itself;
//! * [`compare`] — better, worse, or a tie, and how much more text would tell; [`recovery`] — how much of a loss is made up for;
//! * [`golden`] — what llama.cpp says of the same model and text;
//! * [`stats`] — estimates with confidence intervals, seeded and reproducible;
//! * [`claim`] — a published statement, and the rule that turns a measured interval into a [`Verdict`];
//! * [`ledger`] — every verdict in one CSV file, each [`row`] with everything needed to repeat it.

mod answers;
pub mod baseline;
pub mod claim;
pub mod compare;
mod display;
pub mod divergence;
pub mod floor;
pub mod golden;
pub mod ledger;
mod likelihoods;
pub mod origin;
pub mod perplexity;
pub mod protocols;
mod recovery;
pub mod row;
pub mod scorer;
pub mod stats;
#[cfg(feature = "notebook")]
mod tables;
pub mod tasks;
#[cfg(test)]
mod tests;

pub use baseline::Baseline;
pub use claim::{Claim, Expected, Kind, Verdict};
pub use compare::{Comparison, Outcome};
pub use divergence::Divergence;
pub use floor::Floor;
pub use golden::Golden;
pub use ledger::Ledger;
pub use perplexity::Perplexity;
pub use protocols::Protocol;
pub use recovery::recovery;
pub use row::Row;
pub use stats::{Estimate, Interval};
