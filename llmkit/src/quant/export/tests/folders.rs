//! Hugging Face folders, plain and packed.

use super::*;

#[test]
fn a_plain_folder_is_the_same_model_and_writes_the_same_bytes_again() {
    let model = tiny::model(WeightType::F32);
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (path(&folder, "first"), path(&folder, "second"));
    let written = export(
        &model,
        &Matrices::new(),
        &first,
        Layout::Plain(BlockType::F32),
    )
    .unwrap();
    assert_eq!(written.fallbacks().count(), 0);
    let again = load(&first);
    assert_eq!(logits(&again), logits(&model));
    assert_eq!(again.config, model.config);
    assert_eq!(
        again.encode("a é b").unwrap(),
        model.encode("a é b").unwrap()
    );
    assert_eq!(again.tokenizer.ends, model.tokenizer.ends);
    export(
        &again,
        &Matrices::new(),
        &second,
        Layout::Plain(BlockType::F32),
    )
    .unwrap();
    for file in [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ] {
        assert!(
            std::fs::read(first.join(file)).unwrap() == std::fs::read(second.join(file)).unwrap(),
            "{file}"
        );
    }
    // In 16 bits: each weight rounded, no more.
    let half = path(&folder, "half");
    export(
        &model,
        &Matrices::new(),
        &half,
        Layout::Plain(BlockType::BF16),
    )
    .unwrap();
    let name = "blk.1.attn_q.weight";
    let values = |model: &Model| {
        model
            .weight(name)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
    };
    for (a, b) in values(&load(&half)).iter().zip(values(&model)) {
        assert_eq!(*a, half::bf16::from_f32(b).to_f32());
    }
    // What is there is not written over.
    let error = export(
        &model,
        &Matrices::new(),
        &first,
        Layout::Plain(BlockType::F32),
    )
    .unwrap_err();
    assert!(error.to_string().contains("not taken"), "{error}");
}

#[test]
fn packed_folders_give_codes_back_bit_for_bit() {
    let model = tiny::model(WeightType::F32);
    let folder = tempfile::tempdir().unwrap();
    let group = Granularity::Group(8);
    let formats: Vec<(u32, Box<dyn Format>)> = vec![
        (4, Box::new(IntAffine::new(4, group).unwrap())),
        (4, Box::new(IntSymmetric::new(4, group).unwrap())),
        (
            4,
            Box::new(IntSymmetric::new(4, Granularity::Channel).unwrap()),
        ),
        (8, Box::new(IntSymmetric::new(8, group).unwrap())),
        (8, Box::new(IntAffine::new(8, group).unwrap())),
    ];
    for (i, (bits, format)) in formats.iter().enumerate() {
        let matrices = rounded(&model, format.as_ref());
        let expected = logits(&decoded(&model, &matrices));
        let layouts = [
            (Layout::Gptq(BlockType::F32), vec![2, 4, 8]),
            (Layout::Awq(BlockType::F32), vec![4]),
            (Layout::CompressedTensors(BlockType::F32), vec![4, 8]),
        ];
        for (layout, widths) in layouts {
            let (first, second) = (
                path(&folder, &format!("{i}{layout:?}")),
                path(&folder, &format!("{i}{layout:?} again")),
            );
            let result = export(&model, &matrices, &first, layout);
            if !widths.contains(bits) {
                let error = result.unwrap_err().to_string();
                assert!(error.contains("bits") && !first.exists(), "{error}");
                continue;
            }
            let written = result.unwrap();
            assert_eq!(written.fallbacks().count(), 0, "{written}");
            let imported = import(&first).unwrap();
            assert_eq!(
                logits(&imported.model),
                expected,
                "{} {layout:?}",
                format.name()
            );
            // AWQ cannot say that zeros are all in the middle: codes and values are the same, the format is the affine one.
            if layout == Layout::Awq(BlockType::F32) && format.name().contains("symmetric") {
                let moved = |it: &Matrices| {
                    it.values()
                        .map(|it| it.decode().unwrap())
                        .collect::<Vec<_>>()
                };
                assert!(moved(&imported.quantized) == moved(&matrices));
            } else {
                assert!(
                    same(&imported.quantized, &matrices),
                    "{} {layout:?}",
                    format.name()
                );
            }
            export(&imported.model, &imported.quantized, &second, layout).unwrap();
            for file in ["model.safetensors", "config.json"] {
                assert!(
                    std::fs::read(first.join(file)).unwrap()
                        == std::fs::read(second.join(file)).unwrap(),
                    "{layout:?} {file}"
                );
            }
        }
    }
}

/// Tensors of a folder by name: shape and values, words as i32.
fn stored(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(path.join("model.safetensors")).unwrap();
    let parsed = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = parsed.tensors().into_iter();
    tensors
        .map(|(name, it)| (name, (it.shape().to_vec(), it.data().to_vec())))
        .collect()
}

