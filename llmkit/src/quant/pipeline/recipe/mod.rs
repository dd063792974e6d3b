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

mod scheme;
mod text;

use std::sync::Arc;

pub use scheme::Scheme;

use scheme::Kind;

use super::activations::Activations;
use super::low_rank::{Correction, Weighing};
use crate::quant::format::AnyFormat;
use crate::quant::method::Method;
use crate::quant::transform::Transform;

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

/// How a model is quantized. Its [`Display`](std::fmt::Display) has every parameter that is not the default: two recipes with the same text do
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

#[cfg(test)]
mod tests;
