//! Weights by name, as f32 tensors, from a GGUF file or a Hugging Face checkpoint; both stay mapped files until a weight is asked for.
//!
//! Names and layout are those of GGUF, wherever the bytes come from: `blk.3.ffn_up.weight` is (N outputs, K inputs).
//! One difference between the two hides in the query and key projections: Hugging Face rotates features i and i + D/2
//! of a head together, GGUF features 2i and 2i + 1, and permutes the rows of the two matrices to make up for it. We keep
//! GGUF's order: rows of a checkpoint are permuted when they are decoded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::blocks::BlockType;
use super::checkpoint::{Checkpoint, Stored};
use super::config::Config;
use super::gguf::Gguf;
use super::linear::{Integer, Linear};
use super::weight_type::WeightType;
use crate::kernels::rope::Pairs;
use crate::{Error, Result};

/// What stores weights.
#[derive(Debug, Clone)]
enum Source {
    Gguf(Arc<Gguf>),
    Checkpoint {
        checkpoint: Arc<Checkpoint>,
        /// D, if the rows of query and key heads have to be permuted.
        turned_heads: Option<usize>,
    },
    None,
}

/// Weights by GGUF name: those of a file, decoded when they are asked for, and tensors that stand beside or in front of them.
#[derive(Debug, Clone)]
pub struct Weights {
    /// Name in messages.
    file: String,
    source: Source,
    tensors: BTreeMap<String, Tensor>,
}

impl Weights {
    /// Those of a GGUF file.
    pub fn of_gguf(gguf: Arc<Gguf>) -> Weights {
        Weights {
            file: gguf.file().to_owned(),
            source: Source::Gguf(gguf),
            tensors: BTreeMap::new(),
        }
    }

    /// Those of a Hugging Face checkpoint: a safetensors file, or the index of several.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`], [`Error::Format`] if they are no Llama checkpoint in F32, F16 or BF16.
    pub fn of_checkpoint(path: &Path, config: &Config) -> Result<Weights> {
        Ok(Weights {
            file: path.display().to_string(),
            source: Source::Checkpoint {
                checkpoint: Arc::new(Checkpoint::open(path)?),
                turned_heads: (config.pairs == Pairs::Neighbours).then_some(config.head_dim),
            },
            tensors: BTreeMap::new(),
        })
    }

    /// Those of f32 tensors; `file` is the name in messages.
    pub fn of_tensors(file: &str, tensors: BTreeMap<String, Tensor>) -> Weights {
        Weights {
            file: file.to_owned(),
            source: Source::None,
            tensors,
        }
    }

    /// The GGUF file, if they are one's.
    pub(super) fn gguf(&self) -> Option<&Arc<Gguf>> {
        match &self.source {
            Source::Gguf(gguf) => Some(gguf),
            _ => None,
        }
    }

    /// Names, in order.
    pub fn names(&self) -> Vec<String> {
        let mut names: BTreeSet<&String> = self.tensors.keys().collect();
        match &self.source {
            Source::Gguf(gguf) => names.extend(gguf.tensors.iter().map(|it| &it.name)),
            Source::Checkpoint { checkpoint, .. } => names.extend(checkpoint.names()),
            Source::None => {}
        }
        names.into_iter().cloned().collect()
    }

    /// A tensor of the file.
    fn stored(&self, name: &str) -> Option<Stored<'_>> {
        match &self.source {
            Source::Gguf(gguf) => gguf.tensor(name).map(|info| Stored {
                block: info.block,
                shape: &info.shape,
                data: gguf.data(info),
            }),
            Source::Checkpoint { checkpoint, .. } => checkpoint.get(name),
            Source::None => None,
        }
    }

    /// Shape of a weight, if there is one of that name.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self.tensors.get(name) {
            Some(tensor) => Some(tensor.dims().to_vec()),
            None => Some(self.stored(name)?.shape.to_vec()),
        }
    }

    /// The values of a weight, row-major.
    fn values(&self, name: &str) -> Result<Vec<f32>> {
        if let Some(tensor) = self.tensors.get(name) {
            return Ok(tensor.flatten_all()?.to_vec1::<f32>()?);
        }
        let stored = self.stored(name).ok_or_else(|| Error::Format {
            file: self.file.clone(),
            expected: format!("a tensor {name}"),
            got: "none".to_owned(),
        })?;
        let values = stored.block.dequantize(stored.data);
        match self.source {
            Source::Checkpoint {
                turned_heads: Some(head_dim),
                ..
            } if name.contains("attn_q.") || name.contains("attn_k.") => {
                if !stored.shape[0].is_multiple_of(head_dim) {
                    return Err(Error::Format {
                        file: format!("{}: {name}", self.file),
                        expected: format!("whole heads of {head_dim} rows"),
                        got: format!("{:?}", stored.shape),
                    });
                }
                let columns = stored.shape.get(1).copied().unwrap_or(1);
                Ok(interleaved(&values, head_dim, columns))
            }
            _ => Ok(values),
        }
    }

    /// A weight as f32.
    ///
    /// # Errors
    /// [`Error::Format`] if there is none of that name.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(tensor.clone()),
            None => {
                let values = self.values(name)?;
                let shape = self.shape(name).unwrap_or_default();
                Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
            }
        }
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
        let values = self.values(name)?;
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
        let layer = self.layer(name, outputs, inputs, kind)?;
        // The layer has its own copy: the file's would be memory for nothing.
        match (&self.source, self.stored(name)) {
            (Source::Gguf(gguf), Some(stored)) => gguf.release(stored.data),
            (Source::Checkpoint { checkpoint, .. }, Some(stored)) => {
                checkpoint.release(stored.data)
            }
            _ => {}
        }
        Ok(layer)
    }

    fn layer(
        &self,
        name: &str,
        outputs: usize,
        inputs: usize,
        mut kind: WeightType,
    ) -> Result<Arc<dyn Linear>> {
        self.has_shape(name, &[outputs, inputs])?;
        if kind == WeightType::Native
            && !self.tensors.contains_key(name)
            && let Some(stored) = self.stored(name)
        {
            if let Some(layer) = Integer::of_blocks(stored.block, stored.data, inputs) {
                layer.check_finite(&format!("{}: {name}", self.file))?;
                return Ok(Arc::new(layer));
            }
            if stored.block == BlockType::BF16 {
                kind = WeightType::Bf16;
            }
        }
        let values = self.values(name)?;
        kind.layer(&format!("{}: {name}", self.file), &values, inputs)
    }

    fn has_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        match self.shape(name) {
            // A missing one is reported by whoever reads it.
            None => self.values(name).map(|_| ()),
            Some(got) if got == shape => Ok(()),
            Some(got) => Err(Error::Shape {
                operation: format!("{}: {name}", self.file),
                expected: format!("{shape:?}"),
                got: format!("{got:?}"),
            }),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
