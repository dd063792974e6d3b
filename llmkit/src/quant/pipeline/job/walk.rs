//! Layer after layer with statistics of the network whose earlier layers are quantized.

use std::sync::Arc;

use super::Job;
use super::matrix::Done;
use crate::kernels::dense::Element;
use crate::model::linear::Dense;
use crate::model::{Llama, Model};
use crate::quant::calibration::{
    Collector, Samples, activation_of, batches, fast_element, in_bf16, linear_names, pieces,
};
use crate::quant::pipeline::Sequence;
use crate::quant::pipeline::original::Original;
use crate::{Error, Result};

/// The calibration's windows on their way through the network whose earlier layers are quantized.
pub(super) struct Walk {
    network: Llama,
    element: Element,
    /// The residual stream of each batch of windows.
    states: Vec<Vec<f32>>,
    /// Beside it the original, if a method compares with that.
    original: Option<Original>,
}

impl Walk {
    /// At the embeddings.
    fn new(model: &Model, samples: &Samples, drifts: bool) -> Result<Walk> {
        let element = fast_element(model);
        let network = match element {
            Element::F32 => model.network().clone(),
            Element::Bf16 => in_bf16(model.network())?,
        };
        let embed = |windows: &[Vec<u32>]| {
            let mut stores: Vec<_> = windows.iter().map(|_| network.store()).collect();
            network.embed(&pieces(windows, &mut stores))
        };
        let states: Vec<_> = batches(samples).map(embed).collect::<Result<_>>()?;
        Ok(Walk {
            original: drifts.then(|| Original::new(&network, &states)),
            network,
            element,
            states,
        })
    }
}

impl Job {
    /// The next layer, with statistics of the network so far.
    pub(in crate::quant::pipeline) fn sequential_layer(&mut self) -> Result<Vec<Done>> {
        let n = self.layers;
        let Some(calibration) = &self.calibration else {
            return Ok(Vec::new());
        };
        let samples = calibration.samples().clone();
        if self.walk.is_none() {
            let drifts = self.recipe.schemes().any(|it| it.method.needs_drift());
            self.walk = Some(Walk::new(&self.model, &samples, drifts)?);
        }
        // Replaced at the end alone: an interrupted layer starts again from the network before it.
        let Some(walk) = &self.walk else {
            return Ok(Vec::new());
        };
        let mut network = walk.network.clone();
        let slices: Vec<Vec<String>> = match self.recipe.sequence {
            Sequence::Matrices => linear_names(n).to_vec(),
            Sequence::Once | Sequence::Layers => vec![linear_names(n).concat()],
        };
        let mut done = Vec::new();
        for names in slices {
            let wanted: Vec<String> = names.iter().map(|it| activation_of(it)).collect();
            let wants = {
                let wanted = wanted.clone();
                move |name: &str| wanted.iter().any(|it| it == name)
            };
            let mut collector =
                Collector::new(&network.engine, walk.element, wants.clone()).of(&samples);
            for (at, (windows, state)) in batches(&samples).zip(&walk.states).enumerate() {
                if let Some(original) = &walk.original {
                    collector.against(original.record(n, (at, windows), &wants)?);
                }
                let mut stores: Vec<_> = windows.iter().map(|_| network.store()).collect();
                let mut x = state.clone();
                let mut pieces = pieces(windows, &mut stores);
                network.through(n..n + 1, &mut x, &mut pieces, Some(&mut collector))?;
            }
            let found = collector.finish()?;
            let inputs = |name: &str| {
                let name = activation_of(name);
                found.get(&name).cloned().ok_or_else(|| Error::NotFound {
                    what: name,
                    tried: wanted.clone(),
                })
            };
            for part in self.matrices(&names, Some(&inputs))? {
                let part = part?;
                let dense = {
                    let values = part.values()?;
                    Dense::new(walk.element, values.data(), values.cols())
                };
                network = network.with_linear(&part.layer.name, Arc::new(dense))?;
                done.push(part);
            }
        }
        let mut states = Vec::with_capacity(walk.states.len());
        for (windows, state) in batches(&samples).zip(&walk.states) {
            let mut stores: Vec<_> = windows.iter().map(|_| network.store()).collect();
            let mut x = state.clone();
            network.through(n..n + 1, &mut x, &mut pieces(windows, &mut stores), None)?;
            states.push(x);
        }
        let element = walk.element;
        let original = walk.original.as_ref();
        let original = original.map(|it| it.after(n, &samples)).transpose()?;
        self.walk = Some(Walk {
            network,
            element,
            states,
            original,
        });
        Ok(done)
    }
}
