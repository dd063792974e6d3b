//! The contracts of [`Method`], run over every method, every format and every sample.

use crate::quant::calibration::Inputs;
use crate::quant::method::{Rtn, all, named, undefined};
use crate::quant::{Format, Matrix, Method, error, format, samples};

fn each(mut check: impl FnMut(&dyn Method, &dyn Format, &str, &Matrix, &Inputs)) {
    for method in all().iter().flat_map(|family| (family.members)()) {
        for format in format::all().iter().flat_map(|family| (family.members)()) {
            if method.check(format.as_ref()).is_err() {
                continue;
            }
            for (sample, weights) in samples::all() {
                if format.check(weights.rows(), weights.cols()).is_err() {
                    continue;
                }
                // Weights near the end of f16's range, which feedback may carry beyond it: then that is said.
                let is_huge = weights.data().iter().any(|w| w.abs() > 1e4);
                let inputs = samples::inputs(weights.cols());
                if is_huge
                    && let Err(error) = method.choose(&weights, format.as_ref(), Some(&inputs))
                {
                    assert!(error.to_string().contains(&format.name()), "{error}");
                    assert!(method.needs_inputs(), "{error}");
                    continue;
                }
                check(method.as_ref(), format.as_ref(), sample, &weights, &inputs);
            }
        }
    }
}

#[test]
fn shape_and_format_are_kept_and_the_result_is_deterministic_and_signed() {
    each(|method, format, sample, weights, inputs| {
        let quantized = method.choose(weights, format, Some(inputs)).unwrap();
        let what = format!("{} {} on {sample}", method.name(), format.name());
        assert_eq!(quantized.format().name(), format.name(), "{what}");
        assert_eq!(quantized.applied().method, method.name(), "{what}");
        assert_eq!(quantized.asides().is_empty(), method.is_plain(), "{what}");
        let decoded = quantized.decode().unwrap();
        let shape = |m: &Matrix| (m.rows(), m.cols());
        assert_eq!(shape(&decoded), shape(weights), "{what}");
        let again = method.choose(weights, format, Some(inputs)).unwrap();
        assert_eq!(again.codes(), quantized.codes(), "{what}");
        assert_eq!(again.grids(), quantized.grids(), "{what}");
    });
}

#[test]
fn what_a_format_represents_exactly_is_reproduced_exactly() {
    each(|method, format, sample, weights, inputs| {
        if !format.is_projection() || !method.is_projection() {
            return;
        }
        // Rounding to nearest is then a projection (a format contract): its result is representable.
        let representable = Rtn.quantize(weights, format).unwrap().decode().unwrap();
        let once = method.choose(&representable, format, Some(inputs)).unwrap();
        let what = format!("{} {} on {sample}", method.name(), format.name());
        assert_eq!(once.decode().unwrap(), representable, "{what}");
    });
}

#[test]
fn nothing_is_worse_than_zeros() {
    each(|method, format, sample, weights, inputs| {
        let quantized = method.choose(weights, format, Some(inputs)).unwrap();
        let decoded = quantized.decode().unwrap();
        let zeros = vec![0.0; weights.data().len()];
        // Encoders that search for scales do not know that these lie below f16's normal range.
        let greatest = weights.data().iter().fold(0f32, |max, w| max.max(w.abs()));
        // And those who look at inputs do not know that a step may be no more than zero there.
        let is_blind = !format.is_projection() || method.needs_inputs();
        if is_blind && greatest < half::f16::MIN_POSITIVE.to_f32() {
            return;
        }
        let what = format!("{} {} on {sample}", method.name(), format.name());
        if method.needs_inputs() {
            // In other coordinates and all of a row at once, there is nothing that looks at inputs.
            if format.vector() == usize::MAX && !method.is_projection() {
                return;
            }
            let lost = |it: &Matrix| inputs.output_error(weights, it).unwrap();
            let error = lost(&decoded);
            // In two bits, rounding to nearest itself may be worse than zeros, and what begins there.
            let is_fine = error <= 1.0 + 1e-6 || greatest < 1e-30 || {
                let plain = Rtn.quantize(weights, format).unwrap();
                error <= lost(&plain.decode().unwrap()) * (1.0 + 1e-5)
            };
            assert!(is_fine, "{what}: {error} of the output");
            return;
        }
        let nothing = error::mse(weights.data(), &zeros).unwrap();
        let error = error::mse(weights.data(), decoded.data()).unwrap();
        assert!(error <= nothing, "{what}: {error} > {nothing}");
    });
}

#[test]
fn ranges_no_format_can_store_are_errors_that_name_the_format() {
    let weights = Matrix::new(1, 2, vec![f32::MAX, f32::MIN]).unwrap();
    let format = format::IntAffine::new(8, format::Granularity::Tensor).unwrap();
    for method in all().iter().flat_map(|family| (family.members)()) {
        let inputs = samples::inputs(2);
        let error = method.choose(&weights, &format, Some(&inputs)).unwrap_err();
        assert!(error.to_string().contains(&format.name()), "{error}");
    }
}

#[test]
fn inputs_that_are_needed_and_missing_or_of_another_width_are_errors() {
    let weights = Matrix::new(1, 256, vec![0.5; 256]).unwrap();
    let formats: Vec<_> = format::all().iter().flat_map(|it| (it.members)()).collect();
    for method in all().iter().flat_map(|family| (family.members)()) {
        if !method.needs_inputs() {
            continue;
        }
        let format = formats.iter().find(|it| method.check(it.as_ref()).is_ok());
        let format = format.expect("a format for every method");
        let error = method.quantize(&weights, format.as_ref()).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(&method.name()) && error.contains("calibration"),
            "{error}"
        );
        let other = samples::inputs(5);
        let error = method
            .choose(&weights, format.as_ref(), Some(&other))
            .unwrap_err();
        assert!(error.to_string().contains("[1, 256]"), "{error}");
    }
}

#[test]
fn names_are_unique_and_found_again() {
    let mut names = Vec::new();
    for method in all().iter().flat_map(|family| (family.members)()) {
        assert_eq!(named(&method.name()).unwrap().name(), method.name());
        names.push(method.name());
    }
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
    let error = named("nonsense").unwrap_err().to_string();
    assert!(
        error.contains("rtn") && error.contains("nonsense"),
        "{error}"
    );
}

#[test]
fn every_undefined_pair_says_who_and_why() {
    for (method, format, reason) in undefined() {
        assert!(
            reason.contains(&method) && reason.contains(&format),
            "{reason}"
        );
    }
}
