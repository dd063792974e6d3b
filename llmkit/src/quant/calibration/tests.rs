//! Calibration of a small random model, and of SmolLM2 where it is in reach.

use std::collections::BTreeMap;

use super::*;
use crate::model::tests::real::real;
use crate::model::tests::tiny;
use crate::model::{Record, WeightType};

/// Text that the small model's tokenizer knows.
const TEXT: &str = "the quick brown fox jumps over the lazy dog. a second sentence, without end ";

fn text() -> String {
    TEXT.replace(',', " ").repeat(20)
}

#[test]
fn statistics_are_those_of_the_recorded_activations() -> Result<()> {
    let model = tiny::model(WeightType::F32);
    let samples = Samples::of_text(&model, "t", &text(), 5, 37)?;
    // Four inputs a layer and the head's.
    assert_eq!(are_those_recorded(&model, &samples, &|_| true)?, 2 * 4 + 1);
    // Later tokens see what statistics leave out.
    let without = samples.without_first(3)?;
    assert_eq!(are_those_recorded(&model, &without, &|_| true)?, 2 * 4 + 1);
    Ok(())
}

/// The widths that matter: blocks of the kernels end elsewhere in 576 and 1,536 columns than in a small model's.
#[test]
fn statistics_of_the_real_model_are_those_of_its_activations() -> Result<()> {
    let Some(model) = real() else { return Ok(()) };
    let text = include_str!("../../../../README.md");
    let samples = Samples::of_text(model, "the read-me file", text, 4, 64)?;
    let chosen = [
        "blk.0.attn_q.in",
        "blk.13.ffn_down.in",
        "blk.29.attn_output.in",
    ];
    let count = are_those_recorded(model, &samples, &|name| chosen.contains(&name))?;
    assert_eq!(count, chosen.len());
    Ok(())
}

/// Compares statistics with the activations that a hook records; returns of how many inputs.
fn are_those_recorded(
    model: &Model,
    samples: &Samples,
    is_chosen: &dyn Fn(&str) -> bool,
) -> Result<usize> {
    let found = Calibration::run_as(model, samples, Element::F32)?;
    let mut record = Record::new("*.in");
    for window in samples.windows() {
        model.hidden_with(window, model.network().store().as_mut(), &mut record)?;
    }
    let (length, left_out) = (samples.windows()[0].len(), samples.left_out());
    let tokens = samples.windows().len() * (length - left_out);
    let mut count = 0;
    for inputs in found.all().filter(|it| is_chosen(it.name())) {
        count += 1;
        let x: Vec<f32> = record.get(inputs.name())?.flatten_all()?.to_vec1()?;
        let windows = x.chunks_exact(length * inputs.columns());
        let x: Vec<f32> = windows
            .flat_map(|it| it[left_out * inputs.columns()..].to_vec())
            .collect();
        let expected = Inputs::of_samples(inputs.name(), &x, inputs.columns())?;
        assert_eq!((inputs.tokens(), expected.tokens()), (tokens, tokens));
        let sizes: Vec<f32> = (0..inputs.columns())
            .map(|i| (expected.hessian(i, i) * tokens as f64 / 2.0).sqrt() as f32)
            .collect();
        let mut at = 0;
        for i in 0..inputs.columns() {
            for j in 0..=i {
                let (got, expected) = (inputs.triangle()[at], expected.triangle()[at]);
                // f32 sums of as many products as tokens: Cauchy–Schwarz bounds the sum of their sizes.
                let bound = (tokens + 5) as f32 * f32::EPSILON / 2.0 * sizes[i] * sizes[j];
                assert!(
                    (got - expected).abs() <= bound,
                    "{} [{i}, {j}]",
                    inputs.name()
                );
                at += 1;
            }
        }
        assert_eq!(inputs.max_abs(), expected.max_abs(), "{}", inputs.name());
        for (got, expected) in inputs.mean_abs().iter().zip(expected.mean_abs()) {
            assert!(
                (got - expected).abs() <= 1e-5 * expected,
                "{}",
                inputs.name()
            );
        }
    }
    Ok(count)
}

