//! How weights are kept: the names that a user gives, and the layer that each makes.

use std::fmt;
use std::sync::Arc;

use rayon::prelude::*;

use super::linear::{Dense, Integer, Linear};
use crate::kernels::dense::Element;
use crate::{Error, Result};

/// How the weights of a model are kept in memory when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightType {
    /// f32: exactly what the file says. The default.
    #[default]
    F32,
    /// bf16, products of bf16 inputs summed in f32; keys and values in bf16 too.
    Bf16,
    /// 8-bit symmetric integers in groups of 32, rounded to nearest; inputs in 8 bits too, keys and values in bf16.
    Int8,
    /// 4-bit symmetric integers in groups of 32, rounded to nearest; inputs in 8 bits, keys and values in bf16.
    Int4,
    /// The codes of the file, where they are codes with one scale for 32 (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0), inputs in 8 bits;
    /// bf16 as bf16; the rest as f32.
    Native,
}

impl WeightType {
    /// All of them.
    pub const ALL: [WeightType; 5] = [
        WeightType::F32,
        WeightType::Bf16,
        WeightType::Int8,
        WeightType::Int4,
        WeightType::Native,
    ];

    /// How keys and values are kept unless told otherwise: bf16 where inputs of all products are rounded to bf16 or 8 bits, so that those of
    /// attention are in bf16, too; f32 where nothing, or only what the file says, is rounded.
    pub fn keys_and_values(self) -> Element {
        match self {
            WeightType::Bf16 | WeightType::Int8 | WeightType::Int4 => Element::Bf16,
            WeightType::F32 | WeightType::Native => Element::F32,
        }
    }

    /// Weights, and inputs, that share a scale, where they are codes.
    pub fn group(self) -> Option<usize> {
        match self {
            WeightType::Int8 | WeightType::Int4 => Some(32),
            WeightType::F32 | WeightType::Bf16 | WeightType::Native => None,
        }
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            WeightType::F32 => "f32",
            WeightType::Bf16 => "bf16",
            WeightType::Int8 => "int8",
            WeightType::Int4 => "int4",
            WeightType::Native => "native",
        }
    }

    /// A layer of values (N, K); `Native` keeps f32.
    ///
    /// # Errors
    /// [`Error::Format`] if a value is not finite; [`Error::Argument`] if they cannot be rounded.
    pub fn layer(self, name: &str, values: &[f32], columns: usize) -> Result<Arc<dyn Linear>> {
        if let Some(at) = values.par_iter().position_any(|it| !it.is_finite()) {
            return Err(Error::Format {
                file: name.to_owned(),
                expected: "finite weights".to_owned(),
                got: format!("{} at [{}, {}]", values[at], at / columns, at % columns),
            });
        }
        Ok(match self {
            WeightType::F32 | WeightType::Native => {
                Arc::new(Dense::new(Element::F32, values, columns))
            }
            WeightType::Bf16 => Arc::new(Dense::new(Element::Bf16, values, columns)),
            WeightType::Int8 | WeightType::Int4 => {
                let bits = if self == WeightType::Int8 { 8 } else { 4 };
                let group = self.group().unwrap_or(columns);
                Arc::new(Integer::round(values, columns, bits, group)?)
            }
        })
    }
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for WeightType {
    type Err = Error;

    fn from_str(text: &str) -> Result<WeightType> {
        let found = WeightType::ALL.into_iter().find(|it| it.name() == text);
        found.ok_or_else(|| Error::argument("weights", "f32, bf16, int8, int4 or native", text))
    }
}
