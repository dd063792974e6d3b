//! The network against the same in plain f64 loops.

use std::sync::Arc;

use super::super::Config;
use super::super::WeightType;
use super::super::hook::Hook;
use super::super::llama::{Llama, Piece};
use super::super::weights::Weights;
use super::plain::{Tensors, plain, tiny};
use crate::Error;
use crate::kernels::rope::Pairs;
use crate::kernels::{Isa, Team};
use crate::kvcache::store::{Contiguous, Shape, Store};

fn assert_close(got: &[f32], expected: &[Vec<f64>]) {
    let expected: Vec<f64> = expected.concat();
    assert_eq!(got.len(), expected.len());
    let scale = expected.iter().fold(0f64, |top, it| top.max(it.abs()));
    for (got, expected) in got.iter().zip(expected) {
        assert!(
            (f64::from(*got) - expected).abs() <= 1e-4 * scale,
            "{got} for {expected}"
        );
    }
}

fn network(config: &Config, weights: &Tensors, kind: WeightType) -> crate::Result<Llama> {
    Llama::new(config, &Weights::of_tensors("tiny", weights.clone()), kind)
}

fn logits(network: &Llama, tokens: &[u32], store: &mut dyn Store) -> Vec<f32> {
    network.logits(
        &network
            .hidden(&mut [Piece { store, tokens }], None)
            .unwrap(),
    )
}

/// Each architecture, and a window shorter than the text.
fn architectures() -> Vec<Config> {
    let llama = Config::example();
    let qwen = Config {
        pairs: Pairs::Halves,
        ..Config::example()
    };
    vec![
        llama.clone(),
        Config {
            window: Some(9),
            ..llama
        },
        Config {
            has_biases: true,
            ..qwen.clone()
        },
        Config {
            has_qk_norm: true,
            ..qwen
        },
    ]
}

#[test]
fn every_architecture_agrees_with_plain_loops_whole_and_in_pieces() {
    for config in architectures() {
        let (config, weights) = tiny(config);
        let network = network(&config, &weights, WeightType::F32).unwrap();
        let tokens: Vec<u32> = (0..70).map(|i| i * 7 % 50).collect();
        let truth = plain(&config, &weights, &tokens);
        assert_close(&logits(&network, &tokens, network.store().as_mut()), &truth);
        // Pieces of every kind: one by one, across the end of a block, the last up to the context's end.
        let mut store = network.store();
        let mut start = 0;
        for piece in [1, 1, 5, 30, 28, 1, 4] {
            let got = logits(&network, &tokens[start..start + piece], store.as_mut());
            assert_close(&got, &truth[start..start + piece]);
            start += piece;
            assert_eq!(store.tokens(), start);
        }
        let full = network.hidden(
            &mut [Piece {
                store: store.as_mut(),
                tokens: &[1],
            }],
            None,
        );
        assert!(
            matches!(full, Err(Error::Argument { .. })),
            "the context is full"
        );
    }
}

