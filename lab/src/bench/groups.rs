//! What is measured against whom.

use std::path::Path;

use serde_json::{Value, json};

use super::duel::{Contender, Group, Unit};
use super::peers::TYPES;

/// Seats.
pub const OURS: usize = 0;
/// Ours without AMX, where there is AMX.
pub const PORTABLE: usize = 1;
/// llama.cpp.
pub const LLAMA: usize = 2;
/// PyTorch.
pub const TORCH: usize = 3;
/// candle.
pub const CANDLE: usize = 4;

/// Ours, and the type of llama.cpp with as many bits.
const PAIRS: [(&str, &str); 3] = [("int4", "Q4_0"), ("int8", "Q8_0"), ("bf16", "BF16")];

/// The groups, in the order in which they run. `models` are the files of [`TYPES`], `folder` is where a model to quantize is.
pub fn groups(models: &[String], folder: &Path, is_quick: bool, has_portable: bool) -> Vec<Group> {
    let of = |kind: &str| {
        let at = TYPES.iter().position(|it| *it == kind).unwrap_or(0);
        models[at].clone()
    };
    let mut all = vec![prompt(&of, OURS)];
    if has_portable {
        all.push(prompt(&of, PORTABLE));
    }
    all.extend(PAIRS.map(|pair| decode(&of, pair)));
    all.extend(PAIRS.map(|pair| batched(&of, pair)));
    for (m, n, k, reps) in [
        (512, 576, 1536, 20),
        (512, 1536, 576, 20),
        (2048, 2048, 2048, 2),
    ] {
        all.extend(["bf16", "f32"].map(|element| gemm(element, m, n, k, reps)));
    }
    for (tokens, reps) in [(512, 10), (2048, 2)] {
        all.extend(["bf16", "f32"].map(|element| attention(element, tokens, reps)));
    }
    all.extend(
        [("Q4_0", "native"), ("Q8_0", "native"), ("BF16", "native")].map(|it| load(&of, it)),
    );
    if !is_quick {
        all.extend(PAIRS[..2].iter().flat_map(|&pair| candle(&of, pair)));
        all.push(gptq(folder));
    }
    all
}

fn contender(seat: usize, label: &str, case: Value, unit: Unit) -> Contender {
    Contender {
        seat,
        label: label.to_owned(),
        case,
        unit,
    }
}

fn prompt_of(seat: usize, label: &str, model: String, weights: &str) -> Contender {
    let case = json!({"kind": "prompt", "model": model, "weights": weights, "tokens": 512});
    contender(seat, label, case, Unit::Rate("tokens/s", 512.0))
}

fn decode_of(seat: usize, label: &str, model: String, weights: &str, batch: usize) -> Contender {
    let case =
        json!({"kind": "decode", "model": model, "weights": weights, "tokens": 64, "batch": batch});
    contender(
        seat,
        label,
        case,
        Unit::Rate("tokens/s", 64.0 * batch as f64),
    )
}

fn prompt(of: &dyn Fn(&str) -> String, seat: usize) -> Group {
    let own = ["bf16", "int8", "int4"].map(|it| prompt_of(seat, it, of("F32"), it));
    let theirs = TYPES.map(|it| prompt_of(LLAMA, it, of(it), ""));
    Group {
        bench: "prompt",
        case: match seat {
            PORTABLE => "512 tokens, no AMX,".to_owned(),
            _ => "512 tokens".to_owned(),
        },
        pairs: (0..own.len())
            .map(|at| (at, (own.len()..own.len() + theirs.len()).collect()))
            .collect(),
        contenders: own.into_iter().chain(theirs).collect(),
        is_long: false,
    }
}

fn decode(of: &dyn Fn(&str) -> String, (ours, theirs): (&str, &str)) -> Group {
    let mut contenders = vec![
        decode_of(OURS, ours, of("F32"), ours, 1),
        decode_of(LLAMA, theirs, of(theirs), "", 1),
    ];
    let pure = format!("{theirs}-pure");
    if TYPES.contains(&pure.as_str()) {
        contenders.push(decode_of(LLAMA, &pure, of(&pure), "", 1));
    }
    Group {
        bench: "decode",
        case: "64 tokens".to_owned(),
        pairs: (1..contenders.len()).map(|it| (0, vec![it])).collect(),
        contenders,
        is_long: false,
    }
}

/// Sixteen sequences at once, against one and against llama.cpp's sixteen.
fn batched(of: &dyn Fn(&str) -> String, (ours, theirs): (&str, &str)) -> Group {
    Group {
        bench: "batched",
        case: "64 tokens × 16".to_owned(),
        contenders: vec![
            decode_of(OURS, ours, of("F32"), ours, 16),
            decode_of(OURS, &format!("{ours} × 1"), of("F32"), ours, 1),
            decode_of(LLAMA, &format!("{theirs} × 16"), of(theirs), "", 16),
        ],
        pairs: vec![(0, vec![1]), (0, vec![2])],
        is_long: false,
    }
}

