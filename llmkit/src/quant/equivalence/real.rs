//! SmolLM2 itself, where it is in reach.

use super::Exact;
use crate::model::tests::real::real;
use crate::model::{Llama, Piece};
use crate::quant::parts::Parts;
use crate::quant::transform::{Permute, Rotate, Smooth, Transform};
use crate::quant::{Collect, Outliers, Statistics};

const TEXT: &str =
    "The residual stream of a transformer has a few channels that are much larger than all others.";

fn run(network: &Llama, tokens: &[u32], hook: &mut dyn crate::model::Hook) -> Vec<f32> {
    let mut store = network.store();
    let mut pieces = [Piece {
        store: store.as_mut(),
        tokens,
    }];
    network.logits(&network.hidden(&mut pieces, Some(hook)).unwrap())
}

fn logits(network: &Llama, tokens: &[u32]) -> Vec<f32> {
    run(network, tokens, &mut |_: &str, _: usize, _: &mut [f32]| {
        Ok(())
    })
}

/// max |a − b| over max |b|.
fn worst(a: &[f64], b: &[f64]) -> f64 {
    let top = b.iter().fold(0f64, |top, it| top.max(it.abs()));
    let pairs = a.iter().zip(b);
    pairs.fold(0f64, |worst, (a, b)| worst.max((a - b).abs())) / top
}

/// Headline 3: logits before and after to 1e-9 in f64. In f32, at most four times what f32 itself makes without a rotation.
#[test]
fn the_real_model_rotates_to_1e_9_in_f64_and_within_its_own_rounding_in_f32() {
    let Some(model) = real() else { return };
    let tokens = &model.encode(TEXT).unwrap()[..6];
    let network = model.network();
    let wide = |values: Vec<f32>| -> Vec<f64> { values.into_iter().map(f64::from).collect() };
    let mut exact = Exact::of(network);
    let before = exact.logits(tokens);
    let rotate = Rotate::new(0);
    let nothing = Statistics::default();
    rotate.apply(&mut exact, &nothing).unwrap();
    let after = exact.logits(tokens);
    drop(exact);
    let difference = worst(&after, &before);
    let own = worst(&wide(logits(network, tokens)), &before);
    let (rotated, _) = rotate.run(network, &nothing).unwrap();
    let single = worst(&wide(logits(&rotated, tokens)), &before);
    println!("f64 {difference:.1e}, f32 {own:.1e} before and {single:.1e} after");
    assert!(difference < 1e-9, "{difference}");
    assert!(single < 4.0 * own, "{single} after {own}");
}

#[test]
fn rotation_makes_the_real_activations_nearly_normal() {
    let Some(model) = real() else { return };
    let tokens = model.encode(TEXT).unwrap();
    let (rotated, _) = Rotate::new(0)
        .run(model.network(), &Statistics::default())
        .unwrap();
    let measured = |network: &Llama| {
        let mut outliers = Outliers::default();
        run(network, &tokens, &mut outliers);
        outliers
    };
    let (before, after) = (measured(model.network()), measured(&rotated));
    for part in [
        "mid",
        "attn_q.in",
        "attn_output.in",
        "ffn_gate.in",
        "ffn_down.in",
    ] {
        let (before, after) = (
            before.of_all_layers(part).unwrap(),
            after.of_all_layers(part).unwrap(),
        );
        println!(
            "{part}: kurtosis {:.2} → {:.2}, max/median {:.1} → {:.1}",
            before.kurtosis, after.kurtosis, before.peak, after.peak
        );
        assert!(after.kurtosis < before.kurtosis, "{part}");
        // 3 is normal; a median over tokens and layers of 576 values is near it.
        assert!(
            after.kurtosis < 4.0 || part == "attn_output.in",
            "{part}: {after:?}"
        );
    }
}

#[test]
fn the_real_model_is_smoothed_and_sorted_within_its_own_rounding() {
    let Some(model) = real() else { return };
    let tokens = model.encode(TEXT).unwrap();
    let network = model.network();
    let mut collect = Collect::new(false);
    let before = run(network, &tokens, &mut collect);
    let statistics = collect.finish();
    let top = before.iter().fold(0f32, |top, it| top.max(it.abs()));
    let transforms: [&dyn Transform; 2] = [&Smooth::new(0.5).unwrap(), &Permute];
    for transform in transforms {
        let (after, report) = transform.run(network, &statistics).unwrap();
        assert_eq!(report.left().count(), 0, "{report}");
        let pairs = before.iter().zip(logits(&after, &tokens));
        let worst = pairs.fold(0f32, |worst, (a, b)| worst.max((a - b).abs())) / top;
        println!("{}: {worst:.1e}", transform.name());
        // 2 · 30 layers of products of up to 1536 terms: √(60 · 1536) roundings of 2⁻²⁴, and a factor of four.
        assert!(
            worst < 4.0 * (60f32 * 1536.0).sqrt() * 2f32.powi(-24),
            "{}: {worst}",
            transform.name()
        );
        assert_eq!(after.is_tied(), network.is_tied());
        assert!(!Parts::has_ffn_rotation(&after, 0));
    }
}