#[test]
fn sequences_in_a_batch_chunks_and_threads_do_not_change_a_bit() {
    let (config, weights) = tiny(Config::example());
    for kind in WeightType::ALL {
        let mut network = network(&config, &weights, kind).unwrap();
        let tokens: Vec<u32> = (0..66).map(|i| i * 11 % 50).collect();
        let bits = |values: &[f32]| -> Vec<u32> { values.iter().map(|it| it.to_bits()).collect() };
        let whole = bits(&logits(&network, &tokens, network.store().as_mut()));
        for threads in [1, 2, 3] {
            network.engine.team = Arc::new(Team::new(threads));
            for chunk in [1, 16, 64] {
                for batch in [1, 2, 8] {
                    // The others are of other lengths: a ragged batch.
                    let mut stores: Vec<_> = (0..batch).map(|_| network.store()).collect();
                    let mut got = Vec::new();
                    for (step, piece) in tokens.chunks(chunk).enumerate() {
                        let mut pieces = Vec::new();
                        for (i, store) in stores.iter_mut().enumerate() {
                            let other = &tokens[..1 + (step + i) % 3];
                            let room = store.tokens() + other.len() <= 70;
                            if i == batch / 2 || room {
                                let tokens = if i == batch / 2 { piece } else { other };
                                pieces.push((
                                    i,
                                    Piece {
                                        store: store.as_mut(),
                                        tokens,
                                    },
                                ));
                            }
                        }
                        let before: usize = pieces
                            .iter()
                            .take_while(|it| it.0 != batch / 2)
                            .map(|it| it.1.tokens.len())
                            .sum();
                        let mut pieces: Vec<_> = pieces.into_iter().map(|it| it.1).collect();
                        let hidden = network.hidden(&mut pieces, None).unwrap();
                        let own =
                            &hidden[before * config.width..(before + piece.len()) * config.width];
                        got.extend(network.logits(own));
                    }
                    assert!(
                        bits(&got) == whole,
                        "{kind}, {threads} threads, chunks of {chunk}, batch of {batch}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_instruction_set_and_weight_type_is_near_the_truth() {
    let (config, weights) = tiny(Config::example());
    let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 50).collect();
    let truth: Vec<f64> = plain(&config, &weights, &tokens).concat();
    let power: f64 = truth.iter().map(|it| it * it).sum();
    for (kind, most) in [
        (WeightType::F32, 1e-9),
        (WeightType::Native, 1e-9),
        (WeightType::Bf16, 1e-3),
        (WeightType::Int8, 1e-2),
        (WeightType::Int4, 0.5),
    ] {
        let mut network = network(&config, &weights, kind).unwrap();
        for isa in Isa::here() {
            network.engine.isa = isa;
            let got = logits(&network, &tokens, network.store().as_mut());
            let error: f64 = got
                .iter()
                .zip(&truth)
                .map(|(&a, b)| (f64::from(a) - b).powi(2))
                .sum();
            assert!(error / power < most, "{kind} {isa}: {}", error / power);
        }
    }
}

#[test]
fn forks_and_rollbacks_go_on_as_if_nothing_had_been() {
    let (config, weights) = tiny(Config::example());
    let network = network(&config, &weights, WeightType::F32).unwrap();
    let tokens: Vec<u32> = (0..20).collect();
    let mut store = network.store();
    logits(&network, &tokens[..10], store.as_mut());
    let mut fork = store.fork();
    let straight = logits(&network, &tokens[10..], store.as_mut());
    logits(&network, &[49, 48, 47], fork.as_mut());
    fork.truncate(10);
    assert_eq!(logits(&network, &tokens[10..], fork.as_mut()), straight);
}

#[test]
fn hooks_see_every_name_and_may_change_what_they_see() {
    struct Zero(&'static str, Vec<String>);
    impl Hook for Zero {
        fn visit(&mut self, name: &str, columns: usize, values: &mut [f32]) -> crate::Result<()> {
            assert!(values.len().is_multiple_of(columns));
            self.1.push(name.to_owned());
            if name == self.0 {
                values.fill(0.0);
            }
            Ok(())
        }
    }
    let (config, weights) = tiny(Config::example());
    let plain = network(&config, &weights, WeightType::F32).unwrap();
    let run = |network: &Llama, hook: &mut Zero| {
        let mut store = network.store();
        let mut pieces = [Piece {
            store: store.as_mut(),
            tokens: &[1, 2, 3],
        }];
        network.hidden(&mut pieces, Some(hook)).unwrap()
    };
    let mut seen = Zero("", Vec::new());
    let untouched = run(&plain, &mut seen);
    assert_eq!(seen.1.len(), 2 * 9 + 1);
    assert_eq!(
        (seen.1[0].as_str(), seen.1[18].as_str()),
        ("blk.0.attn_q.in", "output.in")
    );
    // Zeroing what enters ffn_down is the same as a matrix of zeros there.
    let zeroed = run(&plain, &mut Zero("blk.1.ffn_down.in", Vec::new()));
    let zeros = vec![0.0; 24 * 40];
    let layer = WeightType::F32.layer("zeros", &zeros, 40).unwrap();
    let without = plain.with_linear("blk.1.ffn_down.weight", layer).unwrap();
    assert_eq!(zeroed, run(&without, &mut Zero("", Vec::new())));
    assert_ne!(zeroed, untouched);
    assert_eq!(
        run(&plain, &mut Zero("", Vec::new())),
        untouched,
        "the original is as it was"
    );
}

#[test]
fn bad_input_is_refused() {
    let (config, mut weights) = tiny(Config::example());
    let fine = network(&config, &weights, WeightType::F32).unwrap();
    let refused = |tokens: &[u32]| {
        let mut store = fine.store();
        let error = fine
            .hidden(
                &mut [Piece {
                    store: store.as_mut(),
                    tokens,
                }],
                None,
            )
            .unwrap_err();
        error.to_string()
    };
    assert!(refused(&[]).contains("at least one"));
    assert!(refused(&[50]).contains("below 50"));
    assert!(refused(&[0; 71]).contains("at most 70"));
    let mut other = Contiguous::new(Shape {
        layers: 1,
        ..fine.store_shape()
    });
    assert!(
        fine.hidden(
            &mut [Piece {
                store: &mut other,
                tokens: &[1]
            }],
            None
        )
        .is_err()
    );
    let layer = WeightType::F32.layer("x", &[0.0; 4], 2).unwrap();
    assert!(matches!(
        fine.with_linear("blk.0.ffn_up.weight", Arc::clone(&layer)),
        Err(Error::Shape { .. })
    ));
    assert!(matches!(
        fine.with_linear("blk.9.ffn_up.weight", layer),
        Err(Error::NotFound { .. })
    ));

    let of = |weights: &Tensors| {
        network(&config, weights, WeightType::F32)
            .unwrap_err()
            .to_string()
    };
    let name = "blk.1.ffn_up.weight";
    let removed = weights.remove(name).unwrap();
    assert!(
        of(&weights).contains("tiny") && of(&weights).contains(name),
        "{}",
        of(&weights)
    );
    weights.insert(name.into(), removed.t().unwrap().contiguous().unwrap());
    assert!(matches!(
        network(&config, &weights, WeightType::F32),
        Err(Error::Shape { .. })
    ));
    let nan = (removed.clone() * f64::NAN).unwrap();
    weights.insert(name.into(), nan);
    assert!(
        of(&weights).contains(name) && of(&weights).contains("finite"),
        "{}",
        of(&weights)
    );
    // Weights that are finite, with an activation that is not: the layer is named.
    weights.insert(name.into(), (removed * 1e38).unwrap());
    let huge = network(&config, &weights, WeightType::F32).unwrap();
    let mut store = huge.store();
    let error = huge
        .hidden(
            &mut [Piece {
                store: store.as_mut(),
                tokens: &[1],
            }],
            None,
        )
        .unwrap_err();
    assert!(error.to_string().contains("blk.1.out"), "{error}");
    assert_eq!(store.tokens(), 0);
}

#[test]
fn a_hugging_face_checkpoint_gives_the_same_logits() {
    // Written with Hugging Face's names and row order, read back through the permutation.
    let (config, weights) = tiny(Config::example());
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
    let loaded = Weights::of_checkpoint(&path, &config).unwrap();
    assert_eq!(loaded.names(), weights.keys().cloned().collect::<Vec<_>>());
    let tokens = [3, 1, 4, 1, 5];
    let network = Llama::new(&config, &loaded, WeightType::F32).unwrap();
    assert_close(
        &logits(&network, &tokens, network.store().as_mut()),
        &plain(&config, &weights, &tokens),
    );
    std::fs::write(&path, b"not safetensors").unwrap();
    assert!(Weights::of_checkpoint(&path, &config).is_err());
}
