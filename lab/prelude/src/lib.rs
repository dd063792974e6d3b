//! What is in scope in every notebook cell.
//!
//! Cells link to this crate's shared library; everything below it — llmkit, candle, polars, plotters — is inside, so
//! a cell compiles in a fraction of a second and statics, thread pools and model caches exist once per kernel.

pub use candle_core::{self, DType, Device, Tensor};
pub use half::{bf16, f16};
pub use llmkit;
pub use llmkit::report::*;
pub use llmkit::session::param;
pub use plotters;
pub use polars;
pub use polars::prelude::{DataFrame, IntoLazy, NamedFrom, Series, col, df, lit};
pub use rayon;
pub use serde_json;

pub mod hooks;
#[doc(hidden)]
pub use hooks::AtLine;
