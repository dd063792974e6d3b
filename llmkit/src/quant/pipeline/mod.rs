//! A whole model through a recipe.
//!
//! ```no_run
//! use llmkit::model::Model;
//! use llmkit::quant::{Calibration, Samples, quantize};
//! let model = Model::load("smollm2-135m-instruct")?;
//! let samples = Samples::of_corpus(&model, "lee", 64, 512)?;
//! let calibration = Calibration::cached(&model, &samples)?;
//! let (quantized, report) = quantize(&model, &"gptq:int4-g64".parse()?, Some(&calibration))?;
//! println!("{report}");
//! # Ok::<(), llmkit::Error>(())
//! ```
//!
//! All matrices of the transformer's layers are quantized; embedding, head and norms are left and counted. Nothing falls back in
//! silence: a method that hands over to another, or a format that is not the one asked for, is an error.
//!
//! A [`Job`] can be interrupted and goes on with the layer it was at.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use candle_core::Tensor;
use rayon::prelude::*;

mod packed;
mod recipe;
mod report;
#[cfg(test)]
mod tests;

pub use packed::packed;
pub use recipe::{Recipe, Sequence};
pub use report::{Layer, Report};

use super::calibration::{
    Calibration, Collector, Inputs, batches, fast_element, in_bf16, linear_names, pieces,
};
use super::{Matrix, Quantized};
use crate::hub::Weights;
use crate::kernels::dense::Element;
use crate::model::linear::{Dense, Linear};
use crate::model::{Llama, Model};
use crate::progress::Progress;
use crate::{Error, Result, interrupt};

/// Quantizes a model; the original stays as it is.
///
/// # Errors
/// [`Error::Argument`] if the recipe needs a calibration and there is none, or what was applied is not what was requested; those of
/// the method, with the layer's name; [`Error::Interrupted`].
pub fn quantize(
    model: &Model,
    recipe: &Recipe,
    calibration: Option<&Calibration>,
) -> Result<(Model, Report)> {
    let mut job = Job::new(model, recipe, calibration)?;
    job.run()?;
    job.finish()
}

/// A matrix that is done.
struct Done {
    layer: Layer,
    quantized: Quantized,
    decoded: Matrix,
}

/// A model on its way through a recipe, layer by layer.
pub struct Job {
    model: Model,
    recipe: Recipe,
    calibration: Option<Calibration>,
    done: Vec<Done>,
    /// Layers that are done.
    layers: usize,
    seconds: f64,
    walk: Option<Walk>,
}

/// What is known of the inputs of a matrix by name.
type InputsOf<'a> = dyn Fn(&str) -> Result<Inputs> + 'a;

/// The calibration's windows on their way through the network whose earlier layers are quantized.
struct Walk {
    network: Llama,
    element: Element,
    /// The residual stream of each batch of windows.
    states: Vec<Vec<f32>>,
}

impl Job {
    /// A job of which nothing is done.
    ///
    /// # Errors
    /// [`Error::Argument`] if the recipe needs a calibration and there is none.
    pub fn new(model: &Model, recipe: &Recipe, calibration: Option<&Calibration>) -> Result<Job> {
        let needs = recipe.method.needs_inputs() || recipe.sequence != Sequence::Once;
        if needs && calibration.is_none() {
            let name = format!("calibration for {recipe}");
            return Err(Error::argument(
                name,
                "the statistics of a layer's inputs",
                "none",
            ));
        }
        recipe.method.check(recipe.format.as_ref())?;
        Ok(Job {
            model: model.clone(),
            recipe: recipe.clone(),
            calibration: calibration.cloned(),
            done: Vec::new(),
            layers: 0,
            seconds: 0.0,
            walk: None,
        })
    }

    /// Goes on until all layers are done.
    ///
    /// # Errors
    /// As [`quantize`]; what is done stays done, and another call goes on from there.
    pub fn run(&mut self) -> Result<()> {
        let start = Instant::now();
        let result = self.rest();
        self.seconds += start.elapsed().as_secs_f64();
        result
    }

