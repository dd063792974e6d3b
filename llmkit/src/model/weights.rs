//! Weights by name, as f32 tensors, from a GGUF file or a Hugging Face checkpoint.
//!
//! Names and layout are those of GGUF, wherever the bytes come from: `blk.3.ffn_up.weight` is (N outputs, K inputs).
//! One difference between the two hides in the query and key projections: Hugging Face rotates features i and i + D/2
//! of a head together, GGUF features 2i and 2i + 1, and permutes the rows of the two matrices to make up for it. We keep
//! GGUF's order: rows of a checkpoint are permuted when it is loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};

use super::blocks::BlockType;
use super::config::Config;
use super::gguf::Gguf;
use super::linear::{Integer, Linear, WeightType};
use crate::kernels::rope::Pairs;
use crate::{Error, Result};

/// Weights by GGUF name: those of a file, decoded when they are asked for, and tensors that stand beside or in front of them.
#[derive(Debug, Clone)]
pub struct Weights {
    /// Name in messages.
    file: String,
    gguf: Option<Arc<Gguf>>,
    tensors: BTreeMap<String, Tensor>,
}

impl Weights {
    /// Those of a GGUF file.
    pub fn of_gguf(gguf: Gguf) -> Weights {
        Weights {
            file: gguf.file().to_owned(),
            gguf: Some(Arc::new(gguf)),
            tensors: BTreeMap::new(),
        }
    }

    /// Those of f32 tensors; `file` is the name in messages.
    pub fn of_tensors(file: &str, tensors: BTreeMap<String, Tensor>) -> Weights {
        Weights {
            file: file.to_owned(),
            gguf: None,
            tensors,
        }
    }

    /// Names, in order.
    pub fn names(&self) -> Vec<String> {
        let stored = self
            .gguf
            .iter()
            .flat_map(|it| it.tensors.iter().map(|it| &it.name));
        let names: BTreeSet<&String> = stored.chain(self.tensors.keys()).collect();
        names.into_iter().cloned().collect()
    }

    /// Shape of a weight, if there is one of that name.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self.tensors.get(name) {
            Some(tensor) => Some(tensor.dims().to_vec()),
            None => Some(self.gguf.as_ref()?.tensor(name)?.shape.clone()),
        }
    }

    /// A weight as f32.
    ///
    /// # Errors
    /// [`Error::Format`] if there is none of that name.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        if let Some(tensor) = self.tensors.get(name) {
            return Ok(tensor.clone());
        }
        let stored = self
            .gguf
            .as_ref()
            .and_then(|gguf| Some((gguf, gguf.tensor(name)?)));
        let (gguf, info) = stored.ok_or_else(|| Error::Format {
            file: self.file.clone(),
            expected: format!("a tensor {name}"),
            got: "none".to_owned(),
        })?;
        Ok(Tensor::from_vec(
            gguf.dequantize(info),
            info.shape.as_slice(),
            &Device::Cpu,
        )?)
    }

    /// Puts a tensor in front of the one of that name.
    pub fn replace(&mut self, name: &str, tensor: Tensor) {
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// The values of a weight of this shape.
    ///
    /// # Errors
    /// [`Error::Format`] if it is missing or not finite, [`Error::Shape`] if it has another shape.
    pub fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>> {
        self.has_shape(name, &[length])?;
        let values = self.tensor(name)?.to_vec1::<f32>()?;
        match values.iter().position(|it| !it.is_finite()) {
            None => Ok(values),
            Some(at) => Err(Error::Format {
                file: format!("{}: {name}", self.file),
                expected: "finite weights".to_owned(),
                got: format!("{} at [{at}]", values[at]),
            }),
        }
    }

    /// A linear layer of `outputs` × `inputs`, kept as `kind` asks.
    ///
    /// # Errors
    /// As [`vector`](Self::vector).
    pub fn linear(
        &self,
        name: &str,
        outputs: usize,
        inputs: usize,
        kind: WeightType,
    ) -> Result<Arc<dyn Linear>> {
        self.has_shape(name, &[outputs, inputs])?;
        let stored = self
            .gguf
            .as_ref()
            .and_then(|gguf| Some((gguf, gguf.tensor(name)?)));
        let mut kind = kind;
        if kind == WeightType::Native
            && !self.tensors.contains_key(name)
            && let Some((gguf, info)) = stored
        {
            if let Some(layer) = Integer::of_blocks(info.block, gguf.data(info), inputs) {
                layer.check_finite(&format!("{}: {name}", self.file))?;
                return Ok(Arc::new(layer));
            }
            if info.block == BlockType::BF16 {
                kind = WeightType::Bf16;
            }
        }
        let values = self.tensor(name)?.flatten_all()?.to_vec1::<f32>()?;
        kind.layer(&format!("{}: {name}", self.file), &values, inputs)
    }

    fn has_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        match self.shape(name) {
            // A missing one is reported by whoever reads it.
            None => self.tensor(name).map(|_| ()),
            Some(got) if got == shape => Ok(()),
            Some(got) => Err(Error::Shape {
                operation: format!("{}: {name}", self.file),
                expected: format!("{shape:?}"),
                got: format!("{got:?}"),
            }),
        }
    }
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
    let tensors: BTreeMap<String, Tensor> = tensors
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
            let is_turned = ours.contains("attn_q.") || ours.contains("attn_k.");
            if is_turned && config.pairs == Pairs::Neighbours {
                if shape[0] % config.head_dim != 0 {
                    return Err(wrong(name, "whole heads", format!("{shape:?}")));
                }
                let columns = shape.get(1).copied().unwrap_or(1);
                values = interleaved(&values, config.head_dim, columns);
            }
            Ok((ours, Tensor::from_vec(values, shape, &Device::Cpu)?))
        })
        .collect::<Result<_>>()?;
    Ok(Weights::of_tensors(&path.display().to_string(), tensors))
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
    let (part, kind) = rest.rsplit_once('.')?;
    let ours = match part {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    let has_bias = matches!(ours, "attn_q" | "attn_k" | "attn_v");
    (kind == "weight" || (kind == "bias" && has_bias)).then(|| format!("blk.{layer}.{ours}.{kind}"))
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
