//! What is done to a model, as a line of text.
//!
//! ```text
//! recipe      = { step "," } method ":" format [ "@" activations ] { "," exception } [ "," correction ]
//! step        = transform | "sequential" | "true-sequential" | "packed"
//! transform   = rotate | rotate-offline | smooth-a0.5 | permute | awq | …        transform::all() by name; in this order
//! activations = a8-token | a8-tensor-p99.9 | …                                  see Activations
//! exception   = place "=" [ method ":" ] format                                 ffn_down=int8-g64, blk.0=rtn:nf4-g64
//! correction  = lorc-r16 | eora-r16                                             see Correction
//!
//! rtn:nf4-g64     rotate,smooth-a0.5,awq,gptq:int4-g64     rtn:int8-channel@a8-token     rotate,gptq:int4-g64,eora-r16
//! ```

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::activations::Activations;
use super::low_rank::{Correction, Weighing};
use crate::quant::format::{self, AnyFormat};
use crate::quant::method::{self, Method};
use crate::quant::transform::{self, Transform};
use crate::{Error, Result};

/// Of which network the inputs are that a method sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sequence {
    /// Of the original one: statistics are collected once and kept. Twice as fast and more.
    #[default]
    Once,
    /// Of the one whose earlier layers are quantized already, as GPTQ's authors do by default.
    Layers,
    /// Of the one whose earlier matrices are quantized already, within the layer too ("true-sequential").
    Matrices,
}

/// Words for what stands in front of the method, besides transforms.
const STEPS: [&str; 3] = ["sequential", "true-sequential", "packed"];

/// A method and a format: what is asked for of a matrix.
#[derive(Debug, Clone)]
pub struct Scheme {
    /// How codes are chosen.
    pub method: Arc<dyn Method>,
    /// How they are stored.
    pub format: AnyFormat,
}

impl Scheme {
    /// Refuses a pair that is not defined.
    ///
    /// # Errors
    /// [`Error::Argument`] with the reason.
    pub fn new(method: Arc<dyn Method>, format: AnyFormat) -> Result<Scheme> {
        method.check(format.as_ref())?;
        Ok(Scheme { method, format })
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.method.name(), self.format.name())
    }
}

impl FromStr for Scheme {
    type Err = Error;

    fn from_str(text: &str) -> Result<Scheme> {
        let (method, format) = text.split_once(':').ok_or_else(|| {
            Error::argument(
                "scheme",
                "a method with its format: gptq:int4-g64",
                format!("{text:?}"),
            )
        })?;
        let method = method::named(method.trim())?;
        Scheme::new(Arc::from(method), format::named(format.trim())?)
    }
}

/// How a model is quantized. Its [`Display`](fmt::Display) has every parameter that is not the default: two recipes with the same text do
/// the same.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// What is done to the network first, in this order.
    pub transforms: Vec<Arc<dyn Transform>>,
    /// How codes are chosen.
    pub method: Arc<dyn Method>,
    /// How they are stored.
    pub format: AnyFormat,
    /// Which network the method's inputs come from.
    pub sequence: Sequence,
    /// Whether layers run on their codes, where a kernel does that (with inputs rounded to 8 bits, if nothing else is asked for); else
    /// their values run in f32.
    pub is_packed: bool,
    /// How inputs of layers are rounded when the model runs.
    pub activations: Option<Activations>,
    /// Matrices that get something else: a matrix (`blk.0.ffn_up`), a layer (`blk.0`) or a part of all layers (`ffn_up`), the first that fits
    /// in this order.
    pub exceptions: Vec<(String, Scheme)>,
    /// What is added to make up for a part of the error.
    pub correction: Option<Correction>,
}

impl Recipe {
    /// Every layer by `method` into `format`, with statistics of the original network, run in f32.
    pub fn new(method: impl Method + 'static, format: AnyFormat) -> Recipe {
        Recipe::of(Scheme {
            method: Arc::new(method),
            format,
        })
    }

