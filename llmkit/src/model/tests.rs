//! The model against hand-made files, candle's own decoder, a dense reimplementation, and the real SmolLM2 where it is in reach.

use std::io::Cursor;

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{Device, IndexOp, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::blocks::BlockType;
use super::gguf::{Gguf, Value};
use super::llama::{KvCache, Llama};
use super::weights::Weights;
use super::{Config, GenerateOptions, Model, Sampling};
use crate::Error;

const CPU: Device = Device::Cpu;

fn noise(shape: &[usize], scale: f32, seed: u64) -> Tensor {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| scale * (generator.random::<f32>() - 0.5))
        .collect();
    Tensor::from_vec(values, shape, &CPU).unwrap()
}

// ---- GGUF -------------------------------------------------------------------------------------------------------

/// A file by hand: pairs and tensors as raw bytes.
#[derive(Clone)]
struct File {
    version: u32,
    pairs: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}

fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key)[..], &kind.to_le_bytes(), value].concat()
}

fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut out = text(name);
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
    out.extend(kind.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

impl File {
    fn honest() -> File {
        let floats: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        File {
            version: 3,
            pairs: vec![
                pair("u8", 0, &[200]),
                pair("i8", 1, &[0xff]),
                pair("u16", 2, &[1, 2]),
                pair("i16", 3, &[0xfe, 0xff]),
                pair("u32", 4, &7u32.to_le_bytes()),
                pair("i32", 5, &(-7i32).to_le_bytes()),
                pair("f32", 6, &1.5f32.to_le_bytes()),
                pair("yes", 7, &[1]),
                pair("text", 8, &text("né")),
                pair("u64", 10, &(1u64 << 40).to_le_bytes()),
                pair("f64", 12, &(-0.25f64).to_le_bytes()),
                pair(
                    "texts",
                    9,
                    &[
                        &8u32.to_le_bytes()[..],
                        &2u64.to_le_bytes(),
                        &text("a"),
                        &text(""),
                    ]
                    .concat(),
                ),
                pair(
                    "ints",
                    9,
                    &[
                        &5u32.to_le_bytes()[..],
                        &2u64.to_le_bytes(),
                        &1i32.to_le_bytes(),
                        &(-1i32).to_le_bytes(),
                    ]
                    .concat(),
                ),
                pair(
                    "none",
                    9,
                    &[&6u32.to_le_bytes()[..], &0u64.to_le_bytes()].concat(),
                ),
            ],
            tensors: vec![tensor("m", &[3, 2], 0, 0)],
            data: floats,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        self.pairs
            .iter()
            .chain(&self.tensors)
            .for_each(|part| out.extend(part));
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }

    fn parse(&self) -> crate::Result<Gguf> {
        Gguf::parse("test.gguf", self.bytes())
    }

    fn refusal(&self) -> String {
        match self.parse() {
            Err(error @ Error::Format { .. }) => error.to_string(),
            other => panic!("expected a refusal, got {:?}", other.map(|it| it.metadata)),
        }
    }
}

#[test]
fn a_hand_made_file_is_understood() {
    for version in [2, 3] {
        let gguf = File {
            version,
            ..File::honest()
        }
        .parse()
        .unwrap();
        assert_eq!(gguf.metadata["u8"], Value::Integer(200));
        assert_eq!(gguf.metadata["i8"], Value::Integer(-1));
        assert_eq!(gguf.metadata["u16"], Value::Integer(513));
        assert_eq!(gguf.metadata["i16"], Value::Integer(-2));
        assert_eq!(gguf.metadata["i32"], Value::Integer(-7));
        assert_eq!(gguf.metadata["yes"], Value::Bool(true));
        assert_eq!(gguf.metadata["none"], Value::Floats(vec![]));
        assert_eq!(gguf.metadata["ints"], Value::Integers(vec![1, -1]));
        assert_eq!(gguf.integer("u64").unwrap(), 1 << 40);
        assert_eq!(gguf.float("f32").unwrap(), 1.5);
        assert_eq!(gguf.float("f64").unwrap(), -0.25);
        assert_eq!(gguf.text("text").unwrap(), "né");
        assert_eq!(gguf.texts("texts").unwrap(), ["a", ""]);
        assert_eq!(gguf.tensors[0].shape, [2, 3], "outermost first");
        assert_eq!(
            gguf.dequantize(&gguf.tensors[0]),
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        );
        for wrong in [
            gguf.integer("i8"),
            gguf.integer("text"),
            gguf.integer("absent"),
            gguf.integer("f32"),
        ] {
            assert!(matches!(wrong, Err(Error::Format { .. })));
        }
    }
}

#[test]
fn an_empty_file_of_no_tensors_is_fine() {
    let gguf = File {
        pairs: vec![],
        tensors: vec![],
        data: vec![],
        ..File::honest()
    }
    .parse()
    .unwrap();
    assert!(gguf.tensors.is_empty() && gguf.metadata.is_empty());
}

#[test]
fn hostile_files_are_refused_without_harm() {
    let with_pair = |pair: Vec<u8>| {
        File {
            pairs: vec![pair],
            ..File::honest()
        }
        .refusal()
    };
    let with_tensor = |tensor: Vec<u8>| {
        File {
            tensors: vec![tensor],
            ..File::honest()
        }
        .refusal()
    };
    let huge = u64::MAX.to_le_bytes();
    // Counts that promise more than the file holds.
    assert!(with_pair([&huge[..], b"x"].concat()).contains("bytes of text"));
    assert!(with_pair(pair("k", 8, &(1u64 << 40).to_le_bytes())).contains("bytes of text"));
    assert!(
        with_pair(pair("k", 9, &[&4u32.to_le_bytes()[..], &huge].concat()))
            .contains("array elements")
    );
    assert!(
        with_pair(pair(
            "k",
            9,
            &[&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat()
        ))
        .contains("numbers or texts")
    );
    assert!(with_pair(pair("k", 99, &[])).contains("known value type"));
    assert!(with_pair(pair("k", 10, &huge)).contains("below 2^63"));
    assert!(
        with_pair(pair(
            "k",
            8,
            &[&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat()
        ))
        .contains("UTF-8")
    );
    assert!(with_pair(pair("general.alignment", 4, &0u32.to_le_bytes())).contains("power of two"));
    assert!(with_pair(pair("general.alignment", 4, &48u32.to_le_bytes())).contains("power of two"));
    assert!(
        with_pair(pair("general.alignment", 5, &i32::MIN.to_le_bytes())).contains("power of two")
    );
    // Tensors of impossible size or place.
    assert!(with_tensor(tensor("t", &[], 0, 0)).contains("1 to 4 dimensions"));
    assert!(with_tensor(tensor("t", &[1; 5], 0, 0)).contains("1 to 4 dimensions"));
    assert!(with_tensor(tensor("t", &[u64::MAX, u64::MAX], 0, 0)).contains("fits the file"));
    assert!(with_tensor(tensor("t", &[1 << 62, 4], 0, 0)).contains("fits the file"));
    assert!(with_tensor(tensor("t", &[0, 4], 0, 0)).contains("fits the file"));
    assert!(with_tensor(tensor("t", &[7], 0, 0)).contains("inside the file"));
    assert!(with_tensor(tensor("t", &[1], 0, 32)).contains("inside the file"));
    assert!(with_tensor(tensor("t", &[1], 0, 3)).contains("aligned"));
    assert!(with_tensor(tensor("t", &[1], 0, u64::MAX - 31)).contains("inside the file"));
    assert!(with_tensor(tensor("t", &[33], 2, 0)).contains("whole blocks of 32"));
    assert!(with_tensor(tensor("t", &[32], 12, 0)).contains("Q4_K"));
    assert!(with_tensor(tensor("t", &[32], 4_000_000_000, 0)).contains("type 4000000000"));
    // Twice the same, and one on top of another.
    let file = File::honest();
    let twice = File {
        pairs: vec![file.pairs[0].clone(); 2],
        ..file.clone()
    };
    assert!(twice.refusal().contains("u8 twice"));
    let twice = File {
        tensors: vec![file.tensors[0].clone(); 2],
        ..file.clone()
    };
    assert!(twice.refusal().contains("twice"));
    let overlap = File {
        tensors: vec![tensor("a", &[6], 0, 0), tensor("b", &[3], 0, 0)],
        ..file.clone()
    };
    assert!(overlap.refusal().contains("overlaps"));
    for version in [0, 1, 4, 3 << 24] {
        assert!(
            File {
                version,
                ..file.clone()
            }
            .refusal()
            .contains("version")
        );
    }
    // Every truncation, and no file at all.
    let bytes = file.bytes();
    for keep in 0..bytes.len() {
        assert!(Gguf::parse("t", bytes[..keep].to_vec()).is_err(), "{keep}");
    }
    // Any flipped byte gives a file or an error, never a panic.
    for at in 0..bytes.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= mask;
            let _ = Gguf::parse("t", damaged).map(|it| {
                it.tensors
                    .iter()
                    .map(|t| it.dequantize(t).len())
                    .sum::<usize>()
            });
        }
    }
}

#[test]
fn blocks_by_hand() {
    let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
    // Byte i: low half i, high half 15 − i.
    let nibbles: Vec<u8> = (0..16u8).map(|i| i | (15 - i) << 4).collect();
    let q4_0 = BlockType::Q4_0.dequantize(&[&half(0.5)[..], &nibbles].concat());
    assert_eq!(
        (q4_0[0], q4_0[15], q4_0[16], q4_0[31]),
        (-4.0, 3.5, 3.5, -4.0)
    );
    let q4_1 = BlockType::Q4_1.dequantize(&[&half(0.5)[..], &half(-1.0), &nibbles].concat());
    assert_eq!(
        (q4_1[0], q4_1[15], q4_1[16], q4_1[31]),
        (-1.0, 6.5, 6.5, -1.0)
    );
    // Fifth bits: elements 0 and 31.
    let fifth = 0x8000_0001u32.to_le_bytes();
    let q5_0 = BlockType::Q5_0.dequantize(&[&half(2.0)[..], &fifth, &nibbles].concat());
    assert_eq!(
        (q5_0[0], q5_0[1], q5_0[30], q5_0[31]),
        (0.0, -30.0, -30.0, 0.0)
    );
    let q5_1 = BlockType::Q5_1.dequantize(&[&half(2.0)[..], &half(1.0), &fifth, &nibbles].concat());
    assert_eq!(
        (q5_1[0], q5_1[1], q5_1[30], q5_1[31]),
        (33.0, 3.0, 3.0, 33.0)
    );
    let q8_0 = BlockType::Q8_0.dequantize(&[&half(0.25)[..], &[0x80; 32]].concat());
    assert_eq!(q8_0, [-32.0; 32]);
    assert_eq!(
        BlockType::BF16.dequantize(&half::bf16::from_f32(-3.0).to_le_bytes()),
        [-3.0]
    );
    assert_eq!(BlockType::F16.dequantize(&half(-3.0)), [-3.0]);
    assert!(BlockType::F32.dequantize(&f32::NAN.to_le_bytes())[0].is_nan());
    assert!(BlockType::Q8_0.dequantize(&[]).is_empty());
    assert!(
        BlockType::Q8_0.dequantize(&[1; 33]).is_empty(),
        "a broken block is left out"
    );
}

#[test]
fn files_written_by_candle_decode_to_the_same_bits() {
    for (dtype, expected) in [
        (GgmlDType::F32, BlockType::F32),
        (GgmlDType::F16, BlockType::F16),
        (GgmlDType::BF16, BlockType::BF16),
        (GgmlDType::Q4_0, BlockType::Q4_0),
        (GgmlDType::Q4_1, BlockType::Q4_1),
        (GgmlDType::Q5_0, BlockType::Q5_0),
        (GgmlDType::Q5_1, BlockType::Q5_1),
        (GgmlDType::Q8_0, BlockType::Q8_0),
    ] {
        let source = noise(&[5, 96], 3.0, 11);
        let quantized = QTensor::quantize(&source, dtype).unwrap();
        let other = QTensor::quantize(&noise(&[3, 32], 1e-4, 12), dtype).unwrap();
        let mut out = Cursor::new(Vec::new());
        let pairs = [("answer", &gguf_file::Value::U32(42))];
        gguf_file::write(&mut out, &pairs, &[("a", &quantized), ("b.weight", &other)]).unwrap();
        let gguf = Gguf::parse("candle.gguf", out.into_inner()).unwrap();
        assert_eq!(gguf.integer("answer").unwrap(), 42);
        for (info, truth) in gguf.tensors.iter().zip([quantized, other]) {
            assert_eq!(info.block, expected);
            assert_eq!(info.shape, truth.shape().dims());
            let truth: Vec<f32> = truth
                .dequantize(&CPU)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap();
            assert_eq!(gguf.dequantize(info), truth, "{dtype:?}");
        }
    }
}

// ---- the network ------------------------------------------------------------------------------------------------

fn tiny() -> (Config, Weights) {
    let config = Config {
        layers: 2,
        width: 24,
        heads: 6,
        kv_heads: 2,
        head_dim: 4,
        ffn_width: 40,
        vocabulary: 50,
        context_tokens: 70,
        rope_base: 100.0,
        norm_epsilon: 1e-5,
    };
    let mut weights = Weights::new();
    let mut add = |name: String, shape: &[usize], scale: f32| {
        let seed = weights.len() as u64;
        let value = if shape.len() == 1 {
            (noise(shape, 0.5, seed) + 1.0).unwrap()
        } else {
            noise(shape, scale, seed)
        };
        weights.insert(name, value);
    };
    add("token_embd.weight".into(), &[50, 24], 2.0);
    add("output_norm.weight".into(), &[24], 1.0);
    for n in 0..2 {
        for (name, shape) in [
            ("attn_norm", &[24][..]),
            ("attn_q", &[24, 24]),
            ("attn_k", &[8, 24]),
            ("attn_v", &[8, 24]),
            ("attn_output", &[24, 24]),
            ("ffn_norm", &[24]),
            ("ffn_gate", &[40, 24]),
            ("ffn_up", &[40, 24]),
            ("ffn_down", &[24, 40]),
        ] {
            add(format!("blk.{n}.{name}.weight"), shape, 1.0);
        }
    }
    (config, weights)
}

/// The same network once more, in f64 with plain loops, token by token, as the formulas stand in the papers.
fn plain(config: &Config, weights: &Weights, tokens: &[u32]) -> Vec<Vec<f64>> {
    let matrix = |name: &str| -> Vec<Vec<f64>> {
        let rows: Vec<Vec<f32>> = weights[name].to_vec2().unwrap();
        rows.iter()
            .map(|row| row.iter().map(|&x| f64::from(x)).collect())
            .collect()
    };
    let vector = |name: &str| -> Vec<f64> {
        let values: Vec<f32> = weights[name].to_vec1().unwrap();
        values.iter().map(|&x| f64::from(x)).collect()
    };
    let product = |m: &[Vec<f64>], x: &[f64]| -> Vec<f64> {
        m.iter()
            .map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum())
            .collect()
    };
    let norm = |x: &[f64], w: &[f64]| -> Vec<f64> {
        let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        x.iter()
            .zip(w)
            .map(|(v, w)| v / (mean + config.norm_epsilon).sqrt() * w)
            .collect()
    };
    let d = config.head_dim;
    let rope = |x: &mut [f64], position: usize| {
        for head in x.chunks_mut(d) {
            for i in 0..d / 2 {
                let angle = position as f64 * config.rope_base.powf(-2.0 * i as f64 / d as f64);
                let (a, b) = (head[2 * i], head[2 * i + 1]);
                head[2 * i] = a * angle.cos() - b * angle.sin();
                head[2 * i + 1] = a * angle.sin() + b * angle.cos();
            }
        }
    };
    let embedding = matrix("token_embd.weight");
    let mut past: Vec<Vec<(Vec<f64>, Vec<f64>)>> = vec![vec![]; config.layers];
    let mut out = Vec::new();
    for (position, &token) in tokens.iter().enumerate() {
        let mut x = embedding[token as usize].clone();
        for n in 0..config.layers {
            let name = |part: &str| format!("blk.{n}.{part}.weight");
            let h = norm(&x, &vector(&name("attn_norm")));
            let mut q = product(&matrix(&name("attn_q")), &h);
            let mut k = product(&matrix(&name("attn_k")), &h);
            rope(&mut q, position);
            rope(&mut k, position);
            past[n].push((k, product(&matrix(&name("attn_v")), &h)));
            let mut mixed = vec![0.0; config.heads * d];
            for head in 0..config.heads {
                let group = head * config.kv_heads / config.heads;
                let scores: Vec<f64> = past[n]
                    .iter()
                    .map(|(k, _)| {
                        (0..d)
                            .map(|i| q[head * d + i] * k[group * d + i])
                            .sum::<f64>()
                            / (d as f64).sqrt()
                    })
                    .map(f64::exp)
                    .collect();
                let total: f64 = scores.iter().sum();
                for (score, (_, v)) in scores.iter().zip(&past[n]) {
                    (0..d).for_each(|i| mixed[head * d + i] += score / total * v[group * d + i]);
                }
            }
            let add =
                |x: &mut Vec<f64>, y: Vec<f64>| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
            add(&mut x, product(&matrix(&name("attn_output")), &mixed));
            let h = norm(&x, &vector(&name("ffn_norm")));
            let gate = product(&matrix(&name("ffn_gate")), &h);
            let up = product(&matrix(&name("ffn_up")), &h);
            let gated: Vec<f64> = gate
                .iter()
                .zip(up)
                .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
                .collect();
            add(&mut x, product(&matrix(&name("ffn_down")), &gated));
        }
        out.push(product(
            &embedding,
            &norm(&x, &vector("output_norm.weight")),
        ));
    }
    out
}

fn assert_close(got: &Tensor, expected: &[Vec<f64>]) {
    let got: Vec<Vec<f32>> = got.to_vec2().unwrap();
    assert_eq!(got.len(), expected.len());
    let largest = expected
        .iter()
        .flatten()
        .fold(0.0f64, |top, x| top.max(x.abs()));
    for (got, expected) in got.iter().flatten().zip(expected.iter().flatten()) {
        assert!(
            (f64::from(*got) - expected).abs() < 2e-5 * largest,
            "{got} {expected} of {largest}"
        );
    }
}

#[test]
fn the_network_agrees_with_plain_loops_whole_and_in_pieces() {
    let (config, weights) = tiny();
    let network = Llama::new(&config, &weights, "tiny").unwrap();
    let tokens: Vec<u32> = (0..70).map(|i| i * 7 % 50).collect();
    let truth = plain(&config, &weights, &tokens);
    let run = |tokens: &[u32], cache: &mut KvCache| {
        network
            .logits(&network.hidden(tokens, cache).unwrap())
            .unwrap()
    };
    assert_close(&run(&tokens, &mut KvCache::new()), &truth);
    assert_close(&run(&tokens[..1], &mut KvCache::new()), &truth[..1]);
    // Pieces of every kind: one by one, across the growth of the cache, the last up to the context's end.
    let mut cache = KvCache::new();
    let mut start = 0;
    for piece in [1, 1, 5, 30, 28, 1, 4] {
        let got = run(&tokens[start..start + piece], &mut cache);
        assert_close(&got, &truth[start..start + piece]);
        start += piece;
        assert_eq!(cache.len_tokens(), start);
    }
    let full = network.hidden(&[1], &mut cache);
    assert!(
        matches!(full, Err(Error::Argument { .. })),
        "the context is full"
    );
}

#[test]
fn bad_input_is_refused() {
    let (config, mut weights) = tiny();
    let network = Llama::new(&config, &weights, "tiny").unwrap();
    assert!(network.hidden(&[], &mut KvCache::new()).is_err());
    assert!(network.hidden(&[50], &mut KvCache::new()).is_err());
    assert!(network.hidden(&[0; 71], &mut KvCache::new()).is_err());
    let removed = weights.remove("blk.1.ffn_up.weight").unwrap();
    let message = Llama::new(&config, &weights, "tiny")
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("tiny") && message.contains("blk.1.ffn_up.weight"),
        "{message}"
    );
    weights.insert("blk.1.ffn_up.weight".into(), removed.t().unwrap());
    assert!(matches!(
        Llama::new(&config, &weights, "tiny"),
        Err(Error::Shape { .. })
    ));
}

