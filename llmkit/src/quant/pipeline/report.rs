//! What was done to a model, matrix by matrix.

use std::fmt;

use super::judge::Judged;
use super::prepare::Prepared;
use crate::Result;
use crate::quant::{Applied, Granularity, Matrix, Quantized};

/// Places left as they were that are shown of each step; the others are counted.
const LEFT: usize = 3;

/// One matrix.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Layer {
    /// `blk.3.ffn_up.weight`.
    pub name: String,
    /// N and K.
    pub shape: (usize, usize),
    /// Method and format that were asked for.
    pub requested: String,
    /// Method and format of the result, by its own word.
    pub applied: String,
    /// What the method says it did.
    pub details: Applied,
    /// Weights in the last group of a row, where it is shorter than the others.
    pub ragged: Option<usize>,
    /// tr(E·H·Eᵀ)/tr(W·H·Wᵀ), if the inputs are known: the share of the output's power that is lost, on the calibration's text, with the
    /// correction if there is one. Rounding of inputs is not in it.
    pub output_error: Option<f64>,
    /// The same without the correction.
    pub uncorrected_error: Option<f64>,
    /// What the layer as it runs loses on other text, and what it inherits; see [`Finished::judge`](super::Finished::judge).
    pub judged: Option<Judged>,
    /// Signal to noise of the weights, in dB.
    pub sqnr_db: f64,
    /// Bytes stored, everything counted.
    pub bytes: usize,
    /// The correction that is in them.
    pub correction: Option<String>,
    /// Channels that calibration saw with outliers, where inputs are rounded without them.
    pub outlier_columns: Option<usize>,
    /// How it runs: `f32`, `int4-g64`.
    pub runs_as: String,
}

impl Layer {
    /// Of a quantized matrix.
    pub(super) fn new(
        name: &str,
        requested: String,
        original: &Matrix,
        quantized: &Quantized,
    ) -> Result<Layer> {
        let shape = (original.rows(), original.cols());
        let ragged = match quantized.format().granularity() {
            Granularity::Group(group) => {
                Some(shape.1 % group).filter(|&rest| rest > 0 && group < shape.1)
            }
            Granularity::Tensor | Granularity::Channel => None,
        };
        let format = quantized.format().name();
        Ok(Layer {
            name: name.to_owned(),
            shape,
            requested,
            applied: format!("{}:{format}", quantized.applied().method),
            details: quantized.applied().clone(),
            ragged,
            bytes: quantized.bytes(),
            ..Layer::default()
        })
    }

    /// Weights.
    pub fn weights(&self) -> usize {
        self.shape.0 * self.shape.1
    }

    /// Stored bits over weights.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes as f64 / self.weights() as f64
    }

    /// Share of the weights that were clipped.
    pub fn clip_rate(&self) -> Option<f64> {
        Some(self.details.clipped? as f64 / self.weights() as f64)
    }
}

/// A quantized model, matrix by matrix.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// The recipe, in full.
    pub recipe: String,
    /// What it was calibrated on; empty if on nothing.
    pub calibration: String,
    /// What was done to the network first.
    pub steps: Vec<Prepared>,
    /// In the order in which they were quantized.
    pub layers: Vec<Layer>,
    /// What it was judged on; empty if on nothing.
    pub judged_on: String,
    /// Weights that were left as they were: embedding, head (which has its own weights once a transform has parted the two), norms, biases.
    pub other_weights: usize,
    /// Seconds it took, without calibration that was done before.
    pub seconds: f64,
}

