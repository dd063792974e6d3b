//! The roofline of a transformer: how fast each operator can be at most, and the tokens a second that follow.
//!
//! ```text
//! seconds(operator) = max( flops / peak of its arithmetic,  bytes / bandwidth at the pass's working set )
//! tokens a second   = tokens of the pass / Σ seconds(operator)
//! ```
//! Source: Williams, Waterman, Patterson 2009, *Roofline*; Yuan et al. 2024, *LLM Inference Unveiled*, who apply it to the operators
//! of a transformer.
//! Cost: a few hundred flops.
//!
//! **Where we differ.** Bandwidth is not one number: a pass reads every weight once, so between two readings of a weight the
//! whole pass goes through the caches, and what answers is the cache that holds *all* of it ([`Machine::bandwidth`] at the pass's
//! bytes). Activations are not counted: at any size here they stay in the nearest cache. Operators do not overlap; neither do ours.

use crate::hardware::Machine;
use crate::kernels::dense::Element;
use crate::kernels::limits::Arithmetic;
use crate::model::{Config, WeightType};
use crate::{Error, Result};

/// What goes through the network at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// Sequences, B.
    pub sequences: usize,
    /// New tokens of each, T.
    pub tokens: usize,
    /// Tokens of each that are kept already, S.
    pub kept: usize,
    /// Tokens of each whose logits are wanted: one when generating.
    pub scored: usize,
}

impl Pass {
    /// A prompt of `tokens`.
    pub fn prompt(tokens: usize) -> Pass {
        Pass {
            sequences: 1,
            tokens,
            kept: 0,
            scored: 1,
        }
    }

    /// One token of each of `sequences`, which keep `kept` tokens already.
    pub fn decode(sequences: usize, kept: usize) -> Pass {
        Pass {
            sequences,
            tokens: 1,
            kept,
            scored: 1,
        }
    }
}

/// An operator of the network, all layers together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Operator {
    /// `attn_qkv`, `attention`, `attn_output`, `ffn_gate_up`, `ffn_down` or `output`.
    pub name: &'static str,
    /// Operations; a multiplication and an addition are two.
    pub flops: f64,
    /// Bytes of weights, or of keys and values, that must be read.
    pub bytes: f64,
    /// What is multiplied.
    pub arithmetic: Arithmetic,
}

impl Operator {
    /// Operations a byte.
    pub fn intensity(&self) -> f64 {
        self.flops / self.bytes.max(1.0)
    }

    /// The least time, where memory of `bandwidth` bytes a second answers.
    pub fn seconds(&self, machine: &Machine, bandwidth: f64) -> f64 {
        (self.flops / machine.peak(self.arithmetic)).max(self.bytes / bandwidth)
    }

    /// Whether memory is what it waits for.
    pub fn is_memory_bound(&self, machine: &Machine, bandwidth: f64) -> bool {
        self.bytes / bandwidth > self.flops / machine.peak(self.arithmetic)
    }
}

/// Bytes of a weight, its share of scales included, and the arithmetic that multiplies it.
///
/// # Errors
/// [`Error::Argument`] for `Native`, which depends on the file.
pub fn weight_cost(weights: WeightType) -> Result<(f64, Arithmetic)> {
    // A group shares a scale of two bytes.
    let scale = weights.group().map_or(0.0, |it| 2.0 / it as f64);
    match weights {
        WeightType::F32 => Ok((4.0, Arithmetic::F32)),
        // In windows, as trained weights are kept; see `kernels::windowed`.
        WeightType::Bf16 => Ok((1.5, Arithmetic::Bf16)),
        WeightType::Int8 => Ok((1.0 + scale, Arithmetic::Int8)),
        WeightType::Int4 => Ok((0.5 + scale, Arithmetic::Int8)),
        other => Err(Error::argument("weights", "f32, bf16, int8 or int4", other)),
    }
}

