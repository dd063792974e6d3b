//! What is done to the network before anything is rounded: transforms, each checked, and statistics of what comes out.

use std::fmt;
use std::time::Instant;

use crate::kernels::dense::Element;
use crate::model::{Llama, Model, Piece};
use crate::quant::calibration::in_element;
use crate::quant::transform::{self, Transform};
use crate::quant::{Calibration, Samples, Statistics};
use crate::{Error, Result};

/// Tokens on which networks are compared.
const TOKENS: usize = 64;

/// A transform that was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// Its name, with all parameters.
    pub name: String,
    /// What it did, place by place.
    pub report: transform::Report,
    /// How far the logits moved; [`None`] for what is not meant to leave the function as it was.
    pub equivalence: Option<Equivalence>,
    /// Seconds it took, with the statistics that it needed.
    pub seconds: f64,
}

/// Logits before and after, in f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Equivalence {
    /// Root mean square of the difference over that of the logits.
    pub difference: f64,
    /// The most that rounding in f32 explains.
    pub bound: f64,
    /// On so many tokens.
    pub tokens: usize,
}

impl fmt::Display for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.report.left().count();
        let done = self.report.steps.len() - left;
        write!(
            f,
            "{}: {done} places changed, {left} left as they were",
            self.name
        )?;
        if let Some(it) = &self.equivalence {
            write!(
                f,
                "; logits moved by {:.1e} of their size on {} tokens (f32 explains {:.1e})",
                it.difference, it.tokens, it.bound
            )?;
        }
        write!(f, "; {:.1} s", self.seconds)
    }
}

/// Does one transform; `calibration` is of `model`, if anything is known of it.
pub(super) fn prepare(
    transform: &dyn Transform,
    model: &Model,
    calibration: Option<&Calibration>,
    start: Instant,
) -> Result<(Model, Prepared)> {
    let statistics = match (transform.needs_statistics(), calibration) {
        (true, Some(calibration)) => Statistics::from(calibration),
        _ => Statistics::default(),
    };
    let (network, report) = transform.run(model.network(), &statistics)?;
    let equivalence = match transform.is_exact() {
        true => {
            let tokens = tokens(model, calibration.map(Calibration::samples));
            let found = equivalence(model.network(), &network, &tokens)?;
            if found.difference.is_nan() || found.difference > found.bound {
                let name = format!("logits after {}", transform.name());
                let expected = format!(
                    "a difference of at most {:.1e}, as f32 explains",
                    found.bound
                );
                return Err(Error::argument(
                    name,
                    expected,
                    format!("{:.1e}", found.difference),
                ));
            }
            Some(found)
        }
        false => None,
    };
    let done = Prepared {
        name: transform.name(),
        report,
        equivalence,
        seconds: start.elapsed().as_secs_f64(),
    };
    Ok((model.with_network(network)?, done))
}

/// The beginning of a window of the calibration; without one, tokens from all over the vocabulary.
fn tokens(model: &Model, samples: Option<&Samples>) -> Vec<u32> {
    let most = TOKENS.min(model.config.context_tokens);
    match samples.and_then(|it| it.windows().last()) {
        Some(window) => window[..window.len().min(most)].to_vec(),
        None => {
            let vocabulary = model.config.vocabulary as u64;
            let at = |i: u64| (i * 7919 + 1) % vocabulary.max(1);
            (0..most as u64).map(|i| at(i) as u32).collect()
        }
    }
}

/// How far the logits of two networks are apart, both computed in f32.
///
/// Each of the 2·L products that a token passes rounds √K·2⁻²⁴ of its size, as sums of K terms do whose errors are independent; that is f32's
/// own error. By the contract of transforms the network after one has at most four times that, and the one before has it once.
pub(super) fn equivalence(before: &Llama, after: &Llama, tokens: &[u32]) -> Result<Equivalence> {
    let logits = |network: &Llama| -> Result<Vec<f32>> {
        let network = in_element(network, Element::F32, |_| true)?;
        let mut store = network.store();
        let mut pieces = [Piece {
            store: store.as_mut(),
            tokens,
        }];
        Ok(network.logits(&network.hidden(&mut pieces, None)?))
    };
    let config = before.config();
    let (before, after) = (logits(before)?, logits(after)?);
    let power: f64 = before.iter().map(|it| f64::from(*it).powi(2)).sum();
    let pairs = before.iter().zip(&after);
    let noise: f64 = pairs
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum();
    let terms = 2 * config.layers * config.width.max(config.ffn_width);
    Ok(Equivalence {
        difference: (noise / power).sqrt(),
        bound: 5.0 * (terms as f64).sqrt() * 2f64.powi(-24),
        tokens: tokens.len(),
    })
}
