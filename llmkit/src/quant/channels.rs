//! What is known of an activation channel by channel, and a hook that finds it out.
//!
//! ```no_run
//! use llmkit::model::Model;
//! use llmkit::quant::Collect;
//! let model = Model::load("smollm2-135m-instruct")?;
//! let mut collect = Collect::new(false);
//! for text in ["The capital of France is", "fn main() {"] {
//!     let tokens = model.encode(text)?;
//!     model.hidden_with(&tokens, model.network().store().as_mut(), &mut collect)?;
//! }
//! let statistics = collect.finish();
//! println!("{:?}", statistics.get("blk.0.attn_q.in")?.max_abs);
//! # Ok::<(), llmkit::Error>(())
//! ```

use std::collections::BTreeMap;

use crate::kernels::dense::{Element, Into, f32_words, multiply};
use crate::kernels::panel::Panels;
use crate::kernels::team::Team;
use crate::model::Hook;
use crate::quant::calibration::{Calibration, Inputs};
use crate::{Error, Result};

/// A thing that is known of each channel, or of pairs of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// max |x|.
    MaxAbs,
    /// Mean |x|.
    MeanAbs,
    /// Mean x².
    MeanSquare,
    /// Σ x·xᵀ.
    Gram,
}

/// Statistics of one activation (T, K) over all tokens that were seen; what is not known is empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Channels {
    /// T.
    pub tokens: usize,
    /// max |x| of each channel (K).
    pub max_abs: Vec<f32>,
    /// Mean |x| of each channel (K).
    pub mean_abs: Vec<f32>,
    /// Mean x² of each channel (K).
    pub mean_square: Vec<f32>,
    /// Lower triangle of Σ x·xᵀ, row after row, K·(K + 1)/2 numbers; empty if not asked for.
    pub gram: Vec<f32>,
}

/// [`Channels`] by the name of the activation (see [`hook`](crate::model::hook)).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Statistics {
    found: BTreeMap<String, Channels>,
    windows: Vec<Vec<u32>>,
}

impl Statistics {
    /// Those of an activation.
    ///
    /// # Errors
    /// [`Error::NotFound`] if nothing is known of it.
    pub fn get(&self, name: &str) -> Result<&Channels> {
        self.found.get(name).ok_or_else(|| Error::NotFound {
            what: format!("statistics of activation {name:?}"),
            tried: vec![format!("{} collected activations", self.found.len())],
        })
    }

    /// [`get`](Self::get), for K channels of which some measures are needed.
    ///
    /// # Errors
    /// As [`get`](Self::get), or if one of them is not known; [`Error::Shape`] if they are of another number of channels,
    /// [`Error::Argument`] if one is not finite.
    pub fn of(&self, name: &str, columns: usize, needed: &[Measure]) -> Result<&Channels> {
        let found = self.get(name)?;
        for &measure in needed {
            let (values, length) = match measure {
                Measure::MaxAbs => (&found.max_abs, columns),
                Measure::MeanAbs => (&found.mean_abs, columns),
                Measure::MeanSquare => (&found.mean_square, columns),
                Measure::Gram => (&found.gram, columns * (columns + 1) / 2),
            };
            if values.is_empty() {
                return Err(Error::NotFound {
                    what: format!("{measure:?} of {name}"),
                    tried: vec!["the statistics: they were collected without".to_owned()],
                });
            }
            if values.len() != length {
                return Err(Error::Shape {
                    operation: format!("{measure:?} of {name}"),
                    expected: length.to_string(),
                    got: values.len().to_string(),
                });
            }
            if let Some(odd) = values.iter().find(|it| !it.is_finite()) {
                return Err(Error::argument(
                    format!("{measure:?} of {name}"),
                    "finite numbers",
                    odd,
                ));
            }
        }
        Ok(found)
    }

    /// Adds or replaces those of an activation.
    pub fn insert(&mut self, name: &str, channels: Channels) {
        self.found.insert(name.to_owned(), channels);
    }

    /// The tokens that they are of, window by window; empty if nobody said.
    pub fn windows(&self) -> &[Vec<u32>] {
        &self.windows
    }

