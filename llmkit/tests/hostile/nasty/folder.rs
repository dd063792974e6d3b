//! Hugging Face folders: configuration, tokenizer, weights.

use super::refused;
use crate::entry::{self, CUT};
use crate::seeds;

/// The honest folder with one part changed.
fn with(part: usize, change: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let honest = seeds::of("folder").remove(0);
    let text = honest.as_slice();
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(CUT.len()).position(|it| it == CUT) {
        parts.push(rest[..at].to_vec());
        rest = &rest[at + CUT.len()..];
    }
    parts.push(rest.to_vec());
    parts[part] = change(&parts[part]);
    parts.join(CUT)
}

fn replaced(part: usize, from: &str, to: &str) -> Vec<u8> {
    with(part, |bytes| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1).into_bytes()
    })
}

#[test]
fn configurations_without_sense() {
    let config = |from: &str, to: &str| {
        let bytes = replaced(0, from, to);
        refused(to, entry::folder, &bytes, &["config.json"]);
    };
    for text in ["", "{", "[]", "null", "{}", "\u{feff}{}", "\"x\""] {
        refused(
            text,
            entry::folder,
            &with(0, |_| text.into()),
            &["config.json"],
        );
    }
    for deep in ["[", "{\"a\":"] {
        let bytes = with(0, |_| deep.repeat(100_000).into());
        refused("deep", entry::folder, &bytes, &["config.json"]);
    }
    refused(
        "not UTF-8",
        entry::folder,
        &with(0, |_| vec![0xff; 9]),
        &["config.json"],
    );
    for field in [
        "\"num_hidden_layers\": 1",
        "\"hidden_size\": 8",
        "\"num_attention_heads\": 2",
        "\"num_key_value_heads\": 1",
        "\"intermediate_size\": 6",
        "\"vocab_size\": 12",
        "\"max_position_embeddings\": 64",
    ] {
        let (name, _) = field.split_once(':').unwrap();
        for value in [
            "0",
            "-1",
            "1.5",
            "1e3",
            "\"8\"",
            "[]",
            "true",
            "1e999",
            "99999999999999999999",
            "1000000000",
        ] {
            config(field, &format!("{name}: {value}"));
        }
        // Twice: which is meant?
        config(field, &format!("{field}, {field}"));
    }
    config("\"hidden_size\"", "\"head_dim\": 0, \"hidden_size\"");
    config("\"hidden_size\"", "\"head_dim\": 3, \"hidden_size\"");
    config("\"num_key_value_heads\": 1", "\"num_key_value_heads\": 3");
    config(
        "\"num_hidden_layers\": 1",
        "\"sliding_window\": 0, \"use_sliding_window\": true, \"num_hidden_layers\": 1",
    );
    for value in ["0", "-1", "1e999", "null", "\"x\"", "NaN", "Infinity"] {
        if value != "null" {
            config(
                "\"rope_theta\": 10000.0",
                &format!("\"rope_theta\": {value}"),
            );
        }
        if value != "0" {
            config(
                "\"rms_norm_eps\": 1e-5",
                &format!("\"rms_norm_eps\": {value}"),
            );
        }
    }
    config("llama\"", "gpt2\"");
    config("\"llama3\"", "\"longrope\"");
    for factor in ["0", "-8", "1e999", "null", "\"8\""] {
        config("\"factor\": 8.0", &format!("\"factor\": {factor}"));
    }
    // The ramp between the two has no length, or runs backwards.
    config("\"high_freq_factor\": 4.0", "\"high_freq_factor\": 1.0");
    config("\"high_freq_factor\": 4.0", "\"high_freq_factor\": 0.5");
    config(
        "\"rope_scaling\": {",
        "\"rope_scaling\": [{}], \"other\": {",
    );
    config(
        "\"original_max_position_embeddings\": 16",
        "\"original_max_position_embeddings\": 0",
    );
}

#[test]
fn tokenizers_that_are_none() {
    for text in ["", "{}", "[]", "null", "{\"model\": {\"type\": \"BPE\"}}"] {
        let bytes = with(1, |_| text.into());
        refused(text, entry::folder, &bytes, &["tokenizer.json"]);
    }
    let deep = with(1, |_| "[".repeat(100_000).into());
    refused("deep", entry::folder, &deep, &["tokenizer.json"]);
    for (from, to) in [
        (
            "\"model\": {\"type\": \"BPE\"",
            "\"model\": {\"type\": \"GPT\"",
        ),
        ("[\"a\", \"b\"]", "[\"a\", \"z\"]"),
        ("[\"a\", \"b\"]", "[\"b\", \"a\"]"),
        ("[\"a\", \"b\"]", "[\"a\"]"),
        ("\"Regex\": \"", "\"Regex\": \"("),
        ("\"ab\": 3", "\"ab\": -3"),
        ("\"ab\": 3", "\"ab\": 4294967296"),
        // Once panics inside tokenizers: no JSON in the decoder.
        ("\"decoder\": {", "\"decoder\": {1: 2, "),
        ("\"decoder\": {", "\"decoder\": {\"a\" \"b\", "),
        ("\"decoder\": {", "\"decoder\": {\"a\": 1e999, "),
        ("\"decoder\": {", "\"decoder\": {\"a\": \"\\ud800\", "),
    ] {
        refused(
            to,
            entry::folder,
            &replaced(1, from, to),
            &["tokenizer.json"],
        );
    }
}

