//! What was really done to a matrix: a method writes it into its result, so that a report shows what was applied beside what was asked for.

use std::fmt;

/// How much was added to the diagonal of a Hessian, in units of its mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Damping {
    /// What was asked for.
    pub asked: f64,
    /// What it took.
    pub used: f64,
    /// Factorizations tried, the last one successful.
    pub tries: u32,
}

impl fmt::Display for Damping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tries {
            0 | 1 => write!(f, "{}", self.used),
            tries => write!(f, "{} (asked {}, {tries} tries)", self.used, self.asked),
        }
    }
}

/// What a method did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Applied {
    /// Its name with all parameters, by its own word: a method that hands over to another has the other's name here.
    pub method: String,
    /// Of the Hessian, where one was factored.
    pub damping: Option<Damping>,
    /// Input channels that calibration never saw active; their weights were rounded without regard to others.
    pub dead_inputs: usize,
    /// Weights, as they were when they were rounded, that lay beyond the points of their block; [`None`] where the format cannot tell.
    pub clipped: Option<usize>,
}

impl Applied {
    /// By a method of that name; nothing else is known.
    pub fn by(method: impl Into<String>) -> Applied {
        Applied {
            method: method.into(),
            ..Applied::default()
        }
    }
}