#[test]
fn a_hugging_face_checkpoint_gives_the_same_logits() {
    // Written with Hugging Face's names and row order, read back through the permutation.
    let (config, weights) = tiny();
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = std::collections::HashMap::new();
    for (name, tensor) in &weights {
        let mut tensor = tensor.clone();
        if name.contains("attn_q") || name.contains("attn_k") {
            // GGUF row 2i + s is Hugging Face's row s·D/2 + i.
            let (rows, columns) = tensor.dims2().unwrap();
            tensor = tensor
                .reshape((rows / 4, 2, 2, columns))
                .unwrap()
                .transpose(1, 2)
                .unwrap()
                .contiguous()
                .unwrap()
                .reshape((rows, columns))
                .unwrap();
        }
        let theirs = name
            .replace("token_embd", "model.embed_tokens")
            .replace("output_norm", "model.norm")
            .replace("blk.", "model.layers.")
            .replace("attn_norm", "input_layernorm")
            .replace("ffn_norm", "post_attention_layernorm")
            .replace("attn_output", "self_attn.o_proj")
            .replace("attn_q", "self_attn.q_proj")
            .replace("attn_k", "self_attn.k_proj")
            .replace("attn_v", "self_attn.v_proj")
            .replace("ffn_gate", "mlp.gate_proj")
            .replace("ffn_up", "mlp.up_proj")
            .replace("ffn_down", "mlp.down_proj");
        tensors.insert(theirs, tensor);
    }
    let path = folder.path().join("model.safetensors");
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let loaded = super::weights::from_safetensors(&path, &config).unwrap();
    assert_eq!(
        loaded.keys().collect::<Vec<_>>(),
        weights.keys().collect::<Vec<_>>()
    );
    let tokens = [3, 1, 4, 1, 5];
    let network = Llama::new(&config, &loaded, "hf").unwrap();
    let logits = network
        .logits(&network.hidden(&tokens, &mut KvCache::new()).unwrap())
        .unwrap();
    assert_close(&logits, &plain(&config, &weights, &tokens));
    std::fs::write(&path, b"not safetensors").unwrap();
    assert!(super::weights::from_safetensors(&path, &config).is_err());
}

