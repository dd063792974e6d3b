//! GGUF files of sound structure that hold no sound model.

use half::f16;

use super::refused;
use crate::entry;
use crate::seeds::TOKENS;
use crate::seeds::gguf::{File, array, llama, qwen, texts};

fn check(what: &str, words: &[&str], change: impl FnOnce(&mut File)) {
    let mut file = llama();
    change(&mut file);
    let words = [&["input.gguf"][..], words].concat();
    refused(what, entry::gguf, &file.bytes(), &words);
}

#[test]
fn configurations_without_sense() {
    check("GPT-2", &["general.architecture", "gpt2"], |it| {
        it.text("general.architecture", "gpt2");
    });
    check(
        "an architecture of numbers",
        &["general.architecture"],
        |it| {
            it.integer("general.architecture", 7);
        },
    );
    for field in [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
    ] {
        let key = format!("llama.{field}");
        check(&format!("{field} 0"), &[], |it| it.integer(&key, 0));
        check(&format!("{field} 10⁹"), &[], |it| {
            it.integer(&key, 1_000_000_000);
        });
        check(&format!("{field} -1"), &[], |it| {
            it.set(&key, 5, (-1i32).to_le_bytes());
        });
        check(&format!("{field} 2⁶²"), &[], |it| {
            it.set(&key, 10, (1u64 << 62).to_le_bytes());
        });
        check(&format!("{field} as a text"), &[], |it| it.text(&key, "32"));
        check(&format!("{field} as a float"), &[], |it| {
            it.float(&key, 32.0)
        });
    }
    check("a layer more", &["blk.1."], |it| {
        it.integer("llama.block_count", 2);
    });
    check("ten million layers", &["blk.1."], |it| {
        it.integer("llama.block_count", 10_000_000);
    });
    check("an odd head", &["even head dimension"], |it| {
        it.integer("llama.attention.key_length", 15);
    });
    check("heads that share unevenly", &["whole heads"], |it| {
        it.integer("llama.attention.head_count_kv", 3);
    });
    for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        check("a rotary base", &[], |it| {
            it.float("llama.rope.freq_base", value);
        });
        if value != 0.0 {
            check("an epsilon", &[], |it| {
                it.float("llama.attention.layer_norm_rms_epsilon", value);
            });
        }
        for kind in ["linear", "yarn"] {
            check("a factor", &[], |it| {
                it.text("llama.rope.scaling.type", kind);
                it.float("llama.rope.scaling.factor", value);
                it.integer("llama.rope.scaling.original_context_length", 16);
            });
        }
    }
    check("a scaling", &["rope.scaling.type", "lunear"], |it| {
        it.text("llama.rope.scaling.type", "lunear");
    });
    check("trained on nothing", &[], |it| {
        it.text("llama.rope.scaling.type", "yarn");
        it.float("llama.rope.scaling.factor", 2.0);
        it.integer("llama.rope.scaling.original_context_length", 0);
    });
}

#[test]
fn vocabularies_without_sense() {
    let tokens = "tokenizer.ggml.tokens";
    check("no tokens", &[], |it| it.set(tokens, 9, texts(&[])));
    check("tokens of numbers", &[tokens], |it| {
        it.set(tokens, 9, array(4, &vec![vec![0; 4]; 12]));
    });
    check("a token twice", &[tokens], |it| {
        let mut twice = TOKENS;
        twice[3] = twice[4];
        it.set(tokens, 9, texts(&twice));
    });
    check("a token more than rows", &["token_embd.weight"], |it| {
        let more = [&TOKENS[..], &["zz"]].concat();
        it.set(tokens, 9, texts(&more));
    });
    let merges = "tokenizer.ggml.merges";
    for wrong in ["ab", ""] {
        check("a merge of one", &[merges], |it| {
            it.set(merges, 9, texts(&["a b", wrong]));
        });
    }
    check("a merge of strangers", &["input.gguf", "zz"], |it| {
        it.set(merges, 9, texts(&["a b", "zz a"]));
    });
    check("a merge into a stranger", &["input.gguf", "ba"], |it| {
        it.set(merges, 9, texts(&["b a"]));
    });
    check("merges of numbers", &[merges], |it| it.integer(merges, 3));
    check("another model", &["tokenizer.ggml.model", "rwkv"], |it| {
        it.text("tokenizer.ggml.model", "rwkv");
    });
    check(
        "another splitting",
        &["tokenizer.ggml.pre", "spaceship"],
        |it| {
            it.text("tokenizer.ggml.pre", "spaceship");
        },
    );
}

