//! What later matrices see of earlier ones, and going on after a stop.

use super::*;
use crate::quant::calibration::linear_names;

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
            Sequence::Once => {
                let found = job.matrices(&linear_names(0).concat(), None)?;
                found.into_iter().collect::<Result<_>>()?
            }
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
