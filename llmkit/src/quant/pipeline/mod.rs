//! A whole model through a recipe.
//!
//! ```no_run
//! use llmkit::model::Model;
//! use llmkit::quant::{Calibration, Samples, quantize};
//! let model = Model::load("smollm2-135m-instruct")?;
//! let samples = Samples::of_corpus(&model, "lee", 64, 512)?;
//! let calibration = Calibration::cached(&model, &samples)?;
//! let recipe = "rotate,gptq:int4-g64,eora-r16".parse()?;
//! let (quantized, report) = quantize(&model, &recipe, Some(&calibration))?;
//! println!("{report}");
//! # Ok::<(), llmkit::Error>(())
//! ```
//!
//! In this order: the [transforms](super::transform) of the recipe, each with statistics of the network that it is given, each exact one
//! checked on real tokens ([`Equivalence`]); the [method](super::method) on every matrix of the layers, with statistics of the
//! transformed network (derived where channels are only divided, as in AWQ and SmoothQuant, else collected anew); a [`Correction`] of
//! low rank for what was lost; and, when the model runs, its inputs in few bits ([`Activations`]).
//! Embedding, head and norms are left and counted. Nothing falls back in silence: a method that hands over to another, or a format that is
//! not the one asked for, is an error.
//!
//! A [`Job`] can be interrupted and goes on with the transform or the layer it was at. [`Finished::judge`] measures the result on text that the
//! methods did not see.
//! [`Attribution`] says which matrix broke the model, [`Plan`] gives each matrix its own scheme within a number of bytes, [`Grid`] judges many
//! recipes alike.

mod activations;
mod attribution;
mod grid;
mod job;
mod json;
mod judge;
mod low_rank;
mod original;
mod packed;
mod percentile;
mod plan;
mod prepare;
mod recipe;
mod report;
#[cfg(test)]
mod tests;

pub use activations::{Activations, Base, RoundedInputs, Scales, outliers};
pub use attribution::{Attribution, attribution};
pub use grid::{Cell, Grid};
pub use job::{Finished, Job};
pub use judge::Judged;
pub use low_rank::{Corrected, Correction, LowRank, Weighing};
pub use packed::packed;
pub use plan::{Choice, Plan, cheapest};
pub use prepare::{Equivalence, Prepared};
pub use recipe::{Recipe, Scheme, Sequence};
pub use report::{Layer, Report};

use super::Calibration;
use crate::Result;
use crate::model::Model;

/// Quantizes a model; the original stays as it is.
///
/// # Errors
/// [`Error::Argument`](crate::Error::Argument) if the recipe needs a calibration and there is none, what was applied is not what was
/// requested, or a transform changes what the network computes; those of transforms and of the method, with the layer's name;
/// [`Error::Interrupted`](crate::Error::Interrupted).
pub fn quantize(
    model: &Model,
    recipe: &Recipe,
    calibration: Option<&Calibration>,
) -> Result<(Model, Report)> {
    let finished = quantize_all(model, recipe, calibration)?;
    Ok((finished.model, finished.report))
}

/// [`quantize`], with the codes: what [`export`](super::export()) writes and what can be [judged](Finished::judge).
///
/// # Errors
/// As [`quantize`].
pub fn quantize_all(
    model: &Model,
    recipe: &Recipe,
    calibration: Option<&Calibration>,
) -> Result<Finished> {
    let mut job = Job::new(model, recipe, calibration)?;
    job.run()?;
    job.finish()
}
