//! The noise floor: the baseline against itself, computed in another legitimate way.
//!
//! A [`Divergence`](super::Divergence) below it says nothing about a model; [`Comparison::of_divergences`](super::Comparison)
//! with the floor's tells whether one is above.

use std::fmt;
use std::str::FromStr;

use crate::kernels::Isa;
use crate::model::{Engine, Model, WeightType};
use crate::{Error, Result};

/// Another legitimate way to compute a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Floor {
    /// Other instructions: the same weights and precision, sums in another order. The least that can differ.
    Arithmetic,
    /// Weights, inputs of products, keys and values rounded to bf16: the precision in which such models are published and mostly
    /// run. What "full precision" leaves open.
    Bf16,
}

impl Floor {
    /// Both.
    pub const ALL: [Floor; 2] = [Floor::Arithmetic, Floor::Bf16];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Floor::Arithmetic => "arithmetic",
            Floor::Bf16 => "bf16",
        }
    }

    /// `baseline`, loaded under the name or path `name`, computed this way.
    ///
    /// # Errors
    /// Those of [`Model::load_as`].
    pub fn of(self, name: &str, baseline: &Model) -> Result<Model> {
        let engine = baseline.network().engine.clone();
        match self {
            Floor::Arithmetic => {
                let others = Isa::here().into_iter().filter(|&isa| isa != engine.isa);
                let isa = others.max().unwrap_or(Isa::Reference);
                Ok(baseline.with_engine(Engine { isa, ..engine }))
            }
            Floor::Bf16 => Ok(Model::load_as(name, WeightType::Bf16)?.with_engine(engine)),
        }
    }
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Floor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Floor> {
        let found = Floor::ALL.into_iter().find(|it| it.name() == text);
        found.ok_or_else(|| Error::argument("floor", "arithmetic or bf16", text))
    }
}
