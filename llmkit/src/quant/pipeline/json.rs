//! A report for programs.

use serde_json::{Value, json};

use super::{Layer, Prepared, Report};

impl Report {
    /// All of it as one JSON object; sizes in bytes, errors as shares.
    pub fn to_json(&self) -> Value {
        json!({
            "recipe": self.recipe,
            "calibration": self.calibration,
            "judged_on": self.judged_on,
            "bytes": self.bytes(),
            "model_bytes": self.model_bytes(),
            "bits_per_weight": self.bits_per_weight(),
            "other_weights": self.other_weights,
            "seconds": self.seconds,
            "steps": self.steps.iter().map(step).collect::<Vec<Value>>(),
            "matrices": self.layers.iter().map(layer).collect::<Vec<Value>>(),
        })
    }
}

fn step(it: &Prepared) -> Value {
    let places = it
        .report
        .steps
        .iter()
        .map(|step| json!({ "place": step.place, "is_done": step.is_done, "what": step.what }));
    json!({
        "name": it.name,
        "seconds": it.seconds,
        "logits_moved": it.equivalence.map(|it| it.difference),
        "bound": it.equivalence.map(|it| it.bound),
        "tokens": it.equivalence.map(|it| it.tokens),
        "places": places.collect::<Vec<Value>>(),
    })
}

fn layer(it: &Layer) -> Value {
    json!({
        "name": it.name,
        "shape": [it.shape.0, it.shape.1],
        "requested": it.requested,
        "applied": it.applied,
        "damping": it.details.damping.map(|it| it.used),
        "damping_asked": it.details.damping.map(|it| it.asked),
        "dead_inputs": it.details.dead_inputs,
        "clip_rate": it.clip_rate(),
        "ragged_group": it.ragged,
        "output_error": it.output_error,
        "uncorrected_error": it.uncorrected_error,
        "held_out_error": it.judged.map(|it| it.injected),
        "propagated_error": it.judged.map(|it| it.propagated),
        "total_error": it.judged.map(|it| it.total),
        "sqnr_db": it.sqnr_db,
        "bytes": it.bytes,
        "bits_per_weight": it.bits_per_weight(),
        "correction": it.correction,
        "outlier_columns": it.outlier_columns,
        "runs_as": it.runs_as,
    })
}