/// The operators of a pass, in the order in which they run.
///
/// # Errors
/// As [`weight_cost`].
pub fn operators(config: &Config, weights: WeightType, pass: Pass) -> Result<Vec<Operator>> {
    let c = config;
    let (weight_bytes, arithmetic) = weight_cost(weights)?;
    let layers = c.layers as f64;
    let rows = (pass.sequences * pass.tokens) as f64;
    let linear = |name, copies: f64, rows: f64, outputs: usize, inputs: usize| {
        let weights = copies * outputs as f64 * inputs as f64;
        Operator {
            name,
            flops: 2.0 * rows * weights,
            bytes: weights * weight_bytes,
            arithmetic,
        }
    };
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    // Token t sees the S kept ones and t + 1 new ones; keys and values are needed once a sequence and layer.
    let (tokens, kept) = (pass.tokens as f64, pass.kept as f64);
    let seen = tokens * kept + tokens * (tokens + 1.0) / 2.0;
    let sequences = pass.sequences as f64;
    let element = weights.keys_and_values();
    let attention = Operator {
        name: "attention",
        flops: layers * sequences * 4.0 * q as f64 * seen,
        bytes: layers * sequences * 2.0 * 4.0 * element.words(kv) as f64 * (kept + tokens),
        arithmetic: match element {
            Element::F32 => Arithmetic::F32,
            Element::Bf16 => Arithmetic::Bf16,
        },
    };
    let scored = (pass.sequences * pass.scored) as f64;
    Ok(vec![
        linear("attn_qkv", layers, rows, q + 2 * kv, c.width),
        attention,
        linear("attn_output", layers, rows, c.width, q),
        linear("ffn_gate_up", layers, rows, 2 * c.ffn_width, c.width),
        linear("ffn_down", layers, rows, c.width, c.ffn_width),
        linear("output", 1.0, scored, c.vocabulary, c.width),
    ])
}

/// Bytes that a pass reads: its working set.
pub fn working_set(operators: &[Operator]) -> f64 {
    operators.iter().map(|it| it.bytes).sum()
}

/// New tokens a second at most.
///
/// # Errors
/// As [`operators`].
pub fn tokens_per_second(
    machine: &Machine,
    config: &Config,
    weights: WeightType,
    pass: Pass,
) -> Result<f64> {
    let operators = operators(config, weights, pass)?;
    let bandwidth = machine.bandwidth(working_set(&operators));
    let seconds = operators.iter().map(|it| it.seconds(machine, bandwidth));
    Ok((pass.sequences * pass.tokens) as f64 / seconds.sum::<f64>())
}

