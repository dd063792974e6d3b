//! # llmkit — inference methods for large language models, reproduced and measured
//!
//! | module | what it holds |
//! |---|---|
//! | [`hub`] | names of models and corpora, resolved to verified local files |
//! | [`model`] | the transformer that runs them: config, weights, tokenizer, sampling |
//! | [`attention`], [`kvcache`] | how queries find values, and where keys and values are kept |
//! | [`linalg`] | factorizations in f64 |
//! | [`numeric`] | numbers of few bits: the codecs of elements and of blocks |
//! | [`linalg`] | linear algebra that methods share |
//! | [`quant`] | `format` = how codes are stored, `method` = how codes are chosen |
//! | [`eval`] | metrics and the ledger of claims |
//! | [`hardware`] | what a machine can do at most, and what that makes of a model |
//! | `report` | tables and figures, displayed in notebooks and exported to papers (feature `notebook`) |
//! | [`session`], [`progress`], [`interrupt`] | the running notebook: its parameters, its progress bars, its stop button |
//!
//! Letters used for shapes everywhere: B batch, T tokens, H query heads, G key/value heads, D head dimension,
//! K input features, N output features, V vocabulary.
//!
//! Features: `notebook` (tables, figures, rich display) and `cuda` (candle's CUDA device).

mod atomic;
pub mod attention;
pub mod error;
pub mod eval;
pub mod hardware;
pub mod hub;
pub mod interrupt;
pub mod kernels;
pub mod kvcache;
pub mod linalg;
pub mod model;
pub mod numeric;
pub mod progress;
pub mod quant;
#[cfg(feature = "notebook")]
pub mod report;
pub mod session;

pub use error::{Error, Result};
