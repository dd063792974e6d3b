//! The shape of a Llama-family model.

use serde::Deserialize;

use super::gguf::Gguf;
use crate::{Error, Result};

/// Sizes and constants of a Llama-family model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Layers ("blocks").
    pub layers: usize,
    /// Features of the residual stream.
    pub width: usize,
    /// Query heads, H.
    pub heads: usize,
    /// Key/value heads, G; H / G query heads share one.
    pub kv_heads: usize,
    /// Features of a head, D.
    pub head_dim: usize,
    /// Hidden features of the feed-forward network.
    pub ffn_width: usize,
    /// Vocabulary, V.
    pub vocabulary: usize,
    /// Longest sequence the model was made for, in tokens.
    pub context_tokens: usize,
    /// Base of the rotary frequencies.
    pub rope_base: f64,
    /// What RMSNorm adds to the mean square.
    pub norm_epsilon: f64,
}

/// The fields of Hugging Face's `config.json` that we use.
#[derive(Deserialize)]
struct HuggingFace {
    model_type: String,
    num_hidden_layers: usize,
    hidden_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    rope_theta: Option<f64>,
    rms_norm_eps: f64,
    rope_scaling: Option<serde_json::Value>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

impl Config {
    /// From the metadata of a GGUF file.
    ///
    /// # Errors
    /// [`Error::Format`] if a field is missing or the architecture is not `llama`.
    pub fn from_gguf(gguf: &Gguf) -> Result<Config> {
        let architecture = gguf.text("general.architecture")?;
        if architecture != "llama" {
            return Err(gguf.wrong("general.architecture", "llama", architecture));
        }
        let key = |name: &str| format!("llama.{name}");
        let heads = gguf.integer(&key("attention.head_count"))?;
        let width = gguf.integer(&key("embedding_length"))?;
        let scaling = gguf.metadata.get("llama.rope.scaling.type");
        if scaling.is_some_and(|it| *it != super::gguf::Value::Text("none".to_owned())) {
            return Err(gguf.wrong("llama.rope.scaling.type", "none", format!("{scaling:?}")));
        }
        Config {
            layers: gguf.integer(&key("block_count"))?,
            width,
            heads,
            kv_heads: gguf
                .integer(&key("attention.head_count_kv"))
                .unwrap_or(heads),
            head_dim: gguf
                .integer(&key("rope.dimension_count"))
                .unwrap_or(width / heads.max(1)),
            ffn_width: gguf.integer(&key("feed_forward_length"))?,
            vocabulary: gguf.texts("tokenizer.ggml.tokens")?.len(),
            context_tokens: gguf.integer(&key("context_length"))?,
            rope_base: gguf.float(&key("rope.freq_base")).unwrap_or(10_000.0),
            norm_epsilon: gguf.float(&key("attention.layer_norm_rms_epsilon"))?,
        }
        .checked(gguf.file())
    }

    /// From the text of a Hugging Face `config.json`; `file` is its name in messages.
    ///
    /// # Errors
    /// [`Error::Json`] if a field is missing, [`Error::Format`] if the model is not a plain Llama.
    pub fn from_hugging_face(file: &str, json: &str) -> Result<Config> {
        let its: HuggingFace = serde_json::from_str(json).map_err(|source| Error::Json {
            context: file.to_owned(),
            source,
        })?;
        let wrong = |expected: &str, got: String| Error::Format {
            file: file.to_owned(),
            expected: expected.to_owned(),
            got,
        };
        if its.model_type != "llama" {
            return Err(wrong("model_type llama", its.model_type));
        }
        if let Some(scaling) = its.rope_scaling {
            return Err(wrong("no rope_scaling", scaling.to_string()));
        }
        if its.attention_bias || its.mlp_bias {
            return Err(wrong("no biases", "biases".to_owned()));
        }
        Config {
            layers: its.num_hidden_layers,
            width: its.hidden_size,
            heads: its.num_attention_heads,
            kv_heads: its.num_key_value_heads.unwrap_or(its.num_attention_heads),
            head_dim: its
                .head_dim
                .unwrap_or(its.hidden_size / its.num_attention_heads.max(1)),
            ffn_width: its.intermediate_size,
            vocabulary: its.vocab_size,
            context_tokens: its.max_position_embeddings,
            rope_base: its.rope_theta.unwrap_or(10_000.0),
            norm_epsilon: its.rms_norm_eps,
        }
        .checked(file)
    }

    fn checked(self, file: &str) -> Result<Config> {
        let sizes = [
            self.layers,
            self.width,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.ffn_width,
            self.vocabulary,
            self.context_tokens,
        ];
        let fits = sizes.iter().all(|size| (1..1 << 24).contains(size))
            && self.heads.is_multiple_of(self.kv_heads)
            && self.head_dim.is_multiple_of(2)
            && self.rope_base.is_finite()
            && self.rope_base > 0.0
            && self.norm_epsilon.is_finite()
            && self.norm_epsilon >= 0.0;
        if fits {
            Ok(self)
        } else {
            Err(Error::Format {
                file: file.to_owned(),
                expected: "sizes of a Llama model (whole heads in each group, even head dimension)"
                    .to_owned(),
                got: format!("{self:?}"),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"model_type": "llama", "num_hidden_layers": 30, "hidden_size": 576, "num_attention_heads": 9,
        "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152, "max_position_embeddings": 8192,
        "rope_theta": 100000, "rms_norm_eps": 1e-5, "rope_scaling": null, "torch_dtype": "bfloat16"}"#;

    #[test]
    fn hugging_face_json_is_read() {
        let config = Config::from_hugging_face("c", JSON).unwrap();
        assert_eq!(
            (config.head_dim, config.kv_heads, config.rope_base),
            (64, 3, 100_000.0)
        );
    }

    #[test]
    fn other_models_are_refused() {
        for (from, to) in [
            ("\"llama\"", "\"gpt2\""),
            (
                "\"rope_scaling\": null",
                "\"rope_scaling\": {\"type\": \"yarn\"}",
            ),
            ("\"num_key_value_heads\": 3", "\"num_key_value_heads\": 4"),
            ("\"num_attention_heads\": 9", "\"num_attention_heads\": 0"),
            ("\"hidden_size\": 576,", ""),
            ("30", "99999999999"),
        ] {
            let json = JSON.replace(from, to);
            assert!(Config::from_hugging_face("c", &json).is_err(), "{to}");
        }
    }
}
