//! Where a scale can move from an activation into the weights that meet it, and the function stays the same.
//!
//! | X enters | divided by s | exact because |
//! |---|---|---|
//! | attn_q, attn_k, attn_v | gain of attn_norm | a norm's gain multiplies channel by channel |
//! | ffn_gate, ffn_up | gain of ffn_norm | the same |
//! | attn_output | rows (and bias) of attn_v | attention mixes tokens, not channels |
//! | ffn_down | rows of ffn_up | silu(gate) ⊙ up is linear in up |
//!
//! **The trap of grouped queries.** H/G query heads share one value head, so H/G channels of attn_output's input come from one row of
//! attn_v: they must share their scale. (AutoAWQ compares shapes and skips the pair; a scale for each query head changes the
//! function, which the tests of [`smooth`](super::transform::smooth) plant.)

use super::parts::{Parts, edit};
use crate::Result;

/// Where a scale can move from an activation into weights: what enters the readers is made by the makers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// attn_norm → attn_q, attn_k, attn_v.
    Attention,
    /// ffn_norm → ffn_gate, ffn_up.
    FeedForward,
    /// attn_v → attn_output.
    Values,
    /// ffn_up → ffn_down.
    Down,
}

impl Site {
    /// All of them, in the order of a layer.
    pub const ALL: [Site; 4] = [Site::Attention, Site::Values, Site::FeedForward, Site::Down];

    /// The name in recipes: `attention`, `values`, `feedforward`, `down`.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Of layer `n`: for messages.
    pub fn place(self, n: usize) -> String {
        let (from, to) = match self {
            Site::Attention => ("attn_norm", "attn_q, attn_k, attn_v"),
            Site::FeedForward => ("ffn_norm", "ffn_gate, ffn_up"),
            Site::Values => ("attn_v", "attn_output"),
            Site::Down => ("ffn_up", "ffn_down"),
        };
        format!("blk.{n}.{from} → {to}")
    }

    /// The matrices that read the activation; the activation has the name of the first.
    pub fn readers(self) -> &'static [&'static str] {
        match self {
            Site::Attention => &["attn_q", "attn_k", "attn_v"],
            Site::FeedForward => &["ffn_gate", "ffn_up"],
            Site::Values => &["attn_output"],
            Site::Down => &["ffn_down"],
        }
    }

    /// Name of the activation in layer `n`.
    pub fn activation(self, n: usize) -> String {
        format!("blk.{n}.{}.in", self.readers()[0])
    }

    /// For each channel of the activation, the number of the scale it has: channels of query heads in a group share one.
    pub(in crate::quant) fn shared(self, parts: &dyn Parts) -> Vec<usize> {
        let c = parts.config();
        match self {
            Site::Attention | Site::FeedForward => (0..c.width).collect(),
            Site::Down => (0..c.ffn_width).collect(),
            Site::Values => {
                let per_group = c.heads / c.kv_heads;
                let of = |channel: usize| {
                    channel / c.head_dim / per_group * c.head_dim + channel % c.head_dim
                };
                (0..c.heads * c.head_dim).map(of).collect()
            }
        }
    }
}

/// Divides channel j of the activation at `site` of layer `n` by `scales[shared[j]]` and multiplies its readers' columns by it.
pub(in crate::quant) fn scale(
    parts: &mut dyn Parts,
    site: Site,
    n: usize,
    shared: &[usize],
    scales: &[f64],
) -> Result<()> {
    let name = |part: &str| format!("blk.{n}.{part}");
    let columns: Vec<f64> = shared.iter().map(|&at| scales[at]).collect();
    for reader in site.readers() {
        edit(parts, &name(&format!("{reader}.weight")), |w| {
            w.scale_columns(&columns)
        })?;
    }
    let inverse: Vec<f64> = scales.iter().map(|s| 1.0 / s).collect();
    let divided = |vector: Vec<f64>| -> Vec<f64> {
        vector.iter().zip(&inverse).map(|(x, s)| x * s).collect()
    };
    let vector = match site {
        Site::Attention => Some("attn_norm.weight"),
        Site::FeedForward => Some("ffn_norm.weight"),
        Site::Values => parts.config().has_biases.then_some("attn_v.bias"),
        Site::Down => None,
    };
    if let Some(vector) = vector.map(&name) {
        let values = divided(parts.vector(&vector)?);
        parts.set_vector(&vector, &values)?;
    }
    match site {
        Site::Values => edit(parts, &name("attn_v.weight"), |w| w.scale_rows(&inverse)),
        Site::Down => edit(parts, &name("ffn_up.weight"), |w| w.scale_rows(&inverse)),
        Site::Attention | Site::FeedForward => Ok(()),
    }
}

/// Why nothing can be scaled at `site` of layer `n`, if so.
pub(in crate::quant) fn obstacle(parts: &dyn Parts, site: Site, n: usize) -> Option<&'static str> {
    (site == Site::Down && parts.has_ffn_rotation(n)).then_some(
        "its input is rotated on its way: channels there are mixtures of those that ffn_up makes",
    )
}

/// For each scale the largest of the values of the channels that share it.
pub(in crate::quant) fn largest(
    shared: &[usize],
    values: impl IntoIterator<Item = f64>,
) -> Vec<f64> {
    let count = shared.iter().max().map_or(0, |max| max + 1);
    let mut out = vec![0f64; count];
    for (&at, value) in shared.iter().zip(values) {
        out[at] = out[at].max(value);
    }
    out
}

/// For each channel the scale that it shares.
pub(in crate::quant) fn spread(scales: &[f64], shared: &[usize]) -> Vec<f64> {
    shared.iter().map(|&it| scales[it]).collect()
}

/// Mean of the values that share a scale.
pub(in crate::quant) fn mean(shared: &[usize], values: &[f32]) -> Vec<f64> {
    let count = shared.iter().max().map_or(0, |max| max + 1);
    let (mut sums, mut counts) = (vec![0f64; count], vec![0f64; count]);
    for (&at, &value) in shared.iter().zip(values) {
        sums[at] += f64::from(value);
        counts[at] += 1.0;
    }
    sums.iter()
        .zip(&counts)
        .map(|(sum, count)| sum / count.max(1.0))
        .collect()
}
