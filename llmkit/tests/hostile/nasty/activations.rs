//! Activations that are not finite, wherever they arise and however weights are kept, are reported with their layer.

use llmkit::Result;
use llmkit::model::gguf::Gguf;
use llmkit::model::weights::Weights;
use llmkit::model::{Config, Hook, Llama, Piece, WeightType};

use crate::seeds::gguf::llama;

/// Puts a value at the end of an activation.
struct Planted {
    name: &'static str,
    value: f32,
    is_met: bool,
}

impl Hook for Planted {
    fn visit(&mut self, name: &str, _: usize, values: &mut [f32]) -> Result<()> {
        if name == self.name
            && let Some(last) = values.last_mut()
        {
            *last = self.value;
            self.is_met = true;
        }
        Ok(())
    }
}

const NAMES: [&str; 10] = [
    "blk.0.attn_q.in",
    "blk.0.attn_q.out",
    "blk.0.attn_k.out",
    "blk.0.attn_v.out",
    "blk.0.attn_output.in",
    "blk.0.mid",
    "blk.0.ffn_gate.in",
    "blk.0.ffn_down.in",
    "blk.0.out",
    "output.in",
];

#[test]
fn what_a_hook_plants_is_reported() {
    let gguf = Gguf::parse("input.gguf", llama().bytes()).unwrap();
    let config = Config::from_gguf(&gguf).unwrap();
    let weights = Weights::of_gguf(gguf.into());
    for kind in WeightType::ALL {
        let network = Llama::new(&config, &weights, kind).unwrap();
        for name in NAMES {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut hook = Planted {
                    name,
                    value,
                    is_met: false,
                };
                let mut store = network.store();
                let mut pieces = [Piece {
                    store: store.as_mut(),
                    tokens: &[0, 3, 7],
                }];
                let result = network.hidden(&mut pieces, Some(&mut hook));
                assert!(hook.is_met, "{name}");
                let said = result.expect_err(name).to_string();
                let layer = &name[..6];
                assert!(said.contains(layer), "{kind} {name} {value}: {said}");
                assert!(said.contains("finite"), "{kind} {name} {value}: {said}");
                assert!(said.contains("token 2"), "{kind} {name} {value}: {said}");
                assert_eq!(store.tokens(), 0, "nothing is kept");
            }
        }
    }
}

/// Finite weights whose product overflows.
#[test]
fn what_overflows_is_reported() {
    let mut file = llama();
    let norm = &mut file.tensor("blk.0.ffn_norm.weight").data;
    norm.chunks_mut(4)
        .for_each(|it| it.copy_from_slice(&3e38f32.to_le_bytes()));
    let gguf = Gguf::parse("input.gguf", file.bytes()).unwrap();
    let config = Config::from_gguf(&gguf).unwrap();
    let weights = Weights::of_gguf(gguf.into());
    for kind in WeightType::ALL {
        let network = Llama::new(&config, &weights, kind).unwrap();
        let mut store = network.store();
        let mut pieces = [Piece {
            store: store.as_mut(),
            tokens: &[0],
        }];
        let said = network.hidden(&mut pieces, None).unwrap_err().to_string();
        assert!(said.contains("activation blk.0.out"), "{kind}: {said}");
    }
}

/// Tokens and lengths out of range: the message says the limit.
#[test]
fn tokens_out_of_range_are_told_the_limit() {
    let gguf = Gguf::parse("input.gguf", llama().bytes()).unwrap();
    let config = Config::from_gguf(&gguf).unwrap();
    let network = Llama::new(&config, &Weights::of_gguf(gguf.into()), WeightType::F32).unwrap();
    let mut store = network.store();
    let mut run = |tokens: &[u32]| {
        let store = store.as_mut();
        network.hidden(&mut [Piece { store, tokens }], None)
    };
    for (tokens, limit) in [
        (&[][..], "at least one"),
        (&[12], "below 12"),
        (&[0, u32::MAX], "below 12"),
        (&[0; 65], "at most 64"),
    ] {
        let said = run(tokens).unwrap_err().to_string();
        assert!(said.contains(limit), "{said}");
    }
    run(&[0; 64]).unwrap();
    let said = run(&[0]).unwrap_err().to_string();
    assert!(said.contains("at most 64"), "{said}");
}
