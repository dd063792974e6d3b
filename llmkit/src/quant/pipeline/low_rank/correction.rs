//! What a recipe asks for: `lorc-r16`, `eora-r16`.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// What a correction makes least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weighing {
    /// The error of the weights: LoRC.
    Plain,
    /// The error of the outputs: EoRA.
    Inputs,
}

/// A correction of low rank, as a recipe asks for it: `lorc-r16`, `eora-r16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Correction {
    /// What is made least.
    pub weighing: Weighing,
    /// R; a matrix whose smaller side is less gets that.
    pub rank: usize,
}

impl fmt::Display for Correction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.weighing {
            Weighing::Plain => "lorc",
            Weighing::Inputs => "eora",
        };
        write!(f, "{name}-r{}", self.rank)
    }
}

impl FromStr for Correction {
    type Err = Error;

    fn from_str(text: &str) -> Result<Correction> {
        let expected = "lorc-r16 or eora-r16, of any rank from 1";
        let wrong = || Error::argument("correction", expected, text);
        let (name, rank) = text.split_once("-r").ok_or_else(wrong)?;
        let weighing = match name {
            "lorc" => Weighing::Plain,
            "eora" => Weighing::Inputs,
            _ => return Err(wrong()),
        };
        match rank.parse() {
            Ok(rank) if rank > 0 => Ok(Correction { weighing, rank }),
            _ => Err(wrong()),
        }
    }
}
