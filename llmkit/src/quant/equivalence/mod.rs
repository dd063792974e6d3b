//! What every transform promises, checked on every architecture: a network in f64 with plain loops before and after.

mod exact;
mod real;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(super) use exact::Exact;

use super::transform::{self, Transform};
use super::{Channels, Collect, Statistics};
use crate::kernels::rope::Pairs;
use crate::model::weights::Weights;
use crate::model::{Config, Llama, Piece, WeightType};

/// The tokens that networks are compared on.
fn tokens() -> Vec<u32> {
    (0..40).map(|i| i * 7 % 50).collect()
}

/// max |difference| of the logits of two networks over the largest logit.
pub(super) fn difference(a: &Exact, b: &Exact) -> f64 {
    let (a, b) = (a.logits(&tokens()), b.logits(&tokens()));
    let top = a.iter().fold(0f64, |top, it| top.max(it.abs()));
    let worst = a
        .iter()
        .zip(&b)
        .fold(0f64, |worst, (a, b)| worst.max((a - b).abs()));
    worst / top
}

/// Small networks: grouped queries with a tied and an untied head, biases, norms of queries and keys, a window.
pub(super) fn networks() -> Vec<Llama> {
    let llama = Config::example();
    let qwen = Config {
        pairs: Pairs::Halves,
        ..llama.clone()
    };
    let configs = [
        (llama.clone(), true),
        (
            Config {
                window: Some(9),
                ..llama
            },
            false,
        ),
        (
            Config {
                has_biases: true,
                ..qwen.clone()
            },
            true,
        ),
        (
            Config {
                has_qk_norm: true,
                ..qwen
            },
            false,
        ),
    ];
    let network =
        |(seed, (config, is_tied)): (usize, (Config, bool))| random(&config, is_tied, seed as u64);
    configs.into_iter().enumerate().map(network).collect()
}

/// Weights at random, with gains and channels that stand out.
fn random(config: &Config, is_tied: bool, seed: u64) -> Llama {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let c = config;
    let mut weights = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| {
        let columns = shape[shape.len() - 1];
        let values: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|at| {
                let noise = random.random::<f32>() - 0.5;
                let column = at % columns;
                match shape.len() {
                    1 => (1.0 + noise) * if column % 11 == 3 { 8.0 } else { 1.0 },
                    _ => noise * if column % 13 == 5 { 5.0 } else { 1.0 },
                }
            })
            .collect();
        weights.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    add("token_embd.weight".into(), &[c.vocabulary, c.width]);
    add("output_norm.weight".into(), &[c.width]);
    if !is_tied {
        add("output.weight".into(), &[c.vocabulary, c.width]);
    }
    for n in 0..c.layers {
        let mut add = |part: &str, shape: &[usize]| add(format!("blk.{n}.{part}"), shape);
        add("attn_norm.weight", &[c.width]);
        add("attn_q.weight", &[q, c.width]);
        add("attn_k.weight", &[kv, c.width]);
        add("attn_v.weight", &[kv, c.width]);
        add("attn_output.weight", &[c.width, q]);
        add("ffn_norm.weight", &[c.width]);
        add("ffn_gate.weight", &[c.ffn_width, c.width]);
        add("ffn_up.weight", &[c.ffn_width, c.width]);
        add("ffn_down.weight", &[c.width, c.ffn_width]);
        if c.has_biases {
            add("attn_q.bias", &[q]);
            add("attn_k.bias", &[kv]);
            add("attn_v.bias", &[kv]);
        }
        if c.has_qk_norm {
            add("attn_q_norm.weight", &[c.head_dim]);
            add("attn_k_norm.weight", &[c.head_dim]);
        }
    }
    Llama::new(
        config,
        &Weights::of_tensors("random", weights),
        WeightType::F32,
    )
    .unwrap()
}

