//! A small random model through recipes.

mod packed;
mod refusals;
mod sequence;
mod steps;

use super::job::matrix_of;
use super::*;
use crate::model::WeightType;
use crate::model::tests::tiny;
use crate::quant::{Granularity, Matrix, Samples};

fn text() -> String {
    "the quick brown fox jumps over the lazy dog. a second sentence without an end ".repeat(20)
}

fn calibrated() -> (Model, Calibration) {
    let model = tiny::model(WeightType::F32);
    let samples = Samples::of_text(&model, "t", &text(), 12, 40).unwrap();
    let calibration = Calibration::run(&model, &samples).unwrap();
    (model, calibration)
}

fn logits(model: &Model) -> Vec<f32> {
    let tokens = model.encode(&text()[..100]).unwrap();
    model
        .logits(&tokens)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Mean square of the difference over that of the first.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let noise: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    noise / a.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>()
}

#[test]
fn every_matrix_is_quantized_as_the_report_says() -> Result<()> {
    let (model, calibration) = calibrated();
    for text in [
        "rtn:int4-g16",
        "gptq:int4-g16",
        "gptq-act-order:nf4-g64",
        "sequential,gptq:int3-affine-g20",
        "true-sequential,gptq-static:mxfp4-e2m1",
    ] {
        let recipe: Recipe = text.parse()?;
        let (quantized, report) = quantize(&model, &recipe, Some(&calibration))?;
        assert_eq!(report.layers.len(), 14, "{text}");
        for layer in &report.layers {
            let weights = Matrix::from_tensor(&layer.name, &model.weight(&layer.name)?)?;
            let now = Matrix::from_tensor(&layer.name, &quantized.weight(&layer.name)?)?;
            assert_eq!(layer.requested, layer.applied);
            assert_eq!(
                layer.bytes,
                recipe.format.bytes(weights.rows(), weights.cols())
            );
            assert!(
                now != weights && layer.sqnr_db > 5.0,
                "{text} {}",
                layer.name
            );
            // What runs is what is shown.
            assert_eq!(matrix_of(quantized.network(), &layer.name)?, now);
            let is_ragged = matches!(recipe.format.granularity(), Granularity::Group(g) if g < weights.cols() && weights.cols() % g > 0);
            assert_eq!(layer.ragged.is_some(), is_ragged, "{text} {}", layer.name);
            assert!(
                layer.output_error.is_some_and(|it| it < 0.2),
                "{text} {}",
                layer.name
            );
        }
        let rest: usize =
            model.parameters() - report.layers.iter().map(Layer::weights).sum::<usize>();
        assert_eq!(report.other_weights, rest);
        assert_eq!(report.model_bytes(), report.bytes() + 2 * rest);
        assert!(
            report.to_string().starts_with(&recipe.to_string()),
            "{report}"
        );
        assert!(
            quantized
                .provenance
                .to_string()
                .contains(&recipe.to_string())
        );
        let distance = distance(&logits(&model), &logits(&quantized));
        assert!(distance > 0.0 && distance.is_finite(), "{text}");
        #[cfg(feature = "notebook")]
        assert_eq!(report.table()?.shape(), (14, 20));
    }
    Ok(())
}

#[test]
fn gptq_loses_less_of_the_outputs_than_rounding_in_every_layer() -> Result<()> {
    let (model, calibration) = calibrated();
    let of = |text: &str| -> Result<(Model, Report)> {
        quantize(&model, &text.parse()?, Some(&calibration))
    };
    let (rtn, gptq) = (of("rtn:int3-g16")?, of("gptq:int3-g16")?);
    for (a, b) in rtn.1.layers.iter().zip(&gptq.1.layers) {
        assert!(b.output_error < a.output_error, "{}", a.name);
    }
    assert!(rtn.1.to_string().contains("bits a weight"));
    Ok(())
}

/// A missing option (`--w_clip`) changed published numbers (QuaRot #3): every option is part of the recipe's text, under which results
/// are recorded.
#[test]
fn recipes_that_do_different_things_have_different_texts() -> Result<()> {
    let (model, calibration) = calibrated();
    let mut seen: Vec<(String, Vec<u8>)> = Vec::new();
    for text in [
        "gptq:int3-g16",
        "gptq-static:int3-g16",
        "gptq-act-order:int3-g16",
        "gptq-damp0.5:int3-g16",
        "rtn:int3-g16",
        "sequential,gptq:int3-g16",
    ] {
        let recipe: Recipe = text.parse()?;
        let mut job = Job::new(&model, &recipe, Some(&calibration))?;
        job.run()?;
        let codes: Vec<u8> = job
            .done
            .iter()
            .flat_map(|it| it.quantized.codes())
            .collect();
        for (other, others) in &seen {
            assert!(
                (*others == codes) == (*other == recipe.to_string()),
                "{other} and {text}"
            );
        }
        seen.push((recipe.to_string(), codes));
    }
    Ok(())
}
