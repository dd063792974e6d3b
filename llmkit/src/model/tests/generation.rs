//! Generation with a small random model: pieces, stops, seeds, ends.

use std::sync::Arc;

use super::super::sample::{Repetition, Temperature, TopK};
use super::super::{Engine, Finish, GenerateOptions, Model, Piece, Record, Sampling, WeightType};
use super::tiny::{self, CONTEXT};
use crate::attention::{self, Naive};
use crate::kernels::{Isa, Team};
use crate::kvcache::store::{Contiguous, Shape, Store};

fn model() -> Model {
    tiny::model(WeightType::F32)
}

fn warm(seed: u64) -> GenerateOptions {
    GenerateOptions {
        max_tokens: 40,
        sampling: Sampling::plain()
            .with(Temperature(2.0))
            .with(TopK(20))
            .with(Repetition::new(1.1))
            .seeded(seed),
        prints: false,
        ..GenerateOptions::default()
    }
}

#[test]
fn pieces_are_whole_characters_and_make_up_the_text() {
    let model = model();
    let mut broken = 0;
    for seed in 0..30 {
        let options = GenerateOptions {
            stops_at_end: seed % 2 == 0,
            ..warm(seed)
        };
        let whole = model.generate("the crab 🦀", &options).unwrap();
        let mut stream = model.stream("the crab 🦀", &options).unwrap();
        let pieces: Vec<String> = stream.by_ref().map(|it| it.unwrap()).collect();
        assert_eq!(pieces.concat(), whole.text);
        assert_eq!(stream.tokens(), whole.tokens);
        assert_eq!(stream.finish(), &whole.finish);
        assert_eq!(whole.text, model.decode(&whole.tokens).unwrap());
        assert!(pieces.iter().all(|it| !it.is_empty()));
        broken += pieces.iter().filter(|it| it.contains('\u{fffd}')).count();
        match whole.finish {
            Finish::End => assert!(whole.is_complete() && whole.tokens.len() < 40),
            Finish::Length => assert_eq!(whole.tokens.len(), 40),
            other => panic!("{other}"),
        }
    }
    println!("{broken} pieces with bytes that make no character, of a model that knows no UTF-8");
}

#[test]
fn the_same_seed_gives_the_same_tokens_in_any_batch_chunks_and_threads() {
    let model = model();
    let prompts = ["once upon a time", "a", "the crab 🦀 and the", "xyz.", "a"];
    let options = |seed| GenerateOptions {
        stops_at_end: false,
        ..warm(seed)
    };
    let alone: Vec<_> = (prompts.iter().zip(5..))
        .map(|(prompt, seed)| model.generate(prompt, &options(seed)).unwrap())
        .collect();
    assert_ne!(
        alone[1].tokens, alone[4].tokens,
        "other seeds, other tokens"
    );
    for threads in [1, 2, 3] {
        let model = model.with_engine(Engine {
            isa: Isa::best(),
            team: Arc::new(Team::new(threads)),
        });
        for chunk_tokens in [1, 7, 512] {
            let options = GenerateOptions {
                chunk_tokens,
                ..options(5)
            };
            for count in 1..=prompts.len() {
                let batch = model.generate_batch(&prompts[..count], &options).unwrap();
                for (one, alone) in batch.iter().zip(&alone) {
                    assert_eq!((&one.tokens, &one.text), (&alone.tokens, &alone.text));
                    assert_eq!(one.finish, alone.finish);
                }
            }
        }
    }
    assert!(model.generate_batch(&[], &options(5)).unwrap().is_empty());
}

#[test]
fn a_stop_string_ends_the_text_before_it_wherever_tokens_are_cut() {
    let model = model();
    for seed in 0..20 {
        let whole = model.generate("once", &warm(seed)).unwrap();
        let characters: Vec<(usize, char)> = whole.text.char_indices().collect();
        if characters.len() < 20 {
            continue;
        }
        // Each token is a byte: a stop of five characters is spread over five tokens or more.
        let stop = &whole.text[characters[9].0..characters[14].0];
        let first = whole.text.find(stop).unwrap();
        let options = GenerateOptions {
            stop: vec!["never comes".into(), stop.to_owned()],
            ..warm(seed)
        };
        let stopped = model.generate("once", &options).unwrap();
        assert_eq!(stopped.text, whole.text[..first]);
        assert_eq!(stopped.finish, Finish::Stop(stop.to_owned()));
        assert!(whole.tokens.starts_with(&stopped.tokens));
        let streamed: String = model
            .stream("once", &options)
            .unwrap()
            .map(|it| it.unwrap())
            .collect();
        assert_eq!(streamed, stopped.text);
    }
    let options = GenerateOptions {
        stop: vec![String::new()],
        ..warm(0)
    };
    assert!(model.generate("once", &options).is_err());
}

