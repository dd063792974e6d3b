//! A hook that adds up statistics of the activations that pass by.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rayon::prelude::*;

use super::{Inputs, Samples};
use crate::Result;
use crate::kernels::dense::Element;
use crate::kernels::gram::{Moments, moments_at};
use crate::model::{Engine, Hook};

/// Rows of a triangle that a thread adds at a time.
const ROWS: usize = 64;

/// Sums of one activation.
struct Sums {
    columns: usize,
    tokens: usize,
    /// Lower triangle of Σ x·xᵀ, row after row, in parts of [`ROWS`] rows.
    gram: Vec<Vec<f64>>,
    sums: Vec<f64>,
    greatest: Vec<f32>,
    /// Σ (x̃ − x)·xᵀ, if x̃ is known.
    drift: Vec<f64>,
}

/// Adds up X·Xᵀ, Σ|x| and max|x| of every activation that enters a weight matrix and that it is to look at.
pub(in crate::quant) struct Collector {
    engine: Engine,
    element: Element,
    wants: Box<dyn Fn(&str) -> bool>,
    /// Tokens of a window, and how many of its first are left out.
    window: (usize, usize),
    found: BTreeMap<String, Sums>,
    /// (K, K) of the activation at hand.
    scratch: Vec<f32>,
    /// The same activations in the original network, of the windows that come next.
    originals: BTreeMap<String, Vec<f32>>,
}

impl Collector {
    /// Of the activations whose names `wants` says yes to, among those that enter a matrix.
    pub(in crate::quant) fn new(
        engine: &Engine,
        element: Element,
        wants: impl Fn(&str) -> bool + 'static,
    ) -> Collector {
        Collector {
            engine: engine.clone(),
            element,
            wants: Box::new(wants),
            window: (1, 0),
            found: BTreeMap::new(),
            scratch: Vec::new(),
            originals: BTreeMap::new(),
        }
    }

    /// The same of whole windows of `samples`, without the tokens that they leave out.
    pub(in crate::quant) fn of(mut self, samples: &Samples) -> Collector {
        self.window = samples.window();
        self
    }

    /// Compares the windows that come next with what the original network has there.
    pub(in crate::quant) fn against(&mut self, originals: BTreeMap<String, Vec<f32>>) {
        self.originals = originals;
    }

    /// What was found, by activation.
    pub(in crate::quant) fn finish(self) -> Result<BTreeMap<String, Inputs>> {
        let finish = |(name, of): (String, Sums)| -> Result<(String, Inputs)> {
            let mut gram = Vec::with_capacity(of.columns * (of.columns + 1) / 2);
            for part in of.gram {
                gram.extend(part.iter().map(|&it| it as f32));
            }
            let mean = of.sums.iter().map(|it| (it / of.tokens as f64) as f32);
            let inputs = Inputs::new(&name, of.tokens, gram, mean.collect(), of.greatest)?;
            let inputs = match of.drift.is_empty() {
                true => inputs,
                false => inputs.with_drift(of.drift.iter().map(|&it| it as f32).collect())?,
            };
            Ok((name, inputs))
        };
        let found: Vec<_> = self.found.into_iter().collect();
        found.into_par_iter().map(finish).collect()
    }
}

impl Hook for Collector {
    fn visit(&mut self, name: &str, columns: usize, values: &mut [f32]) -> Result<()> {
        if !name.ends_with(".in") || !(self.wants)(name) {
            return Ok(());
        }
        let (isa, team) = (self.engine.isa, self.engine.team.as_ref());
        let values = &*kept(values, columns, self.window);
        let sums = self.found.entry(name.to_owned()).or_insert_with(|| Sums {
            columns,
            tokens: 0,
            gram: vec![Vec::new(); columns.div_ceil(ROWS)],
            sums: vec![0.0; columns],
            greatest: vec![0.0; columns],
            drift: Vec::new(),
        });
        let original = self.originals.get(name);
        let original = original.map(|it| kept(it, columns, self.window));
        if let Some(original) = original
            && original.len() == values.len()
        {
            sums.drift.resize(columns * columns, 0.0);
            super::drift::add(&original, values, columns, &mut sums.drift);
        }
        self.scratch.resize(columns * columns, 0.0);
        let moments = Moments {
            gram: &mut self.scratch,
            sums: &mut sums.sums,
            greatest: &mut sums.greatest,
        };
        moments_at(isa, self.element, values, columns, moments, team);
        let scratch = &self.scratch;
        team.each(&mut sums.gram, &|part, gram| {
            let rows = (part * ROWS..columns).take(ROWS);
            let rows = rows.map(|row| &scratch[row * columns..][..row + 1]);
            if gram.is_empty() {
                // Memory that is read before it is written costs twice.
                gram.reserve_exact(rows.clone().map(<[f32]>::len).sum());
                return rows.for_each(|new| gram.extend(new.iter().map(|it| f64::from(*it))));
            }
            let mut rest = gram.as_mut_slice();
            for new in rows {
                let (sums, after) = std::mem::take(&mut rest).split_at_mut(new.len());
                for (sum, new) in sums.iter_mut().zip(new) {
                    *sum += f64::from(*new);
                }
                rest = after;
            }
        });
        sums.tokens += values.len() / sums.columns;
        Ok(())
    }
}

/// `values` (T, `columns`) of windows of `length` tokens without the first `left_out` of each.
pub(in crate::quant) fn kept(
    values: &[f32],
    columns: usize,
    (length, left_out): (usize, usize),
) -> Cow<'_, [f32]> {
    match left_out {
        0 => Cow::Borrowed(values),
        _ => (values.chunks(length * columns))
            .flat_map(|window| window.iter().skip(left_out * columns).copied())
            .collect(),
    }
}
