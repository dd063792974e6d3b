//! Which matrix broke the model: each one alone is put in place of the original's, and the divergence measured.
//!
//! ```text
//! for each window:  run the original, keep the residual stream in front of every layer
//!   for each matrix of layer n:  from that stream on, with this one matrix swapped; mean KL(original ‖ swapped) over the tokens
//! ```
//! If errors added up, the divergences of single swaps would sum to that of all of them together; [`Attribution::additivity`] is the ratio.
//!
//! Source: the idea is common (AIMET's `QuantAnalyzer`; exllamav3's `model_diff_attrib.py`, 2026); what is ours is that only the layers
//! behind the swap are run again, from streams that are kept for one window at a time.
//!
//! Cost: for each window of T tokens, L/2 layers and the head for each of 7·L matrices, T·K numbers for each layer.
//!
//! **Precision.** Where the machine multiplies bf16, both networks are taken in bf16, all matrices and the head, so that a swap differs from the
//! original by the swapped matrix alone.

use std::collections::BTreeMap;
use std::fmt;

use crate::kernels::divergence::divergence;
use crate::kernels::likelihood::log_sum_exp;
use crate::model::{Llama, Model};
use crate::progress::Progress;
use crate::quant::Samples;
use crate::quant::calibration::{fast_element, in_element, linear_names, pieces};
use crate::{Error, Result, interrupt};

/// Divergences of single swaps.
pub struct Attribution {
    original: Llama,
    quantized: Llama,
    samples: Samples,
    names: Vec<String>,
    /// Sums over windows of mean divergences, in the order of the names; the last is of all matrices together.
    sums: Vec<f64>,
    /// Swaps that are done, window after window.
    done: usize,
}

/// The residual stream of one window in front of each layer, and what the original makes of it.
struct Window {
    tokens: Vec<u32>,
    streams: Vec<Vec<f32>>,
    logits: Vec<f32>,
    normalisers: Vec<f64>,
}

/// [`Attribution::new`], run to its end.
///
/// # Errors
/// As [`Attribution::run`].
pub fn attribution(original: &Model, quantized: &Model, samples: &Samples) -> Result<Attribution> {
    let mut attribution = Attribution::new(original, quantized, samples)?;
    attribution.run()?;
    Ok(attribution)
}

impl Attribution {
    /// Of a quantized model against the network that was rounded ([`Finished::reference`](super::Finished::reference)), on all tokens of
    /// `samples`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the two are of different configurations.
    pub fn new(original: &Model, quantized: &Model, samples: &Samples) -> Result<Attribution> {
        if original.config != quantized.config {
            let (expected, got) = (&original.config, &quantized.config);
            return Err(Error::argument(
                "quantized model",
                format!("{expected:?}"),
                format!("{got:?}"),
            ));
        }
        let element = fast_element(original);
        let fast = |model: &Model| in_element(model.network(), element, |_| true);
        let names: Vec<String> = (0..original.config.layers)
            .flat_map(linear_names)
            .flatten()
            .collect();
        Ok(Attribution {
            original: fast(original)?,
            quantized: fast(quantized)?,
            samples: samples.clone(),
            sums: vec![0.0; names.len() + 1],
            names,
            done: 0,
        })
    }

    /// Goes on until all swaps of all windows are done.
    ///
    /// # Errors
    /// Those of the forward pass; [`Error::Interrupted`]: what is done stays done, and another call goes on from there.
    pub fn run(&mut self) -> Result<()> {
        let swaps = self.sums.len();
        let total = swaps * self.samples.windows().len();
        let mut progress = Progress::new("attribution", total as u64, "swaps");
        while self.done < total {
            let window = self.window(self.done / swaps)?;
            for swap in self.done % swaps..swaps {
                progress.set(self.done as u64)?;
                self.sums[swap] += self.swap(swap, &window)?;
                self.done += 1;
            }
        }
        progress.set(total as u64)
    }

    /// The original on one window.
    fn window(&self, index: usize) -> Result<Window> {
        let tokens = self.samples.windows()[index].clone();
        let network = &self.original;
        let windows = std::slice::from_ref(&tokens);
        let mut stores = vec![network.store()];
        let mut x = network.embed(&pieces(windows, &mut stores))?;
        let mut streams = Vec::with_capacity(network.config().layers);
        for n in 0..network.config().layers {
            streams.push(x.clone());
            network.through(n..n + 1, &mut x, &mut pieces(windows, &mut stores), None)?;
        }
        let logits = network.logits(&network.normed(&x)?);
        Ok(Window {
            normalisers: normalisers(network, &logits),
            tokens,
            streams,
            logits,
        })
    }