// ---- the real model ---------------------------------------------------------------------------------------------

/// SmolLM2 in 4 bits, loaded once; `None` (with a word about it) where it is out of reach.
fn real() -> Option<&'static Model> {
    static MODEL: std::sync::OnceLock<Option<Model>> = std::sync::OnceLock::new();
    let model = MODEL.get_or_init(|| match Model::load("smollm2-135m-instruct-q4_1") {
        Ok(model) => Some(model),
        Err(error) if std::env::var_os("LLMKIT_REQUIRE_MODEL").is_some_and(|it| it == "1") => {
            panic!("{error}")
        }
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    });
    model.as_ref()
}

#[test]
fn the_real_tokenizer_splits_as_smollm_does() {
    let Some(model) = real() else { return };
    let pieces = |text: &str| -> Vec<String> {
        let ids = model.encode(text).unwrap();
        assert_eq!(model.decode(&ids).unwrap(), text, "round trip");
        ids.iter().map(|&id| model.decode(&[id]).unwrap()).collect()
    };
    // No blank in front; digits one by one, the blank before a number on its own.
    assert_eq!(pieces("Hello world"), ["Hello", " world"]);
    assert_eq!(pieces("in 2024,"), ["in", " ", "2", "0", "2", "4", ","]);
    assert_eq!(pieces("it's"), ["it", "'s"]);
    assert_eq!(pieces(""), Vec::<String>::new());
    // Published ids of this tokenizer.
    assert_eq!(
        model.encode("The capital of France is").unwrap(),
        [504, 3575, 282, 4649, 314]
    );
    assert_eq!(model.encode("<|im_start|>user\n").unwrap(), [1, 4093, 198]);
    assert_eq!(model.tokenizer.id("<|im_end|>"), Some(2));
    assert_eq!(model.tokenizer.ends, [2, 0]);
    assert_eq!(model.tokenizer.bos, None);
    assert_eq!(model.tokenizer.vocabulary(), 49_152);
    for odd in [
        "naïve 日本語 🦀\r\n\t  x",
        "\u{0}",
        "a\u{300}",
        "<|im_start",
        "  ",
    ] {
        pieces(odd);
    }
    assert!(model.decode(&[49_152]).is_err());
    // Half a character is shown as such, not an error.
    let crab = model.encode("🦀").unwrap();
    assert!(crab.len() > 1 && model.decode(&crab[..1]).unwrap().contains('\u{fffd}'));
}

