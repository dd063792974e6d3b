//! Calibration: what a model's linear layers are fed with, gathered from a forward pass over sample texts.
//!
//! ```text
//! for a few windows at a time:   run the network; of each activation that meets a weight matrix, add X·Xᵀ, |x| and max|x|
//! ```
//! Layers that share an input (q, k and v; gate and up) share its statistics. Memory does not grow with the number of samples: a
//! triangle of K²/2 sums in f64 for each input, a few windows of activations.
//!
//! Source: the calibration of E. Frantar et al., *GPTQ* (arXiv 2210.17323), section 4, over 128 windows of 2,048 tokens of C4.
//!
//! Cost: a forward pass without the head, and T·K² flops for each input (half of its symmetric matrix), about as much again.
//!
//! **Where we differ.** The forward pass and the products run in bf16 where the machine multiplies bf16, the precision in which
//! such models are published ([`Calibration::run_as`] takes f32): sums are in f32 for 512 tokens, beyond that in f64.
//! Windows are spread evenly over the corpus, not drawn, so that there is nothing to seed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

mod cache;
mod collect;
mod drift;
mod inputs;
mod samples;
mod turned;

pub(super) use collect::{Collector, kept};
pub(super) use drift::Recorder;
pub use inputs::Inputs;
pub use samples::Samples;
pub(super) use turned::divide;

use crate::hub::hex;
use crate::kernels::dense::Element;
use crate::kernels::limits::fastest_element;
use crate::kvcache::store::Store;
use crate::model::linear::Dense;
use crate::model::{Llama, Model, Piece};
use crate::progress::Progress;
use crate::{Error, Result};

/// Calibrations that stay in the cache: a fifth of a gigabyte each for a model of 135 million weights.
const KEPT: usize = 16;
/// Tokens that go through the network together.
const BATCH_TOKENS: usize = 2048;

/// Statistics of the inputs of every linear layer of a model. Cloning is cheap.
#[derive(Clone)]
pub struct Calibration {
    samples: Samples,
    inputs: BTreeMap<String, Inputs>,
    element: Element,
    /// Where it is kept, if it is.
    directory: Option<PathBuf>,
}

impl Calibration {
    /// Runs `samples` through `model`, in bf16 on machines that multiply bf16, else in f32.
    ///
    /// # Errors
    /// Those of the forward pass; [`Error::Format`] naming the layer if statistics are not finite; [`Error::Interrupted`].
    pub fn run(model: &Model, samples: &Samples) -> Result<Calibration> {
        Calibration::run_as(model, samples, fast_element(model))
    }

    /// [`run`](Self::run) in a given precision. bf16 rounds the network's f32 weights for the pass.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_as(model: &Model, samples: &Samples, element: Element) -> Result<Calibration> {
        let network = match element {
            Element::F32 => model.network().clone(),
            Element::Bf16 => in_bf16(model.network())?,
        };
        let mut collector = Collector::new(&network.engine, element, |_| true).of(samples);
        let mut progress = Progress::new("calibrate", samples.tokens() as u64, "tokens");
        for windows in batches(samples) {
            let mut stores: Vec<_> = windows.iter().map(|_| network.store()).collect();
            network.hidden(&mut pieces(windows, &mut stores), Some(&mut collector))?;
            progress.advance(windows.iter().map(Vec::len).sum::<usize>() as u64)?;
        }
        Ok(Calibration {
            samples: samples.clone(),
            inputs: collector.finish()?,
            element,
            directory: None,
        })
    }

    /// The same samples through another network, in the same precision; kept if this one is.
    ///
    /// # Errors
    /// As [`cached`](Self::cached).
    pub fn of(&self, model: &Model) -> Result<Calibration> {
        match &self.directory {
            Some(directory) => Calibration::kept(directory, model, &self.samples, self.element),
            None => Calibration::run_as(model, &self.samples, self.element),
        }
    }

    /// What it is once channels of some inputs are divided by these (K), and nothing else is changed.
    ///
    /// # Errors
    /// [`Error::NotFound`] if nothing is known of one of them, [`Error::Shape`] if there are not K of them.
    pub(super) fn divided(&self, scales: &BTreeMap<String, Vec<f64>>) -> Result<Calibration> {
        let mut divided = self.clone();
        for (name, scales) in scales {
            let inputs = divided.inputs.get_mut(name);
            let inputs = inputs.ok_or_else(|| Error::NotFound {
                what: format!("statistics of {name}"),
                tried: vec!["the calibration".to_owned()],
            })?;
            *inputs = inputs.divided(scales)?;
        }
        Ok(divided)
    }

    /// [`run`](Self::run), kept in the [cache directory](crate::hub::cache_directory) under a key of what the model computes and of the
    /// samples: another model, text or precision is another key. A file that cannot be read is made anew. Of all that are kept, the
    /// 16 that were used last stay.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`Error::Io`] if the cache cannot be written.
    pub fn cached(model: &Model, samples: &Samples) -> Result<Calibration> {
        let directory = crate::hub::cache_directory()?.join("calibration");
        Calibration::cached_in(&directory, model, samples)
    }

    pub(super) fn cached_in(
        directory: &Path,
        model: &Model,
        samples: &Samples,
    ) -> Result<Calibration> {
        Calibration::kept(directory, model, samples, fast_element(model))
    }

    fn kept(
        directory: &Path,
        model: &Model,
        samples: &Samples,
        element: Element,
    ) -> Result<Calibration> {
        let key = key(model, samples, element)?;
        let path = directory.join(format!("{key}.safetensors"));
        let inputs = match cache::load(&path)? {
            Some(inputs) => inputs,
            None => {
                let found = Calibration::run_as(model, samples, element)?;
                cache::save(&path, &found.inputs)?;
                cache::forget(directory, KEPT);
                found.inputs
            }
        };
        Ok(Calibration {
            samples: samples.clone(),
            inputs,
            element,
            directory: Some(directory.to_owned()),
        })
    }

    /// The texts.
    pub fn samples(&self) -> &Samples {
        &self.samples
    }

    /// What is known of the inputs of a weight matrix: `blk.3.attn_k.weight` (those of `blk.3.attn_q.in`), `output.weight`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if nothing is.
    pub fn inputs(&self, weight: &str) -> Result<&Inputs> {
        let name = activation_of(weight);
        self.inputs.get(&name).ok_or_else(|| Error::NotFound {
            what: format!("statistics of the inputs of {weight}"),
            tried: vec![format!(
                "{name} among {} inputs of the calibration",
                self.inputs.len()
            )],
        })
    }

    /// All inputs, by activation.
    pub fn all(&self) -> impl Iterator<Item = &Inputs> {
        self.inputs.values()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let of = |it: &Inputs| 4 * (it.triangle().len() + 2 * it.columns());
        self.inputs.values().map(of).sum()
    }

    /// Shows the line in a notebook.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "calibration on {}: {} inputs, {:.0} MB",
            self.samples,
            self.inputs.len(),
            self.bytes() as f64 / 1e6
        )
    }
}

