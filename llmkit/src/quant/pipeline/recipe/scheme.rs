//! What is asked for of a matrix, and which matrices a place names.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::quant::format::{self, AnyFormat};
use crate::quant::method::{self, Method};
use crate::{Error, Result};

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

/// What the place of an exception names.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Matrix,
    Layer,
    Part,
}

impl Kind {
    pub fn fits(self, place: &str, name: &str) -> bool {
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
