//! How codes are chosen.
//!
//! A method sees a weight matrix and a [`Format`] — and, if it likes, what is known of the layer's inputs — and decides, for every
//! weight, which point of which grid it becomes. It never knows how codes are stored: any method works with any format.
//!
//! A new method is one new file and two lines here (`cargo lab new quant/STEM` writes all three): `pub mod x;` and a
//! row in [`all`]. The contract tests (`quant/contract/method.rs`) and every sweep loop over [`all`].
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

    /// Whether codes and grids say all there is; no for what stores more beside them, which files and kernels have no place for.
    fn is_plain(&self) -> bool {
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

/// Refuses formats that round several weights at once.
pub(super) fn one_by_one(method: &dyn Method, format: &dyn Format) -> Result<()> {
    match format.vector() {
        1 => Ok(()),
        vector => {
            let what = format!("{} with {}", method.name(), format.name());
            let expected = "a format that rounds weights one by one, as the method decides for each on its own";
            let got = match vector {
                usize::MAX => "one that rounds a block at once".to_owned(),
                vector => format!("one that rounds {vector} at once"),
            };
            Err(Error::argument(what, expected, got))
        }
    }
}

/// The parameter in `name`, which is `family` alone for the `usual` one, or `family`, `before` and the parameter: `ldlq-damp0.1`.
pub(super) fn parameter<T: std::str::FromStr>(
    name: &str,
    (family, before): (&str, &str),
    usual: T,
) -> Option<T> {
    match name.strip_prefix(family)? {
        "" => Some(usual),
        rest => rest.strip_prefix(before)?.parse().ok(),
    }
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