/// Token types and ids that do not fit the vocabulary load, and name no token.
#[test]
fn ids_that_are_none_name_no_token() {
    for (kind, value) in [
        (4u32, u32::MAX.to_le_bytes().to_vec()),
        (5, (-1i32).to_le_bytes().to_vec()),
        (10, (1u64 << 62).to_le_bytes().to_vec()),
        (8, crate::seeds::gguf::text("x")),
    ] {
        let mut file = llama();
        file.set("tokenizer.ggml.bos_token_id", kind, &value);
        file.set("tokenizer.ggml.eos_token_id", kind, &value);
        let gguf = llmkit::model::gguf::Gguf::parse("x", file.bytes()).unwrap();
        if let Ok(tokenizer) = llmkit::model::Tokenizer::from_gguf(&gguf) {
            assert_eq!(tokenizer.bos, None);
            assert!(tokenizer.ends.iter().all(|&id| id < 12));
        }
    }
    for count in [0, 1, 11, 13, 1000] {
        let mut file = llama();
        let kinds = array(5, &vec![3i32.to_le_bytes().to_vec(); count]);
        file.set("tokenizer.ggml.token_type", 9, kinds);
        // Accepted or refused, but never more.
        let _ = entry::gguf(&file.bytes());
    }
}

/// Each tensor missing, and each of another shape, is named.
#[test]
fn tensors_that_are_not_those_of_the_configuration() {
    for (file, names) in [(llama(), 11), (qwen(), 15)] {
        assert_eq!(file.tensors.len(), names);
        for i in 0..names {
            let name = String::from_utf8(file.tensors[i].name.clone()).unwrap();
            let mut without = file.clone();
            without.tensors.remove(i);
            if name != "output.weight" {
                let words = ["input.gguf", name.as_str()];
                refused("without", entry::gguf, &without.bytes(), &words);
            }
            let mut wrong = file.clone();
            let tensor = &mut wrong.tensors[i];
            match tensor.dims.len() {
                1 => tensor.dims = vec![tensor.dims[0], 1],
                _ => tensor.dims = vec![tensor.dims.iter().product()],
            }
            let words = ["input.gguf", name.as_str()];
            refused("another shape", entry::gguf, &wrong.bytes(), &words);
        }
    }
}

/// A NaN or an infinity in any tensor, as an element or as a scale of a block, is reported with the tensor, however weights are kept.
#[test]
fn weights_that_are_not_finite() {
    use llmkit::model::gguf::Gguf;
    use llmkit::model::weights::Weights;
    use llmkit::model::{Config, Llama, WeightType};
    for file in [llama(), qwen()] {
        for (i, tensor) in file.tensors.iter().enumerate() {
            let name = String::from_utf8(tensor.name.clone()).unwrap();
            for odd in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY] {
                let mut bad = file.clone();
                let data = &mut bad.tensors[i].data;
                // The last element, or the scale of the last block.
                let half = odd.to_le_bytes();
                let float = odd.to_f32().to_le_bytes();
                let end = data.len();
                match tensor.kind {
                    0 => data[end - 4..].copy_from_slice(&float),
                    1 => data[end - 2..].copy_from_slice(&half),
                    30 => data[end - 2..].copy_from_slice(&float[2..]),
                    kind => {
                        let block = match kind {
                            2 => 18,
                            3 => 20,
                            6 => 22,
                            7 => 24,
                            _ => 34,
                        };
                        data[end - block..][..2].copy_from_slice(&half);
                    }
                }
                let gguf = Gguf::parse("input.gguf", bad.bytes()).unwrap();
                let config = Config::from_gguf(&gguf).unwrap();
                let weights = Weights::of_gguf(gguf.into());
                for kind in WeightType::ALL {
                    let error = Llama::new(&config, &weights, kind).unwrap_err().to_string();
                    assert!(error.contains(&name), "{kind} {name} {odd}: {error}");
                    assert!(error.contains("finite"), "{kind} {name} {odd}: {error}");
                }
            }
        }
    }
}