    /// The same of a scheme.
    pub fn of(scheme: Scheme) -> Recipe {
        Recipe {
            transforms: Vec::new(),
            method: scheme.method,
            format: scheme.format,
            sequence: Sequence::Once,
            is_packed: false,
            activations: None,
            exceptions: Vec::new(),
            correction: None,
        }
    }

    /// The same after one more transform.
    pub fn after(mut self, transform: impl Transform + 'static) -> Recipe {
        self.transforms.push(Arc::new(transform));
        self
    }

    /// The same with statistics of another network.
    pub fn with_sequence(mut self, sequence: Sequence) -> Recipe {
        self.sequence = sequence;
        self
    }

    /// The same with inputs rounded.
    pub fn with_activations(mut self, activations: Activations) -> Recipe {
        self.activations = Some(activations);
        self
    }

    /// The same with a correction.
    pub fn with_correction(mut self, correction: Correction) -> Recipe {
        self.correction = Some(correction);
        self
    }

    /// The same but for `place`: a matrix, a layer, or a part of all layers.
    pub fn except(mut self, place: impl Into<String>, scheme: Scheme) -> Recipe {
        self.exceptions.push((place.into(), scheme));
        self
    }

    /// The same, run on codes where a kernel does that.
    pub fn packed(mut self) -> Recipe {
        self.is_packed = true;
        self
    }

    /// Method and format, the scheme that is asked for where no exception is: `gptq:int4-symmetric-g64`.
    pub fn scheme(&self) -> String {
        format!("{}:{}", self.method.name(), self.format.name())
    }

    /// What is asked for of the matrix `blk.0.ffn_up.weight`.
    pub fn scheme_of(&self, name: &str) -> Scheme {
        let found = [Kind::Matrix, Kind::Layer, Kind::Part]
            .into_iter()
            .find_map(|kind| {
                let of = |(place, _): &&(String, Scheme)| kind.fits(place, name);
                self.exceptions.iter().find(of)
            });
        match found {
            Some((_, scheme)) => scheme.clone(),
            None => Scheme {
                method: Arc::clone(&self.method),
                format: self.format.clone(),
            },
        }
    }

    /// All schemes that are asked for somewhere.
    pub fn schemes(&self) -> impl Iterator<Item = Scheme> {
        let own = Scheme {
            method: Arc::clone(&self.method),
            format: self.format.clone(),
        };
        let others = self.exceptions.iter().map(|(_, scheme)| scheme.clone());
        std::iter::once(own).chain(others)
    }

    /// The place of an exception that fits none of these matrices.
    pub(super) fn unused_exception(&self, names: &[String]) -> Option<&str> {
        let fits = |place: &str| {
            let kinds = [Kind::Matrix, Kind::Layer, Kind::Part];
            names
                .iter()
                .any(|name| kinds.iter().any(|kind| kind.fits(place, name)))
        };
        let places = self.exceptions.iter().map(|(place, _)| place.as_str());
        places.into_iter().find(|place| !fits(place))
    }

    /// Whether anything in it looks at inputs of layers.
    pub fn needs_calibration(&self) -> bool {
        self.sequence != Sequence::Once
            || self.transforms.iter().any(|it| it.needs_statistics())
            || self.schemes().any(|it| it.method.needs_inputs())
            || self.activations.is_some_and(|it| it.is_static())
            || (self.correction).is_some_and(|it| it.weighing == Weighing::Inputs)
    }
}

/// What the place of an exception names.
#[derive(Clone, Copy)]
enum Kind {
    Matrix,
    Layer,
    Part,
}

