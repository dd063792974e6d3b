//! `cargo lab bench notebook`: how long a notebook's user waits, measured in JupyterLab's own server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::json;

use super::record::{self, commit, machine, quantile};
use crate::kernelspec::{LIVE, jupyter_path};
use crate::place::{Place, write_atomically};
use crate::run::{self, RunArgs};
use crate::setup;
use crate::venv::Venv;

const DRIVER: &str = include_str!("../../notebook_bench.py");

/// Arguments of `cargo lab bench notebook`.
#[derive(Debug, Clone, clap::Args)]
pub struct NotebookArgs {
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds that a warm spare is given to get ready between rounds
    #[arg(long, default_value_t = 25.0)]
    pause: f64,
    /// Measure another kernel
    #[arg(long, default_value = LIVE)]
    kernel: String,
}

/// One line of the result.
#[derive(Debug, Clone, Serialize)]
struct Line {
    metric: &'static str,
    value: f64,
    unit: &'static str,
    /// What is to be reached; none for what is only told.
    target: Option<f64>,
    /// How many measurements the value is made of.
    count: usize,
}

impl Line {
    fn verdict(&self) -> &'static str {
        match self.target {
            None => "",
            Some(target) if self.value <= target => "ok",
            Some(_) => "short",
        }
    }
}

/// Measures, prints, and keeps the numbers in `data/bench/`. True whatever the numbers are: they are no test.
///
/// # Errors
/// If setup fails, or a cell of the benchmark does.
pub fn command(place: &Place, args: &NotebookArgs) -> Result<bool> {
    setup::setup(place)?;
    eprintln!(
        "measuring {} rounds, about {:.0} minutes; leave the machine alone meanwhile",
        args.rounds,
        (f64::from(args.rounds) * (args.pause + 60.0) / 60.0).ceil()
    );
    let mut samples = interactive(place, args)?;
    samples.insert("headless".to_owned(), headless(place, args)?);
    let lines = lines(&samples)?;
    let file = record(place, &lines)?;
    if args.json {
        let lines: Vec<_> = (lines.iter())
            .map(|line| json!({"metric": line.metric, "value": line.value, "unit": line.unit, "target": line.target, "count": line.count, "verdict": line.verdict()}))
            .collect();
        println!(
            "{}",
            json!({"machine": machine(), "commit": commit(place), "lines": lines, "samples": samples})
        );
    } else {
        println!("{}", table(&lines));
        println!("recorded in {}", file.display());
    }
    Ok(true)
}

