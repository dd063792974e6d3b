//! How far a reconstruction is from the original.
//!
//! The yardstick is Bennett's model of rounding: with a step Δ that is small against the signal's own spread, the
//! error is close to uniform on ±Δ/2, so its power is Δ²/12 and every halving of Δ gains 20·log₁₀2 = 6.02 dB.
//!
//! Source: W. R. Bennett, *Spectra of quantized signals*, Bell System Technical Journal 27 (1948); B. Widrow and
//! I. Kollár, *Quantization Noise*, Cambridge University Press (2008), for when the model holds.

use crate::{Error, Result};

/// Decibels gained by every halving of the step: 20·log₁₀ 2.
pub const DB_PER_BIT: f64 = 6.020_599_913_279_624;

/// Mean squared error of `approximation`, in squared units of the signal, summed in f64.
///
/// # Errors
/// [`Error::Shape`] if the two differ in length or are empty.
pub fn mse(original: &[f32], approximation: &[f32]) -> Result<f64> {
    let noise = sum_squares("mean squared error", original, approximation, |w, a| w - a)?;
    Ok(noise / original.len() as f64)
}

/// Signal to quantization noise ratio in dB: 10·log₁₀(Σw² / Σ(w − ŵ)²).
///
/// Exact reconstruction gives +∞; noise on a zero signal gives −∞.
///
/// # Errors
/// [`Error::Shape`] if the two differ in length or are empty.
pub fn sqnr_db(original: &[f32], approximation: &[f32]) -> Result<f64> {
    let noise = sum_squares("SQNR", original, approximation, |w, a| w - a)?;
    let signal = sum_squares("SQNR", original, approximation, |w, _| w)?;
    Ok(match noise {
        0.0 => f64::INFINITY,
        noise => 10.0 * (signal / noise).log10(),
    })
}

/// Largest absolute error.
///
/// # Errors
/// [`Error::Shape`] if the two differ in length or are empty.
pub fn max_abs(original: &[f32], approximation: &[f32]) -> Result<f64> {
    same_length("largest error", original, approximation)?;
    Ok(original
        .iter()
        .zip(approximation)
        .map(|(&w, &a)| (f64::from(w) - f64::from(a)).abs())
        .fold(0.0, f64::max))
}

fn same_length(operation: &str, original: &[f32], approximation: &[f32]) -> Result<()> {
    if original.len() == approximation.len() && !original.is_empty() {
        return Ok(());
    }
    Err(Error::Shape {
        operation: operation.into(),
        expected: format!("[{}], not empty", original.len()),
        got: format!("[{}]", approximation.len()),
    })
}

fn sum_squares(
    operation: &str,
    original: &[f32],
    approximation: &[f32],
    term: impl Fn(f64, f64) -> f64,
) -> Result<f64> {
    same_length(operation, original, approximation)?;
    Ok(original
        .iter()
        .zip(approximation)
        .map(|(&w, &a)| term(f64::from(w), f64::from(a)).powi(2))
        .sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() -> Result<()> {
        assert_eq!(mse(&[1.0, 2.0], &[1.0, 4.0])?, 2.0);
        assert_eq!(max_abs(&[1.0, 2.0], &[1.5, -1.0])?, 3.0);
        // Noise power is a hundredth of signal power: 20 dB.
        assert!((sqnr_db(&[10.0, 0.0], &[9.0, 0.0])? - 20.0).abs() < 1e-12);
        assert_eq!(sqnr_db(&[1.0], &[1.0])?, f64::INFINITY);
        assert_eq!(sqnr_db(&[0.0], &[1.0])?, f64::NEG_INFINITY);
        Ok(())
    }

    #[test]
    fn lengths_that_differ_are_named() {
        let error = mse(&[1.0], &[1.0, 2.0]).unwrap_err().to_string();
        assert!(error.contains("[1]") && error.contains("[2]"), "{error}");
        assert!(sqnr_db(&[], &[]).is_err() && max_abs(&[], &[]).is_err());
    }

    #[test]
    fn squares_are_summed_in_double_precision() -> Result<()> {
        // In f32 the running sum would stop growing at 2^24.
        let ones = vec![1.0f32; 1 << 25];
        assert_eq!(mse(&ones, &vec![0.0; 1 << 25])?, 1.0);
        Ok(())
    }
}
