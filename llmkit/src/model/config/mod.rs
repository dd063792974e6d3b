//! The shape of a Llama-family model: as a GGUF file's metadata gives it (`gguf.rs`), or Hugging Face's `config.json`
//! (`hugging_face.rs`).

mod gguf;
mod hugging_face;

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

impl Config {
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

#[cfg(test)]
impl Config {
    /// A small Llama, for tests.
    pub(crate) fn example() -> Config {
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
