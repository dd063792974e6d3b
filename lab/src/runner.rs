//! Restart-and-run-all of one notebook, strictly: the first error ends it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::client::{Ended, Kernel};
use crate::kernelspec::{KernelSpec, STOCK};
use crate::notebook::{CodeCell, Notebook};
use crate::outputs::Outputs;
use crate::process::Launch;

/// A cell with this tag may fail, as in nbclient.
const MAY_FAIL: &str = "raises-exception";
/// A cell with this tag is not executed, as in nbclient.
const SKIPPED: &str = "skip-execution";

/// One notebook to be executed.
#[derive(Debug, Clone)]
pub struct Job {
    /// The notebook.
    pub source: PathBuf,
    /// Its name in tables: the path below `notebooks/`, without extension.
    pub name: String,
    /// What the notebook itself is told of its name.
    pub path_in_tree: String,
    /// Where the executed copy goes.
    pub executed: PathBuf,
    /// Kernel name and specification.
    pub kernel: (String, KernelSpec),
    /// Parameters given on the command line.
    pub params: BTreeMap<String, Value>,
    /// Whether the notebook's own quick parameters apply.
    pub is_quick: bool,
    /// Limit for each cell.
    pub timeout: Duration,
    /// Variables added to the kernel's environment.
    pub env: Vec<(String, String)>,
}

/// What became of a notebook.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Name of the notebook.
    pub name: String,
    /// Cells executed, and cells there are.
    pub cells: (usize, usize),
    /// Seconds from start to end, kernel start included.
    pub seconds: f64,
    /// Seconds until the kernel answered.
    pub start_seconds: f64,
    /// The slowest cell: its number and seconds.
    pub slowest: Option<(usize, f64)>,
    /// Claims recorded.
    pub claims: usize,
    /// The executed copy, if one was written.
    pub executed: Option<PathBuf>,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// The failure of a notebook.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The cell: its number among the code cells (as `[n]` in JupyterLab) and its first line.
    pub cell: Option<(usize, String)>,
    /// What happened.
    pub message: String,
}

/// Executes a notebook; everything that goes wrong is in the outcome.
pub async fn run(job: &Job) -> Outcome {
    let start = Instant::now();
    let mut outcome = Outcome {
        name: job.name.clone(),
        cells: (0, 0),
        seconds: 0.0,
        start_seconds: 0.0,
        slowest: None,
        claims: 0,
        executed: None,
        failure: None,
    };
    if let Err(error) = execute(job, &mut outcome).await {
        outcome.failure = Some(Failure {
            cell: None,
            message: format!("{error:#}"),
        });
    }
    outcome.seconds = start.elapsed().as_secs_f64();
    outcome
}

async fn execute(job: &Job, outcome: &mut Outcome) -> Result<()> {
    let mut notebook = Notebook::read(&job.source)?;
    let cells: Vec<CodeCell> = (notebook.code_cells().into_iter())
        .filter(|cell| !cell.is_tagged(SKIPPED))
        .collect();
    outcome.cells.1 = cells.len();
    notebook.clear();
    let log = job.executed.with_extension("kernel.log");
    let mut outputs = Outputs::default();
    let ran = if cells.is_empty() {
        Ok(())
    } else {
        let launch = launch(job, &notebook, &log)?;
        let start = Instant::now();
        let mut kernel = Kernel::start(&job.kernel.1, &launch).await?;
        let mut words = Outputs::default();
        (kernel)
            .warm_up(|kind, content| {
                if let Some(line) = words.receive(kind, content) {
                    eprintln!("{}: {line}", job.name);
                }
            })
            .await?;
        outcome.start_seconds = start.elapsed().as_secs_f64();
        notebook.set_kernel(
            &job.kernel.0,
            &job.kernel.1.display_name,
            kernel.language_info.clone(),
        );
        let ran = run_cells(job, &cells, &mut kernel, &mut outputs, outcome).await;
        kernel.shutdown().await;
        ran
    };
    outcome.claims = outputs.claims;
    for (at, cell) in cells.iter().enumerate().take(outputs.len()) {
        notebook.set_outputs(cell.index, at as u64 + 1, outputs.cell(at));
    }
    notebook.write(&job.executed)?;
    outcome.executed = Some(job.executed.clone());
    if std::fs::metadata(&log).is_ok_and(|log| log.len() == 0) {
        // An empty log is only clutter; one that cannot be removed does no harm.
        let _ = std::fs::remove_file(&log);
    }
    ran
}