/// Times of a user at JupyterLab, by name.
fn interactive(place: &Place, args: &NotebookArgs) -> Result<BTreeMap<String, Vec<f64>>> {
    let mut jupyter_args = Vec::new();
    if rustix::process::geteuid().is_root() {
        jupyter_args.push("--allow-root");
    }
    let options = json!({
        "root": place.notebooks(), "kernel": args.kernel, "rounds": args.rounds, "cells": 45,
        "pause": args.pause, "jupyter_args": jupyter_args,
    });
    let out = Command::new(Venv::find(place)?.python())
        .args(["-c", DRIVER, &options.to_string()])
        .env("JUPYTER_PATH", jupyter_path(place))
        .env(setup::LAB_PID, std::process::id().to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("start Python")?;
    if !out.status.success() {
        bail!("the benchmark failed; see its messages above");
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let last = text.lines().last().unwrap_or("");
    serde_json::from_str(last).with_context(|| format!("the benchmark printed {last:?}"))
}

/// Seconds of restart-and-run-all of a notebook of 20 cells, as `cargo lab run` does it.
fn headless(place: &Place, args: &NotebookArgs) -> Result<Vec<f64>> {
    let dir = tempfile::tempdir().context("create a temporary directory")?;
    let notebook = dir.path().join("twenty.ipynb");
    let cell = |i: usize| {
        let source = match i % 4 {
            0 => format!("let v{i}: Vec<f32> = (0..100).map(|k| (k * {i}) as f32).collect();"),
            1 => format!("let s{i} = v{}.iter().sum::<f32>();", i - 1),
            2 => format!("println!(\"{{}}\", s{});", i - 1),
            _ => format!("assert_eq!(v{}.len(), 100);", i - 3),
        };
        json!({"cell_type": "code", "id": format!("c{i}"), "metadata": {}, "source": source, "outputs": [], "execution_count": null})
    };
    let cells: Vec<_> = (0..20).map(cell).collect();
    let json = json!({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells});
    write_atomically(&notebook, json.to_string().as_bytes())?;
    let args = RunArgs {
        out: Some(dir.path().join("out")),
        kernel: Some(args.kernel.clone()),
        ..RunArgs::of(&notebook)
    };
    let mut seconds = Vec::new();
    for _ in 0..5 {
        for outcome in run::run_all(place, &args)? {
            if outcome.failure.is_some() {
                bail!("{}", run::report(&outcome));
            }
            seconds.push(outcome.seconds);
        }
    }
    Ok(seconds)
}

/// What is reported: name, samples, quantile, factor to the unit, unit, target.
type Metric = (
    &'static str,
    &'static str,
    f64,
    f64,
    &'static str,
    Option<f64>,
);

/// A kernel says that it is ready before its evaluator is; the "first answer" lines hold both waits together.
const METRICS: [Metric; 9] = [
    (
        "first answer, nothing warm",
        "first_answer_cold",
        0.5,
        1.0,
        "s",
        None,
    ),
    ("kernel ready", "ready", 0.5, 1.0, "s", Some(5.0)),
    ("first let", "first_let", 0.5, 1.0, "s", Some(1.0)),
    ("first answer", "first_answer", 0.5, 1.0, "s", Some(6.0)),
    ("hot cell, median", "hot", 0.5, 1.0, "s", Some(0.5)),
    ("hot cell, 95 %", "hot", 0.95, 1.0, "s", Some(1.0)),
    ("polars query cell", "query", 0.5, 1.0, "s", Some(1.0)),
    ("memory of a kernel", "memory", 0.5, 1e-9, "GB", Some(1.2)),
    ("20 cells headless", "headless", 0.5, 1.0, "s", Some(30.0)),
];

fn lines(samples: &BTreeMap<String, Vec<f64>>) -> Result<Vec<Line>> {
    let line = |&(metric, name, share, scale, unit, target): &Metric| {
        let values = samples.get(name).map_or(&[][..], Vec::as_slice);
        let value = quantile(values, share).with_context(|| format!("{metric}: no measurement"))?;
        Ok(Line {
            metric,
            value: value * scale,
            unit,
            target,
            count: values.len(),
        })
    };
    METRICS.iter().map(line).collect()
}

fn table(lines: &[Line]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["measured", "value", "target", "", "of"]);
    for line in lines {
        table.add_row([
            line.metric.to_owned(),
            format!("{:.2} {}", line.value, line.unit),
            line.target
                .map_or(String::new(), |target| format!("≤ {target} {}", line.unit)),
            line.verdict().to_owned(),
            line.count.to_string(),
        ]);
    }
    for column in [1, 2, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Writes `data/bench/<machine>/<date>.csv`, replacing what was measured on the same day.
fn record(place: &Place, lines: &[Line]) -> Result<PathBuf> {
    let rows = lines.iter().map(|line| {
        vec![
            line.metric.to_owned(),
            format!("{:.4}", line.value),
            line.unit.to_owned(),
            line.target
                .map_or(String::new(), |target| target.to_string()),
            line.verdict().to_owned(),
            line.count.to_string(),
        ]
    });
    let header = ["metric", "value", "unit", "target", "verdict", "count"];
    record::write(place, "", &header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_measurement_is_an_error_and_targets_are_judged() {
        assert!(lines(&BTreeMap::new()).is_err());
        let samples = METRICS.map(|(_, name, ..)| (name.to_owned(), vec![0.75, 0.75]));
        let mut samples = BTreeMap::from(samples);
        samples.insert("headless".to_owned(), vec![31.0]);
        let lines = lines(&samples).unwrap();
        let verdict = |metric: &str| {
            let line = lines.iter().find(|line| line.metric == metric).unwrap();
            line.verdict()
        };
        assert_eq!(verdict("kernel ready"), "ok");
        assert_eq!(verdict("hot cell, median"), "short");
        assert_eq!(verdict("20 cells headless"), "short");
        assert_eq!(verdict("first answer, nothing warm"), "");
        assert!(table(&lines).to_string().contains("≤ 1.2 GB"));
    }
}
