//! A small random model through recipes.

mod steps;

use super::job::matrix_of;
use super::*;
use crate::model::WeightType;
use crate::model::linear::Linear;
use crate::model::tests::tiny;
use crate::quant::calibration::linear_names;
use crate::quant::format::{AnyFormat, IntSymmetric};
use crate::quant::method::{Gptq, Method, Rtn};
use crate::quant::{Applied, Format, Granularity, Inputs, Matrix, Quantized, Samples};

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

/// Whether two layers of the same weights differ by no more than what rounding inputs to 8 bits can do: half of 1/127 of a row's
/// greatest for each input.
fn apart(exact: &dyn Linear, rounded: &dyn Linear) -> Result<(), String> {
    let (rows, columns) = exact.shape();
    let x = crate::quant::samples::correlated(7, columns, 1);
    let engine = crate::model::Engine::default();
    let run = |layer: &dyn Linear| {
        let mut out = vec![0.0; 7 * rows];
        let input = crate::model::linear::Input::new(&x, columns, &engine);
        layer.forward(
            &input,
            crate::kernels::dense::Into::Replace,
            &mut out,
            &engine,
        );
        out
    };
    let (a, b) = (run(exact), run(rounded));
    let mut row = vec![0.0; columns];
    for n in 0..rows {
        exact.row(n, &mut row);
        let size: f32 = row.iter().map(|it| it.abs()).sum();
        for (t, x) in x.chunks_exact(columns).enumerate() {
            let greatest = x.iter().fold(0f32, |most, it| most.max(it.abs()));
            let bound = size * greatest * (0.5 / 127.0 + 1e-5);
            let (a, b) = (a[t * rows + n], b[t * rows + n]);
            if (a - b).abs() > bound {
                return Err(format!("[{t}, {n}]: {a} and {b}, bound {bound}"));
            }
        }
    }
    Ok(())
}

#[test]
fn packed_and_decoded_layers_agree() -> Result<()> {
    let (model, calibration) = calibrated();
    for format in [
        "int8-g32",
        "int4-g32",
        "int3-g64",
        "int2-channel",
        "int4-channel",
    ] {
        let of = |steps: &str| -> Result<(Model, Report)> {
            quantize(
                &model,
                &format!("{steps}gptq:{format}").parse()?,
                Some(&calibration),
            )
        };
        let (dense, of_dense) = of("")?;
        let (on_codes, report) = of("packed,")?;
        for (a, b) in of_dense.layers.iter().zip(&report.layers) {
            assert_eq!(
                (a.runs_as.as_str(), &b.runs_as[..3]),
                ("f32", "int"),
                "{format}"
            );
            let (values, codes) = (
                matrix_of(dense.network(), &a.name)?,
                matrix_of(on_codes.network(), &a.name)?,
            );
            assert_eq!(values, codes, "{format} {}: the very same weights", a.name);
        }
        for layer in &report.layers {
            let of = |model: &Model| model.network().linear(&layer.name);
            let differ = apart(of(&dense)?.as_ref(), of(&on_codes)?.as_ref());
            assert!(differ.is_ok(), "{format} {}: {differ:?}", layer.name);
        }
        let distance = distance(&logits(&dense), &logits(&on_codes));
        assert!(distance < 0.05, "{format}: {distance}");
    }
    // Where there is no kernel, it says so.
    let (_, report) = quantize(&model, &"packed,rtn:int4-g20".parse()?, None)?;
    assert!(report.layers.iter().any(|it| it.runs_as == "f32"));
    let (_, report) = quantize(&model, &"packed,rtn:nf4-g32".parse()?, None)?;
    assert!(report.layers.iter().all(|it| it.runs_as == "f32"));
    Ok(())
}

#[test]
fn a_calibration_that_is_needed_and_missing_is_an_error() {
    let model = tiny::model(WeightType::F32);
    for text in ["gptq:int4-g16", "sequential,rtn:int4-g16"] {
        let error = quantize(&model, &text.parse().unwrap(), None)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("calibration for") && error.contains("none"),
            "{error}"
        );
    }
}

/// A method that hands over to rounding where it fails, as a published quantizer did for all of 154 layers (llm-compressor #2952).
#[derive(Debug)]
struct Silent;

impl Method for Silent {
    fn name(&self) -> String {
        "gptq".into()
    }
    fn choose(
        &self,
        weights: &Matrix,
        format: &dyn Format,
        inputs: Option<&Inputs>,
    ) -> Result<Quantized> {
        let broken = Gptq {
            damping: f64::NAN,
            ..Gptq::default()
        };
        let found = broken.choose(weights, format, inputs);
        found.or_else(|_| Rtn.choose(weights, format, inputs))
    }
}

/// One that rounds to another format than the one that it was given.
#[derive(Debug)]
struct Other;

impl Method for Other {
    fn name(&self) -> String {
        "rtn".into()
    }
    fn choose(&self, weights: &Matrix, _: &dyn Format, _: Option<&Inputs>) -> Result<Quantized> {
        Ok(Rtn
            .quantize(weights, &IntSymmetric::new(8, Granularity::Channel)?)?
            .applying(Applied::by("rtn")))
    }
}

