//! What each layer of a quantized model loses on text that it was not fitted to, and what it inherits from the layers before.
//!
//! With x the input of a matrix W in the original network, x̂ in the quantized one, and y the layer that runs there:
//!
//! ```text
//! injected    ‖y(x) − W·x‖²      what this layer alone does wrong: its error on held-out text
//! propagated  ‖W·x̂ − W·x‖²       what comes in wrong
//! total       ‖y(x̂) − W·x‖²      both, as they meet
//! ```
//! each over ‖W·x‖². Both networks go through the windows side by side, layer by layer: memory does not grow with the text.
//!
//! Cost: two forward passes without the head, and four products with every matrix: as much as six passes, in the precision of the networks.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::kernels::dense::Into;
use crate::model::linear::Input;
use crate::model::{Llama, Record};
use crate::progress::Progress;
use crate::quant::Samples;
use crate::quant::calibration::{activation_of, batches, linear_names, pieces};
use crate::{Error, Result};

/// Outputs whose errors are added by one thread.
const PIECE: usize = 1 << 14;

/// What one matrix loses; shares of the power of its outputs.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Judged {
    /// By itself.
    pub injected: f64,
    /// Because of its inputs.
    pub propagated: f64,
    /// In all.
    pub total: f64,
}

/// Sums of squares of one matrix.
#[derive(Default)]
struct Sums {
    signal: f64,
    injected: f64,
    propagated: f64,
    total: f64,
}

impl Sums {
    fn shares(&self) -> Judged {
        let share = |noise: f64| {
            if noise == 0.0 {
                0.0
            } else {
                noise / self.signal
            }
        };
        Judged {
            injected: share(self.injected),
            propagated: share(self.propagated),
            total: share(self.total),
        }
    }
}

/// What `quantized` loses of `original` on `samples`, by the name of the matrix.
pub(super) fn judge(
    original: &Llama,
    quantized: &Llama,
    samples: &Samples,
) -> Result<BTreeMap<String, Judged>> {
    let layers = original.config().layers;
    let mut sums: BTreeMap<String, Sums> = BTreeMap::new();
    let mut progress = Progress::new("judge", samples.tokens() as u64, "tokens");
    for windows in batches(samples) {
        let mut states = Vec::new();
        for network in [original, quantized] {
            let mut stores: Vec<_> = windows.iter().map(|_| network.store()).collect();
            states.push(network.embed(&pieces(windows, &mut stores))?);
        }
        for n in 0..layers {
            let mut seen = Vec::new();
            for (network, state) in [original, quantized].into_iter().zip(&mut states) {
                let mut stores: Vec<_> = windows.iter().map(|_| network.store()).collect();
                let mut record = Record::new(format!("blk.{n}.*.in"));
                let mut pieces = pieces(windows, &mut stores);
                network.through(n..n + 1, state, &mut pieces, Some(&mut record))?;
                seen.push(record);
            }
            for name in linear_names(n).concat() {
                let activation = activation_of(&name);
                let x: Vec<Vec<f32>> = seen
                    .iter()
                    .map(|it| Ok(it.get(&activation)?.flatten_all()?.to_vec1()?))
                    .collect::<Result<_>>()?;
                let [clean, real] = x.as_slice() else {
                    continue;
                };
                add(
                    sums.entry(name.clone()).or_default(),
                    (original, quantized),
                    &name,
                    (clean, real),
                )?;
            }
        }
        progress.advance(windows.iter().map(Vec::len).sum::<usize>() as u64)?;
    }
    if sums.is_empty() {
        return Err(Error::argument(
            "text to judge on",
            "at least one window",
            "none",
        ));
    }
    Ok(sums
        .iter()
        .map(|(name, it)| (name.clone(), it.shares()))
        .collect())
}

fn add(
    sums: &mut Sums,
    (original, quantized): (&Llama, &Llama),
    name: &str,
    (clean, real): (&[f32], &[f32]),
) -> Result<()> {
    let product = |network: &Llama, x: &[f32]| -> Result<Vec<f32>> {
        let layer = network.linear(name)?;
        let (rows, columns) = layer.shape();
        let mut out = vec![0.0; x.len() / columns * rows];
        let input = Input::new(x, columns, &network.engine);
        layer.forward(&input, Into::Replace, &mut out, &network.engine);
        Ok(out)
    };
    let exact = product(original, clean)?;
    // In pieces of fixed length, so that the sum has the same bits on any number of threads.
    let distance = |other: &[f32]| -> f64 {
        let pieces = exact.par_chunks(PIECE).zip(other.par_chunks(PIECE));
        let of = |(a, b): (&[f32], &[f32])| -> f64 {
            let pairs = a.iter().zip(b);
            pairs
                .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
                .sum()
        };
        pieces.map(of).collect::<Vec<f64>>().iter().sum()
    };
    sums.signal += exact.iter().map(|it| f64::from(*it).powi(2)).sum::<f64>();
    sums.injected += distance(&product(quantized, clean)?);
    sums.propagated += distance(&product(original, real)?);
    sums.total += distance(&product(quantized, real)?);
    Ok(())
}
