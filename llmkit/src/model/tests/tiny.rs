//! A whole model with a tokenizer, small and random, from files that are written for it.

use std::collections::HashMap;

use super::super::{Model, WeightType};
use super::noise;

/// Tokens in its context.
pub const CONTEXT: usize = 600;

/// Bytes that its tokenizer knows, one a token; ids count up from 0, the end token comes after them.
pub const BYTES: &str = "abcdefghijklmnopqrstuvwxyz .\né🦀";

/// The character that stands for a byte in a byte-level vocabulary (Radford et al. 2019): printable ones for themselves, the others
/// from U+0100 on, in order.
fn character(byte: u8) -> char {
    let is_itself = |it: &u8| matches!(it, 33..=126 | 161..=172 | 174..=255);
    match is_itself(&byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|it| !is_itself(it)).count() as u32;
            char::from_u32(256 + before).unwrap()
        }
    }
}

/// A Llama of two layers of width 32, six heads in two groups of dimension 4.
pub fn model(kind: WeightType) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let vocabulary: HashMap<String, usize> = (BYTES.bytes().enumerate())
        .map(|(id, byte)| (character(byte).to_string(), id))
        .collect();
    let end = BYTES.len();
    assert_eq!(vocabulary.len(), end, "each byte once");
    let byte_level = serde_json::json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true,
    });
    let tokenizer = serde_json::json!({
        "version": "1.0",
        "added_tokens": [{
            "id": end, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    });
    let config = serde_json::json!({
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 6, "head_dim": 4,
        "num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": end + 1, "max_position_embeddings": CONTEXT,
        "rope_theta": 100.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    });
    let mut tensors = HashMap::new();
    let mut add = |name: String, shape: &[usize]| {
        let seed = tensors.len() as u64;
        let tensor = match shape.len() {
            1 => (noise(shape, 0.5, seed) + 1.0).unwrap(),
            _ => noise(shape, 2.0, seed),
        };
        tensors.insert(name, tensor);
    };
    add("model.embed_tokens.weight".into(), &[end + 1, 32]);
    add("model.norm.weight".into(), &[32]);
    for n in 0..2 {
        for (name, shape) in [
            ("input_layernorm", &[32][..]),
            ("self_attn.q_proj", &[24, 32]),
            ("self_attn.k_proj", &[8, 32]),
            ("self_attn.v_proj", &[8, 32]),
            ("self_attn.o_proj", &[32, 24]),
            ("post_attention_layernorm", &[32]),
            ("mlp.gate_proj", &[64, 32]),
            ("mlp.up_proj", &[64, 32]),
            ("mlp.down_proj", &[32, 64]),
        ] {
            add(format!("model.layers.{n}.{name}.weight"), shape);
        }
    }
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("config.json"), config.to_string()).unwrap();
    std::fs::write(path("tokenizer.json"), tokenizer.to_string()).unwrap();
    candle_core::safetensors::save(&tensors, path("model.safetensors")).unwrap();
    Model::load_as(folder.path().to_str().unwrap(), kind).unwrap()
}
