//! What stands in front of the method and what comes after it.

use super::*;
use crate::kernels::dense::Into;
use crate::model::Engine;
use crate::model::linear::Input;
use crate::quant::transform::{Report as Places, Transform};
use crate::quant::{Parts, Statistics};

#[test]
fn transforms_are_done_in_order_checked_and_reported() -> Result<()> {
    let (model, calibration) = calibrated();
    let recipe: Recipe = "rotate-offline,smooth-a0.5,permute,awq-scales,gptq:int4-g16".parse()?;
    let mut finished = quantize_all(&model, &recipe, Some(&calibration))?;
    let report = &finished.report;
    let names: Vec<&str> = report.steps.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "rotate-offline-seed0",
            "smooth-a0.5",
            "permute",
            "awq-scales-for-int4-symmetric-g16"
        ]
    );
    for step in &report.steps {
        let it = step.equivalence.unwrap();
        println!("{step}");
        assert!(
            it.difference > 0.0 && it.difference <= it.bound && it.tokens == 40,
            "{step}"
        );
    }
    // A head of its own is 32 weights for each of the vocabulary's tokens, which the file does not have.
    let own = model.config.vocabulary * model.config.width;
    let quantized: usize = report.layers.iter().map(Layer::weights).sum();
    assert_eq!(report.other_weights, model.parameters() + own - quantized);
    assert!(report.to_string().contains("left as they were"), "{report}");
    // What was rounded is the transformed network: it computes what the original does.
    let moved = distance(&logits(&model), &logits(&finished.reference));
    assert!(moved < 1e-9, "{moved}");
    let samples = Samples::of_text(&model, "other", &text().replace("quick", "slow "), 3, 50)?;
    finished.judge(&samples)?;
    assert!(finished.report.to_string().contains("by each layer itself"));
    for layer in &finished.report.layers {
        let it = layer.judged.unwrap();
        assert!(
            it.injected > 0.0 && it.injected < 0.2,
            "{}: {it:?}",
            layer.name
        );
        let is_first = layer.name.starts_with("blk.0.attn_q");
        assert!(
            (it.propagated == 0.0) == (is_first || it.total == it.injected),
            "{}",
            layer.name
        );
    }
    Ok(())
}

/// Statistics are those of the network as it stands before each step: smoothing twice is not smoothing by the same scales twice.
#[test]
fn statistics_follow_each_step() -> Result<()> {
    let (model, calibration) = calibrated();
    let of = |text: &str| -> Result<Report> {
        Ok(quantize(&model, &text.parse()?, Some(&calibration))?.1)
    };
    let twice = of("smooth-a0.5,smooth-a0.5,rtn:int8-g16")?;
    // At α = 0.5 scales are √(max|X|/max|W|), and ffn_down's first step leaves the two alike, up to what bf16 makes of maxima. With the
    // statistics of before the first step, the second would move them by the same scales again.
    let widest = |step: &Prepared| -> f64 {
        let down = step
            .report
            .steps
            .iter()
            .filter(|it| it.place.contains("ffn_down"));
        let ends = down.flat_map(|it| it.what.trim_start_matches("scales ").split(" … "));
        ends.map(|it| it.parse::<f64>().unwrap().ln().abs())
            .fold(0.0, f64::max)
    };
    let (first, second) = (widest(&twice.steps[0]), widest(&twice.steps[1]));
    assert!(first > 0.5 && second < 0.1, "{first} and {second}");
    // The method's inputs are of the transformed network, too: the errors are of its outputs.
    let once = of("smooth-a0.5,gptq:int3-g16")?;
    let smooth = crate::quant::transform::Smooth::new(0.5)?;
    let (network, _) = smooth.run(model.network(), &Statistics::from(&calibration))?;
    let smoothed = model.with_network(network)?;
    let with = |known: &Calibration| -> Result<f64> {
        let (_, report) = quantize(&smoothed, &"gptq:int3-g16".parse()?, Some(known))?;
        Ok(report.layers[6].output_error.unwrap())
    };
    let down = once.layers[6].output_error.unwrap();
    let (stale, anew) = (with(&calibration)?, with(&calibration.of(&smoothed)?)?);
    assert!((down / stale - 1.0).abs() > 0.1, "{down} and {stale}");
    // Up to what bf16 rounds in a pass through the other network.
    assert!((down / anew - 1.0).abs() < 0.05, "{down} and {anew}");
    // Where channels are not only divided, there is such a pass.
    let rotated = of("rotate,gptq:int3-g16")?;
    let stale = {
        let (network, _) =
            crate::quant::transform::Rotate::new(0).run(model.network(), &Statistics::default())?;
        let rotated = model.with_network(network)?;
        quantize(&rotated, &"gptq:int3-g16".parse()?, Some(&calibration))?.1
    };
    assert_ne!(rotated.layers[0].output_error, stale.layers[0].output_error);
    Ok(())
}

