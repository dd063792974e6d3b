//! Inputs of a changed network beside those of the original: how far they have drifted.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Inputs;
use crate::kernels::dense::{Element, Into, f32_words, multiply};
use crate::kernels::panel::Panels;
use crate::kernels::team::Team;
use crate::model::Hook;
use crate::{Error, Result};

/// Rows that are multiplied at a time: sums in f32 stay short.
const SLAB: usize = 512;

impl Inputs {
    /// The same with `drift` = Σ (x̃ − x)·xᵀ (K, K), row-major, where x̃ is what the original network has in place of x.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is not (K, K); [`Error::Format`] if a number is not finite.
    pub fn with_drift(mut self, drift: Vec<f32>) -> Result<Inputs> {
        let k = self.columns;
        if drift.len() != k * k {
            return Err(Error::Shape {
                operation: format!("drift of {}", self.name),
                expected: format!("[{k}, {k}]"),
                got: format!("{} numbers", drift.len()),
            });
        }
        if let Some(at) = drift.iter().position(|it| !it.is_finite()) {
            return Err(Error::Format {
                file: format!("drift of {}", self.name),
                expected: "finite numbers".to_owned(),
                got: format!("{} at [{}, {}]", drift[at], at / k, at % k),
            });
        }
        self.drift = Some(Arc::new(drift));
        Ok(self)
    }

    /// D\[i, j\] = 2/n·Σ (x̃ᵢ − xᵢ)·xⱼ, in the units of [`hessian`](Inputs::hessian); [`None`] if nothing is known of x̃.
    ///
    /// # Panics
    /// If there are no such channels.
    pub fn drift(&self, i: usize, j: usize) -> Option<f64> {
        let drift = self.drift.as_ref()?;
        Some(2.0 * f64::from(drift[i * self.columns + j]) / self.tokens as f64)
    }

    /// Σ (x̃ − x)·xᵀ (K, K).
    pub(super) fn drift_sums(&self) -> Option<&[f32]> {
        self.drift.as_ref().map(|it| it.as_slice())
    }
}

/// Adds Σ (x̃ − x)·xᵀ of rows of `original` and `changed` (T, `columns`) to `sums` (K, K).
pub(super) fn add(original: &[f32], changed: &[f32], columns: usize, sums: &mut [f64]) {
    let slabs = original
        .chunks(SLAB * columns)
        .zip(changed.chunks(SLAB * columns));
    for (original, changed) in slabs {
        let tokens = changed.len() / columns;
        let transposed = |value: &dyn Fn(usize) -> f32| -> Vec<f32> {
            let each = (0..columns).flat_map(|k| (0..tokens).map(move |t| t * columns + k));
            each.map(value).collect()
        };
        let off = transposed(&|at| original[at] - changed[at]);
        let panels = Panels::of_f32(&transposed(&|at| changed[at]), tokens);
        let mut product = vec![0.0; columns * columns];
        let x = f32_words(&off);
        multiply(
            Element::F32,
            x,
            &panels,
            Into::Replace,
            &mut product,
            Team::global(),
        );
        let pairs = sums.iter_mut().zip(&product);
        pairs.for_each(|(sum, &new)| *sum += f64::from(new));
    }
}

/// Keeps the activations that pass by.
pub(in crate::quant) struct Recorder<'a> {
    wants: &'a dyn Fn(&str) -> bool,
    /// Of each activation, all of its rows.
    pub found: BTreeMap<String, Vec<f32>>,
}

impl<'a> Recorder<'a> {
    /// Of those whose names `wants` says yes to.
    pub fn new(wants: &'a dyn Fn(&str) -> bool) -> Recorder<'a> {
        let found = BTreeMap::new();
        Recorder { wants, found }
    }
}

impl Hook for Recorder<'_> {
    fn visit(&mut self, name: &str, _columns: usize, values: &mut [f32]) -> Result<()> {
        if name.ends_with(".in") && (self.wants)(name) {
            let kept = self.found.entry(name.to_owned()).or_default();
            kept.extend_from_slice(values);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::samples;

    #[test]
    fn sums_are_those_of_the_definition() -> Result<()> {
        for (tokens, columns) in [(3, 1), (700, 20), (40, 67)] {
            let changed = samples::correlated(tokens, columns, 3);
            let mut original = changed.clone();
            let noise = samples::correlated(tokens, columns, 4);
            original
                .iter_mut()
                .zip(&noise)
                .for_each(|(x, e)| *x += 0.1 * e);
            let mut sums = vec![0.0; columns * columns];
            add(&original, &changed, columns, &mut sums);
            let mut most = 0f64;
            for i in 0..columns {
                for j in 0..columns {
                    let term = |t: usize| {
                        let (at, other) = (t * columns + i, t * columns + j);
                        f64::from(original[at] - changed[at]) * f64::from(changed[other])
                    };
                    let sum: f64 = (0..tokens).map(term).sum();
                    most = most.max((sum - sums[i * columns + j]).abs() / (1.0 + sum.abs()));
                }
            }
            assert!(most < 1e-4, "{most}");
            let inputs = Inputs::of_samples("x", &changed, columns)?;
            assert_eq!(inputs.drift(0, 0), None);
            let sums: Vec<f32> = sums.iter().map(|&it| it as f32).collect();
            let known = inputs.clone().with_drift(sums.clone())?;
            let expected = 2.0 * f64::from(sums[columns - 1]) / tokens as f64;
            assert_eq!(known.drift(0, columns - 1), Some(expected));
            assert!(
                inputs
                    .clone()
                    .with_drift(vec![0.0; columns * columns + 1])
                    .is_err()
            );
            let nan = vec![f32::NAN; columns * columns];
            let error = inputs.with_drift(nan).unwrap_err().to_string();
            assert!(error.contains("drift of x"), "{error}");
        }
        Ok(())
    }
}