/// New tokens a second at most when `tokens` are decoded one after the other, from nothing, by each of `sequences`.
///
/// # Errors
/// As [`operators`].
pub fn decoded_per_second(
    machine: &Machine,
    config: &Config,
    weights: WeightType,
    sequences: usize,
    tokens: usize,
) -> Result<f64> {
    // The law is a straight line in the tokens kept (until bandwidth changes), so the middle stands for all.
    tokens_per_second(
        machine,
        config,
        weights,
        Pass::decode(sequences, tokens / 2),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::Team;
    use crate::kvcache::store::{Contiguous, Shape, Store};

    fn smollm2() -> Config {
        let json = r#"{"model_type": "llama", "num_hidden_layers": 30, "hidden_size": 576, "num_attention_heads": 9,
            "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152, "max_position_embeddings": 8192,
            "rope_theta": 100000.0, "rms_norm_eps": 1e-5}"#;
        Config::from_hugging_face("config.json", json).unwrap()
    }

    fn machine() -> Machine {
        Machine {
            isa: Isa::Reference,
            threads: 1,
            bandwidth: vec![(1e6, 100e9), (1e9, 20e9)],
            peaks: vec![(Arithmetic::F32, 100e9), (Arithmetic::Int8, 400e9)],
        }
    }

    #[test]
    fn smollm2_takes_a_quarter_of_a_gigaflop_a_token() {
        // By hand: a layer has 576·(576 + 2·192) + 576·576 + 3·576·1536 = 3,538,944 weights, 30 of them 106,168,320;
        // the head has 49,152·576 = 28,311,552. Twice the sum is 268,959,744.
        let all = operators(&smollm2(), WeightType::F32, Pass::decode(1, 0)).unwrap();
        let linear: f64 = all
            .iter()
            .filter(|it| it.name != "attention")
            .map(|it| it.flops)
            .sum();
        assert_eq!(linear, 268_959_744.0);
        // Attention of the first token: 4 · 576 · 30 for its one key.
        assert_eq!(all[1].flops, 69_120.0);
        // A prompt scores one token only, and its 512 tokens see 512·513/2 keys.
        let prompt = operators(&smollm2(), WeightType::F32, Pass::prompt(512)).unwrap();
        assert_eq!(prompt[0].flops, 512.0 * all[0].flops);
        assert_eq!(prompt[5].flops, all[5].flops);
        assert_eq!(prompt[1].flops, 69_120.0 * 512.0 * 513.0 / 2.0);
    }

    #[test]
    fn bytes_are_those_of_layers_and_stores() {
        let noise: Vec<f32> = (0..64 * 128).map(|i| (i as f32 * 0.7).sin()).collect();
        for kind in [
            WeightType::F32,
            WeightType::Bf16,
            WeightType::Int8,
            WeightType::Int4,
        ] {
            let layer = kind.layer("w", &noise, 128).unwrap();
            let (bytes, _) = weight_cost(kind).unwrap();
            let ratio = layer.bytes() as f64 / (64.0 * 128.0 * bytes);
            match kind {
                // A window for each row, and where patches of each panel are: more than usual for rows as short as these.
                WeightType::Bf16 => assert!((1.0..1.04).contains(&ratio), "{ratio}"),
                _ => assert_eq!(ratio, 1.0, "{kind}"),
            }
        }
        assert!(weight_cost(WeightType::Native).is_err());
        // 128 tokens: whole blocks.
        let shape = Shape {
            layers: 30,
            groups: 3,
            head_dim: 64,
        };
        for kind in [WeightType::F32, WeightType::Bf16, WeightType::Int4] {
            let mut store = Contiguous::of(kind.keys_and_values(), shape);
            for layer in 0..30 {
                let rows = vec![0.0; 128 * 192];
                store.write(layer, &rows, &rows, Team::global());
            }
            store.commit(128);
            let all = operators(&smollm2(), kind, Pass::decode(1, 127)).unwrap();
            // A store also has some headers.
            let held = store.bytes() as f64;
            assert!((held / all[1].bytes - 1.0).abs() < 4e-3, "{kind}: {held}");
        }
    }

    #[test]
    fn one_token_waits_for_memory_and_a_prompt_for_arithmetic() {
        let (machine, config) = (machine(), smollm2());
        let bound = |pass| -> Vec<bool> {
            let all = operators(&config, WeightType::Int8, pass).unwrap();
            let bandwidth = machine.bandwidth(working_set(&all));
            all.iter()
                .map(|it| it.is_memory_bound(&machine, bandwidth))
                .collect()
        };
        let (one, prompt) = (bound(Pass::decode(1, 0)), bound(Pass::prompt(512)));
        assert!(one[0] && one[2] && one[3] && one[4] && one[5]);
        assert!(prompt[..5].iter().all(|is_bound| !is_bound));
    }

    #[test]
    fn tokens_a_second_follow_the_limits() {
        let (machine, config) = (machine(), smollm2());
        let rate = |weights, pass| tokens_per_second(&machine, &config, weights, pass).unwrap();
        // One token reads 134,479,872 weights (and a little for its own keys): bytes over bandwidth.
        let bytes = 134_479_872.0 * 4.0 + 30.0 * 8.0 * 192.0;
        let expected = machine.bandwidth(bytes) / bytes;
        assert!((rate(WeightType::F32, Pass::decode(1, 0)) / expected - 1.0).abs() < 1e-3);
        // Fewer bytes are faster, sixteen sequences share them, and no prompt beats its flops.
        assert!(
            rate(WeightType::Int4, Pass::decode(1, 0))
                > 6.0 * rate(WeightType::F32, Pass::decode(1, 0))
        );
        let (one, many) = (Pass::decode(1, 32), Pass::decode(16, 32));
        let gain = rate(WeightType::F32, many) / rate(WeightType::F32, one);
        assert!((1.0..16.0).contains(&gain));
        let prompt = rate(WeightType::F32, Pass::prompt(512));
        assert!(prompt < 100e9 / (2.0 * 106_168_320.0));
        let middle = decoded_per_second(&machine, &config, WeightType::F32, 1, 64).unwrap();
        assert_eq!(middle, rate(WeightType::F32, Pass::decode(1, 32)));
    }
}
