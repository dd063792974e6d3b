//! What the small files of a Hugging Face folder have to say of a model: `config.json`, `tokenizer.json`, `tokenizer_config.json`,
//! `generation_config.json`. The way back from [`settings`](super::settings) and [`Config::from_hugging_face`].

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::gguf::Gguf;
use super::rope::RopeScaling;
use super::{Config, Model};
use crate::kernels::rope::Pairs;
use crate::{Error, Result, atomic};

impl Model {
    /// The GGUF file that it was loaded from, if it was.
    pub fn gguf(&self) -> Option<&Arc<Gguf>> {
        self.weights.gguf()
    }

    /// Writes configuration, tokenizer and chat template into a folder; `quantization` is what `config.json` says of how weights are stored.
    pub(crate) fn write_companions(
        &self,
        folder: &Path,
        quantization: Option<Value>,
    ) -> Result<()> {
        let mut config = self.config.to_hugging_face(self.network.is_tied())?;
        if let Some(quantization) = quantization {
            config["quantization_config"] = quantization;
        }
        config["bos_token_id"] = json!(self.tokenizer.id(&self.tokenizer.bos_and_eos[0]));
        config["eos_token_id"] = json!(self.tokenizer.ends);
        let [bos, eos] = &self.tokenizer.bos_and_eos;
        let token = |text: &String| {
            if text.is_empty() {
                Value::Null
            } else {
                json!(text)
            }
        };
        let tokenizer = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": token(bos),
            "eos_token": token(eos),
            "add_bos_token": self.tokenizer.bos.is_some(),
            "clean_up_tokenization_spaces": false,
            "model_max_length": self.config.context_tokens,
            "chat_template": self.chat_template.as_ref().map(|it| it.source()),
        });
        let generation = json!({ "eos_token_id": self.tokenizer.ends });
        write(&folder.join("tokenizer.json"), &self.tokenizer.to_json()?)?;
        for (name, value) in [
            ("config.json", config),
            ("tokenizer_config.json", tokenizer),
            ("generation_config.json", generation),
        ] {
            write(&folder.join(name), &format!("{value:#}\n"))?;
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    atomic::file(path, |file| {
        file.write_all(text.as_bytes())
            .map_err(Error::io("write", path))
    })
}

impl Config {
    /// As `config.json` has it.
    ///
    /// # Errors
    /// [`Error::Argument`] if it cannot be said there: factors of single frequencies.
    pub fn to_hugging_face(&self, is_tied: bool) -> Result<Value> {
        let (kind, architecture) =
            match (self.pairs, self.has_qk_norm, self.has_biases, self.window) {
                (_, true, _, _) => ("qwen3", "Qwen3ForCausalLM"),
                (_, _, true, _) => ("qwen2", "Qwen2ForCausalLM"),
                (Pairs::Neighbours, _, _, Some(_)) => ("mistral", "MistralForCausalLM"),
                _ => ("llama", "LlamaForCausalLM"),
            };
        let mut config = json!({
            "architectures": [architecture],
            "model_type": kind,
            "num_hidden_layers": self.layers,
            "hidden_size": self.width,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.ffn_width,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context_tokens,
            "rope_theta": self.rope_base,
            "rms_norm_eps": self.norm_epsilon,
            "hidden_act": "silu",
            "attention_bias": self.has_biases,
            "mlp_bias": false,
            "tie_word_embeddings": is_tied,
            "rope_scaling": self.scaling.to_hugging_face()?,
            "torch_dtype": "float32",
        });
        if let Some(window) = self.window {
            config["sliding_window"] = json!(window);
            config["use_sliding_window"] = json!(true);
        }
        Ok(config)
    }
}

impl RopeScaling {
    fn to_hugging_face(&self) -> Result<Value> {
        Ok(match self {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            RopeScaling::Ntk { factor } => json!({ "rope_type": "ntk", "factor": factor }),
            RopeScaling::Yarn {
                factor,
                trained_tokens,
                fast,
                slow,
            } => json!({
                "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": trained_tokens,
                "beta_fast": fast, "beta_slow": slow,
            }),
            RopeScaling::Llama3 {
                factor,
                slow,
                fast,
                trained_tokens,
            } => json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": slow, "high_freq_factor": fast,
                "original_max_position_embeddings": trained_tokens,
            }),
            RopeScaling::Factors(_) => {
                let expected = "one that config.json can say";
                return Err(Error::argument(
                    "rope scaling",
                    expected,
                    "a factor for each frequency",
                ));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_survives_the_way_there_and_back() {
        let llama = Config::example();
        let qwen = Config {
            pairs: Pairs::Halves,
            ..llama.clone()
        };
        let scaled = |scaling| Config {
            scaling,
            ..llama.clone()
        };
        for config in [
            llama.clone(),
            Config {
                window: Some(9),
                ..llama.clone()
            },
            Config {
                has_biases: true,
                ..qwen.clone()
            },
            Config {
                has_qk_norm: true,
                ..qwen
            },
            scaled(RopeScaling::Linear { factor: 2.0 }),
            scaled(RopeScaling::Ntk { factor: 2.0 }),
            scaled(RopeScaling::Yarn {
                factor: 2.0,
                trained_tokens: 35.0,
                fast: 30.0,
                slow: 2.0,
            }),
            scaled(RopeScaling::Llama3 {
                factor: 8.0,
                slow: 1.0,
                fast: 4.0,
                trained_tokens: 35.0,
            }),
        ] {
            let json = config.to_hugging_face(true).unwrap().to_string();
            assert_eq!(Config::from_hugging_face("c", &json).unwrap(), config);
        }
        let factors = scaled(RopeScaling::Factors(vec![1.0; 2].into()));
        assert!(factors.to_hugging_face(true).is_err());
    }
}
