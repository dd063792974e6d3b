//! The law of uniform rounding, measured row by row.
//!
//! Bennett's model says that the noise power of a step Δ is Δ²/12 once Δ is small against the signal's spread; so
//! every halving of Δ gains [`DB_PER_BIT`](super::error::DB_PER_BIT) = 6.02 dB. A grid of b bits has 2ᵇ − 1 steps, not
//! 2ᵇ: counted in bits the gain is larger (7.4 dB from 2 to 3 bits, 6.05 dB from 7 to 8), counted in halvings of the
//! step it is 6.02 dB.

use super::format::AnyFormat;
use super::method::Rtn;
use super::{Format, Matrix, Method, error};
use crate::eval::stats;
use crate::progress::Progress;
use crate::{Error, Result};

/// SQNR gained for every halving of the step, in dB: for each row of `weights` `[N, K]`, the least-squares slope of its
/// SQNR over log₂(levels − 1) of `formats`. N values, independent enough for [`stats::mean`].
///
/// Formats must be uniform grids of one family and granularity that differ in width.
///
/// # Errors
/// [`Error::Argument`] for fewer than two formats, or a row that some format reproduces exactly (no noise, no slope) or
/// that is all zeros; the method's errors.
pub fn db_per_halving(
    weights: &Matrix,
    method: &dyn Method,
    formats: &[AnyFormat],
) -> Result<Vec<f64>> {
    let mut progress = Progress::new("row-wise SQNR", formats.len() as u64, "formats");
    let mut sqnr = vec![Vec::new(); weights.rows()];
    for format in formats {
        let decoded = method.quantize(weights, format.as_ref())?.decode()?;
        for (n, row) in sqnr.iter_mut().enumerate() {
            let db = error::sqnr_db(weights.row(n)?, decoded.row(n)?)?;
            if !db.is_finite() {
                let name = format!("row {n} in {}", format.name());
                return Err(Error::argument(
                    name,
                    "some signal and some noise",
                    format!("{db} dB"),
                ));
            }
            row.push(db);
        }
        progress.advance(1)?;
    }
    let halvings: Vec<f64> = formats
        .iter()
        .map(|format| f64::from(format.levels() - 1).log2())
        .collect();
    sqnr.iter().map(|db| stats::slope(&halvings, db)).collect()
}

/// Noise power over what Bennett's model predicts, mean squared error / (Δ²/12), for each block of an affine or
/// symmetric integer `format` with step Δ. One value a block; 1 where the model holds.
///
/// # Errors
/// [`Error::Argument`] for a block whose step is zero or a format without steps; the method's errors.
pub fn noise_over_bennett(
    weights: &Matrix,
    method: &dyn Method,
    format: &dyn Format,
) -> Result<Vec<f64>> {
    let quantized = method.quantize(weights, format)?;
    let decoded = quantized.decode()?;
    let blocks = format.granularity().blocks(weights.rows(), weights.cols());
    blocks
        .zip(quantized.grids())
        .map(|(block, grid)| {
            // Both integer formats are uniform: any two neighbouring points are one step apart.
            let step = f64::from(format.value(&grid, 0, 1)) - f64::from(format.value(&grid, 0, 0));
            if step <= 0.0 {
                let name = format!("step of {} at weight {}", format.name(), block.start);
                return Err(Error::argument(name, "more than zero", step));
            }
            let noise = error::mse(&weights.data()[block.clone()], &decoded.data()[block])?;
            Ok(noise / (step * step / 12.0))
        })
        .collect()
}

/// The largest error of any weight over the largest that the format promises ([`Format::max_error`]): at most 1, or the
/// format is wrong. Blocks of zeros promise and make no error and are left out.
///
/// # Errors
/// The method's errors.
pub fn worst_over_bound(weights: &Matrix, method: &dyn Method, format: &dyn Format) -> Result<f64> {
    let quantized = method.quantize(weights, format)?;
    let decoded = quantized.decode()?;
    let blocks = format.granularity().blocks(weights.rows(), weights.cols());
    let mut worst = 0f64;
    for (block, grid) in blocks.zip(quantized.grids()) {
        let error = error::max_abs(
            &weights.data()[block.clone()],
            &decoded.data()[block.clone()],
        )?;
        if error > 0.0 {
            let bound = format.max_error(&grid, &weights.data()[block]);
            worst = worst.max(error / bound);
        }
    }
    Ok(worst)
}

/// What `fine` gains over `coarse` beyond its price, in dB, for each row of `weights`: the difference in SQNR less
/// [`DB_PER_BIT`](error::DB_PER_BIT) for every true bit a weight that `fine` costs more. Above zero, bits are better
/// spent on `fine`'s grids than on wider codes.
///
/// # Errors
/// [`Error::Argument`] for a row without signal or without noise; the method's errors.
pub fn gain_at_equal_bits(
    weights: &Matrix,
    method: &dyn Method,
    fine: &dyn Format,
    coarse: &dyn Format,
) -> Result<Vec<f64>> {
    let (fine, coarse) = (
        method.quantize(weights, fine)?,
        method.quantize(weights, coarse)?,
    );
    let price = error::DB_PER_BIT * (fine.bits_per_weight() - coarse.bits_per_weight());
    let (fine, coarse) = (fine.decode()?, coarse.decode()?);
    (0..weights.rows())
        .map(|n| {
            let row = weights.row(n)?;
            let gain = error::sqnr_db(row, fine.row(n)?)? - error::sqnr_db(row, coarse.row(n)?)?;
            if gain.is_finite() {
                Ok(gain - price)
            } else {
                let name = format!("row {n}");
                Err(Error::argument(
                    name,
                    "some signal and some noise",
                    format!("{gain} dB"),
                ))
            }
        })
        .collect()
}

