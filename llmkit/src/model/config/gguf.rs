//! The shape of a model in a GGUF file's metadata.

use super::{Config, KNOWN, flags};
use crate::Result;
use crate::model::gguf::{Gguf, Value};
use crate::model::rope::RopeScaling;

impl Config {
    /// From the metadata of a GGUF file.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) if a field is missing or the architecture is not one of Llama, Mistral, Qwen2, Qwen3.
    pub fn from_gguf(gguf: &Gguf) -> Result<Config> {
        let architecture = gguf.text("general.architecture")?;
        let flags = flags(architecture)
            .ok_or_else(|| gguf.wrong("general.architecture", KNOWN, architecture))?;
        let key = |name: &str| format!("{architecture}.{name}");
        let heads = gguf.integer(&key("attention.head_count"))?;
        let width = gguf.integer(&key("embedding_length"))?;
        let float = |name: &str| gguf.float(&key(name));
        // A field that is there and is no count is a mistake, not a field that is missing.
        let optional = |name: &str| {
            let key = key(name);
            let is_there = gguf.metadata.contains_key(&key);
            is_there.then(|| gguf.integer(&key)).transpose()
        };
        let head_dim = match optional("attention.key_length")? {
            Some(head_dim) => head_dim,
            None => optional("rope.dimension_count")?.unwrap_or(width / heads.max(1)),
        };
        let scaling = match gguf.metadata.get(&key("rope.scaling.type")) {
            _ if gguf.tensor(FACTORS).is_some() => factors(gguf, head_dim)?,
            None => RopeScaling::None,
            Some(Value::Text(kind)) if kind == "none" => RopeScaling::None,
            Some(Value::Text(kind)) if kind == "linear" => RopeScaling::Linear {
                factor: float("rope.scaling.factor")?,
            },
            Some(Value::Text(kind)) if kind == "yarn" => RopeScaling::Yarn {
                factor: float("rope.scaling.factor")?,
                trained_tokens: gguf.integer(&key("rope.scaling.original_context_length"))? as f64,
                fast: 32.0,
                slow: 1.0,
            },
            Some(_) => {
                let key = key("rope.scaling.type");
                let got = gguf.text(&key)?;
                return Err(gguf.wrong(&key, "none, linear or yarn", got));
            }
        };
        Config {
            layers: gguf.integer(&key("block_count"))?,
            width,
            heads,
            kv_heads: optional("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            ffn_width: gguf.integer(&key("feed_forward_length"))?,
            vocabulary: gguf.texts("tokenizer.ggml.tokens")?.len(),
            context_tokens: gguf.integer(&key("context_length"))?,
            rope_base: match gguf.metadata.contains_key(&key("rope.freq_base")) {
                true => float("rope.freq_base")?,
                false => 10_000.0,
            },
            scaling,
            pairs: flags.pairs,
            norm_epsilon: gguf.float(&key("attention.layer_norm_rms_epsilon"))?,
            has_biases: flags.has_biases,
            has_qk_norm: flags.has_qk_norm,
            window: optional("attention.sliding_window")?.filter(|&it| it > 0),
        }
        .checked(gguf.file())
    }
}

/// Where Llama 3.1's files have their frequencies' factors.
const FACTORS: &str = "rope_freqs.weight";

fn factors(gguf: &Gguf, head_dim: usize) -> Result<RopeScaling> {
    let factors = gguf.tensor(FACTORS).map(|it| gguf.dequantize(it));
    let factors = factors.unwrap_or_default();
    let is_positive = factors.iter().all(|it| it.is_finite() && *it > 0.0);
    match is_positive && factors.len() == head_dim / 2 {
        true => Ok(RopeScaling::Factors(factors.into())),
        false => {
            let expected = format!("{} positive numbers", head_dim / 2);
            let got = match factors.iter().find(|it| !(it.is_finite() && **it > 0.0)) {
                Some(odd) => odd.to_string(),
                None => format!("{} numbers", factors.len()),
            };
            Err(gguf.wrong(FACTORS, &expected, got))
        }
    }
}