/// Runs the cells in order until one fails.
async fn run_cells(
    job: &Job,
    cells: &[CodeCell],
    kernel: &mut Kernel,
    outputs: &mut Outputs,
    outcome: &mut Outcome,
) -> Result<()> {
    for (at, cell) in cells.iter().enumerate() {
        let number = at + 1;
        outputs.start_cell();
        let start = Instant::now();
        let ended = (kernel)
            .execute(&cell.source, job.timeout, |kind, content| {
                if let Some(line) = outputs.receive(kind, content) {
                    eprintln!("{} [{number}] {line}", job.name);
                }
            })
            .await?;
        let seconds = start.elapsed().as_secs_f64();
        outcome.cells.0 = number;
        if outcome.slowest.is_none_or(|(_, most)| seconds > most) {
            outcome.slowest = Some((number, seconds));
        }
        let is_stock = job.kernel.0 == STOCK;
        let message = match ended {
            Ended::Ok => match is_stock.then(|| panic_message(&outputs.cell(at))).flatten() {
                Some(message) if !cell.is_tagged(MAY_FAIL) => message,
                _ => continue,
            },
            Ended::Error(..) if cell.is_tagged(MAY_FAIL) => continue,
            Ended::Error(name, value) => describe(&name, &value),
            Ended::TimedOut { is_interrupted } => format!(
                "not done within {} s; {}. Raise the limit with --timeout, or give the notebook smaller parameters with --param",
                job.timeout.as_secs_f64(),
                match is_interrupted {
                    true => "it was interrupted",
                    false => "it did not answer the interrupt, so the kernel was killed",
                }
            ),
            Ended::Died(how) => how,
        };
        if !ends_with_error(&outputs.cell(at)) {
            let error = json!({"ename": "lab", "evalue": message, "traceback": [message]});
            outputs.receive("error", error);
        }
        outcome.failure = Some(Failure {
            cell: Some((number, cell.first_line().to_owned())),
            message,
        });
        break;
    }
    Ok(())
}

fn ends_with_error(outputs: &[Value]) -> bool {
    (outputs.iter()).any(|output| output["output_type"] == "error")
}

/// The panic told of on stderr: the stock kernel calls a cell that panicked a success.
fn panic_message(outputs: &[Value]) -> Option<String> {
    let texts = (outputs.iter())
        .filter(|output| output["name"] == "stderr")
        .filter_map(|output| output["text"].as_str());
    for text in texts {
        let mut lines = text.lines();
        let is_panic = |line: &str| line.starts_with("thread '") && line.contains(" panicked at ");
        if lines.by_ref().any(is_panic) {
            return Some(format!("panic: {}", lines.next().unwrap_or("")));
        }
    }
    None
}

fn launch(job: &Job, notebook: &Notebook, log: &Path) -> Result<Launch> {
    let mut params = BTreeMap::new();
    if job.is_quick {
        params.extend(notebook.quick());
    }
    params.extend(job.params.clone());
    let mut env = job.env.clone();
    let params = serde_json::to_string(&params).context("parameters")?;
    env.push(("LLMKIT_PARAMS".to_owned(), params));
    env.push(("LLMKIT_NOTEBOOK".to_owned(), job.path_in_tree.clone()));
    let directory = job.source.parent().unwrap_or(Path::new("."));
    if let Some(dir) = log.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    Ok(Launch {
        directory: directory.to_owned(),
        env,
        log: log.to_owned(),
    })
}

/// An error's message for a terminal: without colours, and not longer than one wants to read.
fn describe(name: &str, value: &str) -> String {
    let text = strip_colours(value);
    let text = match text.trim() {
        "" => name.to_owned(),
        text if text.starts_with(name) => text.to_owned(),
        text => format!("{name}: {text}"),
    };
    let lines: Vec<&str> = text.lines().collect();
    match lines.len() {
        0..=12 => text,
        more => format!("{}\n… {} more lines", lines[..12].join("\n"), more - 12),
    }
}

/// Text without terminal escape sequences.
pub fn strip_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\u{1b}' {
            plain.push(c);
        } else if rest.next() == Some('[') {
            rest.by_ref().find(char::is_ascii_alphabetic);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_on_stderr_is_seen() {
        let said =
            |name: &str, text: &str| [json!({"output_type": "stream", "name": name, "text": text})];
        let panic =
            "x\nthread '<unnamed>' (7) panicked at src/lib.rs:1:1:\nindex out of bounds\nstack";
        assert_eq!(
            panic_message(&said("stderr", panic)).as_deref(),
            Some("panic: index out of bounds")
        );
        assert_eq!(panic_message(&said("stdout", panic)), None);
        assert_eq!(
            panic_message(&said("stderr", "nothing panicked at all")),
            None
        );
        assert_eq!(panic_message(&[]), None);
    }

    #[test]
    fn messages_are_plain_and_short() {
        assert_eq!(strip_colours("a\u{1b}[1;31mb\u{1b}[0m\u{1b}"), "ab");
        assert_eq!(
            describe("panic", "\u{1b}[31mindex out of bounds"),
            "panic: index out of bounds"
        );
        assert_eq!(describe("error", ""), "error");
        assert_eq!(describe("error", "error: no"), "error: no");
        let long = vec!["line"; 40].join("\n");
        assert!(describe("e", &long).ends_with("… 28 more lines"));
    }
}
