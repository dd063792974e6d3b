//! QuaRot: rotates what flows through the network, so that no channel stands out.
//!
//! ```text
//! stream   x' = x·Q        embedding E·Q, readers W·diag(g)·Q, writers Qᵀ·W, head W·diag(g)·Q; gains g of the norms become 1
//! values   v' = v·R        each head: rows of Wv by Rᵀ, columns of Wo by R
//! ffn      h' = h·F        columns of Wdown by F; h itself is rotated on its way ("online"), for a product stands before it
//! ```
//! RMSNorm without gain commutes with a rotation, ‖x·Q‖ = ‖x‖; attention mixes values with weights that do not know of R; so every
//! step is exact. Q, R and F are [`Hadamard`] matrices with random signs. **Gains have to be folded first**: diag(g) and Q do not
//! commute, and a network rotated without that computes something else (design note, bug zoo 14).
//!
//! Source: S. Ashkboos et al., *QuaRot* (arXiv 2404.00456), section 4, stages 1a – 1c; the fold is SliceGPT's (arXiv 2401.15024).
//!
//! Cost: n·(Σ m + k) additions a row of weights, once; online, as much a token and layer: for 1536 = 12·128, 29 thousand additions beside
//! the 885 thousand products of ffn_down on SmolLM2-135M.
//!
//! **Where we differ.** Orders are built, not looked up, so 576 = H12 ⊗ H12 ⊗ H4 works (QuaRot refuses it). We do not mix across
//! heads before attn_output: that needs a Hadamard matrix of the number of heads, and there is none of order 9. Keys and queries are
//! not rotated after RoPE: that serves a quantized cache, not weights. A network whose queries and keys have norms of their own (Qwen3)
//! is rotated like others: those norms see what comes out of Wq and Wk, which no rotation here changes.

use std::sync::Arc;

use super::{Report, Transform};
use crate::linalg::{Hadamard, Orthogonal};
use crate::quant::parts::{Parts, edit};
use crate::quant::{Format, Statistics};
use crate::{Error, Result, interrupt};

/// QuaRot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotate {
    /// Of the random signs.
    pub seed: u64,
    /// Whether values are rotated head by head.
    pub values: bool,
    /// Whether the input of ffn_down is rotated on its way. A file for other programs cannot say that.
    pub online: bool,
}

impl Rotate {
    /// All of it.
    pub fn new(seed: u64) -> Rotate {
        Rotate {
            seed,
            values: true,
            online: true,
        }
    }

    /// Only what the weights take over: stream and values.
    pub fn offline(seed: u64) -> Rotate {
        Rotate {
            online: false,
            ..Rotate::new(seed)
        }
    }

    fn rotation(&self, what: &str, order: usize, number: u64) -> Result<Hadamard> {
        Hadamard::random(order, self.seed.wrapping_mul(3).wrapping_add(number)).map_err(|error| {
            match error {
                Error::Argument { expected, got, .. } => Error::Argument {
                    name: format!("rotation of {what}: order"),
                    expected,
                    got,
                },
                other => other,
            }
        })
    }
}

impl Transform for Rotate {
    fn name(&self) -> String {
        let values = if self.values { "" } else { "-stream" };
        let online = if self.online { "" } else { "-offline" };
        format!("rotate{values}{online}-seed{}", self.seed)
    }

    fn needs_statistics(&self) -> bool {
        false
    }

    fn is_in_weights(&self) -> bool {
        !self.online
    }

    fn apply(&self, parts: &mut dyn Parts, _: &Statistics) -> Result<Report> {
        let config = parts.config().clone();
        // All that can fail fails before anything is changed.
        let stream = self.rotation("the residual stream", config.width, 0)?;
        let heads = self
            .values
            .then(|| self.rotation("values", config.head_dim, 1));
        let ffn = self
            .online
            .then(|| self.rotation("the feed-forward network", config.ffn_width, 2));
        let (heads, ffn) = (heads.transpose()?, ffn.transpose()?.map(Arc::new));

        let mut report = Report::default();
        if parts.is_tied() {
            report.done(
                "output.weight",
                "a head of its own: gains are folded into it, not into the embedding",
            );
        }
        rotate_stream(parts, &stream, fold)?;
        report.done(
            "residual stream",
            format!("gains folded, rotated by {stream}"),
        );
        match &heads {
            Some(heads) => {
                for n in 0..config.layers {
                    rotate_values(parts, n, heads)?;
                }
                report.done("values of each head", format!("rotated by {heads}"));
            }
            None => report.skipped("values of each head", "not asked for"),
        }
        match &ffn {
            Some(ffn) => rotate_ffn(parts, ffn, &mut report)?,
            None => report.skipped("input of ffn_down", "not asked for"),
        }
        Ok(report)
    }

    /// `rotate`, `rotate-offline`, `rotate-stream-offline-seed3`.
    fn named(&self, name: &str, _: &dyn Format) -> Result<Option<Box<dyn Transform>>> {
        let Some(options) = name.strip_prefix("rotate") else {
            return Ok(None);
        };
        let mut found = Rotate::new(0);
        let (options, seed) = options.split_once("-seed").unwrap_or((options, "0"));
        let Ok(seed) = seed.parse() else {
            return Ok(None);
        };
        found.seed = seed;
        (found.values, found.online) = match options {
            "" => (true, true),
            "-offline" => (true, false),
            "-stream" => (false, true),
            "-stream-offline" => (false, false),
            _ => return Ok(None),
        };
        Ok(Some(Box::new(found)))
    }
}

