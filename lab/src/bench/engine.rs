//! `cargo lab bench engine`: our engine alone.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::duel::Unit;
use super::lines::{Row, table, write};
use super::record::{self, spread};
use super::worker::Worker;
use crate::cargo;
use crate::place::Place;

/// The checkpoint that is measured, as the hub names it.
pub const MODEL: &str = "smollm2-135m-instruct-q4_1";

/// Arguments of `cargo lab bench engine`.
#[derive(Debug, Clone, clap::Args)]
pub struct EngineArgs {
    /// Print one JSON object a line instead of the table
    #[arg(long)]
    json: bool,
    /// Fewer and shorter cases, three runs
    #[arg(long)]
    quick: bool,
    /// Name or path of a model
    #[arg(long, default_value = MODEL)]
    model: String,
}

/// How a worker is started.
#[derive(Debug, Clone)]
struct Setting {
    isa: &'static str,
    threads: usize,
}

/// Measures, prints and records.
///
/// # Errors
/// If the engine cannot be built or fails.
pub fn command(place: &Place, args: &EngineArgs) -> Result<bool> {
    let program = build(place)?;
    let all = record::threads();
    let mut rows = Vec::new();
    let best = Setting {
        isa: "best",
        threads: all,
    };
    for weights in ["f32", "bf16", "int8", "int4"] {
        eprintln!("{weights} …");
        rows.extend(memory(&program, &best, args, weights)?);
        rows.extend(run(&program, &best, &cases(args, weights, true), weights)?);
        for setting in [
            Setting {
                isa: "best",
                threads: 1,
            },
            Setting {
                isa: "avx2",
                threads: all,
            },
        ] {
            rows.extend(run(
                &program,
                &setting,
                &cases(args, weights, false),
                weights,
            )?);
        }
    }
    rows.extend(limits(&program, &best)?);
    if args.json {
        for row in &rows {
            println!("{}", serde_json::to_string(row)?);
        }
    } else {
        println!("{}", table(&rows));
    }
    let path = write(place, &rows)?;
    eprintln!("recorded in {}", path.display());
    Ok(true)
}

/// Builds the engine's program and says how it is started.
///
/// # Errors
/// If it does not compile.
pub fn build(place: &Place) -> Result<std::path::PathBuf> {
    let args = ["--example", "engine", "--features", "notebook"];
    let built = cargo::build(place, &["llmkit"], &args)?;
    (built.into_iter())
        .find(|path| path.file_stem().is_some_and(|stem| stem == "engine"))
        .context("cargo built no example engine; is llmkit/examples complete?")
}

/// Our engine as a worker.
///
/// # Errors
/// If it does not start, or the machine lacks the instruction set.
pub fn start(program: &std::path::Path, isa: &str, threads: usize) -> Result<Worker> {
    Worker::start(
        Command::new(program)
            .args(["--serve", "--isa", isa, "--threads"])
            .arg(threads.to_string()),
    )
}

/// A case, its unit, and how often it runs.
struct Case {
    name: String,
    what: Value,
    unit: Unit,
    runs: usize,
}

fn cases(args: &EngineArgs, weights: &str, is_full: bool) -> Vec<Case> {
    let model = &args.model;
    let prompt = |tokens: usize, runs| Case {
        name: format!("prompt {tokens}"),
        what: json!({"kind": "prompt", "model": model, "weights": weights, "tokens": tokens}),
        unit: Unit::Rate("tokens/s", tokens as f64),
        runs,
    };
    let decode = |tokens: usize, batch: usize, runs| Case {
        name: format!("decode {tokens} × {batch}"),
        what: json!({"kind": "decode", "model": model, "weights": weights, "tokens": tokens, "batch": batch}),
        unit: Unit::Rate("tokens/s", (tokens * batch) as f64),
        runs,
    };
    let few = if args.quick { 3 } else { 5 };
    if !is_full {
        return vec![prompt(512, few), decode(64, 1, few)];
    }
    let load = Case {
        name: "load to first token".to_owned(),
        what: json!({"kind": "load", "model": model, "weights": weights}),
        unit: Unit::Time("s", 1.0),
        runs: few,
    };
    let prompts: &[usize] = match args.quick {
        true => &[64, 512],
        false => &[64, 128, 256, 512, 1024, 2048, 4096, 8192],
    };
    let batches: &[usize] = match args.quick {
        true => &[1, 16],
        false => &[1, 2, 4, 8, 16, 32, 64],
    };
    let prompts = prompts
        .iter()
        .map(|&it| prompt(it, if it > 1024 { 3 } else { few }));
    let batches = batches
        .iter()
        .map(|&it| decode(if it > 4 { 16 } else { 64 }, it, few));
    [load].into_iter().chain(prompts).chain(batches).collect()
}

