//! The shape of a Llama-family model.

use serde::Deserialize;

use super::gguf::{Gguf, Value};
use super::rope::RopeScaling;
use crate::kernels::rope::Pairs;
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
    /// How these are stretched.
    pub scaling: RopeScaling,
    /// Which features turn together.
    pub pairs: Pairs,
    /// What RMSNorm adds to the mean square.
    pub norm_epsilon: f64,
    /// Whether the query, key and value projections have biases (Qwen2).
    pub has_biases: bool,
    /// Whether queries and keys are normalised head by head (Qwen3).
    pub has_qk_norm: bool,
    /// Keys that a query sees, its own included; all if there is no window (Mistral's has one).
    pub window: Option<usize>,
}

/// What the architectures differ in. A new one is a row here.
struct Flags {
    /// Name in GGUF files and, except for Mistral, in Hugging Face's.
    name: &'static str,
    /// Pairs in GGUF files, and in memory.
    pairs: Pairs,
    has_biases: bool,
    has_qk_norm: bool,
}

const ARCHITECTURES: [Flags; 4] = [
    Flags {
        name: "llama",
        pairs: Pairs::Neighbours,
        has_biases: false,
        has_qk_norm: false,
    },
    Flags {
        name: "mistral",
        pairs: Pairs::Neighbours,
        has_biases: false,
        has_qk_norm: false,
    },
    Flags {
        name: "qwen2",
        pairs: Pairs::Halves,
        has_biases: true,
        has_qk_norm: false,
    },
    Flags {
        name: "qwen3",
        pairs: Pairs::Halves,
        has_biases: false,
        has_qk_norm: true,
    },
];

fn flags(name: &str) -> Option<&'static Flags> {
    ARCHITECTURES.iter().find(|it| it.name == name)
}

const KNOWN: &str = "an architecture among llama, mistral, qwen2 and qwen3";

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
    /// From the metadata of a GGUF file.
    ///
    /// # Errors
    /// [`Error::Format`] if a field is missing or the architecture is not one of Llama, Mistral, Qwen2, Qwen3.
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

    /// Whether sizes and constants make sense. What follows from them (tables of angles, say) then stays small.
    fn checked(self, file: &str) -> Result<Config> {
        let refuse = |field: &str, expected: &str, got: String| {
            Err(Error::Format {
                file: format!("{file}: {field}"),
                expected: expected.to_owned(),
                got,
            })
        };
        for (field, size, limit) in [
            ("layers", self.layers, 1 << 24),
            ("width", self.width, 1 << 24),
            ("heads", self.heads, 1 << 24),
            ("key/value heads", self.kv_heads, 1 << 24),
            ("head dimension", self.head_dim, 1 << 12),
            ("feed-forward width", self.ffn_width, 1 << 24),
            ("vocabulary", self.vocabulary, 1 << 24),
            ("context", self.context_tokens, 1 << 24),
        ] {
            if !(1..=limit).contains(&size) {
                return refuse(field, &format!("1 to {limit}"), size.to_string());
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let got = format!("{} for {} key/value heads", self.heads, self.kv_heads);
            return refuse("heads", "whole heads in each group", got);
        }
        if !self.head_dim.is_multiple_of(2) {
            let got = self.head_dim.to_string();
            return refuse("head dimension", "an even head dimension", got);
        }
        if !(self.rope_base.is_finite() && self.rope_base > 1.0) {
            let got = self.rope_base.to_string();
            return refuse("rotary base", "a number above 1", got);
        }
        if !(self.norm_epsilon.is_finite() && self.norm_epsilon >= 0.0) {
            let got = self.norm_epsilon.to_string();
            return refuse("epsilon of the norms", "a number of at least 0", got);
        }
        if self.window == Some(0) {
            return refuse("sliding window", "at least 1", "0".to_owned());
        }
        if !self.scaling.makes_sense() {
            let expected = "factor at least 1, trained on at least 1 token, 0 < slow < fast";
            return refuse("rope scaling", expected, format!("{:?}", self.scaling));
        }
        Ok(self)
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
impl Config {
    /// A small Llama, for tests.
    pub(super) fn example() -> Config {
        Config {
            layers: 2,
            width: 24,
            heads: 6,
            kv_heads: 2,
            head_dim: 4,
            ffn_width: 40,
            vocabulary: 50,
            context_tokens: 70,
            rope_base: 100.0,
            scaling: RopeScaling::None,
            pairs: Pairs::Neighbours,
            norm_epsilon: 1e-5,
            has_biases: false,
            has_qk_norm: false,
            window: None,
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