    /// Mean divergence over the tokens of a window with one matrix swapped, or all.
    fn swap(&self, swap: usize, window: &Window) -> Result<f64> {
        interrupt::check("attribution")?;
        let layers = self.original.config().layers;
        let (network, first) = match self.names.get(swap) {
            Some(name) => {
                let first = (0..layers).find(|n| name.starts_with(&format!("blk.{n}.")));
                let linear = self.quantized.linear(name)?;
                (self.original.with_linear(name, linear)?, first.unwrap_or(0))
            }
            None => (self.quantized.clone(), 0),
        };
        let windows = std::slice::from_ref(&window.tokens);
        let mut stores = vec![network.store()];
        let mut x = match swap < self.names.len() {
            true => window.streams[first].clone(),
            false => network.embed(&pieces(windows, &mut stores))?,
        };
        network.through(
            first..layers,
            &mut x,
            &mut pieces(windows, &mut stores),
            None,
        )?;
        let logits = network.logits(&network.normed(&x)?);
        Ok(mean_divergence(&network, window, &logits))
    }

    /// Whether all swaps are done.
    pub fn is_done(&self) -> bool {
        self.done == self.sums.len() * self.samples.windows().len()
    }

    /// Mean KL divergence of each single swap, in nats, by the name of the matrix; over the windows that are done.
    pub fn single(&self) -> BTreeMap<String, f64> {
        let windows = |at: usize| (self.done + self.sums.len() - 1 - at) / self.sums.len();
        let of = |(at, name): (usize, &String)| {
            let count = windows(at);
            (count > 0).then(|| (name.clone(), self.sums[at] / count as f64))
        };
        self.names.iter().enumerate().filter_map(of).collect()
    }

    /// Mean KL divergence of all swaps together, once a window is done.
    pub fn together(&self) -> Option<f64> {
        let windows = self.done / self.sums.len();
        (windows > 0).then(|| self.sums[self.names.len()] / windows as f64)
    }

    /// Σ of single swaps over that of all together: 1 where errors add up.
    pub fn additivity(&self) -> Option<f64> {
        Some(self.single().values().sum::<f64>() / self.together()?)
    }

    /// One row a matrix, in the order of the network: its name, layer and part, mean KL divergence in nats, and its share of the sum.
    ///
    /// # Errors
    /// [`Error::Table`] if the table library refuses.
    #[cfg(feature = "notebook")]
    pub fn table(&self) -> Result<polars::prelude::DataFrame> {
        let single = self.single();
        let names: Vec<&String> = self
            .names
            .iter()
            .filter(|it| single.contains_key(*it))
            .collect();
        let kl: Vec<f64> = names.iter().map(|it| single[*it]).collect();
        let sum: f64 = kl.iter().sum();
        let parts = |it: &&String| -> (u32, String) {
            let stem = it.trim_start_matches("blk.").trim_end_matches(".weight");
            let (layer, part) = stem.split_once('.').unwrap_or(("", stem));
            (layer.parse().unwrap_or_default(), part.to_owned())
        };
        let (layers, parts): (Vec<u32>, Vec<String>) = names.iter().map(parts).unzip();
        let names: Vec<String> = names.into_iter().cloned().collect();
        let shares: Vec<f64> = kl.iter().map(|it| it / sum).collect();
        Ok(polars::df!(
            "weight" => names,
            "layer" => layers,
            "part" => parts,
            "KL (nats)" => kl,
            "share" => shares,
        )?)
    }

    /// Shows the line in a notebook.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl fmt::Display for Attribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let single = self.single();
        let worst = single.iter().max_by(|a, b| a.1.total_cmp(b.1));
        write!(
            f,
            "{} matrices swapped one by one on {}",
            single.len(),
            self.samples
        )?;
        if let Some((name, kl)) = worst {
            write!(f, "; the worst is {name}, {kl:.2e} nats")?;
        }
        match (self.together(), self.additivity()) {
            (Some(together), Some(ratio)) => {
                write!(
                    f,
                    "; all together {together:.2e} nats, the sum is {ratio:.2} of that"
                )
            }
            _ => write!(f, "; not all are done"),
        }
    }
}

impl fmt::Debug for Attribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn normalisers(network: &Llama, logits: &[f32]) -> Vec<f64> {
    let mut out = vec![0.0; logits.len() / network.config().vocabulary];
    let rows = logits.chunks_exact(network.config().vocabulary);
    let engine = &network.engine;
    engine
        .team
        .each(out.iter_mut().zip(rows), &|_, (out, row)| {
            *out = log_sum_exp(engine.isa, row);
        });
    out
}