fn run(
    program: &std::path::Path,
    setting: &Setting,
    cases: &[Case],
    weights: &str,
) -> Result<Vec<Row>> {
    let mut worker = match start(program, setting.isa, setting.threads) {
        // A machine without that instruction set has no such lines.
        Err(_) if setting.isa != "best" => return Ok(Vec::new()),
        started => started?,
    };
    let isa = isa_of(&worker);
    let mut rows = Vec::new();
    for case in cases {
        worker.prepare(0, &case.what)?;
        worker.run(0)?;
        let seconds = (0..case.runs).map(|_| worker.run(0));
        let values: Vec<f64> = seconds
            .map(|it| Ok(case.unit.value(it?)))
            .collect::<Result<_>>()?;
        let (median, min, max) = spread(&values).context("no runs")?;
        let limit = worker.ask(&json!({"do": "roofline", "slot": 0}));
        let limit = limit.ok().and_then(|it| it["seconds"].as_f64());
        rows.push(Row {
            bench: "engine",
            case: case.name.clone(),
            weights: weights.to_owned(),
            isa: isa.clone(),
            threads: setting.threads,
            unit: case.unit.name(),
            median,
            min,
            max,
            runs: case.runs,
            limit: limit.map(|it| case.unit.value(it)),
        });
    }
    Ok(rows)
}

/// What a process that has loaded, read a prompt and decoded has had in memory at most, against what it must hold.
fn memory(
    program: &std::path::Path,
    setting: &Setting,
    args: &EngineArgs,
    weights: &str,
) -> Result<Vec<Row>> {
    let mut worker = start(program, setting.isa, setting.threads)?;
    let what = json!({"kind": "prompt", "model": args.model, "weights": weights, "tokens": 512});
    worker.prepare(0, &what)?;
    worker.run(0)?;
    let held = worker.ask(&json!({"do": "held", "slot": 0}))?;
    let part = |name: &str| held[name].as_f64().unwrap_or(0.0);
    let must = part("weights") + part("kv") + part("file");
    let peak = worker.peak_memory()?;
    let row = |case: &str, unit, value| Row {
        bench: "memory",
        case: case.to_owned(),
        weights: weights.to_owned(),
        isa: isa_of(&worker),
        threads: setting.threads,
        unit,
        median: value,
        min: value,
        max: value,
        runs: 1,
        limit: None,
    };
    Ok(vec![
        row("peak, prompt 512", "MB", peak / 1e6),
        row("packed weights", "MB", part("weights") / 1e6),
        row("keys and values", "MB", part("kv") / 1e6),
        row("mapped file", "MB", part("file") / 1e6),
        row("peak over weights + KV + file", "×", peak / must),
    ])
}

/// The machine's limits.
fn limits(program: &std::path::Path, setting: &Setting) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for threads in [1, setting.threads] {
        for isa in ["avx2", "avx512"] {
            let Ok(mut worker) = start(program, isa, threads) else {
                continue;
            };
            let limits = worker.ask(&json!({"do": "limits"}))?;
            let row = |case: String, unit, value| Row {
                bench: "limits",
                case,
                weights: String::new(),
                isa: isa_of(&worker),
                threads,
                unit,
                median: value,
                min: value,
                max: value,
                runs: 1,
                limit: None,
            };
            for point in limits["read"].as_array().into_iter().flatten() {
                let (bytes, rate) = (point[0].as_f64(), point[1].as_f64());
                let kib = bytes.unwrap_or(0.0) / 1024.0;
                rows.push(row(
                    format!("read from {kib:.0} KiB"),
                    "GB/s",
                    rate.unwrap_or(0.0) / 1e9,
                ));
            }
            for (name, peak) in limits["peaks"].as_object().into_iter().flatten() {
                let peak = peak.as_f64().unwrap_or(0.0);
                rows.push(row(format!("peak {name}"), "GOP/s", peak / 1e9));
            }
        }
    }
    Ok(rows)
}

/// "0.1.0 (AVX-512, 2 threads)" to "AVX-512".
fn isa_of(worker: &Worker) -> String {
    let inside = worker.version.split_once('(').map_or("", |it| it.1);
    inside.split(',').next().unwrap_or("").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_those_of_the_issue() {
        let args = EngineArgs {
            json: false,
            quick: false,
            model: MODEL.into(),
        };
        let names: Vec<String> = cases(&args, "int8", true)
            .into_iter()
            .map(|it| it.name)
            .collect();
        for needed in [
            "prompt 64",
            "prompt 8192",
            "decode 64 × 1",
            "decode 16 × 64",
            "load to first token",
        ] {
            assert!(names.iter().any(|it| it == needed), "{needed}");
        }
        assert!(cases(&args, "int8", true).iter().all(|it| it.runs >= 3));
    }
}
