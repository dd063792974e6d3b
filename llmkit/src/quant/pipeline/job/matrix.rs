//! One matrix, and the layer that it becomes.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};

use rayon::prelude::*;

use super::Job;
use crate::model::Llama;
use crate::model::linear::Linear;
use crate::quant::calibration::{Inputs, activation_of};
use crate::quant::pipeline::Layer;
use crate::quant::pipeline::activations::{self, Base, RoundedInputs, Scales};
use crate::quant::pipeline::low_rank::LowRank;
use crate::quant::pipeline::packed::packed;
use crate::quant::{Matrix, Quantized};
use crate::{Error, Result, interrupt};

/// A matrix that is done.
pub(in crate::quant::pipeline) struct Done {
    pub layer: Layer,
    pub quantized: Quantized,
    pub decoded: Matrix,
    pub low_rank: Option<LowRank>,
    /// The magnitude that the greatest code of a rounded input stands for, where that is fixed.
    greatest: Option<f32>,
}

impl Done {
    /// What the network computes with.
    pub fn values(&self) -> Result<Cow<'_, Matrix>> {
        Ok(match &self.low_rank {
            Some(low) => Cow::Owned(low.added_to(&self.decoded)?),
            None => Cow::Borrowed(&self.decoded),
        })
    }
}

/// What is known of the inputs of a matrix by name.
pub(super) type InputsOf<'a> = dyn Fn(&str) -> Result<Inputs> + 'a;

impl Job {
    /// Some matrices, each on a thread of its own; their inputs are those of the calibration, or of `walk`.
    pub(in crate::quant::pipeline) fn matrices(
        &self,
        names: &[String],
        walk: Option<&InputsOf<'_>>,
    ) -> Result<Vec<Result<Done>>> {
        let mut work = Vec::new();
        for name in names {
            let inputs = match (walk, &self.calibration) {
                (Some(walk), _) => Some(walk(name)?),
                (None, Some(calibration)) => Some(calibration.inputs(name)?.clone()),
                (None, None) => None,
            };
            work.push((name, inputs, Mutex::new(None)));
        }
        // The widest first: what ends last is then short.
        let mut order: Vec<usize> = (0..work.len()).collect();
        let columns = |at: &usize| work[*at].1.as_ref().map_or(0, Inputs::columns);
        order.sort_by_key(|at| std::cmp::Reverse(columns(at)));
        self.model
            .network()
            .engine
            .team
            .tasks(order.len(), &|index| {
                let (name, inputs, slot) = &work[order[index]];
                let found = self.matrix(name, inputs.as_ref());
                if let Ok(mut slot) = slot.lock() {
                    *slot = Some(found);
                }
            });
        let found = work.into_iter().map(|(name, _, slot)| {
            let found = slot.into_inner().ok().flatten();
            found.unwrap_or_else(|| Err(Error::Interrupted(format!("quantize {name}"))))
        });
        Ok(found.collect())
    }

    /// One matrix.
    fn matrix(&self, name: &str, inputs: Option<&Inputs>) -> Result<Done> {
        interrupt::check("quantize")?;
        let recipe = &self.recipe;
        let scheme = recipe.scheme_of(name);
        let original = matrix_of(self.model.network(), name)?;
        let chosen = scheme
            .method
            .choose(&original, scheme.format.as_ref(), inputs);
        let quantized = chosen.map_err(|error| error.in_layer(name))?;
        let decoded = quantized.decode()?;
        let mut layer = Layer::new(name, scheme.to_string(), &original, &quantized)?;
        if layer.applied != layer.requested {
            let what = format!("scheme of {name}");
            return Err(Error::argument(what, layer.requested, layer.applied));
        }
        let low_rank = match recipe.correction {
            Some(it) => Some(
                LowRank::new(it, &original, &decoded, inputs)
                    .map_err(|error| error.in_layer(name))?,
            ),
            None => None,
        };
        let mut done = Done {
            greatest: self.greatest(name, inputs)?,
            layer: Layer::default(),
            quantized,
            decoded,
            low_rank,
        };
        {
            let values = done.values()?;
            layer.sqnr_db = crate::quant::error::sqnr_db(original.data(), values.data())?;
            if let Some(inputs) = inputs {
                layer.output_error = Some(inputs.output_error(&original, &values)?);
            }
        }
        if let (Some(low), Some(correction)) = (&done.low_rank, recipe.correction) {
            layer.correction = Some(correction.to_string());
            layer.bytes += low.bytes();
            if let Some(inputs) = inputs {
                layer.uncorrected_error = Some(inputs.output_error(&original, &done.decoded)?);
            }
        }
        if let (Some(activations), Some(inputs)) = (&recipe.activations, inputs)
            && let Scales::Outliers(from) = activations.scales()
        {
            let count = inputs.max_abs().iter().filter(|&&it| it >= from).count();
            layer.outlier_columns = Some(count);
        }
        done.layer = layer;
        Ok(done)
    }

    /// The magnitude that the greatest code of an input stands for, where it is fixed.
    fn greatest(&self, name: &str, inputs: Option<&Inputs>) -> Result<Option<f32>> {
        let scales = self.recipe.activations.map(|it| it.scales());
        let found = match (scales, inputs) {
            (Some(Scales::Tensor), Some(inputs)) => {
                Some(inputs.max_abs().iter().fold(0f32, |most, it| most.max(*it)))
            }
            (Some(Scales::Percentile(_)), _) => self.percentiles.get(&activation_of(name)).copied(),
            _ => None,
        };
        Ok(found)
    }

    /// The layer that runs.
    pub(super) fn linear(&self, done: &Done) -> Result<Arc<dyn Linear>> {
        let activations = self.recipe.activations.as_ref();
        let on_codes = (self.recipe.is_packed)
            .then(|| packed(&done.quantized))
            .flatten()
            .filter(|codes| {
                activations.is_none_or(|it| RoundedInputs::can_run_on(it, codes.panels()))
            });
        let base = match on_codes {
            Some(codes) => Base::Codes(codes),
            None => activations::values(&done.decoded),
        };
        let base = activations::layer(base, activations, done.greatest)?;
        Ok(match &done.low_rank {
            Some(low) => Arc::new(low.on(base)),
            None => base,
        })
    }
}

/// The values of a linear layer, as it runs.
pub(in crate::quant::pipeline) fn matrix_of(network: &Llama, name: &str) -> Result<Matrix> {
    let linear = network.linear(name)?;
    let (rows, columns) = linear.shape();
    let mut values = vec![0.0; rows * columns];
    let each = values.par_chunks_exact_mut(columns).enumerate();
    each.for_each(|(n, row)| linear.row(n, row));
    Matrix::new(rows, columns, values)
}