/// A transform that says it is exact and is not: the gains are not folded (bug zoo 14).
#[derive(Debug)]
struct Broken;

impl Transform for Broken {
    fn name(&self) -> String {
        "broken".into()
    }
    fn needs_statistics(&self) -> bool {
        false
    }
    fn apply(&self, parts: &mut dyn Parts, _: &Statistics) -> Result<Places> {
        let mut gain = parts.vector("blk.1.ffn_norm.weight")?;
        gain[3] *= 1.01;
        parts.set_vector("blk.1.ffn_norm.weight", &gain)?;
        Ok(Places::default())
    }
}

#[test]
fn a_step_that_changes_the_function_is_refused_by_name() {
    let (model, calibration) = calibrated();
    let recipe = "rtn:int8-g16".parse::<Recipe>().unwrap().after(Broken);
    for calibration in [None, Some(&calibration)] {
        let error = quantize(&model, &recipe, calibration)
            .err()
            .unwrap()
            .to_string();
        for says in ["logits after broken", "as f32 explains", "got"] {
            assert!(error.contains(says), "{error}");
        }
    }
}

#[test]
fn an_interrupted_job_keeps_the_transforms_it_has_done() -> Result<()> {
    let (model, calibration) = calibrated();
    let recipe: Recipe = "rotate,smooth,gptq:int3-g16".parse()?;
    let whole = quantize(&model, &recipe, Some(&calibration))?.1;
    let mut job = Job::new(&model, &recipe, Some(&calibration))?;
    job.stop_after_steps = Some(1);
    assert!(matches!(job.run(), Err(crate::Error::Interrupted(_))));
    job.stop_after_steps = None;
    job.run()?;
    let resumed = job.finish()?.report;
    assert_eq!(resumed.layers, whole.layers);
    assert_eq!(resumed.steps.len(), 2);
    Ok(())
}

#[test]
fn corrections_make_errors_smaller_count_their_bytes_and_run() -> Result<()> {
    let (model, calibration) = calibrated();
    let of = |text: &str| quantize_all(&model, &text.parse()?, Some(&calibration));
    let plain = of("rtn:int2-g16")?;
    let (lorc, eora) = (of("rtn:int2-g16,lorc-r4")?, of("rtn:int2-g16,eora-r4")?);
    for ((a, b), c) in plain
        .report
        .layers
        .iter()
        .zip(&lorc.report.layers)
        .zip(&eora.report.layers)
    {
        assert!(
            c.output_error <= b.output_error && b.output_error < a.output_error,
            "{}",
            a.name
        );
        assert_eq!(c.uncorrected_error, a.output_error);
        let (n, k) = a.shape;
        assert_eq!(b.bytes, a.bytes + 2 * 4 * (n + k));
        assert_eq!(c.runs_as, "f32 + rank 4");
        let now = Matrix::from_tensor(&c.name, &eora.model.weight(&c.name)?)?;
        assert_eq!(
            matrix_of(eora.model.network(), &c.name)?,
            now,
            "what runs is what is shown"
        );
    }
    let packed = of("packed,rtn:int2-g32,eora-r4")?;
    assert!(
        packed
            .report
            .layers
            .iter()
            .all(|it| it.runs_as.starts_with("int2-g32 + rank"))
    );
    let lost = |it: &Finished| distance(&logits(&model), &logits(&it.model));
    assert!(
        lost(&eora) < lost(&plain),
        "{} {}",
        lost(&eora),
        lost(&plain)
    );
    Ok(())
}

/// The outputs of the layer that runs in place of a matrix, on inputs with an outlier channel.
fn outputs(model: &Model, name: &str) -> Result<(Vec<f32>, Vec<f32>)> {
    let layer = model.network().linear(name)?;
    let (rows, columns) = layer.shape();
    let x = crate::quant::samples::correlated(9, columns, 4);
    let engine = Engine::default();
    let mut out = vec![0.5; 9 * rows];
    layer.forward(
        &Input::new(&x, columns, &engine),
        Into::Add,
        &mut out,
        &engine,
    );
    Ok((x, out))
}

