//! `cargo lab bench peers`: our engine and others in turns, in one run: same machine, same threads, same weights, same tokens.
//!
//! The checkpoint is written out once as F32, and from that in llama.cpp's types; ours and theirs are made of the same numbers.
//! `Q4_0` is as llama.cpp writes it, its head in 8 bits; in `Q4_0-pure` that has 4 bits too, as in our int4. A peer that cannot be
//! set up is named with the reason.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::duel::{Contender, Group, Row, Seat, Values, measure, rows};
use super::engine::{self, MODEL};
use super::groups::{OURS, PORTABLE, groups};
use super::lines::short;
use super::peer_venv::PeerVenv;
use super::record;
use super::worker::Worker;
use crate::cargo;
use crate::place::Place;

/// llama.cpp's types that are compared.
pub const TYPES: [&str; 6] = ["F32", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_0-pure"];

/// Arguments of `cargo lab bench peers`.
#[derive(Debug, Clone, clap::Args)]
pub struct PeersArgs {
    /// Print one JSON object a line instead of the table
    #[arg(long)]
    json: bool,
    /// Three rounds instead of five, and nothing that takes minutes
    #[arg(long)]
    quick: bool,
    /// Rounds
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// Threads of everybody; all cores by default
    #[arg(long)]
    threads: Option<usize>,
    /// Only measurements whose name contains this: prompt, decode, batched, gemm, attention, load, gptq
    #[arg(long)]
    only: Option<String>,
    /// Our engine, compiled elsewhere (`cargo build -p llmkit --example engine`), for machines without a compiler
    #[arg(long)]
    engine: Option<PathBuf>,
    /// A Python that has llama-cpp-python and PyTorch, instead of an environment of our own with pinned versions
    #[arg(long)]
    python: Option<PathBuf>,
}

/// Measures, prints and records.
///
/// # Errors
/// If our own engine cannot be built or started.
pub fn command(place: &Place, args: &PeersArgs) -> Result<bool> {
    let threads = args.threads.unwrap_or_else(record::threads);
    let runs = args
        .runs
        .map_or(if args.quick { 3 } else { 5 }, |it| it as usize);
    place.open_cache()?;
    let (mut seats, models, folder) = seats(place, args, threads)?;
    let names: Vec<String> = seats.iter().map(|seat| seat.name.clone()).collect();
    for seat in &seats {
        match &seat.worker {
            Ok(worker) => eprintln!("{}: {}", seat.name, worker.version),
            Err(why) => eprintln!("{}: not available: {why}", seat.name),
        }
    }
    let chosen: Vec<Group> = (groups(&models, &folder, args.quick, seats[PORTABLE].worker.is_ok())
        .into_iter())
    .filter(|group| {
        args.only
            .as_deref()
            .is_none_or(|it| group.bench.contains(it))
    })
    .collect();
    if let Ok(ours) = &mut seats[OURS].worker
        && chosen.iter().any(|group| group.is_long)
    {
        ours.ask(&json!({"do": "write", "model": MODEL, "folder": folder}))?;
    }
    let mut all = Vec::new();
    for (number, group) in chosen.iter().enumerate() {
        eprintln!(
            "[{}/{}] {} {} …",
            number + 1,
            chosen.len(),
            group.bench,
            group.case
        );
        let values = measure(group, &mut seats, runs);
        let mut its = rows(group, &names, &values);
        its.extend(rooflines(group, &values, &mut seats));
        if args.json {
            for row in &its {
                println!("{}", serde_json::to_string(row)?);
            }
        }
        all.extend(its);
    }
    if !args.json {
        println!("{}", table(&all));
    }
    let path = write(place, &all)?;
    eprintln!("recorded in {}", path.display());
    Ok(true)
}

/// Everybody who takes part, in the order of the constants in [`groups`](super::groups), where the models are, and the folder of the
/// one that is quantized.
fn seats(
    place: &Place,
    args: &PeersArgs,
    threads: usize,
) -> Result<(Vec<Seat>, Vec<String>, PathBuf)> {
    let program = match &args.engine {
        Some(program) => program.clone(),
        None => engine::build(place)?,
    };
    let mut ours = engine::start(&program, "best", threads)?;
    // Where the best is AMX, the table also asks for what comes below it.
    let portable = match ours.version.contains("AMX") {
        true => engine::start(&program, "avx512", threads),
        false => Err(anyhow::anyhow!(
            "the best instruction set of this machine is no AMX"
        )),
    };
    let venv = PeerVenv::find(place, args.python.as_deref())?;
    let folder = venv.dir().join("models").join(MODEL);
    let made = venv.create(place).map_err(|error| format!("{error:#}"));
    let scripts = place.root.join("lab/peers");
    let python = |script: &str| {
        let mut command = Command::new(venv.python());
        command
            .arg(scripts.join(script))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    let mut llama = || -> Result<(Worker, Vec<String>)> {
        venv.llama(place)?;
        let models = models(venv.dir(), &mut ours, &python)?;
        let mut command = python("llama.py");
        let worker = Worker::start(command.args(["--threads", &threads.to_string()]))?;
        Ok((worker, models))
    };
    let llama = made.clone().and_then(|()| because(llama()));
    let torch = || {
        venv.torch(place)?;
        Worker::start(python("torch_peer.py").args(["--threads", &threads.to_string()]))
    };
    let torch = made.and_then(|()| because(torch()));
    let candle = because(candle(place, threads));
    let (llama, models) = match llama {
        Ok((worker, models)) => (Ok(worker), models),
        // Then ours takes the hub's file, the same for all weights.
        Err(why) => (Err(why), vec![MODEL.to_owned(); TYPES.len()]),
    };
    let seat = |name: &str, worker| Seat {
        name: name.to_owned(),
        worker,
    };
    // In the order of the constants.
    let seats = vec![
        seat("llmkit", Ok(ours)),
        seat("llmkit without AMX", because(portable)),
        seat("llama.cpp", llama),
        seat("PyTorch", torch),
        seat("candle", candle),
    ];
    Ok((seats, models, folder))
}

fn because<T>(result: Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{error:#}"))
}

/// The checkpoint in each of [`TYPES`], written once beside the environment.
fn models(dir: &Path, ours: &mut Worker, python: &dyn Fn(&str) -> Command) -> Result<Vec<String>> {
    let answer = ours.ask(&json!({"do": "path", "model": MODEL}))?;
    let original = answer["path"].as_str().context("path of the model")?;
    let folder = dir.join("models");
    std::fs::create_dir_all(&folder).context("create a folder for models")?;
    let path = |kind: &str| folder.join(format!("{MODEL}-as-{kind}.gguf"));
    for kind in TYPES {
        let (target, part) = (path(kind), folder.join("part.gguf"));
        if target.is_file() {
            continue;
        }
        let from = match kind {
            "F32" => PathBuf::from(original),
            _ => path("F32"),
        };
        eprintln!("writing {}", target.display());
        let mut command = python("llama.py");
        command.arg("--quantize").arg(from).arg(kind).arg(&part);
        let out = command.output().context("start Python")?;
        if !out.status.success() {
            bail!("{}", String::from_utf8_lossy(&out.stderr).trim());
        }
        std::fs::rename(&part, &target).context("keep the model")?;
    }
    Ok(TYPES.map(|kind| path(kind).display().to_string()).into())
}

/// candle, compiled for this processor: it chooses its instructions when it is compiled.
fn candle(place: &Place, threads: usize) -> Result<Worker> {
    let target = place.build_dir().join("native");
    eprintln!(
        "candle: cargo build --package llmkit-peers for this processor, some minutes the first time"
    );
    let status = cargo::command(place, "build")
        .args([
            "--package",
            "llmkit-peers",
            "--bin",
            "llmkit-peers",
            "--locked",
            "--quiet",
        ])
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", "-Ctarget-cpu=native")
        .status()
        .context("start cargo")?;
    if !status.success() {
        bail!("cargo build --package llmkit-peers failed ({status}); see its messages above");
    }
    Worker::start(
        Command::new(target.join("debug/llmkit-peers"))
            .env("RAYON_NUM_THREADS", threads.to_string()),
    )
}

/// Our values against what the machine's limits allow, measured by our own worker.
fn rooflines(group: &Group, values: &[Values], seats: &mut [Seat]) -> Vec<Row> {
    let Ok(ours) = &mut seats[OURS].worker else {
        return Vec::new();
    };
    let mut limit = |slot: usize, contender: &Contender| {
        let answer: Result<Value> = ours.ask(&json!({"do": "roofline", "slot": slot}));
        Some(contender.unit.value(answer.ok()?["seconds"].as_f64()?))
    };
    let mut made: Vec<Row> = Vec::new();
    for (slot, (contender, values)) in group.contenders.iter().zip(values).enumerate() {
        if contender.seat != OURS {
            continue;
        }
        let (Ok(values), Some(limit)) = (values, limit(slot, contender)) else {
            continue;
        };
        let ratios: Vec<f64> = (values.iter())
            .map(|it| contender.unit.ratio(*it, limit))
            .collect();
        let (ratio, own) = (record::spread(&ratios), record::quantile(values, 0.5));
        made.push(Row {
            bench: "roofline",
            case: format!("{} {} {}", group.bench, group.case, contender.label),
            unit: contender.unit.name(),
            ours: own,
            peer: "limit of the machine".to_owned(),
            peer_value: Some(limit),
            ratio: ratio.map(|it| it.0),
            ratio_min: ratio.map(|it| it.1),
            ratio_max: ratio.map(|it| it.2),
            runs: ratios.len(),
            reason: String::new(),
        });
    }
    made
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "",
        "case",
        "ours",
        "peer",
        "its",
        "ratio",
        "min – max",
        "runs",
    ]);
    for row in rows {
        let value = |it: Option<f64>| it.map_or("–".to_owned(), short);
        let spread = match (row.ratio_min, row.ratio_max) {
            (Some(min), Some(max)) => format!("{min:.2} – {max:.2}"),
            _ => row.reason.chars().take(60).collect(),
        };
        table.add_row([
            row.bench.to_owned(),
            row.case.clone(),
            format!("{} {}", value(row.ours), row.unit),
            row.peer.clone(),
            value(row.peer_value),
            row.ratio.map_or("–".to_owned(), |it| format!("{it:.2} ×")),
            spread,
            row.runs.to_string(),
        ]);
    }
    for column in [2, 4, 5, 6, 7] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn write(place: &Place, rows: &[Row]) -> Result<PathBuf> {
    let header = [
        "bench",
        "case",
        "unit",
        "ours",
        "peer",
        "peer_value",
        "ratio",
        "ratio_min",
        "ratio_max",
        "runs",
        "reason",
    ];
    let number = |it: Option<f64>| it.map_or(String::new(), |it| format!("{it:.4}"));
    let cells = rows.iter().map(|row| {
        vec![
            row.bench.to_owned(),
            row.case.clone(),
            row.unit.to_owned(),
            number(row.ours),
            row.peer.clone(),
            number(row.peer_value),
            number(row.ratio),
            number(row.ratio_min),
            number(row.ratio_max),
            row.runs.to_string(),
            row.reason.clone(),
        ]
    });
    record::write(place, "-peers", &header, cells)
}
