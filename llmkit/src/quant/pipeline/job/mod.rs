//! A model on its way through a recipe.

mod finished;
mod matrix;
mod walk;

use std::collections::BTreeMap;
use std::time::Instant;

pub use finished::Finished;
#[cfg(test)]
pub(super) use matrix::matrix_of;

use matrix::Done;
use walk::Walk;

use super::activations::Scales;
use super::percentile::percentiles;
use super::prepare::{Prepared, prepare};
use super::{Recipe, Sequence};
use crate::model::Model;
use crate::progress::Progress;
use crate::quant::calibration::{Calibration, linear_names};
use crate::{Error, Result, interrupt};

/// Matrices for each thread before all wait for the last.
const TASKS: usize = 7;

/// A model on its way through a recipe, transform by transform, then layer by layer.
pub struct Job {
    /// As transformed so far.
    pub(super) model: Model,
    recipe: Recipe,
    /// Of the model as transformed so far, unless it is stale.
    calibration: Option<Calibration>,
    is_stale: bool,
    steps: Vec<Prepared>,
    /// Of inputs, by activation, where scales are cut at one.
    percentiles: BTreeMap<String, f32>,
    pub(super) done: Vec<Done>,
    /// Layers that are done.
    pub(super) layers: usize,
    seconds: f64,
    walk: Option<Walk>,
    /// As if stop were pressed after so many transforms.
    #[cfg(test)]
    pub(super) stop_after_steps: Option<usize>,
}

impl Job {
    /// A job of which nothing is done.
    ///
    /// # Errors
    /// [`Error::Argument`] if the recipe needs a calibration and there is none, or a pair of method and format is not defined.
    pub fn new(model: &Model, recipe: &Recipe, calibration: Option<&Calibration>) -> Result<Job> {
        if recipe.needs_calibration() && calibration.is_none() {
            let name = format!("calibration for {recipe}");
            return Err(Error::argument(
                name,
                "the statistics of a layer's inputs",
                "none",
            ));
        }
        for scheme in recipe.schemes() {
            scheme.method.check(scheme.format.as_ref())?;
            if scheme.method.needs_drift() && recipe.sequence == Sequence::Once {
                return Err(Error::argument(
                    format!("statistics for {}", scheme.method.name()),
                    "a recipe with sequential or true-sequential, in which inputs drift",
                    "those of the original network, collected once",
                ));
            }
        }
        let names: Vec<String> = (0..model.config.layers)
            .flat_map(linear_names)
            .flatten()
            .collect();
        if let Some(place) = recipe.unused_exception(&names) {
            let expected =
                "a matrix (blk.0.ffn_up), a layer (blk.0) or a part of all layers (ffn_up)";
            return Err(Error::argument("exception of a recipe", expected, place));
        }
        Ok(Job {
            model: model.clone(),
            recipe: recipe.clone(),
            calibration: calibration.cloned(),
            is_stale: false,
            steps: Vec::new(),
            percentiles: BTreeMap::new(),
            done: Vec::new(),
            layers: 0,
            seconds: 0.0,
            walk: None,
            #[cfg(test)]
            stop_after_steps: None,
        })
    }

    /// Goes on until all layers are done.
    ///
    /// # Errors
    /// As [`quantize`](super::quantize); what is done stays done, and another call goes on from there.
    pub fn run(&mut self) -> Result<()> {
        let start = Instant::now();
        let result = self.rest();
        self.seconds += start.elapsed().as_secs_f64();
        result
    }

    fn rest(&mut self) -> Result<()> {
        self.prepare()?;
        let total = self.model.config.layers;
        let mut progress = Progress::new(self.recipe.to_string(), total as u64, "layers");
        while self.layers < total {
            progress.set(self.layers as u64)?;
            match self.recipe.sequence {
                Sequence::Once => self.next_layers()?,
                Sequence::Layers | Sequence::Matrices => {
                    let done = self.sequential_layer()?;
                    self.done.extend(done);
                    self.layers += 1;
                }
            }
        }
        progress.set(total as u64)
    }

    /// As many layers as give each thread some matrices: those of one layer differ too much in size to be shared out well. Of an
    /// interrupted lot the layers that are done stay.
    fn next_layers(&mut self) -> Result<()> {
        let tasks = TASKS * self.model.network().engine.team.threads();
        let of_layer = linear_names(self.layers).concat().len();
        let end = (self.layers + tasks.div_ceil(of_layer)).min(self.model.config.layers);
        let names: Vec<String> = (self.layers..end)
            .flat_map(linear_names)
            .flatten()
            .collect();
        let mut found = self.matrices(&names, None)?.into_iter();
        while self.layers < end {
            let layer: Vec<Done> = found.by_ref().take(of_layer).collect::<Result<_>>()?;
            self.done.extend(layer);
            self.layers += 1;
        }
        Ok(())
    }

    /// All transforms, then statistics of what they made.
    fn prepare(&mut self) -> Result<()> {
        while let Some(transform) = self.recipe.transforms.get(self.steps.len()).cloned() {
            #[cfg(test)]
            if self.stop_after_steps == Some(self.steps.len()) {
                return Err(Error::Interrupted("test".to_owned()));
            }
            interrupt::check("transform")?;
            let start = Instant::now();
            if transform.needs_statistics() {
                self.refresh()?;
            }
            let calibration = self.calibration.as_ref();
            let (model, done) = prepare(transform.as_ref(), &self.model, calibration, start)?;
            match (&done.report.divided, &mut self.calibration) {
                // What a pass over the samples would find, but for what was cut as well ([`Report::divided`]).
                (Some(scales), Some(known)) if !self.is_stale => *known = known.divided(scales)?,
                _ => self.is_stale = true,
            }
            self.model = model;
            self.steps.push(done);
        }
        self.refresh()?;
        if let (Some(activations), Some(calibration)) =
            (&self.recipe.activations, &self.calibration)
            && let Scales::Percentile(p) = activations.scales()
            && self.percentiles.is_empty()
        {
            self.percentiles = percentiles(&self.model, calibration.samples(), p)?;
        }
        Ok(())
    }

    /// Collects statistics anew if the network has changed since.
    fn refresh(&mut self) -> Result<()> {
        if self.is_stale
            && let Some(calibration) = &self.calibration
        {
            self.calibration = Some(calibration.of(&self.model)?);
        }
        self.is_stale = false;
        Ok(())
    }
}
