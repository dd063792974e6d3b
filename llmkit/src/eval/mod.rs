//! Metrics.

pub mod perplexity;