#[test]
fn inputs_are_really_rounded_and_codes_and_values_agree() -> Result<()> {
    let (model, calibration) = calibrated();
    for (format, activations) in [
        ("int8-channel", "a8-token"),
        ("int4-g32", "a8-g32"),
        ("int4-g32", "a6-token"),
        ("int3-channel", "a4-tensor"),
        ("int8-g32", "a8-tensor-p90"),
        ("int8-channel", "a8-outliers6"),
    ] {
        let of = |steps: &str| {
            let recipe: Recipe = format!("{steps}rtn:{format}@{activations}").parse()?;
            quantize(&model, &recipe, Some(&calibration))
        };
        let (values, of_values) = of("")?;
        let (codes, of_codes) = of("packed,")?;
        let (exact, _) = quantize(&model, &format!("rtn:{format}").parse()?, None)?;
        for (a, b) in of_values.layers.iter().zip(&of_codes.layers) {
            let what = format!("{format} {activations} {}", a.name);
            assert!(a.runs_as.starts_with("f32 × a"), "{what}: {}", a.runs_as);
            assert!(b.runs_as.starts_with("int"), "{what}: {}", b.runs_as);
            let (x, on_values) = outputs(&values, &a.name)?;
            let (_, on_codes) = outputs(&codes, &a.name)?;
            let (_, unrounded) = outputs(&exact, &a.name)?;
            let size = x.iter().fold(0f32, |m, it| m.max(it.abs())) * a.shape.1 as f32;
            let weights = matrix_of(values.network(), &a.name)?;
            let most = weights.data().iter().fold(0f32, |m, it| m.max(it.abs()));
            for (a, b) in on_values.iter().zip(&on_codes) {
                assert!((a - b).abs() <= 1e-6 * size * most, "{what}: {a} and {b}");
            }
            assert!(
                distance(&unrounded, &on_values) > 1e-9,
                "{what}: nothing was rounded"
            );
            assert_eq!(
                a.outlier_columns.is_some(),
                activations.contains("outliers"),
                "{what}"
            );
        }
    }
    // Another grouping of inputs than that of codes has no kernel, and the report says so.
    let (_, report) = quantize(&model, &"packed,rtn:int4-channel@a8-g32".parse()?, None)?;
    let down = report.layers.iter().filter(|it| it.shape.1 > 32);
    assert!(down.count() > 0 && report.layers[6].runs_as.starts_with("f32 × a8-g32"));
    Ok(())
}

/// LLM.int8(): channels with outliers apart, the rest in 8 bits; the sum of both is what one product of the two parts gives.
#[test]
fn outlier_channels_stay_in_16_bits() -> Result<()> {
    let (model, _) = calibrated();
    let name = "blk.1.ffn_down.weight";
    let of = |text: &str| -> Result<(Vec<f32>, Vec<f32>)> {
        outputs(&quantize(&model, &text.parse()?, None)?.0, name)
    };
    let (x, apart) = of("rtn:int8-channel@a8-outliers6")?;
    let (_, exact) = of("rtn:int8-channel")?;
    let (_, together) = of("rtn:int8-channel@a8-token")?;
    // Channel 5 is forty times the others.
    assert_eq!(outliers(&x, 64, 6.0), [5]);
    assert_eq!(outliers(&[f32::NAN, 7.0, -6.0, 1.0], 2, 6.0), [0, 1]);
    let (a, b) = (distance(&exact, &apart), distance(&exact, &together));
    assert!(a > 0.0 && a < b / 50.0, "{a} apart, {b} together");
    Ok(())
}

#[test]
fn exceptions_get_what_they_are_given() -> Result<()> {
    let (model, calibration) = calibrated();
    let text = "gptq:int3-g16,ffn_down=rtn:int8-g16,blk.1.attn_v=nf4-g32";
    let report = quantize(&model, &text.parse()?, Some(&calibration))?.1;
    let of = |name: &str| {
        let layer = report
            .layers
            .iter()
            .find(|it| it.name == format!("{name}.weight"));
        layer.unwrap().applied.clone()
    };
    assert_eq!(of("blk.0.ffn_down"), "rtn:int8-symmetric-g16");
    assert_eq!(of("blk.1.attn_v"), "gptq:nf4-g32");
    assert_eq!(of("blk.1.attn_q"), "gptq:int3-symmetric-g16");
    let wrong = "rtn:int3-g16,blk.7.attn_v=int8-g16".parse()?;
    let error = quantize(&model, &wrong, None).err().unwrap().to_string();
    assert!(
        error.contains("exception of a recipe") && error.contains("blk.7"),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_calibration_that_steps_need_is_asked_for() {
    let (model, _) = calibrated();
    for text in [
        "smooth,rtn:int4-g16",
        "rtn:int4-g16,eora-r2",
        "rtn:int8-channel@a8-tensor",
        "rtn:int8-channel@a8-tensor-p99",
        "rtn:int4-g16,ffn_up=gptq:int4-g16",
    ] {
        let error = quantize(&model, &text.parse().unwrap(), None)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("calibration for"), "{text}: {error}");
    }
    for text in [
        "rotate,rtn:int4-g16",
        "rtn:int4-g16,lorc-r2",
        "rtn:int8-channel@a8-outliers6",
    ] {
        assert!(
            quantize(&model, &text.parse().unwrap(), None).is_ok(),
            "{text}"
        );
    }
}
