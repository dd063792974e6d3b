//! A recipe from its text, and back.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{Recipe, Scheme, Sequence};
use crate::quant::{format, transform};
use crate::{Error, Result};

/// Words for what stands in front of the method, besides transforms.
const STEPS: [&str; 3] = ["sequential", "true-sequential", "packed"];

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