#[test]
fn a_silent_fallback_is_an_error_that_names_the_layer_and_both_schemes() -> Result<()> {
    let (model, calibration) = calibrated();
    let format = || -> AnyFormat {
        IntSymmetric::new(4, Granularity::Group(16))
            .unwrap()
            .shared()
    };
    let run = |recipe: &Recipe| {
        quantize(&model, recipe, Some(&calibration))
            .err()
            .unwrap()
            .to_string()
    };
    let error = run(&Recipe::new(Silent, format()));
    for says in ["scheme of blk.0", "expected gptq:int4", "got rtn:int4"] {
        assert!(error.contains(says), "{error}");
    }
    let error = run(&Recipe::new(Other, format()));
    assert!(error.contains("got rtn:int8-symmetric-channel"), "{error}");
    // And the honest ones pass.
    quantize(
        &model,
        &Recipe::new(Gptq::default(), format()),
        Some(&calibration),
    )?;
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

/// Statistics of the quantized network differ from those of the original one from the second matrix on.
#[test]
fn sequences_see_what_is_quantized_so_far() -> Result<()> {
    let (model, calibration) = calibrated();
    let codes = |text: &str| -> Result<Vec<Vec<u8>>> {
        let mut job = Job::new(&model, &text.parse()?, Some(&calibration))?;
        job.run()?;
        Ok(job.done.iter().map(|it| it.quantized.codes()).collect())
    };
    let once = codes("gptq:int2-g16")?;
    let layers = codes("sequential,gptq:int2-g16")?;
    let matrices = codes("true-sequential,gptq:int2-g16")?;
    let same = |a: &[Vec<u8>], b: &[Vec<u8>]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    // Of the first layer: all of it, then q, k and v only.
    assert_eq!(same(&once, &layers), 7);
    assert_eq!(same(&once, &matrices), 3);
    Ok(())
}

/// What GPTAQ compares with is the original network: the inputs of the first matrices have not drifted, those that come later have.
#[test]
fn drift_begins_where_something_is_quantized() -> Result<()> {
    let (model, calibration) = calibrated();
    let run = |text: &str| -> Result<Vec<Vec<u8>>> {
        let mut job = Job::new(&model, &text.parse()?, Some(&calibration))?;
        job.run()?;
        Ok(job.done.iter().map(|done| done.quantized.codes()).collect())
    };
    let same = |a: &[Vec<u8>], b: &[Vec<u8>]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    for (sequence, first) in [("sequential", 7), ("true-sequential", 3)] {
        let ours = run(&format!("{sequence},gptaq:int2-g16"))?;
        let theirs = run(&format!("{sequence},gptq:int2-g16"))?;
        assert_eq!(same(&ours, &theirs), first, "{sequence}");
        // Planted: no weight on the drift.
        let none = run(&format!("{sequence},gptaq-alpha0:int2-g16"))?;
        assert_eq!(none, theirs, "{sequence}");
    }
    let recipe: Recipe = "gptaq:int2-g16".parse()?;
    let refused = Job::new(&model, &recipe, Some(&calibration)).err();
    let says = refused.map_or(String::new(), |error| error.to_string());
    assert!(
        says.contains("gptaq") && says.contains("sequential"),
        "{says}"
    );
    Ok(())
}

#[test]
fn an_interrupted_job_goes_on_where_it_was() -> Result<()> {
    let (model, calibration) = calibrated();
    for text in ["gptq:int3-g16", "true-sequential,gptaq:int3-g16"] {
        let recipe: Recipe = text.parse()?;
        let (_, whole) = quantize(&model, &recipe, Some(&calibration))?;
        let mut job = Job::new(&model, &recipe, Some(&calibration))?;
        // The first layer only, as if stop had been pressed then.
        let done = match recipe.sequence {
            Sequence::Once => job.layer(&linear_names(0).concat(), None)?,
            _ => job.sequential_layer()?,
        };
        job.done.extend(done);
        job.layers = 1;
        let left = Job::new(&model, &recipe, Some(&calibration))?;
        assert!(left.finish().is_err(), "not done");
        job.run()?;
        let mut resumed = job.finish()?.report;
        resumed.seconds = whole.seconds;
        assert_eq!(resumed, whole);
    }
    Ok(())
}

/// Perplexities of two models, each on a text of its own making, look alike and mean nothing (llm-course #108): they are refused.
#[test]
fn perplexities_of_different_texts_cannot_be_compared() -> Result<()> {
    use crate::eval::{Comparison, Protocol, recovery};
    let (model, calibration) = calibrated();
    let (quantized, _) = quantize(&model, &"gptq:int3-g16".parse()?, Some(&calibration))?;
    let protocol = Protocol::LlamaCpp { ctx: 16 };
    let (first, second) = (text(), text().replace('q', "z"));
    let own = protocol.run(&model, &first, 20)?;
    let others = protocol.run(&quantized, &second, 20)?;
    assert_eq!(
        own.windows, others.windows,
        "as many tokens, cut the same way"
    );
    assert!(Comparison::of_perplexities(&others, &own, 0).is_err());
    assert!(recovery(&own, &own, &others, 0).is_err());
    let same = protocol.run(&quantized, &first, 20)?;
    Comparison::of_perplexities(&same, &own, 0)?;
    // As good as the original: all of the loss is made up for.
    let whole = recovery(&own, &same, &own, 0)?;
    let none = recovery(&own, &same, &same, 0)?;
    assert_eq!((whole.value, none.value), (1.0, 0.0));
    Ok(())
}
