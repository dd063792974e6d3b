//! Hugging Face folders: whole, sharded, and hostile.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};

use super::super::{Model, WeightType};
use super::noise;

const CONFIG: &str = r#"{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 9, "max_position_embeddings": 64,
    "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "eos_token_id": 8}"#;
const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "normalizer": null, "added_tokens": [
    {"id": 7, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 8, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
    "pre_tokenizer": null, "post_processor": null, "decoder": null, "model": {"type": "BPE", "dropout": null,
    "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
    "byte_fallback": false, "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "f": 5, "ab": 6}, "merges": ["a b"]}}"#;

/// Weights by Hugging Face's names.
fn weights() -> HashMap<String, Tensor> {
    let mut tensors = HashMap::new();
    let mut add = |name: &str, shape: &[usize]| {
        let seed = 7 + tensors.len() as u64;
        tensors.insert(name.to_owned(), noise(shape, 0.5, seed));
    };
    add("model.embed_tokens.weight", &[9, 32]);
    add("model.norm.weight", &[32]);
    for n in 0..2 {
        let mut layer = |name: &str, shape: &[usize]| {
            add(&format!("model.layers.{n}.{name}.weight"), shape);
        };
        layer("input_layernorm", &[32]);
        layer("post_attention_layernorm", &[32]);
        layer("self_attn.q_proj", &[32, 32]);
        layer("self_attn.k_proj", &[16, 32]);
        layer("self_attn.v_proj", &[16, 32]);
        layer("self_attn.o_proj", &[32, 32]);
        layer("mlp.gate_proj", &[48, 32]);
        layer("mlp.up_proj", &[48, 32]);
        layer("mlp.down_proj", &[32, 48]);
    }
    tensors
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.write("config.json", CONFIG);
        folder.write("tokenizer.json", TOKENIZER);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn save(&self, name: &str, tensors: &HashMap<String, Tensor>) {
        candle_core::safetensors::save(tensors, self.path(name)).unwrap();
    }

    /// All weights in two shards, and their index.
    fn sharded() -> Folder {
        let folder = Folder::new();
        let is_first = |name: &String| name.contains("layers.0");
        let (first, second): (HashMap<_, _>, HashMap<_, _>) =
            weights().into_iter().partition(|(name, _)| is_first(name));
        folder.save("model-1.safetensors", &first);
        folder.save("model-2.safetensors", &second);
        let shard = |name: &String| if is_first(name) { 1 } else { 2 };
        let mut entries: Vec<String> = weights()
            .keys()
            .map(|name| format!("\"{name}\": \"model-{}.safetensors\"", shard(name)))
            .collect();
        // The same every time, `model.norm.weight` first: edits look for what comes behind it.
        entries.sort_by(|a, b| b.cmp(a));
        folder.index(&entries.join(", "));
        folder
    }

    fn index(&self, entries: &str) {
        let json = format!("{{\"metadata\": {{}}, \"weight_map\": {{{entries}}}}}");
        self.write("model.safetensors.index.json", &json);
    }

    fn edit_index(&self, from: &str, to: &str) {
        let path = self.path("model.safetensors.index.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
    }

    fn load(&self) -> crate::Result<Model> {
        Model::load(&self.0.path().display().to_string())
    }

    fn refusal(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

fn logits(model: &Model) -> Vec<f32> {
    let logits = model.logits(&[1, 2, 3, 1]).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

fn load(path: &Path, kind: WeightType) -> Model {
    Model::load_as(&path.display().to_string(), kind).unwrap()
}

#[test]
fn one_file_and_shards_are_the_same_model() {
    let whole = Folder::new();
    whole.save("model.safetensors", &weights());
    let expected = logits(&whole.load().unwrap());
    assert_eq!(expected.len(), 4 * 9);
    let sharded = Folder::sharded();
    assert_eq!(logits(&sharded.load().unwrap()), expected);
    // By the path of the file as by that of the folder.
    for path in [
        whole.path("model.safetensors"),
        sharded.path("model.safetensors.index.json"),
    ] {
        assert_eq!(logits(&load(&path, WeightType::F32)), expected);
    }
    let names = sharded.load().unwrap().tensor_names();
    assert_eq!(names, whole.load().unwrap().tensor_names());
    let files = sharded.load().unwrap().provenance.files;
    let files: Vec<&str> = files.iter().map(|it| it.name.as_str()).collect();
    assert!(files.contains(&"model-2.safetensors"), "{files:?}");
}

#[test]
fn half_precision_is_read_as_what_it_says() {
    for (dtype, native) in [
        (DType::BF16, "bf16"),
        (DType::F16, "f32"),
        (DType::F32, "f32"),
    ] {
        let (stored, exact) = (Folder::new(), Folder::new());
        let rounded: HashMap<_, _> = weights()
            .into_iter()
            .map(|(name, it)| (name, it.to_dtype(dtype).unwrap()))
            .collect();
        let widened = rounded
            .iter()
            .map(|(name, it)| (name.clone(), it.to_dtype(DType::F32).unwrap()))
            .collect();
        stored.save("model.safetensors", &rounded);
        exact.save("model.safetensors", &widened);
        let (stored, exact) = (stored.load().unwrap(), exact.load().unwrap());
        assert_eq!(logits(&stored), logits(&exact), "{dtype:?}");
        let native_model = {
            let folder = Folder::new();
            folder.save("model.safetensors", &rounded);
            load(folder.0.path(), WeightType::Native)
        };
        assert_eq!(native_model.network().kind(), native, "{dtype:?}");
    }
}

#[test]
fn ends_and_template_come_from_the_neighbours() {
    let folder = Folder::new();
    folder.save("model.safetensors", &weights());
    let model = folder.load().unwrap();
    assert_eq!(
        (model.tokenizer.bos, &*model.tokenizer.ends),
        (None, &[8][..])
    );
    assert!(
        model
            .chat("x")
            .unwrap_err()
            .to_string()
            .contains("chat template")
    );
    folder.write(
        "tokenizer_config.json",
        r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": true,
            "chat_template": "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"}"#,
    );
    folder.write("generation_config.json", r#"{"eos_token_id": [5, 8]}"#);
    let model = folder.load().unwrap();
    assert_eq!(model.tokenizer.bos, Some(7));
    assert_eq!(model.tokenizer.ends, [5, 8]);
    let prompt = model.chat("ab").unwrap();
    assert_eq!(prompt, "<s>ab</s>");
    // The template has written the token in front; it is not put there twice.
    assert_eq!(model.encode_prompt(&prompt).unwrap(), [7, 6, 8]);
    assert_eq!(model.encode_prompt("ab").unwrap(), [7, 6]);
    assert_eq!(model.encode_prompt("").unwrap(), [7]);
}

#[test]
fn hostile_shards_are_refused_by_file_and_tensor() {
    let norm = "model.norm.weight";
    let folder = Folder::sharded();
    std::fs::remove_file(folder.path("model-2.safetensors")).unwrap();
    let text = folder.refusal();
    assert!(
        text.contains("index.json") && text.contains("model-2.safetensors"),
        "{text}"
    );

    let folder = Folder::sharded();
    let entry = format!("\"{norm}\": \"model-2.safetensors\"");
    folder.edit_index(&entry, &format!("\"{norm}\": \"../model-2.safetensors\""));
    let text = folder.refusal();
    assert!(
        text.contains(norm) && text.contains("same folder"),
        "{text}"
    );

    let folder = Folder::sharded();
    folder.edit_index(
        &entry,
        &format!("{entry}, \"{norm}\": \"model-1.safetensors\""),
    );
    assert!(folder.refusal().contains("model.norm.weight twice"));

    let folder = Folder::sharded();
    folder.edit_index(&entry, &format!("\"{norm}\": \"model-1.safetensors\""));
    let text = folder.refusal();
    assert!(
        text.contains(norm) && text.contains("model-1.safetensors"),
        "{text}"
    );

    let folder = Folder::sharded();
    folder.edit_index(
        &entry,
        &format!("{entry}, \"lm_head.weight\": \"model-1.safetensors\""),
    );
    let text = folder.refusal();
    assert!(
        text.contains("model-1.safetensors: lm_head.weight"),
        "{text}"
    );

    // In a shard, and not in the index.
    let folder = Folder::sharded();
    folder.edit_index(&format!("{entry}, "), "");
    let text = folder.refusal();
    assert!(
        text.contains("model-2.safetensors: model.norm.weight"),
        "{text}"
    );
}

#[test]
fn hostile_checkpoints_are_refused_by_file_and_tensor() {
    let with = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let folder = Folder::new();
        let mut tensors = weights();
        change(&mut tensors);
        folder.save("model.safetensors", &tensors);
        folder.refusal()
    };
    let up = "model.layers.1.mlp.up_proj.weight";
    let mut values = vec![0f32; 48 * 32];
    values[40] = f32::INFINITY;
    let bad = Tensor::from_vec(values, (48, 32), &super::CPU).unwrap();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let text = with(&|it| {
            it.insert(up.to_owned(), bad.to_dtype(dtype).unwrap());
        });
        assert!(
            text.contains("blk.1.ffn_up.weight") && text.contains("inf at [1, 8]"),
            "{text}"
        );
    }
    let text = with(&|it| {
        it.insert(up.to_owned(), bad.to_dtype(DType::F64).unwrap());
    });
    assert!(text.contains(up) && text.contains("F64"), "{text}");
    let text = with(&|it| {
        it.remove(up);
    });
    assert!(text.contains("a tensor blk.1.ffn_up.weight"), "{text}");
    let text = with(&|it| {
        it.insert(up.to_owned(), noise(&[32, 48], 1.0, 1));
    });
    assert!(
        text.contains("blk.1.ffn_up.weight") && text.contains("[48, 32]"),
        "{text}"
    );
    let text = with(&|it| {
        it.insert(
            "model.layers.1.mlp.extra.weight".to_owned(),
            noise(&[2], 1.0, 1),
        );
    });
    assert!(text.contains("mlp.extra.weight"), "{text}");
    // Rows that are not whole heads, before they are permuted.
    let text = with(&|it| {
        it.insert(
            "model.layers.0.self_attn.q_proj.weight".to_owned(),
            noise(&[33, 32], 1.0, 1),
        );
    });
    assert!(text.contains("attn_q.weight"), "{text}");

    // Every way of cutting the file short, and flipped bytes of its header.
    let folder = Folder::new();
    folder.save("model.safetensors", &weights());
    let bytes = std::fs::read(folder.path("model.safetensors")).unwrap();
    let path = folder.path("model.safetensors");
    let config = super::super::Config::from_hugging_face("c", CONFIG).unwrap();
    let open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        super::super::weights::Weights::of_checkpoint(&path, &config)
    };
    for keep in (0..bytes.len()).step_by(97).chain(0..64) {
        let error = open(&bytes[..keep]).unwrap_err().to_string();
        assert!(error.contains("model.safetensors: header"), "{error}");
    }
    for at in 0..400 {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x11;
        if let Ok(weights) = open(&damaged) {
            for name in weights.names() {
                let _ = weights.tensor(&name);
            }
        }
    }
}