/// Takes the gain of a norm for the matrices that follow it, and leaves ones.
pub(super) fn fold(parts: &mut dyn Parts, norm: &str) -> Result<Vec<f64>> {
    let gain = parts.vector(norm)?;
    parts.set_vector(norm, &vec![1.0; gain.len()])?;
    Ok(gain)
}

/// Rotates the residual stream; `fold` gives the gain of a norm and takes it away.
pub(super) fn rotate_stream(
    parts: &mut dyn Parts,
    rotation: &dyn Orthogonal,
    fold: impl Fn(&mut dyn Parts, &str) -> Result<Vec<f64>>,
) -> Result<()> {
    // The head first: set, it is no longer the embedding.
    let mut head = parts.matrix("output.weight")?;
    head.scale_columns(&fold(parts, "output_norm.weight")?);
    head.rotate_rows(rotation);
    parts.set_matrix("output.weight", &head)?;
    drop(head);
    edit(parts, "token_embd.weight", |w| w.rotate_rows(rotation))?;
    for n in 0..parts.config().layers {
        interrupt::check("rotate")?;
        let name = |part: &str| format!("blk.{n}.{part}.weight");
        for (norm, readers) in [
            ("attn_norm", &["attn_q", "attn_k", "attn_v"][..]),
            ("ffn_norm", &["ffn_gate", "ffn_up"]),
        ] {
            let gain = fold(parts, &name(norm))?;
            for reader in readers {
                edit(parts, &name(reader), |w| {
                    w.scale_columns(&gain);
                    w.rotate_rows(rotation);
                })?;
            }
        }
        for writer in ["attn_output", "ffn_down"] {
            edit(parts, &name(writer), |w| w.rotate_columns(rotation))?;
        }
    }
    Ok(())
}

/// Rotates the values of each head of layer `n`.
pub(super) fn rotate_values(
    parts: &mut dyn Parts,
    n: usize,
    rotation: &dyn Orthogonal,
) -> Result<()> {
    interrupt::check("rotate values")?;
    edit(parts, &format!("blk.{n}.attn_v.weight"), |w| {
        w.rotate_columns(rotation)
    })?;
    edit(parts, &format!("blk.{n}.attn_output.weight"), |w| {
        w.rotate_rows(rotation)
    })?;
    if parts.config().has_biases {
        let name = format!("blk.{n}.attn_v.bias");
        let mut bias = parts.vector(&name)?;
        bias.chunks_exact_mut(rotation.order())
            .for_each(|head| rotation.turn(head));
        parts.set_vector(&name, &bias)?;
    }
    Ok(())
}

/// Rotates the input of every `ffn_down` on its way.
pub(super) fn rotate_ffn(
    parts: &mut dyn Parts,
    rotation: &Arc<Hadamard>,
    report: &mut Report,
) -> Result<()> {
    for n in 0..parts.config().layers {
        parts.set_ffn_rotation(n, Arc::clone(rotation))?;
        edit(parts, &format!("blk.{n}.ffn_down.weight"), |w| {
            w.rotate_rows(&**rotation)
        })?;
    }
    let what = format!("rotated on its way by {rotation}");
    report.done("input of ffn_down", what);
    Ok(())
}

/// With and without the online part.
pub(super) fn members() -> Vec<Box<dyn Transform>> {
    let stream = Rotate {
        values: false,
        ..Rotate::offline(1)
    };
    vec![
        Box::new(Rotate::new(0)),
        Box::new(Rotate::offline(1)),
        Box::new(stream),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::equivalence::{Exact, difference, networks};

    #[test]
    fn a_gain_that_is_not_folded_is_caught() {
        // Planted (bug zoo 14): the stream is rotated as if the gains were ones.
        let ones = |parts: &mut dyn Parts, norm: &str| Ok(vec![1.0; parts.vector(norm)?.len()]);
        for network in networks() {
            let before = Exact::of(&network);
            let mut after = before.clone();
            let rotation = Hadamard::random(network.config().width, 0).unwrap();
            rotate_stream(&mut after, &rotation, ones).unwrap();
            assert!(difference(&before, &after) > 1e-3);
        }
    }

    #[test]
    fn values_rotated_without_their_bias_are_caught() {
        // Planted: the bias of the values is left as it was.
        let network = networks()
            .into_iter()
            .find(|it| it.config().has_biases)
            .unwrap();
        let before = Exact::of(&network);
        let mut after = before.clone();
        let rotation = Hadamard::random(network.config().head_dim, 0).unwrap();
        for n in 0..network.config().layers {
            rotate_values(&mut after, n, &rotation).unwrap();
        }
        assert!(difference(&before, &after) < 1e-12);
        let name = "blk.0.attn_v.bias";
        after
            .set_vector(name, &before.vector(name).unwrap())
            .unwrap();
        assert!(difference(&before, &after) > 1e-3);
    }

    #[test]
    fn orders_that_cannot_be_built_are_refused_before_anything_changes() {
        let network = networks().remove(0);
        let mut parts = Exact::of(&network);
        // 92 = 4·23 has no construction here.
        parts.config.ffn_width = 92;
        let before = parts.clone();
        let error = Rotate::new(0)
            .apply(&mut parts, &Statistics::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("feed-forward") && error.contains("92"),
            "{error}"
        );
        assert!(parts == before);
    }

    #[test]
    fn a_second_online_rotation_is_refused() {
        let network = networks().remove(0);
        let (once, _) = Rotate::new(0)
            .run(&network, &Statistics::default())
            .unwrap();
        let error = Rotate::new(1)
            .run(&once, &Statistics::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("ffn_down") && error.contains("second"),
            "{error}"
        );
    }
}
