//! How codes are chosen.
//!
//! A method sees a weight matrix and a [`Format`] — and, if it likes, what is known of the layer's inputs — and decides, for every
//! weight, which point of which grid it becomes. It never knows how codes are stored: any method works with any format.
//!
//! A new method is one new file and two lines here (`cargo lab new quant/STEM` writes all three): `pub mod x;` and a
//! row in [`all`]. The contract tests below and every sweep loop over [`all`].
//!
//! | contract | meaning |
//! |---|---|
//! | same shape, same format | what goes in as `[N, K]` in a format comes out as that |
//! | deterministic | twice the same input gives twice the same bytes |
//! | representable stays | a matrix the format can represent exactly is reproduced exactly, where [`Format::is_projection`] and [`Method::is_projection`] |
//! | never worse than nothing | the squared error (of outputs, for methods that know the inputs) is at most that of writing zeros (or then of rounding to nearest), where scales are not below f16's range |
//! | no silent fallback | the result says that this very method made it |
//!
//! Methods that need to know a layer's inputs get those of a made-up layer. A pair of method and format that is not defined says why
//! ([`undefined`] is the table).

use std::fmt;

use super::calibration::Inputs;
use super::{Format, Matrix, Quantized};
use crate::{Error, Result};

pub mod autoround;
pub mod clip;
pub mod gptaq;
pub mod gptq;
pub mod had;
pub mod hqq;
pub mod imatrix;
pub mod ldlq;
pub mod mr_gptq;
pub mod omniquant;
pub mod rtn;
pub mod spqr;
pub mod squeezellm;
// cargo lab new: method modules end here

pub use autoround::AutoRound;
pub use clip::Clip;
pub use gptaq::Gptaq;
pub use gptq::Gptq;
pub use had::Had;
pub use hqq::Hqq;
pub use imatrix::Imatrix;
pub use ldlq::Ldlq;
pub use mr_gptq::MrGptq;
pub use omniquant::OmniQuant;
pub use rtn::Rtn;
pub use spqr::Spqr;
pub use squeezellm::SqueezeLlm;

/// A way to choose codes.
pub trait Method: fmt::Debug + Send + Sync {
    /// Unique name with all parameters that are not the default, as papers write it in tables: `rtn`, `gptq-act-order`.
    fn name(&self) -> String;

    /// Whether it must know the layer's inputs.
    fn needs_inputs(&self) -> bool {
        false
    }

    /// Whether it needs to know how far the layer's inputs have drifted from those of the original network
    /// ([`Inputs::drift`]); without, it is another method under its name.
    fn needs_drift(&self) -> bool {
        false
    }

    /// Whether what a format represents exactly stays as it is. No for methods that choose in other coordinates.
    fn is_projection(&self) -> bool {
        true
    }

    /// Refuses formats for which the method is not defined.
    ///
    /// # Errors
    /// [`Error::Argument`] that says why.
    fn check(&self, _format: &dyn Format) -> Result<()> {
        Ok(())
    }

    /// Quantizes `weights` `[N, K]` into `format`, with what calibration knows of the layer's inputs.
    ///
    /// # Errors
    /// [`Error::Argument`] if the format cannot store the weights' range or shape, if the pair is not defined
    /// ([`check`](Self::check)) or inputs are needed and there are none; [`Error::Shape`] if they are not K wide;
    /// [`Error::Interrupted`] if the user pressed stop.
    fn choose(
        &self,
        weights: &Matrix,
        format: &dyn Format,
        inputs: Option<&Inputs>,
    ) -> Result<Quantized>;

    /// [`choose`](Self::choose) by the weights alone.
    ///
    /// # Errors
    /// As [`choose`](Self::choose).
    fn quantize(&self, weights: &Matrix, format: &dyn Format) -> Result<Quantized> {
        self.choose(weights, format, None)
    }

    /// The method of this family that has the name `name`, if there is one: what a recipe's text stands for. By default, this
    /// member itself.
    fn named(&self, name: &str) -> Option<Box<dyn Method>> {
        let _ = name;
        None
    }
}

/// The inputs of a method that needs them.
pub(super) fn known<'a>(
    method: &dyn Method,
    weights: &Matrix,
    inputs: Option<&'a Inputs>,
) -> Result<&'a Inputs> {
    let what = format!("inputs for {}", method.name());
    let inputs = inputs.ok_or_else(|| Error::argument(what, "a calibration", "none"))?;
    inputs.check_fits(weights)?;
    Ok(inputs)
}