#[test]
fn the_real_model_knows_the_capital_of_france() {
    let Some(model) = real() else { return };
    assert_eq!(model.parameters(), 134_515_008);
    assert_eq!(model.tensor_names().len(), 272);
    assert_eq!(
        model.weight("blk.3.ffn_up.weight").unwrap().dims(),
        [1536, 576]
    );
    assert!(model.weight("blk.30.ffn_up.weight").is_err());
    let next = model.next_tokens("The capital of France is", 5).unwrap();
    assert_eq!(next[0].text, " Paris");
    assert!(
        next.windows(2)
            .all(|pair| pair[0].probability >= pair[1].probability)
    );
    let all: f64 = model
        .next_tokens("The capital of France is", usize::MAX)
        .unwrap()
        .iter()
        .map(|it| it.probability)
        .sum();
    assert!((all - 1.0).abs() < 1e-9);
    assert!(model.next_tokens("", 5).is_err());

    let options = GenerateOptions {
        max_tokens: 12,
        prints: false,
        ..GenerateOptions::default()
    };
    let prompt = Model::chat("What is the capital of France?");
    let greedy = model.generate(&prompt, &options).unwrap();
    assert!(greedy.text.contains("Paris"), "{}", greedy.text);
    // Step by step with a cache gives what the whole sequence gives at once.
    let mut ids = model.encode(&prompt).unwrap();
    let start = ids.len();
    ids.extend(&greedy.tokens);
    let logits = model.logits(&ids).unwrap();
    for (n, token) in greedy.tokens.iter().enumerate() {
        let row: Vec<f32> = logits.i(start + n - 1).unwrap().to_vec1().unwrap();
        assert_eq!(Sampling::default().law(&row).unwrap()[0].token, *token);
    }
    let warm = GenerateOptions {
        sampling: Sampling {
            temperature: 1.0,
            top_k: 40,
            seed: 3,
            ..Sampling::default()
        },
        ..options.clone()
    };
    assert_eq!(
        model.generate(&prompt, &warm).unwrap().tokens,
        model.generate(&prompt, &warm).unwrap().tokens
    );
    assert!(
        model
            .generate(
                &prompt,
                &GenerateOptions {
                    max_tokens: 0,
                    ..options
                }
            )
            .unwrap()
            .text
            .is_empty()
    );

    // A weight replaced changes this copy alone.
    let name = "blk.0.attn_v.weight";
    let zero = model.weight(name).unwrap().zeros_like().unwrap();
    let other = model.with_weight(name, &zero).unwrap();
    let top =
        |model: &Model| model.next_tokens("The capital of France is", 1).unwrap()[0].probability;
    assert_ne!(top(&other), top(model));
    assert_eq!(top(model), next[0].probability);
    assert!(
        model
            .with_weight(
                name,
                &Tensor::zeros((1, 2), candle_core::DType::F32, &CPU).unwrap()
            )
            .is_err()
    );
}

