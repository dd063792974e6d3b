//! Weights by name, as f32 tensors, from a GGUF file or a Hugging Face checkpoint.
//!
//! Names and layout are those of GGUF, wherever the bytes come from: `blk.3.ffn_up.weight` is (N outputs, K inputs).
//! One difference between the two hides in the query and key projections: Hugging Face rotates features i and i + D/2
//! of a head together, GGUF features 2i and 2i + 1, and permutes the rows of the two matrices to make up for it. We keep
//! GGUF's order: rows of a checkpoint are permuted when it is loaded.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};

use super::config::Config;
use super::gguf::Gguf;
use crate::{Error, Result};

/// Weights by GGUF name.
pub type Weights = BTreeMap<String, Tensor>;

/// All tensors of a GGUF file, dequantized.
///
/// # Errors
/// [`Error::Tensor`] if memory runs out.
pub fn from_gguf(gguf: &Gguf) -> Result<Weights> {
    gguf.tensors
        .par_iter()
        .map(|info| {
            let tensor =
                Tensor::from_vec(gguf.dequantize(info), info.shape.as_slice(), &Device::Cpu)?;
            Ok((info.name.clone(), tensor))
        })
        .collect()
}

/// All tensors of a Hugging Face checkpoint, renamed and permuted to GGUF's conventions.
///
/// # Errors
/// [`Error::Io`], [`Error::Format`] if the file is not a Llama checkpoint in F32, F16 or BF16.
pub fn from_safetensors(path: &Path, config: &Config) -> Result<Weights> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let wrong = |field: &str, expected: &str, got: String| Error::Format {
        file: format!("{}: {field}", path.display()),
        expected: expected.to_owned(),
        got,
    };
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|error| wrong("header", "a safetensors file", error.to_string()))?;
    tensors
        .tensors()
        .par_iter()
        .map(|(name, view)| {
            let ours = gguf_name(name).ok_or_else(|| {
                wrong(name, "a tensor of a Llama model", "another name".to_owned())
            })?;
            let (data, shape) = (view.data(), view.shape());
            let mut values: Vec<f32> = match view.dtype() {
                Dtype::F32 => data
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
                Dtype::F16 => data
                    .chunks_exact(2)
                    .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
                    .collect(),
                Dtype::BF16 => data
                    .chunks_exact(2)
                    .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
                    .collect(),
                other => return Err(wrong(name, "F32, F16 or BF16", format!("{other:?}"))),
            };
            if let Some(rows) = rotated_rows(&ours)
                && shape.len() == 2
            {
                if shape[0] % config.head_dim != 0 {
                    return Err(wrong(name, "whole heads", format!("{shape:?}")));
                }
                values = rows(&values, config.head_dim, shape[1]);
            }
            Ok((ours, Tensor::from_vec(values, shape, &Device::Cpu)?))
        })
        .collect()
}

type Permutation = fn(&[f32], usize, usize) -> Vec<f32>;

fn rotated_rows(name: &str) -> Option<Permutation> {
    (name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight"))
        .then_some(interleaved as Permutation)
}

/// Rows of each head from the order 0, 1, …, D − 1 to 0, D/2, 1, D/2 + 1, …
fn interleaved(values: &[f32], head_dim: usize, columns: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks_exact(head_dim * columns) {
        for i in 0..head_dim / 2 {
            for row in [i, i + head_dim / 2] {
                out.extend_from_slice(&head[row * columns..(row + 1) * columns]);
            }
        }
    }
    out
}

/// The GGUF name of a tensor of a Hugging Face Llama checkpoint.
fn gguf_name(name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".to_owned()),
        "model.norm.weight" => return Some("output_norm.weight".to_owned()),
        "lm_head.weight" => return Some("output.weight".to_owned()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let ours = match rest {
        "input_layernorm.weight" => "attn_norm",
        "self_attn.q_proj.weight" => "attn_q",
        "self_attn.k_proj.weight" => "attn_k",
        "self_attn.v_proj.weight" => "attn_v",
        "self_attn.o_proj.weight" => "attn_output",
        "post_attention_layernorm.weight" => "ffn_norm",
        "mlp.gate_proj.weight" => "ffn_gate",
        "mlp.up_proj.weight" => "ffn_up",
        "mlp.down_proj.weight" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{ours}.weight"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated() {
        assert_eq!(
            gguf_name("model.layers.12.mlp.up_proj.weight").as_deref(),
            Some("blk.12.ffn_up.weight")
        );
        assert_eq!(
            gguf_name("lm_head.weight").as_deref(),
            Some("output.weight")
        );
        for odd in [
            "",
            "model.layers.x.mlp.up_proj.weight",
            "model.layers.1",
            "model.layers.1.mlp.up_proj.bias",
        ] {
            assert_eq!(gguf_name(odd), None, "{odd}");
        }
    }

    #[test]
    fn rows_are_interleaved_head_by_head() {
        // Two heads of four rows, two columns; a row's value names it.
        let rows: Vec<f32> = (0..8)
            .flat_map(|row| [row as f32, row as f32 + 0.5])
            .collect();
        let out = interleaved(&rows, 4, 2);
        let first: Vec<f32> = out.iter().step_by(2).copied().collect();
        assert_eq!(first, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert_eq!(out[3], 2.5);
    }
}