#[test]
fn layers_that_share_an_input_share_its_statistics() -> Result<()> {
    let model = tiny::model(WeightType::F32);
    let samples = Samples::of_text(&model, "t", &text(), 2, 20)?;
    let found = Calibration::run(&model, &samples)?;
    for n in 0..2 {
        for shared in linear_names(n) {
            for name in &shared {
                assert_eq!(found.inputs(name)?, found.inputs(&shared[0])?);
                let (_, columns) = model.network().linear(name)?.shape();
                assert_eq!(found.inputs(name)?.columns(), columns, "{name}");
            }
        }
    }
    assert_eq!(found.inputs("token_embd.weight")?.name(), "output.in");
    let error = found.inputs("blk.9.attn_v.weight").unwrap_err().to_string();
    assert!(error.contains("blk.9.attn_q.in among 9"), "{error}");
    Ok(())
}

#[test]
fn bf16_changes_the_statistics_in_the_third_digit_only() -> Result<()> {
    let model = tiny::model(WeightType::F32);
    let samples = Samples::of_text(&model, "t", &text(), 4, 40)?;
    let exact = Calibration::run_as(&model, &samples, Element::F32)?;
    let fast = Calibration::run_as(&model, &samples, Element::Bf16)?;
    for (a, b) in exact.all().zip(fast.all()) {
        for i in 0..a.columns() {
            let ratio = b.hessian(i, i) / a.hessian(i, i);
            assert!((ratio - 1.0).abs() < 0.05, "{} [{i}]: {ratio}", a.name());
        }
    }
    Ok(())
}

#[test]
fn a_cache_gives_back_what_was_computed_and_knows_what_is_another() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::model(WeightType::F32);
    let samples = Samples::of_text(&model, "t", &text(), 3, 30)?;
    let all = |it: &Calibration| -> BTreeMap<String, Inputs> { it.inputs.clone() };
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    let first = Calibration::cached_in(folder.path(), &model, &samples)?;
    assert_eq!(files(), 1);
    let again = Calibration::cached_in(folder.path(), &model, &samples)?;
    assert!(all(&first) == all(&again) && files() == 1);
    // Another text, another model.
    let other = Samples::of_text(&model, "t", &text(), 3, 31)?;
    Calibration::cached_in(folder.path(), &model, &other)?;
    assert_eq!(files(), 2);
    let name = "blk.1.ffn_down.weight";
    let halved = (model.weight(name)? * 0.5)?;
    Calibration::cached_in(folder.path(), &model.with_weight(name, &halved)?, &samples)?;
    assert_eq!(files(), 3);
    // A weight of the last layer that the first tokens do not see, and a network that is smoothed: other keys.
    let (smoothed, _) = crate::quant::transform::named(
        "smooth",
        crate::quant::format::named("int4-g16")?.as_ref(),
    )?
    .run(model.network(), &crate::quant::Statistics::from(&first))?;
    let smoothed = model.with_network(smoothed)?;
    let collected = first.of(&smoothed)?;
    assert!(all(&collected) != all(&first) && files() == 4);
    assert!(all(&first.of(&smoothed)?) == all(&collected) && files() == 4);
    cache::forget(folder.path(), 3);
    assert_eq!(files(), 3, "the oldest is forgotten");
    // A file cut short is made anew; so is one with a number that is none.
    let path = std::fs::read_dir(folder.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
    assert!(cache::load(&path)?.is_none());
    let mut spoiled = whole.clone();
    let end = spoiled.len();
    spoiled[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, &spoiled).unwrap();
    assert!(cache::load(&path)?.is_none());
    Ok(())
}

#[test]
fn an_activation_that_is_no_number_names_its_layer() {
    let model = tiny::model(WeightType::F32);
    let name = "blk.1.attn_norm.weight";
    let samples = Samples::of_text(&model, "t", &text(), 1, 20).unwrap();
    // Weights so large that products overflow.
    let weight = "blk.0.ffn_down.weight";
    let huge = (model.weight(weight).unwrap() * 1e38).unwrap();
    let broken = model.with_weight(weight, &huge);
    let error = broken.and_then(|model| Calibration::run(&model, &samples));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("blk.0") || error.contains(name), "{error}");
}
