//! Judging: what was claimed, what was measured, and the verdict that follows.
//!
//! * [`perplexity`] — how surprised a model is by a text, by a named protocol;
//! * [`stats`] — estimates with confidence intervals, seeded and reproducible;
//! * [`claim`] — a published statement, and the rule that turns a measured interval into a [`Verdict`];
//! * [`ledger`] — every verdict with everything needed to repeat it, in one CSV file.

pub mod claim;
mod display;
pub mod ledger;
pub mod origin;
pub mod perplexity;
pub mod stats;

pub use claim::{Claim, Expected, Kind, Verdict};
pub use ledger::{Ledger, Row};
pub use stats::{Estimate, Interval};
