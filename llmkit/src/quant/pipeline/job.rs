//! A model on its way through a recipe.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use candle_core::Tensor;
use rayon::prelude::*;

use super::activations::{self, Base, RoundedInputs, Scales};
use super::judge::judge;
use super::low_rank::LowRank;
use super::original::Original;
use super::packed::packed;
use super::percentile::percentiles;
use super::prepare::{Prepared, prepare};
use super::{Layer, Recipe, Report, Sequence};
use crate::hub::Weights;
use crate::kernels::dense::Element;
use crate::model::linear::{Dense, Linear};
use crate::model::{Llama, Model};
use crate::progress::Progress;
use crate::quant::calibration::{
    Calibration, Collector, Inputs, Samples, activation_of, batches, fast_element, in_bf16,
    linear_names, pieces,
};
use crate::quant::export::Matrices;
use crate::quant::{Matrix, Quantized};
use crate::{Error, Result, interrupt};

/// A matrix that is done.
pub(super) struct Done {
    pub layer: Layer,
    pub quantized: Quantized,
    decoded: Matrix,
    low_rank: Option<LowRank>,
    /// The magnitude that the greatest code of a rounded input stands for, where that is fixed.
    greatest: Option<f32>,
}

impl Done {
    /// What the network computes with.
    fn values(&self) -> Result<Cow<'_, Matrix>> {
        Ok(match &self.low_rank {
            Some(low) => Cow::Owned(low.added_to(&self.decoded)?),
            None => Cow::Borrowed(&self.decoded),
        })
    }
}

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

/// What is known of the inputs of a matrix by name.
type InputsOf<'a> = dyn Fn(&str) -> Result<Inputs> + 'a;

/// The calibration's windows on their way through the network whose earlier layers are quantized.
struct Walk {
    network: Llama,
    element: Element,
    /// The residual stream of each batch of windows.
    states: Vec<Vec<f32>>,
    /// Beside it the original, if a method compares with that.
    original: Option<Original>,
}

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
            let done = match self.recipe.sequence {
                Sequence::Once => self.layer(&linear_names(self.layers).concat(), None)?,
                Sequence::Layers | Sequence::Matrices => self.sequential_layer()?,
            };
            self.done.extend(done);
            self.layers += 1;
        }
        progress.set(total as u64)
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
            self.model = model;
            self.is_stale = true;
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

    /// Some matrices, each on a thread of its own; their inputs are those of the calibration, or of `walk`.
    pub(super) fn layer(&self, names: &[String], walk: Option<&InputsOf<'_>>) -> Result<Vec<Done>> {
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
        found.collect()
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

    /// The next layer, with statistics of the network so far.
    pub(super) fn sequential_layer(&mut self) -> Result<Vec<Done>> {
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
            for part in self.layer(&names, Some(&inputs))? {
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

    /// The layer that runs.
    fn linear(&self, done: &Done) -> Result<Arc<dyn Linear>> {
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
            let values = done.values()?.to_tensor()?;
            let mut layer = done.layer;
            layer.runs_as = linear.kind();
            replaced.push((layer.name.clone(), values, linear));
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

/// The values of a linear layer, as it runs.
pub(super) fn matrix_of(network: &Llama, name: &str) -> Result<Matrix> {
    let linear = network.linear(name)?;
    let (rows, columns) = linear.shape();
    let mut values = vec![0.0; rows * columns];
    let each = values.par_chunks_exact_mut(columns).enumerate();
    each.for_each(|(n, row)| linear.row(n, row));
    Matrix::new(rows, columns, values)
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