    /// The same, of these tokens.
    pub fn with_windows(mut self, windows: Vec<Vec<u32>>) -> Statistics {
        self.windows = windows;
        self
    }

    /// Names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.found.keys().map(String::as_str)
    }
}

impl From<&Inputs> for Channels {
    fn from(inputs: &Inputs) -> Channels {
        let square = |k: usize| f64::from(inputs.triangle()[k * (k + 3) / 2]);
        let mean = |k: usize| (square(k) / inputs.tokens() as f64) as f32;
        Channels {
            tokens: inputs.tokens(),
            max_abs: inputs.max_abs().to_vec(),
            mean_abs: inputs.mean_abs().to_vec(),
            mean_square: (0..inputs.columns()).map(mean).collect(),
            gram: inputs.triangle().to_vec(),
        }
    }
}

impl From<&Calibration> for Statistics {
    fn from(calibration: &Calibration) -> Statistics {
        let found = calibration.all();
        Statistics {
            found: found.map(|it| (it.name().to_owned(), it.into())).collect(),
            windows: calibration.samples().windows().to_vec(),
        }
    }
}

/// Sums over what has been seen of one activation.
#[derive(Debug, Clone, Default)]
struct Sums {
    tokens: usize,
    max: Vec<f32>,
    abs: Vec<f64>,
    square: Vec<f64>,
    /// Σ x·xᵀ in full, or empty.
    gram: Vec<f32>,
}

/// Collects [`Statistics`] of every activation that enters a matrix (`*.in`). Memory does not grow with the number of tokens.
#[derive(Debug, Clone)]
pub struct Collect {
    has_gram: bool,
    sums: BTreeMap<String, Sums>,
}

impl Collect {
    /// With Σ x·xᵀ of each activation, at T·K² multiplications, or without.
    pub fn new(has_gram: bool) -> Collect {
        Collect {
            has_gram,
            sums: BTreeMap::new(),
        }
    }

    /// What has been found out.
    pub fn finish(self) -> Statistics {
        let found = self.sums.into_iter().map(|(name, sums)| {
            let mean = |sums: &[f64], tokens: usize| {
                let means = sums.iter().map(|it| (it / tokens as f64) as f32);
                means.collect()
            };
            let channels = Channels {
                tokens: sums.tokens,
                mean_abs: mean(&sums.abs, sums.tokens),
                mean_square: mean(&sums.square, sums.tokens),
                gram: triangle(&sums.gram, sums.max.len()),
                max_abs: sums.max,
            };
            (name, channels)
        });
        Statistics {
            found: found.collect(),
            ..Statistics::default()
        }
    }
}

impl Hook for Collect {
    fn visit(&mut self, name: &str, columns: usize, values: &mut [f32]) -> Result<()> {
        if !name.ends_with(".in") {
            return Ok(());
        }
        let sums = self.sums.entry(name.to_owned()).or_insert_with(|| Sums {
            max: vec![0.0; columns],
            abs: vec![0.0; columns],
            square: vec![0.0; columns],
            gram: vec![0.0; if self.has_gram { columns * columns } else { 0 }],
            tokens: 0,
        });
        sums.tokens += values.len() / columns;
        for row in values.chunks_exact(columns) {
            for (k, &x) in row.iter().enumerate() {
                sums.max[k] = sums.max[k].max(x.abs());
                sums.abs[k] += f64::from(x.abs());
                sums.square[k] += f64::from(x) * f64::from(x);
            }
        }
        if self.has_gram {
            add_gram(values, columns, &mut sums.gram);
        }
        Ok(())
    }
}

/// gram (K, K) += Σ x·xᵀ over the rows of `values` (T, K).
fn add_gram(values: &[f32], columns: usize, gram: &mut [f32]) {
    let tokens = values.len() / columns;
    if tokens == 0 {
        return;
    }
    let mut lines = vec![0.0; values.len()];
    for (t, row) in values.chunks_exact(columns).enumerate() {
        (row.iter().enumerate()).for_each(|(k, &x)| lines[k * tokens + t] = x);
    }
    let panels = Panels::of_f32(&lines, tokens);
    let words = f32_words(&lines);
    multiply(
        Element::F32,
        words,
        &panels,
        Into::Add,
        gram,
        Team::global(),
    );
}

