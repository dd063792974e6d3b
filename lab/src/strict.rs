//! A step of `cargo lab test`: notebooks that must fail do fail, at the right cell — through our runner and through
//! plain `jupyter nbconvert --execute` alike.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::kernelspec;
use crate::place::Place;
use crate::run::{self, RunArgs};
use crate::runner::strip_colours;
use crate::venv::Venv;

/// Seconds a cell of these notebooks may take; only the endless loop needs them.
const TIMEOUT: f64 = 8.0;

/// One notebook: its name, its code cells, and the cell and words of the failure, if it is to fail.
struct Fixture {
    name: &'static str,
    cells: &'static [&'static str],
    /// What our runner says of the cell whose number this is; `None`: the notebook passes.
    fails: Option<(usize, &'static str)>,
    /// Words nbconvert must say.
    nbconvert: &'static str,
}

const FIXTURES: &[Fixture] = &[
    Fixture {
        name: "index-panic",
        cells: &[
            "let kept = 1;",
            "let q = vec![1, 2];\nq[5]",
            "println!(\"never\");",
        ],
        fails: Some((2, "the index is 5")),
        nbconvert: "q[5]",
    },
    Fixture {
        name: "question-mark",
        cells: &[
            "let kept = 1;",
            "let n: i32 = \"seven\".parse()?;",
            "println!(\"never\");",
        ],
        fails: Some((2, "invalid digit")),
        nbconvert: "invalid digit",
    },
    Fixture {
        name: "assertion",
        cells: &[
            "let kept = 1;",
            "assert!(kept == 2, \"kept is {kept}\");",
            "println!(\"never\");",
        ],
        fails: Some((2, "kept is 1")),
        nbconvert: "kept is 1",
    },
    Fixture {
        name: "type-error",
        cells: &[
            "let kept = 1;",
            "let n: i32 = \"seven\";",
            "println!(\"never\");",
        ],
        fails: Some((2, "mismatched types")),
        nbconvert: "mismatched types",
    },
    Fixture {
        name: "exit",
        cells: &[
            "let kept = 1;",
            "std::process::exit(3);",
            "println!(\"never\");",
        ],
        fails: Some((2, "exit code 3")),
        nbconvert: "exit code 3",
    },
    Fixture {
        name: "endless-loop",
        cells: &[
            "let kept = 1;",
            "loop { std::hint::spin_loop() }",
            "println!(\"never\");",
        ],
        fails: Some((2, "")),
        nbconvert: "loop { std::hint::spin_loop() }",
    },
    Fixture {
        name: "no-newline",
        cells: &[
            "let kept = 1;",
            "print!(\"no newline at the end\");",
            "assert!(kept == 1);",
        ],
        fails: None,
        nbconvert: "",
    },
];

/// Runs every fixture both ways; adds to `passed` and `failed`.
///
/// # Errors
/// If they cannot be run at all.
pub fn run(place: &Place, passed: &mut usize, failed: &mut usize) -> Result<bool> {
    let dir = place.root.join("target/lab/strict");
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let mut sources = Vec::new();
    for fixture in FIXTURES {
        let path = dir.join(format!("{}.ipynb", fixture.name));
        std::fs::write(&path, notebook(fixture.cells).to_string())
            .with_context(|| format!("write {}", path.display()))?;
        sources.push(path);
    }
    let args = RunArgs {
        what: sources
            .iter()
            .map(|path| path.to_string_lossy().into_owned())
            .collect(),
        timeout: TIMEOUT,
        out: Some(dir.join("executed")),
        scratch: true,
        ..RunArgs::of(Path::new(""))
    };
    let outcomes = run::run_all(place, &args)?;
    let mut check = |what: String, complaint: Option<String>| match complaint {
        None => *passed += 1,
        Some(complaint) => {
            *failed += 1;
            eprintln!("{what}: {complaint}");
        }
    };
    for (fixture, outcome) in FIXTURES.iter().zip(&outcomes) {
        let got = outcome.failure.as_ref().map(|failure| {
            (
                failure.cell.as_ref().map_or(0, |(number, _)| *number),
                strip_colours(&failure.message),
            )
        });
        let complaint = match (&fixture.fails, got) {
            (None, None) => None,
            (Some((cell, words)), Some((number, message)))
                if *cell == number && message.contains(words) =>
            {
                None
            }
            (expected, got) => Some(format!("expected {expected:?}, got {got:?}")),
        };
        check(format!("runner, {}", fixture.name), complaint);
    }
    for (fixture, source) in FIXTURES.iter().zip(&sources) {
        check(
            format!("nbconvert, {}", fixture.name),
            nbconvert(place, fixture, source)?,
        );
    }
    Ok(*failed == 0)
}

/// What is wrong with how nbconvert takes a fixture; `None` if nothing.
fn nbconvert(place: &Place, fixture: &Fixture, source: &PathBuf) -> Result<Option<String>> {
    let out = Command::new(Venv::find(place)?.python())
        .args([
            "-m",
            "nbconvert",
            "--execute",
            "--to",
            "notebook",
            "--output-dir",
        ])
        .arg(source.with_file_name("nbconvert"))
        .arg(format!("--ExecutePreprocessor.timeout={TIMEOUT}"))
        .arg(source)
        .env("JUPYTER_PATH", kernelspec::jupyter_path(place))
        .stdin(Stdio::null())
        .output()
        .context("start nbconvert")?;
    let said = strip_colours(&String::from_utf8_lossy(&out.stderr));
    let is_right =
        out.status.success() == fixture.fails.is_none() && said.contains(fixture.nbconvert);
    Ok((!is_right).then(|| format!("{}; it said: {}", out.status, said.trim())))
}

fn notebook(cells: &[&str]) -> Value {
    let cells: Vec<Value> = (cells.iter().enumerate())
        .map(|(at, source)| {
            json!({
                "cell_type": "code", "id": format!("cell-{at}"), "metadata": {}, "source": source,
                "outputs": [], "execution_count": null,
            })
        })
        .collect();
    json!({
        "cells": cells, "nbformat": 4, "nbformat_minor": 5,
        "metadata": { "kernelspec": { "name": "llmkit", "display_name": "Rust (llmkit)", "language": "rust" } },
    })
}
