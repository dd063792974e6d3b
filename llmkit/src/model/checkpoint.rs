//! The tensors of a Hugging Face checkpoint, one file or several, mapped; names translated to GGUF's.
//!
//! Files are not trusted: a header is at most 100 MB (the format's own limit), offsets must tile the file, a tensor stands in one
//! shard, the one that the index says, and every name is one of a Llama's.
//!
//! Source: the safetensors format; names from Hugging Face's `LlamaForCausalLM`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use super::blocks::BlockType;
use crate::hub::folder;
use crate::kernels::mapped::Mapped;
use crate::{Error, Result};

/// Where a tensor lies.
#[derive(Debug)]
struct Place {
    block: BlockType,
    shape: Vec<usize>,
    shard: usize,
    bytes: Range<usize>,
}

/// An opened checkpoint.
#[derive(Debug)]
pub(super) struct Checkpoint {
    shards: Vec<Mapped>,
    places: BTreeMap<String, Place>,
}

/// A stored tensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored<'a> {
    pub(super) block: BlockType,
    pub(super) shape: &'a [usize],
    pub(super) data: &'a [u8],
}

impl Checkpoint {
    /// Maps `path`, a safetensors file or the index of several.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`], [`Error::Format`] with file and tensor.
    pub(super) fn open(path: &Path) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint {
            shards: Vec::new(),
            places: BTreeMap::new(),
        };
        if !folder::is_index(path) {
            checkpoint.add(path, |_| Ok(()))?;
            return Ok(checkpoint);
        }
        let map = folder::shards(path)?;
        for shard in map.values().collect::<BTreeSet<_>>() {
            let file = path.with_file_name(shard);
            checkpoint.add(&file, |name| match map.get(name) {
                Some(other) if other == shard => Ok(()),
                Some(other) => Err(wrong(
                    &file,
                    name,
                    &format!("it in {other} alone"),
                    "it here too",
                )),
                None => Err(wrong(&file, name, "a tensor of the index", "another")),
            })?;
        }
        for (name, shard) in &map {
            // Names that we leave out are not looked for either.
            if let Some(ours) = gguf_name(name)
                && !checkpoint.places.contains_key(&ours)
            {
                let file = path.with_file_name(shard);
                return Err(wrong(
                    &file,
                    name,
                    "the tensor that the index says it has",
                    "none",
                ));
            }
        }
        Ok(checkpoint)
    }

    fn add(&mut self, file: &Path, is_expected: impl Fn(&str) -> Result<()>) -> Result<()> {
        let content = Mapped::open(file)?;
        let (header, metadata) = SafeTensors::read_metadata(&content)
            .map_err(|error| wrong(file, "header", "a safetensors file", error))?;
        // Offsets are from the end of the header, which has 8 bytes of length in front.
        let data = header + 8;
        for (name, info) in metadata.tensors() {
            is_expected(&name)?;
            if name.ends_with(".rotary_emb.inv_freq") {
                // Old checkpoints keep the rotary frequencies, which follow from the configuration.
                continue;
            }
            let ours = gguf_name(&name)
                .ok_or_else(|| wrong(file, &name, "a tensor of a Llama model", "another name"))?;
            let block = match info.dtype {
                Dtype::F32 => BlockType::F32,
                Dtype::F16 => BlockType::F16,
                Dtype::BF16 => BlockType::BF16,
                other => return Err(wrong(file, &name, "F32, F16 or BF16", format!("{other:?}"))),
            };
            if !(1..=2).contains(&info.shape.len()) || info.shape.contains(&0) {
                let got = format!("{:?}", info.shape);
                return Err(wrong(file, &name, "a vector or a matrix", got));
            }
            let place = Place {
                block,
                shape: info.shape.clone(),
                shard: self.shards.len(),
                bytes: data + info.data_offsets.0..data + info.data_offsets.1,
            };
            if self.places.insert(ours, place).is_some() {
                return Err(wrong(file, &name, "each tensor once", "it twice"));
            }
        }
        self.shards.push(content);
        Ok(())
    }

    /// Gives the memory of a tensor's data back, until it is read again; see [`Mapped::release`].
    pub(super) fn release(&self, data: &[u8]) {
        self.shards.iter().for_each(|shard| shard.release(data));
    }

    /// Names, as GGUF has them.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.places.keys()
    }

    /// The tensor of that name, rows in the checkpoint's own order.
    pub(super) fn get(&self, name: &str) -> Option<Stored<'_>> {
        let place = self.places.get(name)?;
        Some(Stored {
            block: place.block,
            shape: &place.shape,
            // In bounds: the header was checked against the file.
            data: self.shards[place.shard].get(place.bytes.clone())?,
        })
    }
}

fn wrong(file: &Path, field: &str, expected: &str, got: impl ToString) -> Error {
    Error::Format {
        file: format!("{}: {field}", file.display()),
        expected: expected.to_owned(),
        got: got.to_string(),
    }
}

/// Parts of a layer, as Hugging Face and as GGUF call them.
const PARTS: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Tensors outside the layers.
const WHOLE: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// The GGUF name of a tensor of a Hugging Face Llama checkpoint.
pub(crate) fn gguf_name(name: &str) -> Option<String> {
    if let Some((_, ours)) = WHOLE.iter().find(|(theirs, _)| *theirs == name) {
        return Some((*ours).to_owned());
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (part, kind) = rest.rsplit_once('.')?;
    let (_, ours) = PARTS.iter().find(|(theirs, _)| *theirs == part)?;
    let has_bias = matches!(*ours, "attn_q" | "attn_k" | "attn_v");
    (kind == "weight" || (kind == "bias" && has_bias)).then(|| format!("blk.{layer}.{ours}.{kind}"))
}

/// The name in a Hugging Face checkpoint of a tensor that GGUF calls `name`.
pub(crate) fn hugging_face_name(name: &str) -> Option<String> {
    if let Some((theirs, _)) = WHOLE.iter().find(|(_, ours)| *ours == name) {
        return Some((*theirs).to_owned());
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let (theirs, _) = PARTS.iter().find(|(_, ours)| *ours == part)?;
    Some(format!("model.layers.{layer}.{theirs}.{kind}"))
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
        for ours in [
            "output.weight",
            "blk.7.attn_k.bias",
            "blk.0.ffn_norm.weight",
        ] {
            let theirs = hugging_face_name(ours).unwrap();
            assert_eq!(gguf_name(&theirs).as_deref(), Some(ours));
        }
        for odd in [
            "",
            "model.layers.x.mlp.up_proj.weight",
            "model.layers.1",
            "model.layers.1.mlp.up_proj.bias",
        ] {
            assert_eq!(gguf_name(odd), None, "{odd}");
        }
    }
}
