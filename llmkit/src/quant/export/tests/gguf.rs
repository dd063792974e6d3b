//! GGUF files of a small model, in every type.

use super::*;

/// A model of one layer of width 256 in a GGUF file: rows of 256 but in ffn_down, whose rows are of 96.
pub(super) fn gguf_model(path: &Path, block: BlockType) -> Model {
    let mut pairs = Pairs::default();
    pairs.set_text("general.architecture", "llama");
    for (key, value) in [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", 256),
        ("feed_forward_length", 96),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 16),
    ] {
        pairs.set_u32(&format!("llama.{key}"), value);
    }
    pairs.set(
        "llama.attention.layer_norm_rms_epsilon",
        6,
        &1e-5f32.to_le_bytes(),
    );
    pairs.set_text("tokenizer.ggml.model", "gpt2");
    pairs.set_text("tokenizer.ggml.pre", "smollm");
    let texts = |texts: &[String]| {
        let mut out = 8u32.to_le_bytes().to_vec();
        out.extend((texts.len() as u64).to_le_bytes());
        for it in texts {
            out.extend((it.len() as u64).to_le_bytes());
            out.extend(it.as_bytes());
        }
        out
    };
    let tokens: Vec<String> = ('a'..='l').map(String::from).collect();
    pairs.set("tokenizer.ggml.tokens", 9, &texts(&tokens));
    pairs.set("tokenizer.ggml.merges", 9, &texts(&[]));
    let kinds: Vec<u8> = [
        &5u32.to_le_bytes()[..],
        &12u64.to_le_bytes(),
        &1i32.to_le_bytes().repeat(12),
    ]
    .concat();
    pairs.set("tokenizer.ggml.token_type", 9, &kinds);
    let tensors: Vec<Entry<'_>> = [
        ("token_embd", vec![12, 256]),
        ("blk.0.attn_norm", vec![256]),
        ("blk.0.attn_q", vec![64, 256]),
        ("blk.0.attn_k", vec![32, 256]),
        ("blk.0.attn_v", vec![32, 256]),
        ("blk.0.attn_output", vec![256, 64]),
        ("blk.0.ffn_norm", vec![256]),
        ("blk.0.ffn_gate", vec![96, 256]),
        ("blk.0.ffn_up", vec![96, 256]),
        ("blk.0.ffn_down", vec![256, 96]),
        ("output_norm", vec![256]),
    ]
    .into_iter()
    .enumerate()
    .map(|(seed, (name, shape))| {
        let count: usize = shape.iter().product();
        let noise = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 1009.0 - 0.5;
        let values: Vec<f32> = (0..count)
            .map(|i| noise(i) + if shape.len() == 1 { 1.0 } else { 0.0 })
            .collect();
        let fits = shape.len() == 2 && shape[1].is_multiple_of(block.elements());
        let block = if fits { block } else { BlockType::F32 };
        let data = block.encode(&values);
        Entry {
            name: format!("{name}.weight"),
            shape,
            kind: block.number(),
            bytes: data.len(),
            data: Box::new(move || Ok(data.clone().into())),
        }
    })
    .collect();
    crate::model::gguf::write::write(path, &pairs, 32, &tensors).unwrap();
    load(path)
}

#[test]
fn a_gguf_file_that_is_read_and_written_is_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    for block in BlockType::ALL {
        let (first, second) = (path(&folder, "first.gguf"), path(&folder, "second.gguf"));
        let model = gguf_model(&first, block);
        let written = export(
            &model,
            &Matrices::new(),
            &second,
            Layout::Gguf(Types::default()),
        )
        .unwrap();
        assert_eq!(written.fallbacks().count(), 0);
        assert!(
            std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap(),
            "{block:?}"
        );
    }
}

#[test]
fn every_type_is_written_as_llama_cpp_would_and_fallbacks_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let model = gguf_model(&path(&folder, "source.gguf"), BlockType::F32);
    for block in BlockType::ALL {
        let out = path(&folder, "out.gguf");
        let types = Types {
            matrices: Some(block),
            embedding: Some(BlockType::F16),
        };
        let written = export(&model, &Matrices::new(), &out, Layout::Gguf(types)).unwrap();
        // ffn_down has rows of 96 weights, attn_output of 64: neither is a multiple of 256.
        let odd = if block.elements() == 256 { 2 } else { 0 };
        assert_eq!(written.fallbacks().count(), odd, "{written}");
        let gguf = Gguf::open(&out).unwrap();
        for name in [
            "blk.0.ffn_up.weight",
            "blk.0.ffn_down.weight",
            "token_embd.weight",
        ] {
            let info = gguf.tensor(name).unwrap();
            let expected = match name {
                "token_embd.weight" => BlockType::F16,
                "blk.0.ffn_down.weight" if odd > 0 => {
                    let fallback = Ggml(block.quantized().unwrap()).fallback().unwrap();
                    BlockType::from_ggml(fallback.0.number()).unwrap()
                }
                _ => block,
            };
            assert_eq!(info.block, expected, "{name} in {block:?}");
            let weights = model
                .weight(name)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            assert!(
                gguf.data(info) == expected.encode(&weights),
                "{name} in {block:?}"
            );
        }
        assert_eq!(gguf.text("tokenizer.ggml.pre").unwrap(), "smollm");
        assert_eq!(gguf.integer("general.quantization_version").unwrap(), 2);
        // It runs, with the values that were written.
        logits(&load(&out));
    }
}