    fn rest(&mut self) -> Result<()> {
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

    /// Some matrices, each on a thread of its own; their inputs are those of the calibration, or of `walk`.
    fn layer(&self, names: &[String], walk: Option<&InputsOf<'_>>) -> Result<Vec<Done>> {
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
        let original = matrix_of(self.model.network(), name)?;
        let chosen = recipe
            .method
            .choose(&original, recipe.format.as_ref(), inputs);
        let quantized = chosen.map_err(|error| error.in_layer(name))?;
        let decoded = quantized.decode()?;
        let mut layer = Layer::new(name, recipe.scheme(), &original, &quantized, &decoded)?;
        if layer.applied != layer.requested {
            let what = format!("scheme of {name}");
            return Err(Error::argument(what, layer.requested, layer.applied));
        }
        if let Some(inputs) = inputs {
            layer.output_error = Some(inputs.output_error(&original, &decoded)?);
        }
        Ok(Done {
            layer,
            quantized,
            decoded,
        })
    }

    /// The next layer, with statistics of the network so far.
    fn sequential_layer(&mut self) -> Result<Vec<Done>> {
        let n = self.layers;
        let Some(calibration) = &self.calibration else {
            return Ok(Vec::new());
        };
        let samples = calibration.samples().clone();
        if self.walk.is_none() {
            self.walk = Some(Walk::new(&self.model, &samples)?);
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
            let wanted: Vec<String> = names
                .iter()
                .map(|it| super::calibration::activation_of(it))
                .collect();
            let wants = {
                let wanted = wanted.clone();
                move |name: &str| wanted.iter().any(|it| it == name)
            };
            let mut collector = Collector::new(&network.engine, walk.element, wants);
            for (windows, state) in batches(&samples).zip(&walk.states) {
                let mut stores: Vec<_> = windows.iter().map(|_| network.store()).collect();
                let mut x = state.clone();
                let mut pieces = pieces(windows, &mut stores);
                network.through(n..n + 1, &mut x, &mut pieces, Some(&mut collector))?;
            }
            let found = collector.finish()?;
            let inputs = |name: &str| {
                let name = super::calibration::activation_of(name);
                found.get(&name).cloned().ok_or_else(|| Error::NotFound {
                    what: name,
                    tried: wanted.clone(),
                })
            };
            for part in self.layer(&names, Some(&inputs))? {
                let dense = Dense::new(walk.element, part.decoded.data(), part.decoded.cols());
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
        self.walk = Some(Walk {
            network,
            element,
            states,
        });
        Ok(done)
    }

    /// The quantized model, and what was done to it.
    ///
    /// # Errors
    /// [`Error::Argument`] if layers are left to do.
    pub fn finish(self) -> Result<(Model, Report)> {
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
            seconds: self.seconds,
            ..Report::default()
        };
        let mut replaced: Vec<(String, Tensor, Arc<dyn Linear>)> = Vec::new();
        for Done {
            mut layer,
            quantized,
            decoded,
        } in self.done
        {
            let on_codes = self.recipe.is_packed.then(|| packed(&quantized)).flatten();
            let linear: Arc<dyn Linear> = match on_codes {
                Some(linear) => Arc::new(linear),
                None => Arc::new(Dense::new(Element::F32, decoded.data(), decoded.cols())),
            };
            layer.runs_as = linear.kind();
            replaced.push((layer.name.clone(), decoded.to_tensor()?, linear));
            report.layers.push(layer);
        }
        let quantized: usize = report.layers.iter().map(Layer::weights).sum();
        report.other_weights = self.model.parameters() - quantized;
        let mut model = self.model.with_layers(replaced)?;
        let original = model.provenance.weights.take().map(|it| it.original_dtype);
        let dtype = original.unwrap_or_else(|| "f32".to_owned());
        model.provenance.weights = Some(Weights::quantized(&dtype, &report.recipe));
        Ok((model, report))
    }
}

impl Walk {
    /// At the embeddings.
    fn new(model: &Model, samples: &super::Samples) -> Result<Walk> {
        let element = fast_element(model);
        let network = match element {
            Element::F32 => model.network().clone(),
            Element::Bf16 => in_bf16(model.network(), model.config.layers)?,
        };
        let embed = |windows: &[Vec<u32>]| {
            let mut stores: Vec<_> = windows.iter().map(|_| network.store()).collect();
            network.embed(&pieces(windows, &mut stores))
        };
        let states = batches(samples).map(embed).collect::<Result<_>>()?;
        Ok(Walk {
            network,
            element,
            states,
        })
    }
}

/// The values of a linear layer, as it runs.
fn matrix_of(network: &Llama, name: &str) -> Result<Matrix> {
    let linear = network.linear(name)?;
    let (rows, columns) = linear.shape();
    let mut values = vec![0.0; rows * columns];
    let each = values.par_chunks_exact_mut(columns).enumerate();
    each.for_each(|(n, row)| linear.row(n, row));
    Matrix::new(rows, columns, values)
}
