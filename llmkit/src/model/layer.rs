//! One layer of the network: its matrices, biases and norms, and their names.

use std::sync::Arc;

use super::config::Config;
use super::linear::Linear;
use super::weight_type::WeightType;
use super::weights::Weights;
use crate::linalg::Hadamard;
use crate::{Result, interrupt};

/// Its matrices, in the order in which they are used.
pub(super) const MATRICES: [&str; 7] = [
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
];

/// Its vectors.
pub(super) const VECTORS: [&str; 7] = [
    "attn_norm.weight",
    "attn_q.bias",
    "attn_k.bias",
    "attn_v.bias",
    "attn_q_norm.weight",
    "attn_k_norm.weight",
    "ffn_norm.weight",
];

/// Weights of one layer.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub attn_norm: Vec<f32>,
    pub attn_q: Arc<dyn Linear>,
    pub attn_k: Arc<dyn Linear>,
    pub attn_v: Arc<dyn Linear>,
    /// Biases of the three, empty if there are none.
    pub biases: [Vec<f32>; 3],
    /// Weights of the norms of query and key heads, empty if there are none.
    pub qk_norms: [Vec<f32>; 2],
    pub attn_output: Arc<dyn Linear>,
    pub ffn_norm: Vec<f32>,
    pub ffn_gate: Arc<dyn Linear>,
    pub ffn_up: Arc<dyn Linear>,
    pub ffn_down: Arc<dyn Linear>,
    /// What turns the input of `ffn_down` on its way; see [`Llama::with_ffn_rotation`](super::Llama::with_ffn_rotation).
    pub ffn_rotation: Option<Arc<Hadamard>>,
}

impl Layer {
    /// Layer `n` of `weights`, each checked against the shape that `config` asks for, kept as `kind`.
    pub fn new(n: usize, config: &Config, weights: &Weights, kind: WeightType) -> Result<Layer> {
        let c = config;
        let (q_width, kv_width) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let name = |part: &str| format!("blk.{n}.{part}");
        let linear = |part: &str, outputs, inputs| {
            weights.linear(&name(&format!("{part}.weight")), outputs, inputs, kind)
        };
        let vector = |part: &str, length| weights.vector(&name(part), length);
        let optional = |is_there: bool, part: &str, length| match is_there {
            true => vector(part, length),
            false => Ok(Vec::new()),
        };
        interrupt::check("load the model")?;
        Ok(Layer {
            attn_norm: vector("attn_norm.weight", c.width)?,
            attn_q: linear("attn_q", q_width, c.width)?,
            attn_k: linear("attn_k", kv_width, c.width)?,
            attn_v: linear("attn_v", kv_width, c.width)?,
            biases: [
                optional(c.has_biases, "attn_q.bias", q_width)?,
                optional(c.has_biases, "attn_k.bias", kv_width)?,
                optional(c.has_biases, "attn_v.bias", kv_width)?,
            ],
            qk_norms: [
                optional(c.has_qk_norm, "attn_q_norm.weight", c.head_dim)?,
                optional(c.has_qk_norm, "attn_k_norm.weight", c.head_dim)?,
            ],
            attn_output: linear("attn_output", c.width, q_width)?,
            ffn_norm: vector("ffn_norm.weight", c.width)?,
            ffn_gate: linear("ffn_gate", c.ffn_width, c.width)?,
            ffn_up: linear("ffn_up", c.ffn_width, c.width)?,
            ffn_down: linear("ffn_down", c.width, c.ffn_width)?,
            ffn_rotation: None,
        })
    }

    /// The matrix of a name: `ffn_up` for `blk.3.ffn_up.weight`.
    pub fn matrix(&self, part: &str) -> Option<&Arc<dyn Linear>> {
        Some(match part {
            "attn_q" => &self.attn_q,
            "attn_k" => &self.attn_k,
            "attn_v" => &self.attn_v,
            "attn_output" => &self.attn_output,
            "ffn_gate" => &self.ffn_gate,
            "ffn_up" => &self.ffn_up,
            "ffn_down" => &self.ffn_down,
            _ => return None,
        })
    }

    /// [`matrix`](Self::matrix), to be replaced.
    pub fn matrix_mut(&mut self, part: &str) -> Option<&mut Arc<dyn Linear>> {
        Some(match part {
            "attn_q" => &mut self.attn_q,
            "attn_k" => &mut self.attn_k,
            "attn_v" => &mut self.attn_v,
            "attn_output" => &mut self.attn_output,
            "ffn_gate" => &mut self.ffn_gate,
            "ffn_up" => &mut self.ffn_up,
            "ffn_down" => &mut self.ffn_down,
            _ => return None,
        })
    }

    /// The vector of a name, `attn_norm.weight` or `attn_q.bias`; empty if the architecture has none.
    pub fn vector(&self, part: &str) -> Option<&Vec<f32>> {
        let at = VECTORS.iter().position(|it| *it == part)?;
        Some(match at {
            0 => &self.attn_norm,
            at @ 1..4 => &self.biases[at - 1],
            at @ 4..6 => &self.qk_norms[at - 4],
            _ => &self.ffn_norm,
        })
    }

    /// [`vector`](Self::vector), to be replaced.
    pub fn vector_mut(&mut self, part: &str) -> Option<&mut Vec<f32>> {
        let at = VECTORS.iter().position(|it| *it == part)?;
        Some(match at {
            0 => &mut self.attn_norm,
            at @ 1..4 => &mut self.biases[at - 1],
            at @ 4..6 => &mut self.qk_norms[at - 4],
            _ => &mut self.ffn_norm,
        })
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let matrices = MATRICES.iter().filter_map(|part| self.matrix(part));
        let vectors = VECTORS.iter().filter_map(|part| self.vector(part));
        matrices.map(|it| it.bytes()).sum::<usize>() + 4 * vectors.map(Vec::len).sum::<usize>()
    }
}