fn run(network: &Llama, hook: Option<&mut dyn crate::model::Hook>) -> Vec<f32> {
    let mut store = network.store();
    let mut pieces = [Piece {
        store: store.as_mut(),
        tokens: &tokens(),
    }];
    network.logits(&network.hidden(&mut pieces, hook).unwrap())
}

/// Statistics of a network on the tokens of these tests.
pub(super) fn collected(network: &Llama) -> Statistics {
    let mut collect = Collect::new(true);
    run(network, Some(&mut collect));
    let windows = tokens().chunks(20).map(<[u32]>::to_vec).collect();
    collect.finish().with_windows(windows)
}

fn members() -> Vec<Box<dyn Transform>> {
    transform::all()
        .iter()
        .flat_map(|family| (family.members)())
        .collect()
}

/// Root mean square of what f32 makes of logits, over that of the logits.
fn single_error(network: &Llama, exact: &[f64]) -> f64 {
    let power: f64 = exact.iter().map(|it| it * it).sum();
    let pairs = run(network, None).into_iter().zip(exact);
    let error: f64 = pairs.map(|(a, b)| (f64::from(a) - b).powi(2)).sum();
    (error / power).sqrt()
}

#[test]
fn plain_loops_and_the_network_agree() {
    for network in networks() {
        let error = single_error(&network, &Exact::of(&network).logits(&tokens()));
        assert!(error < 1e-5, "{error}");
    }
}

#[test]
fn exact_transforms_keep_the_function_to_1e_9() {
    for network in networks() {
        let statistics = collected(&network);
        let before = Exact::of(&network);
        for transform in members().iter().filter(|it| it.is_exact()) {
            let mut after = before.clone();
            let report = transform.apply(&mut after, &statistics).unwrap();
            assert!(!report.steps.is_empty());
            assert!(after != before, "{}: nothing was changed", transform.name());
            let difference = difference(&before, &after);
            assert!(difference < 1e-9, "{}: {difference}", transform.name());
        }
    }
}

/// With a transform each weight is rounded once more, beside the products and sums that are rounded anyway: √2 or so of the error, and
/// as much again for the luck of what cancels in networks this small. A wrong factor anywhere makes it a million times as much.
#[test]
fn in_single_precision_the_error_is_about_that_of_single_precision() {
    for network in networks() {
        let statistics = collected(&network);
        let exact = Exact::of(&network).logits(&tokens());
        let without = single_error(&network, &exact);
        for transform in members().iter().filter(|it| it.is_exact()) {
            let (after, _) = transform.run(&network, &statistics).unwrap();
            let with = single_error(&after, &exact);
            println!("{}: {with:.2e} after {without:.2e}", transform.name());
            assert!(
                with < 4.0 * without,
                "{}: {with} after {without}",
                transform.name()
            );
        }
    }
}

#[test]
fn twice_the_same_gives_the_same_bits_and_the_network_stays_as_it_was() {
    let network = networks().remove(1);
    let statistics = collected(&network);
    let before = Exact::of(&network);
    for transform in members() {
        let (once, report) = transform.run(&network, &statistics).unwrap();
        let (again, other) = transform.run(&network, &statistics).unwrap();
        assert!(
            Exact::of(&once) == Exact::of(&again) && report == other,
            "{}",
            transform.name()
        );
        assert!(Exact::of(&network) == before, "{}", transform.name());
    }
}