/// Tokenizers that are odd but no more: they load, and do what they are asked.
#[test]
fn odd_tokenizers_behave() {
    for (from, to) in [
        // A hole in the vocabulary, an id far beyond it, one id twice.
        ("\"ab\": 3", "\"ab\": 33"),
        ("\"ab\": 3", "\"ab\": 4294967295"),
        ("\"ab\": 3", "\"ab\": 2"),
        ("\"id\": 10,", "\"id\": 4000000000,"),
        // Padding and truncation would make a text of any length one of this length.
        (
            "\"padding\": null",
            "\"padding\": {\"strategy\": {\"Fixed\": 1000000000000}, \"direction\": \"Right\", \"pad_to_multiple_of\": null, \"pad_id\": 0, \"pad_type_id\": 0, \"pad_token\": \"a\"}",
        ),
        (
            "\"padding\": null",
            "\"padding\": {\"strategy\": \"BatchLongest\", \"direction\": \"Right\", \"pad_to_multiple_of\": 1000000000000, \"pad_id\": 0, \"pad_type_id\": 0, \"pad_token\": \"a\"}",
        ),
        (
            "\"truncation\": null",
            "\"truncation\": {\"max_length\": 0, \"strategy\": \"LongestFirst\", \"stride\": 0, \"direction\": \"Right\"}",
        ),
        (
            "\"truncation\": null",
            "\"truncation\": {\"max_length\": 1, \"strategy\": \"OnlySecond\", \"stride\": 5, \"direction\": \"Left\"}",
        ),
        // A pattern whose matching takes exponential time.
        ("\\\\p{L}+", "(a+)+(a+)+(a+)+$(?!b)|\\\\p{L}+"),
        ("\"<|im_end|>\"", "\"\""),
        // A special token that the template of the post-processor does not explain: once a panic.
        (
            "\"special_tokens\": {\"<|endoftext|>\"",
            "\"special_tokens\": {\"<|other|>\"",
        ),
    ] {
        let bytes = replaced(1, from, to);
        if let Err(error) = entry::folder(&bytes) {
            let said = error.to_string();
            assert!(said.contains("tokenizer.json"), "{to}: {said}");
        }
    }
}

/// A safetensors file of this header and these data.
fn weights(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), data].concat()
}

fn refused_weights(what: &str, bytes: Vec<u8>, words: &[&str]) {
    let words = [&["model.safetensors"][..], words].concat();
    refused(what, entry::folder, &with(3, |_| bytes), &words);
}

#[test]
fn headers_that_are_none() {
    refused_weights("nothing", Vec::new(), &[]);
    refused_weights("seven bytes", vec![0; 7], &[]);
    refused_weights("an empty header", vec![0; 8], &[]);
    for length in [9u64, 1 << 20, 1 << 40, i64::MAX as u64, u64::MAX] {
        let bytes = [&length.to_le_bytes()[..], b"{}"].concat();
        refused_weights("a header beyond the file", bytes, &[]);
    }
    for header in [
        "[]",
        "null",
        "{\"a\":1}",
        "{\"a\":{}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,99999999999999999999]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905,4],\"data_offsets\":[0,16]}}",
        "{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
        "{\"__metadata__\":{\"a\":1}}",
    ] {
        refused_weights(header, weights(header, &[0; 8]), &[]);
    }
    let overlapping = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}";
    refused_weights("overlapping", weights(overlapping, &[0; 8]), &[]);
    refused_weights("deep", weights(&"[".repeat(100_000), b""), &[]);
}

#[test]
fn weights_that_are_not_those_of_the_configuration() {
    let change = |from: &str, to: &str| {
        with(3, |bytes| {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
            assert!(header.contains(from), "{from} in {header}");
            weights(&header.replacen(from, to, 1), &bytes[8 + length..])
        })
    };
    for (from, to, word) in [
        ("self_attn.q_proj", "self_attn.x_proj", "x_proj"),
        ("layers.0.mlp.up", "layers.1.mlp.up", "ffn_up"),
        (
            "layers.0.mlp.up",
            "layers.99999999999999999999.mlp.up",
            "mlp.up",
        ),
        ("model.norm.weight", "lm_head.weight", "output"),
        ("\"shape\":[4, 8]", "\"shape\":[8,4]", "attn_k"),
        ("\"shape\":[4, 8]", "\"shape\":[32]", "attn_k"),
        ("\"shape\":[4, 8]", "\"shape\":[4,8,1]", "k_proj"),
        ("\"shape\":[4, 8]", "\"shape\":[2,16]", "attn"),
    ] {
        refused(
            to,
            entry::folder,
            &change(from, to),
            &["model.safetensors", word],
        );
    }
}

/// Tensors of no dimensions or no elements, in place of projections that are turned head by head.
#[test]
fn projections_of_no_size() {
    for (shape, length) in [
        ("[]", 4),
        ("[0]", 0),
        ("[0,8]", 0),
        ("[8,0]", 0),
        ("[4]", 16),
    ] {
        for part in ["q", "k"] {
            let header = format!(
                "{{\"model.layers.0.self_attn.{part}_proj.weight\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[0,{length}]}}}}"
            );
            let bytes = weights(&header, &vec![0; length]);
            refused_weights(shape, bytes, &[]);
        }
    }
}
