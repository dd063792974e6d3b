//! What is refused: silent fallbacks, missing inputs, comparisons that mean nothing.

use super::*;
use crate::quant::format::{AnyFormat, IntSymmetric};
use crate::quant::method::{Gptq, Method, Rtn};
use crate::quant::{Applied, Format, Granularity, Inputs, Quantized};

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