impl fmt::Debug for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The activation that a weight matrix meets: the [hooks](crate::model::hook) have it by this name.
pub fn activation_of(weight: &str) -> String {
    let stem = weight.strip_suffix(".weight").unwrap_or(weight);
    let stem = match stem.rsplit_once('.') {
        Some((layer, "attn_k" | "attn_v")) => format!("{layer}.attn_q"),
        Some((layer, "ffn_up")) => format!("{layer}.ffn_gate"),
        None if stem == "token_embd" => "output".to_owned(),
        _ => stem.to_owned(),
    };
    format!("{stem}.in")
}

/// Names of the linear layers of transformer layer `n`, in the order in which they run; those of one slice share an input.
pub fn linear_names(n: usize) -> [Vec<String>; 4] {
    let names = |parts: &[&str]| {
        parts
            .iter()
            .map(|it| format!("blk.{n}.{it}.weight"))
            .collect()
    };
    [
        names(&["attn_q", "attn_k", "attn_v"]),
        names(&["attn_output"]),
        names(&["ffn_gate", "ffn_up"]),
        names(&["ffn_down"]),
    ]
}

/// What the machine multiplies fastest.
pub(super) fn fast_element(model: &Model) -> Element {
    fastest_element(model.network().engine.isa)
}

/// Windows that go through the network together.
pub(super) fn batches(samples: &Samples) -> impl Iterator<Item = &[Vec<u32>]> {
    let length = samples.windows().first().map_or(1, Vec::len);
    samples.windows().chunks((BATCH_TOKENS / length).max(1))
}

/// Windows with their stores.
pub(super) fn pieces<'a>(
    windows: &'a [Vec<u32>],
    stores: &'a mut [Box<dyn Store>],
) -> Vec<Piece<'a>> {
    let pairs = windows.iter().zip(stores);
    let piece = |(tokens, store): (&'a Vec<u32>, &'a mut Box<dyn Store>)| Piece {
        store: store.as_mut(),
        tokens,
    };
    pairs.map(piece).collect()
}

/// The network with the f32 matrices of its layers in bf16. Keys and values stay as they are: in bf16 they are half a second faster for
/// 32,768 tokens of a model of 135 million weights, and what GPTQ makes of the statistics diverges 1 to 3 per cent more.
pub(super) fn in_bf16(network: &Llama) -> Result<Llama> {
    in_element(network, Element::Bf16, |name| name.starts_with("blk."))
}

/// The network with some of its matrices in this precision: in bf16 those that are f32 (a correction of low rank added to them, if there is
/// one), in f32 all that are not.
pub(super) fn in_element(
    network: &Llama,
    element: Element,
    wants: impl Fn(&str) -> bool,
) -> Result<Llama> {
    let mut other = network.clone();
    let mut values = Vec::new();
    for name in network.matrix_names().into_iter().filter(|it| wants(it)) {
        let linear = network.linear(&name)?;
        let kind = linear.kind();
        let is_f32 = match element {
            Element::F32 => kind == "f32",
            Element::Bf16 => kind == "f32" || kind.starts_with("f32 + "),
        };
        if is_f32 == (element == Element::F32) {
            continue;
        }
        let (rows, columns) = linear.shape();
        values.resize(rows * columns, 0.0);
        let each = values.par_chunks_exact_mut(columns).enumerate();
        each.for_each(|(n, row)| linear.row(n, row));
        let dense = Dense::new(element, &values, columns);
        other = other.with_linear(&name, Arc::new(dense))?;
    }
    Ok(other)
}

/// What a calibration depends on: all weights, what the model computes with them (its states after the beginning of the first window tell
/// attentions apart), all samples, and the precision of the pass.
fn key(model: &Model, samples: &Samples, element: Element) -> Result<String> {
    let first = samples.windows().first().map_or(&[][..], Vec::as_slice);
    let beginning = &first[..first.len().min(64)];
    let hidden = model.hidden(beginning, model.network().store().as_mut())?;
    let mut hash = Sha256::new();
    hash.update(super::fingerprint::fingerprint(model.network())?);
    for value in hidden {
        hash.update(value.to_le_bytes());
    }
    hash.update(samples.sha256());
    hash.update(format!("{element:?} {:?} 2", model.network().engine.isa));
    Ok(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests;