#[test]
fn the_context_ends_a_text_and_refuses_a_prompt() {
    let model = model();
    let prompt = "a".repeat(CONTEXT - 10);
    let options = GenerateOptions {
        max_tokens: 40,
        stops_at_end: false,
        prints: false,
        ..GenerateOptions::default()
    };
    let full = model.generate(&prompt, &options).unwrap();
    // Ten more go through the model; the one after the last of them is drawn as well.
    assert_eq!((full.tokens.len(), &full.finish), (11, &Finish::Context));
    assert!(full.to_string().contains("the context is full"));
    let batch = model.generate_batch(&["a", &prompt], &options).unwrap();
    assert_eq!(batch[0].finish, Finish::Length);
    assert_eq!(batch[1].tokens, full.tokens);
    let exact = model.generate(&"a".repeat(CONTEXT), &options).unwrap();
    assert_eq!((exact.tokens.len(), exact.finish), (1, Finish::Context));
    for chunk_tokens in [16, 512, 10_000] {
        let options = GenerateOptions {
            chunk_tokens,
            ..options.clone()
        };
        let error = model
            .generate(&"a".repeat(CONTEXT + 1), &options)
            .unwrap_err();
        assert!(
            error.to_string().contains(&format!("at most {CONTEXT}")),
            "{error}"
        );
    }
    let none = GenerateOptions {
        max_tokens: 0,
        ..options.clone()
    };
    let none = model.generate("a", &none).unwrap();
    assert_eq!((none.text.as_str(), none.finish), ("", Finish::Length));
    assert!(model.generate("", &options).is_err());
    let no_chunks = GenerateOptions {
        chunk_tokens: 0,
        ..options
    };
    assert!(model.generate("a", &no_chunks).is_err());
    assert_eq!(
        model
            .stream("a", &no_chunks)
            .unwrap()
            .map(|it| it.is_err())
            .collect::<Vec<_>>(),
        [true]
    );
}

#[test]
fn steps_batches_chunks_and_forks_give_the_same_logits() {
    let model = model();
    let (one, two) = (
        model.encode("the crab 🦀").unwrap(),
        model.encode("a").unwrap(),
    );
    let last = |tokens: &[u32]| -> Vec<f32> {
        let logits: Vec<Vec<f32>> = model.logits(tokens).unwrap().to_vec2().unwrap();
        logits.last().unwrap().clone()
    };
    let batch: Vec<Vec<f32>> = model
        .batch_logits(&[&one, &two, &one])
        .unwrap()
        .to_vec2()
        .unwrap();
    assert_eq!(batch, [last(&one), last(&two), last(&one)]);
    for chunk in [1, 3, one.len(), 100] {
        let mut store = model.network().store();
        assert_eq!(
            model.prefill(&one, store.as_mut(), chunk).unwrap(),
            last(&one)
        );
        assert_eq!(store.tokens(), one.len());
        // A chunk that fails takes back those before it.
        assert!(model.prefill(&[1, 2, 3, 9999], store.as_mut(), 1).is_err());
        assert!(model.prefill(&[], store.as_mut(), 1).is_err());
        assert_eq!(store.tokens(), one.len());
        let mut forks = [store.fork(), store.fork()];
        let [first, second] = &mut forks;
        let mut pieces = [
            Piece {
                store: first.as_mut(),
                tokens: &two,
            },
            Piece {
                store: second.as_mut(),
                tokens: &one,
            },
        ];
        let steps = model.step(&mut pieces).unwrap();
        assert_eq!(
            steps,
            [
                last(&[&one[..], &two].concat()),
                last(&[&one[..], &one].concat())
            ]
        );
        store.truncate(2);
        assert_eq!(
            model.last_logits(&two, store.as_mut()).unwrap(),
            last(&[&one[..2], &two].concat())
        );
    }
}