/// Mean squared error on a unit normal source, `[rows, cols]` numbers drawn with `seed`, over the source's power: the
/// number that tables of quantizers print. By rate–distortion theory no format of b bits a weight is below 4⁻ᵇ.
///
/// # Errors
/// The errors of the format.
pub fn normal_distortion(format: &dyn Format, rows: usize, cols: usize, seed: u64) -> Result<f64> {
    use rand::{Rng, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    // Box and Muller's transform, of which the cosine is enough.
    let mut draw = || {
        let (radius, angle) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
        ((-2.0 * radius.ln()).sqrt() * (2.0 * std::f64::consts::PI * angle).cos()) as f32
    };
    let weights = Matrix::new(rows, cols, (0..rows * cols).map(|_| draw()).collect())?;
    let decoded = Rtn.quantize(&weights, format)?.decode()?;
    let power = error::mse(weights.data(), &vec![0.0; rows * cols])?;
    Ok(error::mse(weights.data(), decoded.data())? / power)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::quant::Granularity;
    use crate::quant::format::{IntAffine, IntSymmetric};

    fn uniform(rows: usize, cols: usize) -> Result<Matrix> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let weights = (0..rows * cols)
            .map(|_| rng.random_range(-1f32..1.0))
            .collect();
        Matrix::new(rows, cols, weights)
    }

    #[test]
    fn uniform_noise_obeys_the_law() -> Result<()> {
        let weights = uniform(32, 1024)?;
        for formats in [
            IntAffine::family(4..=8, &[Granularity::Channel])?,
            IntSymmetric::family(4..=8, &[Granularity::Channel])?,
        ] {
            let slope = stats::mean(&db_per_halving(&weights, &Rtn, &formats)?, 1)?;
            assert!((slope.value - error::DB_PER_BIT).abs() < 0.02, "{slope}");
            let noise = noise_over_bennett(&weights, &Rtn, formats[4].as_ref())?;
            let noise = stats::mean(&noise, 1)?;
            assert!((noise.value - 1.0).abs() < 0.02, "{noise}");
        }
        Ok(())
    }

    #[test]
    fn no_weight_breaks_its_bound_and_some_weight_comes_near() -> Result<()> {
        let weights = uniform(4, 1024)?;
        for format in IntAffine::family(2..=8, &[Granularity::Channel, Granularity::Group(5)])? {
            let worst = worst_over_bound(&weights, &Rtn, format.as_ref())?;
            assert!((0.6..=1.0).contains(&worst), "{}: {worst}", format.name());
        }
        let zeros = Matrix::new(1, 2, vec![0.0; 2])?;
        let format = IntAffine::new(4, Granularity::Tensor)?;
        assert_eq!(worst_over_bound(&zeros, &Rtn, &format)?, 0.0);
        Ok(())
    }

    #[test]
    fn groups_pay_where_scales_differ_and_not_where_they_do_not() -> Result<()> {
        let mut uneven = uniform(8, 512)?.data().to_vec();
        for (i, weight) in uneven.iter_mut().enumerate() {
            // One run of 64 in eight is loud: per row, seven eighths of the noise are its fault.
            *weight *= if i / 64 % 8 == 0 { 1.0 } else { 0.05 };
        }
        let fine = IntAffine::new(4, Granularity::Group(64))?;
        let coarse = IntAffine::new(4, Granularity::Channel)?;
        let gain = |weights: &Matrix| -> Result<f64> {
            Ok(stats::mean(&gain_at_equal_bits(weights, &Rtn, &fine, &coarse)?, 0)?.value)
        };
        assert!(gain(&Matrix::new(8, 512, uneven)?)? > 5.0);
        // Uniform weights have the same range everywhere: scales are paid for nothing.
        assert!(gain(&uniform(8, 512)?)? < -1.0);
        Ok(())
    }

    #[test]
    fn rows_without_noise_or_signal_are_named() -> Result<()> {
        let formats = IntAffine::family(4..=5, &[Granularity::Channel])?;
        // Sixteen integers are exactly the points of four bits.
        let exact = Matrix::new(1, 16, (0u8..16).map(f32::from).collect())?;
        for weights in [exact, Matrix::new(1, 3, vec![0.0; 3])?] {
            let error = db_per_halving(&weights, &Rtn, &formats).unwrap_err();
            assert!(error.to_string().contains("row 0 in int4"), "{error}");
        }
        let zeros = Matrix::new(1, 2, vec![0.0; 2])?;
        assert!(noise_over_bennett(&zeros, &Rtn, formats[0].as_ref()).is_err());
        Ok(())
    }
}