impl Report {
    /// Bytes of the quantized matrices.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|it| it.bytes).sum()
    }

    /// Bytes of the whole model: the quantized matrices, and all else in 16 bits.
    pub fn model_bytes(&self) -> usize {
        self.bytes() + 2 * self.other_weights
    }

    /// Stored bits over weights, of the quantized matrices.
    pub fn bits_per_weight(&self) -> f64 {
        let weights: usize = self.layers.iter().map(Layer::weights).sum();
        8.0 * self.bytes() as f64 / weights as f64
    }

    /// Megabytes of the whole model: [`model_bytes`](Self::model_bytes) over 10⁶.
    pub fn megabytes(&self) -> f64 {
        self.model_bytes() as f64 / 1e6
    }

    /// Output errors, matrix by matrix, of those whose inputs are known.
    pub fn output_errors(&self) -> Vec<f64> {
        self.layers
            .iter()
            .filter_map(|it| it.output_error)
            .collect()
    }

    /// One row a matrix: name, N, K, requested, applied, damping, dead inputs, clip rate, ragged group, output error, that without the
    /// correction, on held-out text (injected), propagated, total, SQNR in dB, bits a weight, bytes, correction, outlier columns, how it runs.
    ///
    /// # Errors
    /// [`Error::Table`](crate::Error::Table) if the table library refuses.
    #[cfg(feature = "notebook")]
    pub fn table(&self) -> Result<polars::prelude::DataFrame> {
        fn column<T>(of: &Report, value: impl Fn(&Layer) -> T) -> Vec<T> {
            of.layers.iter().map(value).collect()
        }
        Ok(polars::df!(
            "weight" => column(self, |it| it.name.clone()),
            "N" => column(self, |it| it.shape.0 as u32),
            "K" => column(self, |it| it.shape.1 as u32),
            "requested" => column(self, |it| it.requested.clone()),
            "applied" => column(self, |it| it.applied.clone()),
            "damping" => column(self, |it| it.details.damping.map(|it| it.used)),
            "dead inputs" => column(self, |it| it.details.dead_inputs as u32),
            "clip rate" => column(self, Layer::clip_rate),
            "ragged group" => column(self, |it| it.ragged.map(|it| it as u32)),
            "output error" => column(self, |it| it.output_error),
            "uncorrected error" => column(self, |it| it.uncorrected_error),
            "held-out error" => column(self, |it| it.judged.map(|it| it.injected)),
            "propagated error" => column(self, |it| it.judged.map(|it| it.propagated)),
            "total error" => column(self, |it| it.judged.map(|it| it.total)),
            "SQNR (dB)" => column(self, |it| it.sqnr_db),
            "bits/weight" => column(self, Layer::bits_per_weight),
            "bytes" => column(self, |it| it.bytes as u64),
            "correction" => column(self, |it| it.correction.clone()),
            "outlier columns" => column(self, |it| it.outlier_columns.map(|it| it as u32)),
            "runs as" => column(self, |it| it.runs_as.clone()),
        )?)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} matrices, {:.3} bits a weight, {:.1} MB of {:.1} MB with embedding and norms in 16 bits",
            self.recipe,
            self.layers.len(),
            self.bits_per_weight(),
            self.bytes() as f64 / 1e6,
            self.model_bytes() as f64 / 1e6
        )?;
        if !self.calibration.is_empty() {
            write!(f, "; {}", self.calibration)?;
        }
        let errors = self.output_errors();
        if !errors.is_empty() {
            let mean = errors.iter().sum::<f64>() / errors.len() as f64;
            write!(f, "; mean output error {mean:.2e}")?;
        }
        let judged: Vec<Judged> = self.layers.iter().filter_map(|it| it.judged).collect();
        if !judged.is_empty() {
            let mean =
                |of: fn(&Judged) -> f64| judged.iter().map(of).sum::<f64>() / judged.len() as f64;
            write!(
                f,
                "; on {}: {:.2e} by each layer itself, {:.2e} with what comes in",
                self.judged_on,
                mean(|it| it.injected),
                mean(|it| it.total)
            )?;
        }
        let odd = |what: &str, count: usize| match count {
            0 => String::new(),
            count => format!("; {count} with {what}"),
        };
        let count = |is: &dyn Fn(&Layer) -> bool| self.layers.iter().filter(|it| is(it)).count();
        f.write_str(&odd(
            "a ragged last group",
            count(&|it| it.ragged.is_some()),
        ))?;
        f.write_str(&odd(
            "inputs never active",
            count(&|it| it.details.dead_inputs > 0),
        ))?;
        let grew = |it: &Layer| it.details.damping.is_some_and(|it| it.tries > 1);
        f.write_str(&odd("more damping than asked", count(&grew)))?;
        write!(f, "; {:.1} s", self.seconds)?;
        for step in &self.steps {
            write!(f, "\n  {step}")?;
            for left in step.report.left().take(LEFT) {
                write!(f, "\n    left: {}: {}", left.place, left.what)?;
            }
            match step.report.left().count().saturating_sub(LEFT) {
                0 => {}
                more => write!(f, "\n    and {more} more")?,
            }
        }
        Ok(())
    }
}
