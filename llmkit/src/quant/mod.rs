//! Quantization: weights in few bits.
//!
//! Two questions are kept apart, so that n methods and m formats give n × m comparable cells:
//!
//! * [`format`](mod@format) — how codes are **stored**: bits a code, what a block shares, what every byte means;
//! * [`method`] — how codes are **chosen**: round to nearest, error feedback, search …
//!
//! In front of both may stand a [`transform`], which makes a network easier to round and leaves its function the same.
//!
//! | also here | |
//! |---|---|
//! | [`Matrix`] | a checked weight matrix, `[N, K]` row-major, from a slice or a candle tensor |
//! | [`Quantized`] | the packed result; it knows its true size |
//! | [`Calibration`], [`Inputs`] | what is known of the inputs of a model's layers |
//! | [`quantize`], [`Recipe`], [`Report`] | a whole model, from one line of text |
//! | [`attribution`](fn@attribution), [`Plan`], [`pipeline::Grid`] | which matrix broke it; mixed precision within a number of bytes; many recipes judged alike |
//! | [`Parts`], [`Plain`] | a network's matrices and vectors in f64, to be worked on |
//! | [`Statistics`], [`Collect`] | what is known of activations, channel by channel |
//! | [`export`](mod@export) | models as files that others read: GGUF, Hugging Face folders |
//! | [`Outliers`] | how far activations are from normal |
//! | [`error`](mod@error) | mean squared error, signal to noise in dB |
//! | [`law`] | the 6.02 dB law of rounding, measured row by row |
//! | [`sweep`](fn@sweep) | one matrix through many formats: the table behind every error-against-bytes plot |
//!
//! ```
//! use llmkit::quant::{Granularity, Matrix, Method, format::IntAffine, method::Rtn};
//!
//! let weights = Matrix::new(2, 3, vec![0.1, -0.4, 0.3, 1.0, 0.0, -1.0])?;
//! let format = IntAffine::new(4, Granularity::Channel)?;
//! let quantized = Rtn.quantize(&weights, &format)?;
//! assert_eq!(quantized.bytes(), 3 + 5); // six 4-bit codes; two f16 scales with two 4-bit zero-points
//! assert!((quantized.decode()?.data()[3] - 1.0).abs() < 0.07);
//! # Ok::<(), llmkit::Error>(())
//! ```

mod applied;
pub mod aside;
mod bits;
pub mod calibration;
pub mod channels;
#[cfg(test)]
mod contract;
mod cut;
#[cfg(feature = "notebook")]
mod display;
#[cfg(test)]
mod equivalence;
pub mod error;
pub mod export;
mod feedback;
mod fingerprint;
pub mod format;
mod granularity;
pub mod law;
mod learn;
mod matrix;
pub mod method;
mod outliers;
mod outputs;
pub mod parts;
pub mod pipeline;
mod quantized;
mod ranges;
#[cfg(test)]
mod samples;
pub mod site;
mod step;
mod stored;
mod sweep;
mod tape;
pub mod transform;

pub use applied::{Applied, Damping};
pub use bits::{BitReader, BitWriter};
pub use calibration::{Calibration, Inputs, Samples};
pub use channels::{Channels, Collect, Measure, Statistics};
pub use export::{Layout, export};
pub use format::{Format, Granularity, Grid, Whole};
pub use matrix::Matrix;
pub use method::Method;
pub use outliers::{Outliers, Peaks};
pub use parts::{Parts, Plain};
pub use pipeline::{
    Activations, Attribution, Correction, Finished, Job, Plan, Recipe, Report, Scheme, Sequence,
    attribution, quantize, quantize_all,
};
pub use quantized::Quantized;
pub use site::Site;
pub use sweep::{Measured, Sweep, sweep};
pub use transform::Transform;

use candle_core::Tensor;

use crate::Result;

/// Quantizes a two-dimensional candle tensor `[N, K]` and gives it back as the model would see it: decoded, same
/// shape, dtype and device.
///
/// # Errors
/// The errors of [`Matrix::from_tensor`] and of the method.
pub fn fake_quantize(weights: &Tensor, method: &dyn Method, format: &dyn Format) -> Result<Tensor> {
    let decoded = method
        .quantize(&Matrix::from_tensor("weights", weights)?, format)?
        .decode()?
        .to_tensor()?;
    Ok(decoded
        .to_device(weights.device())?
        .to_dtype(weights.dtype())?)
}