/// Each layout decoded by the formula that its library's documentation gives, element by element, against the plain folder.
#[test]
fn layouts_mean_what_their_libraries_say() {
    let model = tiny::model(WeightType::F32);
    let folder = tempfile::tempdir().unwrap();
    let format = IntAffine::new(4, Granularity::Group(8)).unwrap();
    let matrices = rounded(&model, &format);
    let write = |name: &str, layout| {
        export(&model, &matrices, &path(&folder, name), layout).unwrap();
        stored(&path(&folder, name))
    };
    let plain = write("plain", Layout::Plain(BlockType::F32));
    let gptq = write("gptq", Layout::Gptq(BlockType::F32));
    let awq = write("awq", Layout::Awq(BlockType::F32));
    let compressed = write("compressed", Layout::CompressedTensors(BlockType::F32));
    let config = std::fs::read_to_string(path(&folder, "gptq").join("config.json")).unwrap();
    let more = if config.contains("gptq_v2") { 0 } else { 1 };
    let i32_at =
        |bytes: &[u8], at: usize| i32::from_le_bytes(bytes[4 * at..4 * at + 4].try_into().unwrap());
    let f16_at = |bytes: &[u8], at: usize| {
        half::f16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).to_f32()
    };
    for module in [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.k_proj",
        "model.layers.1.mlp.down_proj",
    ] {
        let (shape, values) = &plain[&format!("{module}.weight")];
        let (rows, columns) = (shape[0], shape[1]);
        for n in 0..rows {
            for k in 0..columns {
                let at = 4 * (n * columns + k);
                let expected = f32::from_le_bytes(values[at..at + 4].try_into().unwrap());
                let field = |tensors: &BTreeMap<_, (Vec<usize>, Vec<u8>)>,
                             name: &str,
                             word: usize,
                             field: usize| {
                    i32_at(&tensors[&format!("{module}.{name}")].1, word) >> (4 * field) & 15
                };
                let half = |tensors: &BTreeMap<_, (Vec<usize>, Vec<u8>)>, name: &str, at: usize| {
                    f16_at(&tensors[&format!("{module}.{name}")].1, at)
                };
                let group = k / 8;
                let q = field(&gptq, "qweight", k / 8 * rows + n, k % 8);
                let z =
                    (field(&gptq, "qzeros", group * rows.div_ceil(8) + n / 8, n % 8) + more) & 15;
                assert_eq!(
                    half(&gptq, "scales", group * rows + n) * (q - z) as f32,
                    expected,
                    "{module}[{n}, {k}]"
                );
                // AutoAWQ unpacks fields in turn and puts them in the order 0, 4, 1, 5, 2, 6, 3, 7.
                let order = [0, 4, 1, 5, 2, 6, 3, 7];
                let q = field(&awq, "qweight", k * (rows / 8) + n / 8, order[n % 8]);
                let z = field(&awq, "qzeros", group * (rows / 8) + n / 8, order[n % 8]);
                assert_eq!(
                    half(&awq, "scales", group * rows + n) * (q - z) as f32,
                    expected
                );
                let q = field(
                    &compressed,
                    "weight_packed",
                    n * columns.div_ceil(8) + k / 8,
                    k % 8,
                ) - 8;
                let groups = columns / 8;
                let z = field(
                    &compressed,
                    "weight_zero_point",
                    n / 8 * groups + group,
                    n % 8,
                ) - 8;
                assert_eq!(
                    half(&compressed, "weight_scale", n * groups + group) * (q - z) as f32,
                    expected
                );
            }
        }
    }
    let (shape, bytes) = &compressed["model.layers.0.mlp.up_proj.weight_shape"];
    assert_eq!((shape.as_slice(), bytes[0], bytes[8]), (&[2][..], 64, 32));
    let (shape, bytes) = &gptq["model.layers.0.mlp.up_proj.g_idx"];
    assert_eq!(
        (shape.as_slice(), i32_at(bytes, 7), i32_at(bytes, 8)),
        (&[32][..], 0, 1)
    );
}