impl Kind {
    fn fits(self, place: &str, name: &str) -> bool {
        let stem = name.strip_suffix(".weight").unwrap_or(name);
        let Some((layer, part)) = stem.rsplit_once('.') else {
            return false;
        };
        match self {
            Kind::Matrix => place == stem,
            Kind::Layer => place == layer,
            Kind::Part => place == part,
        }
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for transform in &self.transforms {
            write!(f, "{},", transform.name())?;
        }
        match self.sequence {
            Sequence::Once => {}
            Sequence::Layers => f.write_str("sequential,")?,
            Sequence::Matrices => f.write_str("true-sequential,")?,
        }
        if self.is_packed {
            f.write_str("packed,")?;
        }
        f.write_str(&self.scheme())?;
        if let Some(activations) = &self.activations {
            write!(f, "@{activations}")?;
        }
        for (place, scheme) in &self.exceptions {
            write!(f, ",{place}={scheme}")?;
        }
        match &self.correction {
            Some(correction) => write!(f, ",{correction}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Recipe {
    type Err = Error;

    fn from_str(text: &str) -> Result<Recipe> {
        let wrong = |got: &str| {
            let expected = "steps and a method with its format: rotate,sequential,gptq:int4-g64";
            Error::argument(format!("recipe {text:?}"), expected, got)
        };
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let is_main = |part: &&str| part.contains(':') && !part.contains('=');
        let Some(at) = parts.iter().position(is_main) else {
            let last = parts.last().copied().unwrap_or_default();
            return Err(wrong(&format!("{last:?} at its end")));
        };
        let (scheme, activations) = match parts[at].split_once('@') {
            Some((scheme, activations)) => (scheme, Some(activations.trim().parse()?)),
            None => (parts[at], None),
        };
        let mut recipe = Recipe::of(scheme.parse()?);
        recipe.activations = activations;
        for (index, step) in parts[..at].iter().enumerate() {
            if STEPS.contains(step) && parts[..index].contains(step) {
                return Err(wrong(&format!("{step:?} twice")));
            }
            match *step {
                "packed" => recipe.is_packed = true,
                "sequential" | "true-sequential" if recipe.sequence != Sequence::Once => {
                    return Err(wrong("two sequences"));
                }
                "sequential" => recipe.sequence = Sequence::Layers,
                "true-sequential" => recipe.sequence = Sequence::Matrices,
                step => {
                    let transform = transform::named(step, recipe.format.as_ref());
                    let transform = transform.map_err(|error| unknown(step, error))?;
                    recipe.transforms.push(Arc::from(transform));
                }
            }
        }
        for part in &parts[at + 1..] {
            if recipe.correction.is_some() {
                return Err(wrong(&format!("{part:?} after the correction")));
            }
            match part.split_once('=') {
                Some((place, scheme)) => {
                    let scheme = match scheme.contains(':') {
                        true => scheme.parse()?,
                        false => {
                            Scheme::new(Arc::clone(&recipe.method), format::named(scheme.trim())?)?
                        }
                    };
                    let place = place.trim().trim_end_matches(".weight").to_owned();
                    if recipe.exceptions.iter().any(|(it, _)| *it == place) {
                        return Err(wrong(&format!("two exceptions for {place:?}")));
                    }
                    recipe.exceptions.push((place, scheme));
                }
                None if part.starts_with("lorc") || part.starts_with("eora") => {
                    recipe.correction = Some(part.parse()?);
                }
                None => return Err(wrong(&format!("{part:?} at its end"))),
            }
        }
        Ok(recipe)
    }
}

/// The error for a step that is neither a word nor a transform; one with a bad parameter keeps its own.
fn unknown(step: &str, error: Error) -> Error {
    match error {
        Error::Argument { name, expected, .. } if name == "transform" => {
            let expected = format!("one of {}, or a transform: {expected}", STEPS.join(", "));
            Error::argument("step of a recipe", expected, step)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_and_written() -> Result<()> {
        for (text, full) in [
            ("gptq:int4-g64", "gptq:int4-symmetric-g64"),
            (" rtn : nf4-g64 ", "rtn:nf4-g64"),
            (
                "sequential, gptq-act-order:int3-affine-channel",
                "sequential,gptq-act-order:int3-affine-channel",
            ),
            (
                "packed,true-sequential,gptq-damp0.1:int8-g32",
                "true-sequential,packed,gptq-damp0.1:int8-symmetric-g32",
            ),
            (
                "packed, rotate,smooth-a0.5,awq,gptq:int4-g64,eora-r16",
                "rotate-seed0,smooth-a0.5,awq-for-int4-symmetric-g64,packed,gptq:int4-symmetric-g64,eora-r16",
            ),
            (
                "rtn:int8-channel@a8-token",
                "rtn:int8-symmetric-channel@a8-token",
            ),
            (
                "smooth,smooth-a0.9,rtn:int8-channel@a6-tensor-p99.9, lorc-r4",
                "smooth-a0.5,smooth-a0.9,rtn:int8-symmetric-channel@a6-tensor-p99.9,lorc-r4",
            ),
            (
                "gptq:int4-g64@a8-outliers6,ffn_down=int8-g64,blk.0=rtn:nf4-g64,lorc-r2",
                "gptq:int4-symmetric-g64@a8-outliers6,ffn_down=gptq:int8-symmetric-g64,blk.0=rtn:nf4-g64,lorc-r2",
            ),
        ] {
            let recipe: Recipe = text.parse()?;
            assert_eq!(recipe.to_string(), full);
            assert_eq!(full.parse::<Recipe>()?.to_string(), full, "read back");
        }
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("", "at its end"),
            ("gptq", "\"gptq\" at its end"),
            ("gptq:int4-g64,packed", "\"packed\" at its end"),
            ("gqtp:int4-g64", "method: expected"),
            ("gptq:int4-g0", "at least one weight"),
            ("gptq:int9-g64", "2 … 8"),
            ("rotat,gptq:int4-g64", "one of sequential"),
            ("rotat,gptq:int4-g64", "permute"),
            ("smooth-a7,gptq:int4-g64", "alpha"),
            ("packed,packed,rtn:int4-g64", "twice"),
            ("sequential,true-sequential,rtn:int4-g64", "two sequences"),
            ("gptq:e8p-channel", "one by one"),
            ("rtn:int8-channel@", "a8-token"),
            ("rtn:int8-channel@a9-token", "2 … 8"),
            ("rtn:int8-channel@a1-token", "2 … 8"),
            ("rtn:int8-channel@a8-g20", "multiple of 32"),
            ("rtn:int8-channel@a8-tensor-p20", "50 … 100"),
            ("rtn:int8-channel@a8-outliers-1", "positive"),
            ("rtn:int8-channel@a8-outliersNaN", "positive"),
            ("rtn:int4-g64,lorc-r0", "any rank from 1"),
            ("rtn:int4-g64,lorc-r2,eora-r2", "after the correction"),
            (
                "rtn:int4-g64,ffn_up=int4-g64,ffn_up=nf4-g64",
                "two exceptions",
            ),
            ("rtn:int4-g64,ffn_up=nothing", "format"),
            ("rtn:int4-g64,ffn_up=gptq:e8p-channel", "one by one"),
            ("rtn:int4-g64,rtn:int4-g64", "at its end"),
        ] {
            let error = text.parse::<Recipe>().unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_narrowest_exception_counts() -> Result<()> {
        let text = "rtn:int4-g64,ffn_up=int5-g64,blk.1=int6-g64,blk.1.ffn_up=int8-g64,blk.11.attn_q.weight=nf4-g64";
        let recipe: Recipe = text.parse()?;
        for (name, format) in [
            ("blk.0.attn_q", "int4-symmetric-g64"),
            ("blk.0.ffn_up", "int5-symmetric-g64"),
            ("blk.1.attn_q", "int6-symmetric-g64"),
            ("blk.1.ffn_up", "int8-symmetric-g64"),
            ("blk.11.ffn_up", "int5-symmetric-g64"),
            ("blk.11.attn_q", "nf4-g64"),
        ] {
            let scheme = recipe.scheme_of(&format!("{name}.weight"));
            assert_eq!(scheme.format.name(), format, "{name}");
        }
        Ok(())
    }
}