#[test]
fn quantized_matrices_keep_their_codes_in_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let source = path(&folder, "source.gguf");
    let model = gguf_model(&source, BlockType::F32);
    let out = path(&folder, "out.gguf");
    let group = Granularity::Group(32);
    let formats: Vec<(Box<dyn Format>, BlockType)> = vec![
        (Box::new(Ggml(GgmlType::Q4_1)), BlockType::Q4_1),
        (
            Box::new(IntSymmetric::new(4, group).unwrap()),
            BlockType::Q4_0,
        ),
        (
            Box::new(IntSymmetric::new(5, group).unwrap()),
            BlockType::Q5_0,
        ),
        (
            Box::new(IntSymmetric::new(8, group).unwrap()),
            BlockType::Q8_0,
        ),
        (
            Box::new(IntSymmetric::new(4, Granularity::Group(64)).unwrap()),
            BlockType::Q4_0,
        ),
        (
            Box::new(IntSymmetric::new(4, Granularity::Channel).unwrap()),
            BlockType::Q4_0,
        ),
    ];
    for (format, block) in formats {
        let matrices = rounded(&model, format.as_ref());
        let types = Types {
            matrices: None,
            embedding: None,
        };
        export(&model, &matrices, &out, Layout::Gguf(types)).unwrap();
        let loaded = load(&out);
        assert_eq!(
            loaded
                .gguf()
                .unwrap()
                .tensor("blk.0.ffn_down.weight")
                .unwrap()
                .block,
            block
        );
        for (name, matrix) in &matrices {
            let got = loaded
                .weight(name)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            assert!(
                got == matrix.decode().unwrap().data(),
                "{name} {}",
                format.name()
            );
        }
        assert_eq!(logits(&loaded), logits(&decoded(&model, &matrices)));
    }
    for format in [
        Box::new(IntAffine::new(4, group).unwrap()) as Box<dyn Format>,
        Box::new(IntSymmetric::new(3, group).unwrap()),
        Box::new(IntSymmetric::new(4, Granularity::Group(48)).unwrap()),
    ] {
        std::fs::remove_file(&out).ok();
        let error = export(
            &model,
            &rounded(&model, format.as_ref()),
            &out,
            Layout::Gguf(Types::default()),
        )
        .unwrap_err();
        assert!(
            error.to_string().contains(&format.name()) && !out.exists(),
            "{error}"
        );
    }
}

#[test]
fn a_rotated_network_gets_a_head_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let model = gguf_model(&path(&folder, "source.gguf"), BlockType::F32);
    let (network, _) = Rotate::offline(3)
        .run(model.network(), &Statistics::default())
        .unwrap();
    let rotated = model.with_network(network).unwrap();
    let out = path(&folder, "out.gguf");
    let written = export(
        &rotated,
        &Matrices::new(),
        &out,
        Layout::Gguf(Types::default()),
    )
    .unwrap();
    assert_eq!(written.tensors.last().unwrap().name, "output.weight");
    let loaded = load(&out);
    assert!(!loaded.network().is_tied());
    assert_eq!(logits(&loaded), logits(&rotated));
    let out = path(&folder, "folder");
    export(
        &rotated,
        &Matrices::new(),
        &out,
        Layout::Plain(BlockType::F32),
    )
    .unwrap();
    assert_eq!(logits(&load(&out)), logits(&rotated));
}

#[test]
fn a_weight_that_a_type_cannot_store_is_named_and_the_old_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let model = gguf_model(&path(&folder, "source.gguf"), BlockType::F32);
    let name = "blk.0.ffn_up.weight";
    let huge = (model.weight(name).unwrap() * 1e6).unwrap();
    let model = model.with_weight(name, &huge).unwrap();
    let out = path(&folder, "out.gguf");
    std::fs::write(&out, "old").unwrap();
    let types = Types {
        matrices: Some(BlockType::F16),
        embedding: None,
    };
    let error = export(&model, &Matrices::new(), &out, Layout::Gguf(types))
        .unwrap_err()
        .to_string();
    assert!(error.contains(name) && error.contains("F16"), "{error}");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "old");
}
