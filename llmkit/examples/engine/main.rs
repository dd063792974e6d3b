//! How fast the engine is: `cargo run -p llmkit --example engine -- --help`. One JSON object a line.
//!
//! With `--serve` it is driven from outside, as `cargo lab bench` does: requests on standard input and answers on standard
//! output, one JSON object a line each. Several such programs, ours and others', then run in turns.
//!
//! | request | answer |
//! |---|---|
//! | (at the start) | `{"name": …, "version": …}` |
//! | `{"do": "prepare", "slot": 0, "case": {…}}` | `{}` |
//! | `{"do": "run", "slot": 0}` | `{"seconds": …}` |
//! | `{"do": "held", "slot": 0}` | `{"weights": …, "kv": …, "file": …}`, in bytes |
//! | `{"do": "roofline", "slot": 0}` | `{"seconds": …}`, the least that the machine's limits allow |
//! | `{"do": "limits"}` | what these are, measured at the first question: `{"text": …, "read": [[bytes, bytes/s], …], "peaks": {…}}` |
//! | `{"do": "path", "model": "name"}` | `{"path": …}`, where the model's file is |
//! | `{"do": "write", "model": "name", "folder": …}` | `{}`; there the model is, as others read it, and tokens to calibrate on |
//! | anything that fails | `{"error": …}` |

mod attention;
mod case;
mod gptq;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use llmkit::kernels::{Isa, Team};
use llmkit::model::{Engine, WeightType};
use serde::Deserialize;
use serde_json::{Value, json};

use case::{Bench, Case};

/// Times prompts, decoding and batches.
#[derive(Parser)]
#[command(name = "engine")]
struct Options {
    /// Name or path of a model.
    #[arg(long, default_value = "smollm2-135m-instruct-q4_1")]
    model: String,
    /// How weights are kept; may be given several times.
    #[arg(long, default_values_t = [WeightType::F32, WeightType::Bf16, WeightType::Int8, WeightType::Int4])]
    weights: Vec<WeightType>,
    /// Tokens of a prompt.
    #[arg(long, default_values_t = [512])]
    prompt: Vec<usize>,
    /// Tokens to decode.
    #[arg(long, default_value_t = 64)]
    decode: usize,
    /// Sequences decoded at once.
    #[arg(long, default_values_t = [1, 16])]
    batch: Vec<usize>,
    /// Threads; 0 for all.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Instruction set: reference, avx2, avx512 or best.
    #[arg(long, default_value = "best")]
    isa: String,
    /// Runs of each; the median is given.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only cases whose name contains this: load, prompt, decode.
    #[arg(long, default_value = "")]
    only: String,
    /// Take requests from standard input instead.
    #[arg(long)]
    serve: bool,
}

fn main() -> llmkit::Result<()> {
    let options = Options::parse();
    let isa = match options.isa.as_str() {
        "best" => Isa::best(),
        name => find_isa(name)?,
    };
    let team = match options.threads {
        0 => Arc::clone(Team::global()),
        threads => Arc::new(Team::new(threads)),
    };
    let engine = Engine { isa, team };
    match options.serve {
        true => serve(&engine),
        false => list(&options, &engine),
    }
}

fn find_isa(name: &str) -> llmkit::Result<Isa> {
    let plain = |text: &str| text.to_lowercase().replace('-', "");
    let found = Isa::here()
        .into_iter()
        .find(|isa| plain(&isa.to_string()) == plain(name));
    found.ok_or_else(|| llmkit::Error::argument("isa", "one that this machine has", name))
}

/// Runs the cases that the options name.
fn list(options: &Options, engine: &Engine) -> llmkit::Result<()> {
    for weights in options.weights.iter().map(|it| it.name().to_owned()) {
        let mut bench = Bench::new(engine.clone());
        let model = options.model.clone();
        let prompts = options.prompt.iter().map(|&tokens| Case::Prompt {
            model: model.clone(),
            weights: weights.clone(),
            tokens,
        });
        let decodes = options.batch.iter().map(|&batch| Case::Decode {
            model: model.clone(),
            weights: weights.clone(),
            tokens: options.decode,
            batch,
        });
        let load = Case::Load {
            model: model.clone(),
            weights: weights.clone(),
        };
        let cases = [load].into_iter().chain(prompts).chain(decodes);
        for case in cases.filter(|it| it.name().contains(&options.only)) {
            bench.prepare(&case)?;
            bench.run(&case)?;
            let mut values = Vec::new();
            for _ in 0..options.runs.max(1) {
                values.push(case.value(bench.run(&case)?));
            }
            values.sort_by(f64::total_cmp);
            let line = json!({
                "bench": "engine", "weights": weights, "case": case.name(), "unit": case.unit(),
                "median": values[values.len() / 2], "min": values[0], "max": values[values.len() - 1], "runs": values.len(),
            });
            println!("{line}");
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Request {
    Prepare { slot: usize, case: Case },
    Run { slot: usize },
    Held { slot: usize },
    Roofline { slot: usize },
    Limits,
    Path { model: String },
    Write { model: String, folder: PathBuf },
}

/// Answers requests until standard input ends.
fn serve(engine: &Engine) -> llmkit::Result<()> {
    let mut bench = Bench::new(engine.clone());
    let mut slots: BTreeMap<usize, Case> = BTreeMap::new();
    let threads = engine.team.threads();
    let version = format!(
        "{} ({}, {threads} threads)",
        env!("CARGO_PKG_VERSION"),
        engine.isa
    );
    say(&json!({"name": "llmkit", "version": version}));
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        say(&answer(&mut bench, &mut slots, &line).unwrap_or_else(|why| json!({"error": why})));
    }
    Ok(())
}

fn answer(
    bench: &mut Bench,
    slots: &mut BTreeMap<usize, Case>,
    line: &str,
) -> Result<Value, String> {
    let request = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let find = |slot: usize, slots: &BTreeMap<usize, Case>| {
        slots
            .get(&slot)
            .cloned()
            .ok_or(format!("nothing is prepared in slot {slot}"))
    };
    let result = match request {
        Request::Prepare { slot, case } => {
            let done = bench.prepare(&case).map(|()| json!({}));
            slots.insert(slot, case);
            done
        }
        Request::Run { slot } => {
            let case = find(slot, slots)?;
            bench.run(&case).map(|seconds| json!({"seconds": seconds}))
        }
        Request::Held { slot } => bench.held(&find(slot, slots)?),
        Request::Roofline { slot } => {
            let case = find(slot, slots)?;
            bench
                .roofline(&case)
                .map(|seconds| json!({"seconds": seconds}))
        }
        Request::Limits => bench.limits(),
        Request::Path { model } => {
            llmkit::hub::model(&model).map(|asset| json!({"path": asset.path()}))
        }
        Request::Write { model, folder } => gptq::write(&model, &folder).map(|()| json!({})),
    };
    result.map_err(|error| error.to_string())
}

fn say(line: &Value) {
    println!("{line}");
    // A reader that is gone is noticed when standard input ends.
    let _ = std::io::stdout().flush();
}
