//! How codes are chosen.
//!
//! A method sees a weight matrix and a [`Format`] and decides, for every weight, which point of which grid it
//! becomes. It never knows how codes are stored: any method works with any format.
//!
//! A new method is one new file and two lines here (`cargo lab new quant/STEM` writes all three): `pub mod x;` and a
//! row in [`all`]. The contract tests below and every sweep loop over [`all`].
//!
//! | contract | meaning |
//! |---|---|
//! | same shape, same format | what goes in as `[N, K]` in a format comes out as that |
//! | deterministic | twice the same input gives twice the same bytes |
//! | representable stays | a matrix the format can represent exactly is reproduced exactly, where [`Format::is_projection`] |
//! | never worse than nothing | the squared error is at most that of writing zeros, where scales are not below f16's range |

use std::fmt;

use super::{Format, Matrix, Quantized};
use crate::Result;

pub mod rtn;
// cargo lab new: method modules end here

pub use rtn::Rtn;

/// A way to choose codes.
pub trait Method: fmt::Debug + Send + Sync {
    /// Unique name with all parameters, as papers write it in tables: `rtn`.
    fn name(&self) -> String;

    /// Quantizes `weights` `[N, K]` into `format`.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if the format cannot store the weights' range or shape,
    /// [`Error::Interrupted`](crate::Error::Interrupted) if the user pressed stop.
    fn quantize(&self, weights: &Matrix, format: &dyn Format) -> Result<Quantized>;
}

/// A row of [`all`]: the file's name and the methods in it that contracts and benches run over.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Name of the module: `rtn`.
    pub name: &'static str,
    /// Members of the family, one for each setting worth comparing.
    pub members: fn() -> Vec<Box<dyn Method>>,
}

/// Every method family, one row a file.
pub fn all() -> Vec<Family> {
    vec![
        Family {
            name: "rtn",
            members: rtn::members,
        },
        // cargo lab new: method rows end here
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{error, format, samples};

    fn each(mut check: impl FnMut(&dyn Method, &dyn Format, &str, &Matrix)) {
        for method in all().iter().flat_map(|family| (family.members)()) {
            for format in format::all().iter().flat_map(|family| (family.members)()) {
                for (sample, weights) in samples::all() {
                    if format.check(weights.rows(), weights.cols()).is_err() {
                        continue;
                    }
                    check(method.as_ref(), format.as_ref(), sample, &weights);
                }
            }
        }
    }

    #[test]
    fn shape_and_format_are_kept_and_the_result_is_deterministic() {
        each(|method, format, sample, weights| {
            let quantized = method.quantize(weights, format).unwrap();
            let what = format!("{} {} on {sample}", method.name(), format.name());
            assert_eq!(quantized.format().name(), format.name(), "{what}");
            let decoded = quantized.decode().unwrap();
            let shape = |m: &Matrix| (m.rows(), m.cols());
            assert_eq!(shape(&decoded), shape(weights), "{what}");
            let again = method.quantize(weights, format).unwrap();
            assert_eq!(again.codes(), quantized.codes(), "{what}");
            assert_eq!(again.grids(), quantized.grids(), "{what}");
        });
    }

    #[test]
    fn what_a_format_represents_exactly_is_reproduced_exactly() {
        each(|method, format, sample, weights| {
            if !format.is_projection() {
                return;
            }
            // Rounding to nearest is then a projection (a format contract): its result is representable.
            let representable = Rtn.quantize(weights, format).unwrap().decode().unwrap();
            let once = method.quantize(&representable, format).unwrap();
            let what = format!("{} {} on {sample}", method.name(), format.name());
            assert_eq!(once.decode().unwrap(), representable, "{what}");
        });
    }

    #[test]
    fn nothing_is_worse_than_zeros() {
        each(|method, format, sample, weights| {
            let quantized = method.quantize(weights, format).unwrap();
            let zeros = vec![0.0; weights.data().len()];
            let nothing = error::mse(weights.data(), &zeros).unwrap();
            let error = error::mse(weights.data(), quantized.decode().unwrap().data()).unwrap();
            // Encoders that search for scales do not know that these lie below f16's normal range.
            let greatest = weights.data().iter().fold(0f32, |max, w| max.max(w.abs()));
            if !format.is_projection() && greatest < half::f16::MIN_POSITIVE.to_f32() {
                return;
            }
            let what = format!("{} {} on {sample}", method.name(), format.name());
            assert!(error <= nothing, "{what}: {error} > {nothing}");
        });
    }

    #[test]
    fn ranges_no_format_can_store_are_errors_that_name_the_format() {
        let weights = Matrix::new(1, 2, vec![f32::MAX, f32::MIN]).unwrap();
        let format = format::IntAffine::new(8, format::Granularity::Tensor).unwrap();
        for method in all().iter().flat_map(|family| (family.members)()) {
            let error = method.quantize(&weights, &format).unwrap_err().to_string();
            assert!(error.contains(&format.name()), "{error}");
        }
    }
}
