//! The shape of a model in Hugging Face's `config.json`.

use serde::Deserialize;

use super::{Config, KNOWN, flags};
use crate::model::rope::RopeScaling;
use crate::{Error, Result};

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
    /// Both of the above, as later versions of the library write them.
    rope_parameters: Option<serde_json::Value>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    attention_bias: Option<bool>,
    #[serde(default)]
    mlp_bias: bool,
}

impl Config {
    /// From the text of a Hugging Face `config.json`; `file` is its name in messages.
    ///
    /// # Errors
    /// [`Error::Json`] if a field is missing, [`Error::Format`] if the model is none of ours.
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
        let flags = flags(&its.model_type).ok_or_else(|| wrong(KNOWN, its.model_type.clone()))?;
        let parameters = its.rope_parameters.as_ref();
        let theta = parameters.and_then(|it| it.get("rope_theta")?.as_f64());
        let scaling = match its.rope_scaling.as_ref().or(parameters) {
            None => RopeScaling::None,
            Some(json) => scaling(json, its.max_position_embeddings).ok_or_else(|| {
                wrong(
                    "rope_scaling of type linear, ntk, yarn or llama3 with its numbers",
                    json.to_string(),
                )
            })?,
        };
        let has_biases = its.attention_bias.unwrap_or(flags.has_biases);
        if its.mlp_bias || (has_biases && !flags.has_biases) {
            return Err(wrong(
                "no biases but those of Qwen2's attention",
                "others".to_owned(),
            ));
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
            rope_base: its.rope_theta.or(theta).unwrap_or(10_000.0),
            scaling,
            pairs: flags.pairs,
            norm_epsilon: its.rms_norm_eps,
            has_biases,
            has_qk_norm: flags.has_qk_norm,
            window: its
                .sliding_window
                .filter(|_| its.use_sliding_window.unwrap_or(flags.name == "mistral")),
        }
        .checked(file)
    }
}

/// Hugging Face's `rope_scaling`.
fn scaling(json: &serde_json::Value, context_tokens: usize) -> Option<RopeScaling> {
    let kind = json
        .get("rope_type")
        .or_else(|| json.get("type"))?
        .as_str()?;
    let positive = |name: &str| {
        json.get(name)?
            .as_f64()
            .filter(|it| it.is_finite() && *it > 0.0)
    };
    let factor = || positive("factor");
    let trained = positive("original_max_position_embeddings");
    Some(match kind {
        "default" | "none" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: factor()? },
        "ntk" => RopeScaling::Ntk { factor: factor()? },
        "yarn" => RopeScaling::Yarn {
            factor: factor()?,
            trained_tokens: trained.unwrap_or(context_tokens as f64),
            fast: positive("beta_fast").unwrap_or(32.0),
            slow: positive("beta_slow").unwrap_or(1.0),
        },
        "llama3" => RopeScaling::Llama3 {
            factor: factor()?,
            slow: positive("low_freq_factor")?,
            fast: positive("high_freq_factor")?,
            trained_tokens: trained?,
        },
        _ => return None,
    })
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
    fn rotary_parameters_may_stand_together() {
        let together =
            r#""rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0}"#;
        let json = JSON
            .replace("\"rope_theta\": 100000, ", "")
            .replace("\"rope_scaling\": null", together);
        let config = Config::from_hugging_face("c", &json).unwrap();
        assert_eq!(config.rope_base, 500_000.0);
        assert_eq!(config.scaling, RopeScaling::Linear { factor: 4.0 });
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
