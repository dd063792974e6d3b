//! What comes out of a job.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;

use super::Job;
use crate::hub::Weights;
use crate::model::linear::Linear;
use crate::model::{Llama, Model};
use crate::quant::Samples;
use crate::quant::export::Matrices;
use crate::quant::pipeline::judge::judge;
use crate::quant::pipeline::low_rank::LowRank;
use crate::quant::pipeline::{Layer, Report};
use crate::{Error, Result};

/// A quantized model with all that belongs to it.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Runs as the recipe says.
    pub model: Model,
    /// What was done, matrix by matrix.
    pub report: Report,
    /// The codes, by the name of the matrix.
    pub matrices: Matrices,
    /// What is added to them.
    pub corrections: BTreeMap<String, LowRank>,
    /// The network that was rounded: the original one, as transformed.
    pub reference: Model,
}

impl Finished {
    /// Measures what each matrix loses on `samples`, best ones that calibration did not see, and what of it comes from the layers before:
    /// fills in [`Layer::judged`].
    ///
    /// # Errors
    /// Those of the forward pass; [`Error::Interrupted`].
    pub fn judge(&mut self, samples: &Samples) -> Result<()> {
        let found = judge(self.reference.network(), self.model.network(), samples)?;
        for layer in &mut self.report.layers {
            layer.judged = found.get(&layer.name).copied();
        }
        self.report.judged_on = samples.to_string();
        Ok(())
    }
}

impl Job {
    /// The quantized model, its codes, and what was done to it.
    ///
    /// # Errors
    /// [`Error::Argument`] if layers are left to do.
    pub fn finish(mut self) -> Result<Finished> {
        if self.layers < self.model.config.layers {
            let got = format!("{} of {}", self.layers, self.model.config.layers);
            return Err(Error::argument("layers done", "all of them", got));
        }
        let mut report = Report {
            recipe: self.recipe.to_string(),
            calibration: self
                .calibration
                .as_ref()
                .map_or(String::new(), |it| it.samples().to_string()),
            steps: std::mem::take(&mut self.steps),
            seconds: self.seconds,
            ..Report::default()
        };
        let mut replaced: Vec<(String, Tensor, Arc<dyn Linear>)> = Vec::new();
        let (mut matrices, mut corrections) = (Matrices::new(), BTreeMap::new());
        for done in std::mem::take(&mut self.done) {
            let linear = self.linear(&done)?;
            let values = match &done.low_rank {
                Some(low) => low.added_to(&done.decoded)?,
                None => done.decoded,
            };
            let mut layer = done.layer;
            layer.runs_as = linear.kind();
            replaced.push((layer.name.clone(), values.into_tensor()?, linear));
            matrices.insert(layer.name.clone(), done.quantized);
            if let Some(low) = done.low_rank {
                corrections.insert(layer.name.clone(), low);
            }
            report.layers.push(layer);
        }
        let quantized: usize = report.layers.iter().map(Layer::weights).sum();
        report.other_weights = weights(self.model.network())? - quantized;
        let mut model = self.model.with_layers(replaced)?;
        let original = model.provenance.weights.take().map(|it| it.original_dtype);
        let dtype = original.unwrap_or_else(|| "f32".to_owned());
        model.provenance.weights = Some(Weights::quantized(&dtype, &report.recipe));
        Ok(Finished {
            model,
            report,
            matrices,
            corrections,
            reference: self.model,
        })
    }
}

/// Weights of all matrices and vectors; a matrix used twice counts once.
fn weights(network: &Llama) -> Result<usize> {
    let mut sum = 0;
    for name in network.matrix_names() {
        let (rows, columns) = network.linear(&name)?.shape();
        sum += rows * columns;
    }
    for name in network.vector_names() {
        sum += network.vector(&name)?.len();
    }
    Ok(sum)
}