/// Refuses what the method inside another refuses, in the name of both.
pub(super) fn inside(outer: &dyn Method, inner: &dyn Method, format: &dyn Format) -> Result<()> {
    inner.check(format).map_err(|error| {
        let what = format!("{} with {}", outer.name(), format.name());
        Error::argument(what, format!("a pair for {}", inner.name()), error)
    })
}

/// The method of this name: a member of a family, or one with other parameters (`gptq-act-order-damp0.1`).
///
/// # Errors
/// [`Error::Argument`] with all names if there is none.
pub fn named(name: &str) -> Result<Box<dyn Method>> {
    let members = || all().into_iter().flat_map(|family| (family.members)());
    if let Some(member) = members().find(|member| member.name() == name) {
        return Ok(member);
    }
    members()
        .find_map(|member| member.named(name))
        .ok_or_else(|| {
            let names: Vec<String> = members().map(|member| member.name()).collect();
            Error::argument("method", names.join(", "), name)
        })
}

/// Pairs of a method and a format that are not defined, each with the reason: one row a pair of [`all`] and
/// [`format::all`](super::format::all).
pub fn undefined() -> Vec<(String, String, String)> {
    let mut rows = Vec::new();
    for method in all().iter().flat_map(|family| (family.members)()) {
        for format in super::format::all()
            .iter()
            .flat_map(|family| (family.members)())
        {
            if let Err(error) = method.check(format.as_ref()) {
                rows.push((method.name(), format.name(), error.to_string()));
            }
        }
    }
    rows
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
            name: "autoround",
            members: autoround::members,
        },
        Family {
            name: "clip",
            members: clip::members,
        },
        Family {
            name: "gptaq",
            members: gptaq::members,
        },
        Family {
            name: "gptq",
            members: gptq::members,
        },
        Family {
            name: "had",
            members: had::members,
        },
        Family {
            name: "hqq",
            members: hqq::members,
        },
        Family {
            name: "imatrix",
            members: imatrix::members,
        },
        Family {
            name: "ldlq",
            members: ldlq::members,
        },
        Family {
            name: "mr_gptq",
            members: mr_gptq::members,
        },
        Family {
            name: "omniquant",
            members: omniquant::members,
        },
        Family {
            name: "rtn",
            members: rtn::members,
        },
        Family {
            name: "spqr",
            members: spqr::members,
        },
        Family {
            name: "squeezellm",
            members: squeezellm::members,
        },
        // cargo lab new: method rows end here
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{error, format, samples};

    fn each(mut check: impl FnMut(&dyn Method, &dyn Format, &str, &Matrix, &Inputs)) {
        for method in all().iter().flat_map(|family| (family.members)()) {
            for format in format::all().iter().flat_map(|family| (family.members)()) {
                if method.check(format.as_ref()).is_err() {
                    continue;
                }
                for (sample, weights) in samples::all() {
                    if format.check(weights.rows(), weights.cols()).is_err() {
                        continue;
                    }
                    // Weights near the end of f16's range, which feedback may carry beyond it: then that is said.
                    let is_huge = weights.data().iter().any(|w| w.abs() > 1e4);
                    let inputs = samples::inputs(weights.cols());
                    if is_huge
                        && let Err(error) = method.choose(&weights, format.as_ref(), Some(&inputs))
                    {
                        assert!(error.to_string().contains(&format.name()), "{error}");
                        assert!(method.needs_inputs(), "{error}");
                        continue;
                    }
                    check(method.as_ref(), format.as_ref(), sample, &weights, &inputs);
                }
            }
        }
    }

    #[test]
    fn shape_and_format_are_kept_and_the_result_is_deterministic_and_signed() {
        each(|method, format, sample, weights, inputs| {
            let quantized = method.choose(weights, format, Some(inputs)).unwrap();
            let what = format!("{} {} on {sample}", method.name(), format.name());
            assert_eq!(quantized.format().name(), format.name(), "{what}");
            assert_eq!(quantized.applied().method, method.name(), "{what}");
            let decoded = quantized.decode().unwrap();
            let shape = |m: &Matrix| (m.rows(), m.cols());
            assert_eq!(shape(&decoded), shape(weights), "{what}");
            let again = method.choose(weights, format, Some(inputs)).unwrap();
            assert_eq!(again.codes(), quantized.codes(), "{what}");
            assert_eq!(again.grids(), quantized.grids(), "{what}");
        });
    }

    #[test]
    fn what_a_format_represents_exactly_is_reproduced_exactly() {
        each(|method, format, sample, weights, inputs| {
            if !format.is_projection() || !method.is_projection() {
                return;
            }
            // Rounding to nearest is then a projection (a format contract): its result is representable.
            let representable = Rtn.quantize(weights, format).unwrap().decode().unwrap();
            let once = method.choose(&representable, format, Some(inputs)).unwrap();
            let what = format!("{} {} on {sample}", method.name(), format.name());
            assert_eq!(once.decode().unwrap(), representable, "{what}");
        });
    }

    #[test]
    fn nothing_is_worse_than_zeros() {
        each(|method, format, sample, weights, inputs| {
            let quantized = method.choose(weights, format, Some(inputs)).unwrap();
            let decoded = quantized.decode().unwrap();
            let zeros = vec![0.0; weights.data().len()];
            // Encoders that search for scales do not know that these lie below f16's normal range.
            let greatest = weights.data().iter().fold(0f32, |max, w| max.max(w.abs()));
            // And those who look at inputs do not know that a step may be no more than zero there.
            let is_blind = !format.is_projection() || method.needs_inputs();
            if is_blind && greatest < half::f16::MIN_POSITIVE.to_f32() {
                return;
            }
            let what = format!("{} {} on {sample}", method.name(), format.name());
            if method.needs_inputs() {
                // In other coordinates and all of a row at once, there is nothing that looks at inputs.
                if format.vector() == usize::MAX && !method.is_projection() {
                    return;
                }
                let lost = |it: &Matrix| inputs.output_error(weights, it).unwrap();
                let error = lost(&decoded);
                // In two bits, rounding to nearest itself may be worse than zeros, and what begins there.
                let is_fine = error <= 1.0 + 1e-6 || greatest < 1e-30 || {
                    let plain = Rtn.quantize(weights, format).unwrap();
                    error <= lost(&plain.decode().unwrap()) * (1.0 + 1e-5)
                };
                assert!(is_fine, "{what}: {error} of the output");
                return;
            }
            let nothing = error::mse(weights.data(), &zeros).unwrap();
            let error = error::mse(weights.data(), decoded.data()).unwrap();
            assert!(error <= nothing, "{what}: {error} > {nothing}");
        });
    }

    #[test]
    fn ranges_no_format_can_store_are_errors_that_name_the_format() {
        let weights = Matrix::new(1, 2, vec![f32::MAX, f32::MIN]).unwrap();
        let format = format::IntAffine::new(8, format::Granularity::Tensor).unwrap();
        for method in all().iter().flat_map(|family| (family.members)()) {
            let inputs = samples::inputs(2);
            let error = method.choose(&weights, &format, Some(&inputs)).unwrap_err();
            assert!(error.to_string().contains(&format.name()), "{error}");
        }
    }

    #[test]
    fn inputs_that_are_needed_and_missing_or_of_another_width_are_errors() {
        let weights = Matrix::new(1, 256, vec![0.5; 256]).unwrap();
        let formats: Vec<_> = format::all().iter().flat_map(|it| (it.members)()).collect();
        for method in all().iter().flat_map(|family| (family.members)()) {
            if !method.needs_inputs() {
                continue;
            }
            let format = formats.iter().find(|it| method.check(it.as_ref()).is_ok());
            let format = format.expect("a format for every method");
            let error = method.quantize(&weights, format.as_ref()).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains(&method.name()) && error.contains("calibration"),
                "{error}"
            );
            let other = samples::inputs(5);
            let error = method
                .choose(&weights, format.as_ref(), Some(&other))
                .unwrap_err();
            assert!(error.to_string().contains("[1, 256]"), "{error}");
        }
    }

    #[test]
    fn names_are_unique_and_found_again() {
        let mut names = Vec::new();
        for method in all().iter().flat_map(|family| (family.members)()) {
            assert_eq!(named(&method.name()).unwrap().name(), method.name());
            names.push(method.name());
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        let error = named("nonsense").unwrap_err().to_string();
        assert!(
            error.contains("rtn") && error.contains("nonsense"),
            "{error}"
        );
    }

    #[test]
    fn every_undefined_pair_says_who_and_why() {
        for (method, format, reason) in undefined() {
            assert!(
                reason.contains(&method) && reason.contains(&format),
                "{reason}"
            );
        }
    }
}