/// The lower triangle of a matrix (K, K), row after row.
fn triangle(full: &[f32], columns: usize) -> Vec<f32> {
    let rows = full.chunks_exact(columns.max(1)).enumerate();
    rows.flat_map(|(i, row)| &row[..=i]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_those_of_all_tokens_however_they_come() -> Result<()> {
        let (mut one_by_one, mut at_once) = (Collect::new(true), Collect::new(true));
        let value = |t: usize, k: usize| if k == 1 { -(t as f32) } else { 0.5 };
        let mut all = Vec::new();
        for t in 0..100 {
            let mut row: Vec<f32> = (0..3).map(|k| value(t, k)).collect();
            all.extend_from_slice(&row);
            one_by_one.visit("blk.0.attn_q.in", 3, &mut row)?;
            one_by_one.visit("blk.0.mid", 3, &mut row)?;
        }
        at_once.visit("blk.0.attn_q.in", 3, &mut all)?;
        let found = one_by_one.finish();
        assert_eq!(found, at_once.finish());
        assert_eq!(found.names().collect::<Vec<_>>(), ["blk.0.attn_q.in"]);
        let found = found.get("blk.0.attn_q.in")?;
        assert_eq!(
            (found.tokens, found.max_abs[1], found.mean_abs[1]),
            (100, 99.0, 49.5)
        );
        assert_eq!(found.mean_square, [0.25, 3283.5, 0.25]);
        assert_eq!(found.gram, [25.0, -2475.0, 328_350.0, 25.0, -2475.0, 25.0]);
        Ok(())
    }

    #[test]
    fn a_calibration_knows_the_same() -> Result<()> {
        use crate::model::tests::tiny;
        use crate::quant::Samples;
        let model = tiny::model(crate::model::WeightType::F32);
        let tokens: Vec<u32> = (0..64).map(|i| i * 7 % 30).collect();
        let samples = Samples::of_tokens("made up", &tokens, 4, 16)?;
        let theirs = Statistics::from(&Calibration::run_as(&model, &samples, Element::F32)?);
        let mut collect = Collect::new(true);
        for window in samples.windows() {
            model.hidden_with(window, model.network().store().as_mut(), &mut collect)?;
        }
        let ours = collect.finish();
        for name in ["blk.0.attn_q.in", "blk.1.ffn_down.in"] {
            let (ours, theirs) = (ours.get(name)?, theirs.get(name)?);
            assert_eq!(
                (ours.tokens, &ours.max_abs),
                (theirs.tokens, &theirs.max_abs)
            );
            for (ours, theirs) in [
                (&ours.mean_abs, &theirs.mean_abs),
                (&ours.mean_square, &theirs.mean_square),
            ] {
                assert_eq!(ours.len(), theirs.len());
                let mut pairs = ours.iter().zip(theirs);
                assert!(pairs.all(|(a, b)| (a / b - 1.0).abs() < 1e-4), "{name}");
            }
            assert_eq!(ours.gram.len(), theirs.gram.len());
        }
        Ok(())
    }

    #[test]
    fn what_is_missing_or_does_not_fit_is_refused() {
        let mut statistics = Statistics::default();
        let most = [Measure::MaxAbs];
        assert!(matches!(
            statistics.of("x", 2, &most),
            Err(Error::NotFound { .. })
        ));
        // Who knows only maxima gives only maxima.
        let maxima = |max_abs| Channels {
            max_abs,
            ..Channels::default()
        };
        statistics.insert("x", maxima(vec![1.0, 2.0]));
        assert!(statistics.of("x", 2, &most).is_ok());
        assert!(matches!(
            statistics.of("x", 3, &most),
            Err(Error::Shape { .. })
        ));
        let error = statistics
            .of("x", 2, &[Measure::MaxAbs, Measure::Gram])
            .unwrap_err();
        assert!(
            error.to_string().contains("Gram of \"x\"") || error.to_string().contains("Gram of x"),
            "{error}"
        );
        statistics.insert("x", maxima(vec![1.0, f32::NAN]));
        assert!(matches!(
            statistics.of("x", 2, &most),
            Err(Error::Argument { .. })
        ));
    }
}
