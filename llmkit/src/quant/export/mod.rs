//! Models as files that others read.
//!
//! | layout | what is written | who reads it |
//! |---|---|---|
//! | [`Layout::Gguf`] | one file; metadata byte for byte as in the file that the model is from | llama.cpp |
//! | [`Layout::Plain`] | a Hugging Face folder with weights in F32, F16 or BF16 | transformers, vLLM |
//! | [`Layout::Gptq`] | … with integers of 2, 4 or 8 bits in groups, as GPTQ's tools pack them | GPTQModel, transformers, vLLM |
//! | [`Layout::Awq`] | … with 4-bit integers in groups, as AutoAWQ packs them ("GEMM") | AutoAWQ, transformers, vLLM |
//! | [`Layout::CompressedTensors`] | … with integers of 4 or 8 bits in groups ("pack-quantized") | compressed-tensors, vLLM |
//!
//! Matrices that were quantized are written with the codes and scales that they have; everything else is the network's own, whatever was
//! done to it. A file or folder is whole or not there. [`Written`] says of each tensor what was asked for and what was
//! written; they differ only where the format cannot do what was asked, and then it says why.
//!
//! A network that rotates activations on its way ([`Llama::with_ffn_rotation`](crate::model::Llama::with_ffn_rotation)) is refused: no
//! file of these can say that.

mod ahead;
mod compressed;
mod folder;
mod gguf;
mod gptq;
mod import;
mod packed;
mod safetensors;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub use ahead::{check_recipe, replace};
pub use gguf::Types;
pub use import::{Imported, import};

use super::Quantized;
use crate::model::Model;
use crate::model::blocks::BlockType;
use crate::{Error, Result};

/// Matrices that were quantized, by name: `blk.3.ffn_up.weight`.
pub type Matrices = BTreeMap<String, Quantized>;

/// How a model is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A GGUF file; matrices that are not quantized get these types.
    Gguf(Types),
    /// A Hugging Face folder of weights in F32, F16 or BF16; quantized matrices are decoded.
    Plain(BlockType),
    /// … with GPTQ's packing; what is not quantized is stored in this type.
    Gptq(BlockType),
    /// … with AWQ's packing.
    Awq(BlockType),
    /// … with compressed-tensors' packing.
    CompressedTensors(BlockType),
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// Where.
    pub path: PathBuf,
    /// In file order.
    pub tensors: Vec<Tensor>,
}

/// What was written of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in the file, without the suffix of its parts.
    pub name: String,
    /// What was asked for.
    pub requested: String,
    /// What was written.
    pub applied: String,
    /// Why, if they differ.
    pub why: Option<String>,
    /// Bytes in the file, scales and all.
    pub bytes: usize,
}

impl Written {
    /// Tensors that were written otherwise than asked for.
    pub fn fallbacks(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.iter().filter(|it| it.why.is_some())
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> usize {
        self.tensors.iter().map(|it| it.bytes).sum()
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.tensors.len();
        write!(
            f,
            "{}: {count} tensors, {} bytes",
            self.path.display(),
            self.bytes()
        )?;
        for it in self.fallbacks() {
            let why = it.why.as_deref().unwrap_or_default();
            write!(
                f,
                "\n{}: {} instead of {}: {why}",
                it.name, it.applied, it.requested
            )?;
        }
        Ok(())
    }
}

/// Writes `model` to `path`, its matrices that are in `quantized` with their codes.
///
/// ```no_run
/// use llmkit::model::{Model, blocks::BlockType};
/// use llmkit::quant::export::{Layout, Matrices, Types, export};
/// let model = Model::load("smollm2-135m-instruct")?;
/// let types = Types { matrices: Some(BlockType::Q4_K), embedding: Some(BlockType::Q8_0) };
/// let written = export(&model, &Matrices::new(), "smollm2-q4_k.gguf".as_ref(), Layout::Gguf(types))?;
/// println!("{written}"); // names the tensors whose rows are no multiple of 256, and what they became
/// # Ok::<(), llmkit::Error>(())
/// ```
///
/// # Errors
/// [`Error::Argument`] if the layout cannot store the model or one of the matrices, with the reason, or the path is taken by something
/// else; [`Error::NotFound`], [`Error::Shape`] if a quantized matrix is none of the model's; [`Error::Io`] if the disk is full, say;
/// [`Error::Interrupted`]. Nothing is left behind then.
pub fn export(model: &Model, quantized: &Matrices, path: &Path, layout: Layout) -> Result<Written> {
    check(model, quantized)?;
    let tensors = match layout {
        Layout::Gguf(types) => gguf::write(model, quantized, path, types)?,
        Layout::Plain(element) => folder::write(model, quantized, path, element, &folder::Plain)?,
        Layout::Gptq(rest) => folder::write(model, quantized, path, rest, &gptq::Gptq)?,
        Layout::Awq(rest) => folder::write(model, quantized, path, rest, &gptq::Awq)?,
        Layout::CompressedTensors(rest) => {
            folder::write(model, quantized, path, rest, &compressed::CompressedTensors)?
        }
    };
    Ok(Written {
        path: path.to_owned(),
        tensors,
    })
}

/// What is wrong whatever the layout.
fn check(model: &Model, quantized: &Matrices) -> Result<()> {
    let network = model.network();
    if let Some(n) = (0..model.config.layers).find(|&n| network.ffn_rotation(n).is_some()) {
        return Err(Error::argument(
            format!("blk.{n}.ffn_down.in"),
            "an activation that no step of the network rotates (transform::Rotate::offline): no file can say that",
            "one that is rotated on its way",
        ));
    }
    for (name, matrix) in quantized {
        let shape = network.linear(name)?.shape();
        if shape != (matrix.rows(), matrix.cols()) {
            return Err(Error::Shape {
                operation: format!("export {name}"),
                expected: format!("{shape:?}"),
                got: format!("[{}, {}]", matrix.rows(), matrix.cols()),
            });
        }
    }
    Ok(())
}