#[test]
fn attention_and_store_are_swapped_without_the_rest() {
    /// Contiguous, by another name.
    #[derive(Debug)]
    struct Other(Contiguous);
    impl Store for Other {
        fn name(&self) -> String {
            "other".into()
        }
        fn shape(&self) -> Shape {
            self.0.shape()
        }
        fn tokens(&self) -> usize {
            self.0.tokens()
        }
        fn write(&mut self, layer: usize, keys: &[f32], values: &[f32], team: &Team) {
            // Values of the first layer are lost.
            let nothing = vec![0.0; values.len()];
            let values = if layer == 0 { &nothing } else { values };
            self.0.write(layer, keys, values, team);
        }
        fn commit(&mut self, tokens: usize) {
            self.0.commit(tokens);
        }
        fn truncate(&mut self, tokens: usize) {
            self.0.truncate(tokens);
        }
        fn block<'a>(
            &'a self,
            layer: usize,
            group: usize,
            index: usize,
            decoded: &'a mut crate::kvcache::store::Decoded,
        ) -> crate::kernels::attention::Block<'a> {
            self.0.block(layer, group, index, decoded)
        }
        fn error(&self) -> f32 {
            1.0
        }
        fn bytes(&self) -> usize {
            self.0.bytes()
        }
        fn fork(&self) -> Box<dyn Store> {
            Box::new(Other(self.0.clone()))
        }
        fn empty(&self) -> Box<dyn Store> {
            Box::new(Other(Contiguous::new(self.0.shape())))
        }
    }
    let model = model();
    let tokens = model.encode("once upon a time there was a crab.").unwrap();
    let logits = |model: &Model| -> Vec<f32> {
        model
            .logits(&tokens)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    };
    let flash = logits(&model);
    let naive = logits(&model.with_attention(Arc::new(Naive)));
    let scale = flash.iter().fold(0f32, |top, it| top.max(it.abs()));
    assert!(
        flash
            .iter()
            .zip(&naive)
            .all(|(a, b)| (a - b).abs() < 1e-4 * scale)
    );
    for attention in attention::all().iter().flat_map(|it| (it.members)()) {
        let other = model.with_attention(attention);
        assert!(other.generate("once", &warm(1)).unwrap().tokens.len() > 1);
    }
    let shape = model.network().store_shape();
    let lossy = model.with_store(&Other(Contiguous::new(shape))).unwrap();
    assert_eq!(lossy.network().store().name(), "other");
    assert_ne!(logits(&lossy), flash);
    assert_eq!(logits(&model), flash, "the original is as it was");
    let wrong = Contiguous::new(Shape { groups: 1, ..shape });
    assert!(model.with_store(&wrong).is_err());
    // The same by a hook: values of the first layer are zero.
    let mut zero = |name: &str, _: usize, values: &mut [f32]| {
        if name == "blk.0.attn_v.out" {
            values.fill(0.0);
        }
        Ok(())
    };
    let hidden = model
        .hidden_with(&tokens, model.network().store().as_mut(), &mut zero)
        .unwrap();
    assert_eq!(model.network().logits(&hidden), logits(&lossy));
}

#[test]
fn a_record_has_what_the_layers_see() {
    let model = model();
    let tokens = model.encode("once upon").unwrap();
    let mut record = Record::new("*");
    let mut store = model.network().store();
    model
        .hidden_with(&tokens[..4], store.as_mut(), &mut record)
        .unwrap();
    model
        .hidden_with(&tokens[4..], store.as_mut(), &mut record)
        .unwrap();
    assert_eq!(record.names().len(), 2 * 9 + 1);
    let input: Vec<Vec<f32>> = record.get("output.in").unwrap().to_vec2().unwrap();
    assert_eq!(
        input.concat(),
        model
            .hidden(&tokens, model.network().store().as_mut())
            .unwrap()
    );
    let c = &model.config;
    for (name, columns) in [
        ("blk.1.attn_q.in", c.width),
        ("blk.1.attn_q.out", c.heads * c.head_dim),
        ("blk.1.attn_k.out", c.kv_heads * c.head_dim),
        ("blk.1.attn_v.out", c.kv_heads * c.head_dim),
        ("blk.1.attn_output.in", c.heads * c.head_dim),
        ("blk.1.mid", c.width),
        ("blk.1.ffn_gate.in", c.width),
        ("blk.1.ffn_down.in", c.ffn_width),
        ("blk.1.out", c.width),
    ] {
        assert_eq!(
            record.get(name).unwrap().dims(),
            [tokens.len(), columns],
            "{name}"
        );
    }
}