/// What a transform says of channels that it divides is what a pass through the network finds.
#[test]
fn statistics_that_follow_are_those_of_the_network() {
    let mut followed = Vec::new();
    for network in networks() {
        let before = collected(&network);
        for transform in members().iter().filter(|it| it.is_exact()) {
            let (after, report) = transform.run(&network, &before).unwrap();
            let Some(divided) = report.divided else {
                continue;
            };
            let after = collected(&after);
            assert!(before.names().eq(after.names()));
            for name in before.names() {
                let (old, new) = (before.get(name).unwrap(), after.get(name).unwrap());
                let ones = vec![1.0; old.max_abs.len()];
                let scales = divided.get(name).unwrap_or(&ones);
                for (k, scale) in scales.iter().enumerate() {
                    let power = |it: &Channels| it.gram[k * (k + 1) / 2 + k];
                    for (what, old, new, scale) in [
                        ("max |x|", old.max_abs[k], new.max_abs[k], *scale),
                        ("mean |x|", old.mean_abs[k], new.mean_abs[k], *scale),
                        ("Σ x²", power(old), power(new), scale * scale),
                    ] {
                        let off = f64::from(old) / scale / f64::from(new).max(1e-6) - 1.0;
                        let place = format!("{} {name} channel {k}", transform.name());
                        assert!(off.abs() < 1e-3, "{place}: {what} is {off} off");
                    }
                }
            }
            followed.push((transform.name(), divided.len()));
        }
    }
    // One that names no activation would pass without being looked at.
    for name in ["smooth-a0.5", "awq-scales"] {
        let mut of_name = followed.iter().filter(|it| it.0.starts_with(name));
        assert!(of_name.any(|it| it.1 >= 4), "{name}: {followed:?}");
    }
}

#[test]
fn transforms_follow_each_other() {
    // rotate → smooth → permute → AWQ's scales, statistics collected anew in between.
    for network in networks() {
        let exact = Exact::of(&network).logits(&tokens());
        let mut now = network.clone();
        for name in [
            "rotate-seed0",
            "smooth-a0.5",
            "permute",
            "awq-scales-for-int3-affine-g8",
        ] {
            let all = members();
            let transform = all.iter().find(|it| it.name() == name).expect(name);
            let (next, report) = transform.run(&now, &collected(&now)).unwrap();
            // Nothing can move through the rotation in front of ffn_down, and the report says so.
            let is_said = report.left().any(|step| step.place.contains("ffn_down"));
            assert!(is_said || name.starts_with("rotate"), "{name}\n{report}");
            now = next;
        }
        let error = single_error(&now, &exact);
        assert!(error < 1e-4, "{error}");
    }
}

#[test]
fn names_are_read_back_and_short_ones_have_defaults() {
    let format = crate::quant::format::named("int4-g64").unwrap();
    let named = |name: &str| transform::named(name, format.as_ref());
    for transform in members() {
        let name = transform.name();
        assert_eq!(named(&name).unwrap().name(), name);
    }
    for (short, full) in [
        ("rotate", "rotate-seed0"),
        ("rotate-seed7", "rotate-seed7"),
        ("rotate-stream", "rotate-stream-seed0"),
        ("spin", "spin-a4-steps100-seed0"),
        ("spin-a8-steps5", "spin-a8-steps5-seed0"),
        ("spin-offline-seed2", "spin-offline-a4-steps100-seed2"),
        ("smooth", "smooth-a0.5"),
        ("smooth-a0.85-down+values", "smooth-a0.85-down+values"),
        ("awq", "awq-for-int4-symmetric-g64"),
        ("awq-scales-for-nf4-g32", "awq-scales-for-nf4-g32"),
    ] {
        assert_eq!(named(short).unwrap().name(), full);
        assert_eq!(named(full).unwrap().name(), full);
    }
    for (odd, says) in [
        ("rotat", "permute"),
        ("rotate-seedx", "permute"),
        ("spin-b4", "permute"),
        ("spin-a9", "2 … 8"),
        ("smooth-a", "permute"),
        ("smooth-a0.5-head", "permute"),
        ("smooth-a1.5", "0 … 1"),
        ("awq-for-int9-g64", "2 … 8"),
        ("awq-clip", "permute"),
        ("", "permute"),
    ] {
        let error = named(odd).err().unwrap().to_string();
        assert!(error.contains(says), "{odd}: {error}");
    }
}

#[test]
fn names_and_rows_are_unique() {
    let mut names: Vec<String> = members().iter().map(|it| it.name()).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}