/// Perplexity of the first two windows of a corpus under the real model, where both are in reach.
fn two_windows(corpus: &str) -> Option<(crate::hub::Provenance, f64)> {
    let model = real()?;
    let corpus = match crate::hub::corpus(corpus) {
        Ok(corpus) => corpus,
        Err(error) => {
            println!("skipped: {error}");
            return None;
        }
    };
    let text = corpus.text().unwrap();
    let result = crate::eval::perplexity::LlamaCpp::default()
        .run(model, &text, 2)
        .unwrap();
    println!("{}: {result}", corpus.provenance);
    assert_eq!(result.nll.len(), 2 * 255);
    Some((corpus.provenance, result.value))
}

#[test]
fn perplexity_of_the_real_model_is_llama_cpps() {
    let Some((provenance, value)) = two_windows("wikitext-2") else {
        return;
    };
    // llama.cpp on these dequantized weights and this edition of the text: 27.8419 over 20 windows; the example
    // `perplexity` gives 27.8422. The run that did so had 21.2799 after two windows.
    let edition = "4f3e427e4aff23acff917a8a51aeae21bf12832256e26914c8fc250dcef4103c";
    if provenance.files[0].sha256 == edition {
        assert!((value / 21.2799 - 1.0).abs() < 1e-3, "{value}");
    } else {
        println!("skipped: no reference for this edition of the text");
    }
}

#[test]
fn perplexity_on_botchan_has_not_moved() {
    let Some((_, value)) = two_windows("botchan") else {
        return;
    };
    // Measured by the same code that reproduces llama.cpp on WikiText-2; this text is in reach of every machine.
    assert!((value / 26.4252 - 1.0).abs() < 1e-3, "{value}");
}
