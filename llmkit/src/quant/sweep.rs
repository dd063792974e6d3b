//! One matrix through many formats.

use std::sync::Arc;

use super::{Format, Granularity, Matrix, Method, error};
use crate::Result;
use crate::progress::Progress;

/// One line of a [`Sweep`]: what a format costs and what it loses.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Name of the format.
    pub format: String,
    /// Nominal bits of a code.
    pub bits: u32,
    /// Which weights share a grid.
    pub granularity: Granularity,
    /// Bytes stored, everything counted.
    pub bytes: usize,
    /// True bits a weight.
    pub bits_per_weight: f64,
    /// Mean squared error, squared units of the weights.
    pub mse: f64,
    /// Signal to noise ratio in dB.
    pub sqnr_db: f64,
    /// Largest absolute error, units of the weights.
    pub max_error: f64,
}

/// A matrix measured in many formats.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Name of the method that chose the codes.
    pub method: String,
    /// One line a format, in the order given.
    pub rows: Vec<Measured>,
}

/// Quantizes `weights` with `method` into each of `formats` and measures what comes back.
///
/// # Errors
/// Those of the method; [`Error::Interrupted`](crate::Error::Interrupted) if the user pressed stop.
pub fn sweep(weights: &Matrix, method: &dyn Method, formats: &[Arc<dyn Format>]) -> Result<Sweep> {
    let mut progress = Progress::new(method.name(), formats.len() as u64, "formats");
    let mut rows = Vec::new();
    for format in formats {
        let quantized = method.quantize(weights, format.as_ref())?;
        let decoded = quantized.decode()?;
        rows.push(Measured {
            format: format.name(),
            bits: format.code_bits(),
            granularity: format.granularity(),
            bytes: quantized.bytes(),
            bits_per_weight: quantized.bits_per_weight(),
            mse: error::mse(weights.data(), decoded.data())?,
            sqnr_db: error::sqnr_db(weights.data(), decoded.data())?,
            max_error: error::max_abs(weights.data(), decoded.data())?,
        });
        progress.advance(1)?;
    }
    Ok(Sweep {
        method: method.name(),
        rows,
    })
}