#[test]
fn zeros_that_version_1_of_gptq_cannot_say_make_version_2() {
    let model = tiny::model(WeightType::F32);
    let folder = tempfile::tempdir().unwrap();
    let version = |name: &str, format: &dyn Format| {
        let path = path(&folder, name);
        export(
            &model,
            &rounded(&model, format),
            &path,
            Layout::Gptq(BlockType::F32),
        )
        .unwrap();
        let json = std::fs::read_to_string(path.join("config.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        json["quantization_config"]["checkpoint_format"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let group = Granularity::Group(8);
    assert_eq!(
        version("symmetric", &IntSymmetric::new(4, group).unwrap()),
        "gptq"
    );
    // With groups of 8 random weights, one is all positive somewhere: its zero is 0.
    assert_eq!(
        version("affine", &IntAffine::new(4, group).unwrap()),
        "gptq_v2"
    );
}

#[test]
fn what_a_layout_cannot_store_is_refused_and_nothing_is_left() {
    let model = tiny::model(WeightType::F32);
    let folder = tempfile::tempdir().unwrap();
    let to = path(&folder, "out");
    let refused = |model: &Model, matrices: &Matrices, layout| {
        let error = export(model, matrices, &to, layout)
            .unwrap_err()
            .to_string();
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "{error}"
        );
        error
    };
    let none = Matrices::new();
    let fine = rounded(
        &model,
        &IntSymmetric::new(4, Granularity::Group(8)).unwrap(),
    );
    let gptq = Layout::Gptq(BlockType::F32);
    assert!(refused(&model, &none, gptq).contains("at least one"));
    assert!(refused(&model, &none, Layout::Gguf(Types::default())).contains("from a GGUF file"));
    assert!(refused(&model, &none, Layout::Plain(BlockType::Q4_0)).contains("F32, F16 or BF16"));
    let nf4 = rounded(&model, &Nf4::new(Granularity::Group(64)).unwrap());
    assert!(refused(&model, &nf4, gptq).contains("nf4"));
    // Sixteen codes of 2 bits in a word, and 24 outputs.
    let two = rounded(&model, &IntAffine::new(2, Granularity::Group(8)).unwrap());
    assert!(refused(&model, &two, gptq).contains("a multiple of 16"));
    let ragged = rounded(
        &model,
        &IntSymmetric::new(4, Granularity::Group(20)).unwrap(),
    );
    assert!(refused(&model, &ragged, gptq).contains("divide"));
    let mut some = fine.clone();
    some.remove("blk.1.ffn_up.weight");
    assert!(refused(&model, &some, gptq).contains("model.layers.1.mlp.up_proj is not"));
    let mut mixed = fine.clone();
    let other = rounded(
        &model,
        &IntSymmetric::new(4, Granularity::Group(16)).unwrap(),
    );
    mixed.extend(other.into_iter().take(1));
    assert!(refused(&model, &mixed, gptq).contains("Scheme"));
    let mut strange = fine.clone();
    strange.insert(
        "blk.7.ffn_up.weight".into(),
        fine["blk.0.ffn_up.weight"].clone(),
    );
    assert!(refused(&model, &strange, gptq).contains("blk.7"));
    let mut turned = fine.clone();
    turned.insert(
        "blk.0.ffn_up.weight".into(),
        fine["blk.0.ffn_down.weight"].clone(),
    );
    assert!(refused(&model, &turned, gptq).contains("blk.0.ffn_up"));
    let rotation = std::sync::Arc::new(Hadamard::new(64).unwrap());
    let online = model
        .network()
        .with_ffn_rotation(1, Some(rotation))
        .unwrap();
    let online = model.with_network(online).unwrap();
    assert!(refused(&online, &none, Layout::Plain(BlockType::F32)).contains("blk.1.ffn_down"));
    // Everything but the left-out matrix can be said by the other two.
    for (name, layout) in [
        ("a", Layout::Awq(BlockType::F32)),
        ("c", Layout::CompressedTensors(BlockType::F32)),
    ] {
        let out = path(&folder, name);
        export(&model, &some, &out, layout).unwrap();
        assert_eq!(
            logits(&import(&out).unwrap().model),
            logits(&decoded(&model, &some))
        );
    }
}

#[test]
fn a_folder_that_does_not_fit_together_is_refused() {
    let model = tiny::model(WeightType::F32);
    let folder = tempfile::tempdir().unwrap();
    let matrices = rounded(
        &model,
        &IntSymmetric::new(4, Granularity::Group(8)).unwrap(),
    );
    let good = path(&folder, "good");
    export(&model, &matrices, &good, Layout::Gptq(BlockType::F32)).unwrap();
    let json = std::fs::read_to_string(good.join("config.json")).unwrap();
    for (from, to, says) in [
        ("\"gptq\"", "\"marlin\"", "GPTQ, AWQ"),
        ("\"bits\": 4", "\"bits\": 3", "bits"),
        ("\"bits\": 4", "\"bits\": 8", "model.layers"),
        ("\"group_size\": 8", "\"group_size\": 5", "groups of 5"),
        ("\"group_size\": 8", "\"group_size\": 16", "qzeros"),
    ] {
        assert!(json.contains(from));
        std::fs::write(good.join("config.json"), json.replacen(from, to, 9)).unwrap();
        let error = import(&good).unwrap_err().to_string();
        assert!(error.contains(says), "{from} → {to}: {error}");
    }
}
