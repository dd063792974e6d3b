//! What is done to a model, as a line of text.
//!
//! ```text
//! recipe  = { step "," } method ":" format          rtn:nf4-g64     gptq:int4-g64     sequential,gptq-act-order:int3-g64
//! step    = "sequential" | "true-sequential" | "packed"
//! ```

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::quant::format::{self, AnyFormat};
use crate::quant::method::{self, Method};
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

/// Words for what stands in front of the method.
const STEPS: [&str; 3] = ["sequential", "true-sequential", "packed"];

/// How a model is quantized. Its [`Display`](fmt::Display) has every parameter that is not the default: two recipes with the same text do
/// the same.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// How codes are chosen.
    pub method: Arc<dyn Method>,
    /// How they are stored.
    pub format: AnyFormat,
    /// Which network the method's inputs come from.
    pub sequence: Sequence,
    /// Whether layers run on their codes, with inputs rounded to 8 bits, where a kernel does that; else their values run in f32.
    pub is_packed: bool,
}

impl Recipe {
    /// Every layer by `method` into `format`, with statistics of the original network, run in f32.
    pub fn new(method: impl Method + 'static, format: AnyFormat) -> Recipe {
        Recipe {
            method: Arc::new(method),
            format,
            sequence: Sequence::Once,
            is_packed: false,
        }
    }

    /// The same with statistics of another network.
    pub fn with_sequence(mut self, sequence: Sequence) -> Recipe {
        self.sequence = sequence;
        self
    }

    /// The same, run on codes where a kernel does that.
    pub fn packed(mut self) -> Recipe {
        self.is_packed = true;
        self
    }

    /// Method and format, the scheme that is asked for in every layer: `gptq:int4-symmetric-g64`.
    pub fn scheme(&self) -> String {
        format!("{}:{}", self.method.name(), self.format.name())
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sequence {
            Sequence::Once => {}
            Sequence::Layers => f.write_str("sequential,")?,
            Sequence::Matrices => f.write_str("true-sequential,")?,
        }
        if self.is_packed {
            f.write_str("packed,")?;
        }
        f.write_str(&self.scheme())
    }
}

impl FromStr for Recipe {
    type Err = Error;

    fn from_str(text: &str) -> Result<Recipe> {
        let wrong = |got: &str| {
            let expected = "steps and a method with its format: sequential,gptq:int4-g64";
            Error::argument(format!("recipe {text:?}"), expected, got)
        };
        let mut steps: Vec<&str> = text.split(',').map(str::trim).collect();
        let last = steps.pop().unwrap_or_default();
        let (method, format) = last
            .split_once(':')
            .ok_or_else(|| wrong(&format!("{last:?} at its end")))?;
        let (method, format) = (method::named(method.trim())?, format::named(format.trim())?);
        method.check(format.as_ref())?;
        let mut recipe = Recipe {
            method: Arc::from(method),
            format,
            sequence: Sequence::Once,
            is_packed: false,
        };
        for (index, step) in steps.iter().enumerate() {
            if steps[..index].contains(step) {
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
                    let expected = format!("one of {}", STEPS.join(", "));
                    return Err(Error::argument("step of a recipe", expected, step));
                }
            }
        }
        Ok(recipe)
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
            ("packed,packed,rtn:int4-g64", "twice"),
            ("sequential,true-sequential,rtn:int4-g64", "two sequences"),
            ("gptq:e8p-channel", "one by one"),
        ] {
            let error = text.parse::<Recipe>().unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }
}