fn gemm(element: &str, m: usize, n: usize, k: usize, reps: usize) -> Group {
    let case = json!({"kind": "gemm", "element": element, "m": m, "n": n, "k": k, "reps": reps});
    let unit = Unit::Rate("GFLOP/s", 2e-9 * (m * n * k * reps) as f64);
    Group {
        bench: "gemm",
        case: format!("{m}×{n}×{k}"),
        contenders: [OURS, TORCH, CANDLE]
            .map(|seat| contender(seat, element, case.clone(), unit))
            .into(),
        pairs: vec![(0, vec![1]), (0, vec![2])],
        is_long: false,
    }
}

fn attention(element: &str, tokens: usize, reps: usize) -> Group {
    let case = json!({"kind": "sdpa", "element": element, "tokens": tokens, "heads": 9, "dim": 64, "reps": reps});
    let unit = Unit::Time("ms", 1e3 / reps as f64);
    Group {
        bench: "attention",
        case: format!("causal 9 × 64, {tokens} tokens"),
        contenders: [OURS, TORCH]
            .map(|seat| contender(seat, element, case.clone(), unit))
            .into(),
        pairs: vec![(0, vec![1])],
        is_long: false,
    }
}

fn load(of: &dyn Fn(&str) -> String, (kind, weights): (&str, &str)) -> Group {
    let one = |seat, label: &str| {
        let case = json!({"kind": "load", "model": of(kind), "weights": weights});
        contender(seat, label, case, Unit::Time("s", 1.0))
    };
    Group {
        bench: "load",
        case: "to first token".to_owned(),
        contenders: vec![one(OURS, kind), one(LLAMA, kind)],
        pairs: vec![(0, vec![1])],
        is_long: false,
    }
}

/// The whole model to 4 bits in groups of 64, its calibration included.
fn gptq(folder: &Path) -> Group {
    let one = |seat| {
        let case = json!({"kind": "gptq", "folder": folder});
        contender(seat, "f32", case, Unit::Time("s", 1.0))
    };
    Group {
        bench: "gptq",
        case: "whole model, int4 g64, 64 × 512 tokens".to_owned(),
        contenders: vec![
            contender(OURS, "", one(OURS).case, Unit::Time("s", 1.0)),
            one(TORCH),
        ],
        pairs: vec![(0, vec![1])],
        is_long: true,
    }
}

fn candle(of: &dyn Fn(&str) -> String, (ours, theirs): (&str, &str)) -> [Group; 2] {
    let group = |bench, case: &str, contenders: Vec<Contender>| Group {
        bench,
        case: case.to_owned(),
        contenders,
        pairs: vec![(0, vec![1])],
        is_long: false,
    };
    let prompts = vec![
        prompt_of(OURS, ours, of("F32"), ours),
        prompt_of(CANDLE, theirs, of(theirs), ""),
    ];
    let decodes = vec![
        decode_of(OURS, ours, of("F32"), ours, 1),
        decode_of(CANDLE, theirs, of(theirs), "", 1),
    ];
    [
        group("prompt", "512 tokens", prompts),
        group("decode", "64 tokens", decodes),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_measured() {
        let models = TYPES.map(|it| format!("{it}.gguf"));
        let all = groups(&models, Path::new("folder"), false, true);
        let lines: Vec<String> = (all.iter())
            .flat_map(|group| {
                let pairs = group.pairs.iter();
                pairs.map(|(ours, theirs)| {
                    let theirs = theirs.iter().map(|it| group.contenders[*it].label.clone());
                    let theirs: Vec<String> = theirs.collect();
                    format!(
                        "{} {} {} vs {}",
                        group.bench,
                        group.case,
                        group.contenders[*ours].label,
                        theirs.join(" ")
                    )
                })
            })
            .collect();
        for needed in [
            "prompt 512 tokens bf16 vs F32 BF16 Q8_0 Q4_0 Q4_1 Q4_0-pure",
            "prompt 512 tokens, no AMX, int8 vs F32 BF16 Q8_0 Q4_0 Q4_1 Q4_0-pure",
            "decode 64 tokens int4 vs Q4_0",
            "decode 64 tokens int4 vs Q4_0-pure",
            "decode 64 tokens int8 vs Q8_0",
            "decode 64 tokens bf16 vs BF16",
            "batched 64 tokens × 16 int4 vs int4 × 1",
            "batched 64 tokens × 16 int8 vs int8 × 1",
            "gemm 512×576×1536 bf16 vs bf16",
            "gemm 2048×2048×2048 bf16 vs bf16",
            "load to first token Q4_0 vs Q4_0",
            "gptq whole model, int4 g64, 64 × 512 tokens  vs f32",
        ] {
            assert!(
                lines.iter().any(|it| it == needed),
                "{needed} in {lines:#?}"
            );
        }
        assert!(groups(&models, Path::new("folder"), true, false).len() < all.len());
        // Slots are indices of contenders: pairs must stay inside.
        for group in &all {
            let inside = |at: &usize| *at < group.contenders.len();
            assert!(
                group
                    .pairs
                    .iter()
                    .all(|(ours, theirs)| inside(ours) && theirs.iter().all(inside))
            );
        }
    }
}