fn mean_divergence(network: &Llama, window: &Window, logits: &[f32]) -> f64 {
    let vocabulary = network.config().vocabulary;
    let engine = &network.engine;
    let mut out = vec![0.0; window.tokens.len()];
    engine.team.each(out.iter_mut(), &|t, out| {
        let row = t * vocabulary..(t + 1) * vocabulary;
        let (p, q) = (&window.logits[row.clone()], &logits[row]);
        *out = divergence(
            engine.isa,
            p,
            window.normalisers[t],
            q,
            log_sum_exp(engine.isa, q),
        );
    });
    out.iter().sum::<f64>() / out.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WeightType;
    use crate::model::tests::tiny;
    use crate::quant::pipeline::quantize;

    fn case() -> (Model, Model, Samples) {
        let model = tiny::model(WeightType::F32);
        let text = "the quick brown fox jumps over the lazy dog. ".repeat(10);
        let samples = Samples::of_text(&model, "t", &text, 3, 40).unwrap();
        let recipe = "rtn:int4-g16,blk.1.ffn_up=int2-g16".parse().unwrap();
        let (quantized, _) = quantize(&model, &recipe, None).unwrap();
        (model, quantized, samples)
    }

    #[test]
    fn a_swap_is_that_of_a_model_with_one_matrix_replaced() -> Result<()> {
        let (model, quantized, samples) = case();
        let found = attribution(&model, &quantized, &samples)?;
        let single = found.single();
        assert_eq!(single.len(), 14);
        // The same by another way: whole models, one matrix replaced, all of their logits.
        let fast = |network: &Llama| in_element(network, fast_element(&model), |_| true);
        let own = fast(model.network())?;
        let names = [
            "blk.0.attn_q.weight",
            "blk.1.ffn_up.weight",
            "blk.1.ffn_down.weight",
        ];
        let networks = names.map(|name| -> Result<Llama> {
            fast(
                &model
                    .network()
                    .with_linear(name, quantized.network().linear(name)?)?,
            )
        });
        for (name, network) in names.into_iter().zip(networks) {
            let network = network?;
            let mut sum = 0.0;
            for tokens in samples.windows() {
                let logits = |network: &Llama| -> Result<Vec<f32>> {
                    let mut stores = vec![network.store()];
                    let windows = std::slice::from_ref(tokens);
                    Ok(network.logits(&network.hidden(&mut pieces(windows, &mut stores), None)?))
                };
                let (p, q) = (logits(&own)?, logits(&network)?);
                let vocabulary = model.config.vocabulary;
                for (p, q) in p.chunks(vocabulary).zip(q.chunks(vocabulary)) {
                    let isa = own.engine.isa;
                    sum += divergence(isa, p, log_sum_exp(isa, p), q, log_sum_exp(isa, q));
                }
            }
            let expected = sum / samples.tokens() as f64;
            assert!(
                (single[name] - expected).abs() <= 1e-12 + 1e-9 * expected,
                "{name}"
            );
        }
        // Two bits among four: the worst of its layer by far.
        let of_layer = single.iter().filter(|it| it.0.starts_with("blk.1."));
        let worst = single["blk.1.ffn_up.weight"];
        assert!(
            of_layer.filter(|it| *it.1 * 5.0 > worst).count() == 1,
            "{single:?}"
        );
        assert!(found.together().unwrap() > 0.0 && found.additivity().unwrap() > 0.0);
        #[cfg(feature = "notebook")]
        assert_eq!(found.table()?.shape(), (14, 5));
        assert!(
            found.to_string().contains("the worst is blk.0.attn_k"),
            "{found}"
        );
        Ok(())
    }

    #[test]
    fn what_is_done_stays_done_and_equal_models_have_none() -> Result<()> {
        let (model, quantized, samples) = case();
        let whole = attribution(&model, &quantized, &samples)?;
        let mut halves = Attribution::new(&model, &quantized, &samples)?;
        assert!(halves.single().is_empty() && halves.together().is_none());
        // Twenty swaps, as if stop had been pressed in the second window.
        for swap in 0..20 {
            let window = halves.window(swap / 15)?;
            halves.sums[swap % 15] += halves.swap(swap % 15, &window)?;
            halves.done += 1;
        }
        assert_eq!(halves.single().len(), 14);
        assert!(!halves.is_done());
        halves.run()?;
        assert!(halves.is_done());
        assert_eq!(halves.single(), whole.single());
        let none = attribution(&model, &model, &samples)?;
        assert!(none.single().values().all(|kl| *kl == 0.0));
        Ok(())
    }
}
