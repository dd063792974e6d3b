//! `cargo lab run`: notebooks executed headless, each from a fresh kernel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::kernelspec::{self, LIVE, STOCK};
use crate::notebook::Notebook;
use crate::place::Place;
use crate::runner::{Job, Outcome, run};
use crate::venv::Venv;
use crate::{select, setup};

/// Arguments of `cargo lab run`.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// Notebooks: `all`, an area (a folder of notebooks/), a stem such as quant/gptq, or a path
    #[arg(required = true, value_name = "PATH|AREA|all")]
    pub what: Vec<String>,
    /// A parameter, overriding the notebook's default; VALUE is JSON, else a string
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parse_param)]
    pub params: Vec<(String, Value)>,
    /// Limit for each cell in seconds
    #[arg(long, default_value_t = 600.0, value_parser = parse_seconds)]
    pub timeout: f64,
    /// How many notebooks run at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: u16,
    /// Where executed copies and HTML go [default: target/lab/run]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Which kernel: llmkit, llmkit-stock, or any kernel Jupyter knows
    #[arg(long)]
    pub kernel: Option<String>,
    /// Write figures and results below the output folder instead of the tree
    #[arg(long)]
    pub scratch: bool,
    /// Use each notebook's quick parameters (metadata.llmkit.quick), as the tests do
    #[arg(long)]
    pub quick: bool,
}

impl RunArgs {
    /// What `cargo lab run PATH` does.
    pub fn of(path: &Path) -> RunArgs {
        RunArgs {
            what: vec![path.to_string_lossy().into_owned()],
            params: Vec::new(),
            timeout: 600.0,
            jobs: 1,
            out: None,
            kernel: None,
            scratch: false,
            quick: false,
        }
    }
}

/// Runs the notebooks, prints the table, and says whether all of them passed.
///
/// # Errors
/// If setup fails, a word names no notebook, or the copies cannot be exported as HTML.
pub fn command(place: &Place, args: &RunArgs) -> Result<bool> {
    let outcomes = run_all(place, args)?;
    println!("{}", table(&outcomes));
    let failed = outcomes.iter().filter(|outcome| outcome.failure.is_some());
    for outcome in failed.clone() {
        eprintln!("\n{}", report(outcome));
    }
    let failed = failed.count();
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    Ok(failed == 0)
}

/// Runs the notebooks that `args` names and exports what they gave.
///
/// # Errors
/// As [`command`].
pub fn run_all(place: &Place, args: &RunArgs) -> Result<Vec<Outcome>> {
    let out = match &args.out {
        Some(dir) => std::path::absolute(dir).context("--out")?,
        None => place.root.join("target/lab/run"),
    };
    let jobs = jobs(place, args, &out)?;
    let runtime = tokio::runtime::Runtime::new().context("start the runner")?;
    let outcomes = runtime.block_on(async {
        tokio::select! {
            outcomes = run_jobs(jobs, usize::from(args.jobs)) => outcomes,
            // Dropping the tasks kills their kernels.
            _ = tokio::signal::ctrl_c() => bail!("interrupted; all kernels were ended"),
        }
    })?;
    let executed: Vec<&Path> = (outcomes.iter())
        .filter_map(|outcome| outcome.executed.as_deref())
        .collect();
    if !executed.is_empty() {
        export_html(place, &executed)?;
        eprintln!("executed copies and HTML: {}", out.display());
    }
    Ok(outcomes)
}

fn jobs(place: &Place, args: &RunArgs, out: &Path) -> Result<Vec<Job>> {
    let sources = select::notebooks(place, &args.what)?;
    let kernel = args.kernel.as_deref().unwrap_or(LIVE);
    if kernel == LIVE || kernel == STOCK {
        setup::setup_kernel(place)?;
    }
    Venv::find(place)?.ensure(place)?;
    let spec = kernelspec::find(place, kernel)?;
    let params: BTreeMap<String, Value> = args.params.iter().cloned().collect();
    let mut env = vec![(setup::LAB_PID.to_owned(), std::process::id().to_string())];
    if sources.len() <= usize::from(args.jobs) {
        // No notebook comes after these: a spare would only take their processor time.
        env.push(("LLMKIT_NO_SPARE".to_owned(), "1".to_owned()));
    }
    if args.scratch {
        for (name, dir) in [("LLMKIT_FIGURES", "figures"), ("LLMKIT_RESULTS", "results")] {
            let dir = out.join(dir).to_string_lossy().into_owned();
            env.push((name.to_owned(), dir));
        }
    }
    let mut jobs: Vec<Job> = Vec::new();
    for source in sources {
        if args.kernel.is_none() {
            check_language(&source)?;
        }
        let name = select::name(place, &source);
        let executed = out.join(format!("{name}.ipynb"));
        if executed.canonicalize().is_ok_and(|path| path == source) {
            bail!(
                "--out {} would overwrite {}; choose another folder",
                out.display(),
                source.display()
            );
        }
        if let Some(other) = jobs.iter().find(|job| job.executed == executed) {
            bail!(
                "{} and {} would both be written to {}; run them one after the other with different --out",
                other.source.display(),
                source.display(),
                executed.display()
            );
        }
        let path_in_tree = source.strip_prefix(&place.root).unwrap_or(&source);
        jobs.push(Job {
            path_in_tree: path_in_tree.display().to_string(),
            name,
            executed,
            kernel: (kernel.to_owned(), spec.clone()),
            params: params.clone(),
            is_quick: args.quick,
            timeout: Duration::from_secs_f64(args.timeout),
            env: env.clone(),
            source,
        });
    }
    Ok(jobs)
}

/// A notebook of another language is refused before anything runs; one that cannot be read fails in its turn.
fn check_language(source: &Path) -> Result<()> {
    let Ok(notebook) = Notebook::read(source) else {
        return Ok(());
    };
    match notebook.language() {
        Some(language) if !language.eq_ignore_ascii_case("rust") => bail!(
            "{} is a {language} notebook; name a kernel for it with --kernel",
            source.display()
        ),
        _ => Ok(()),
    }
}

/// Runs the jobs in order, `at_once` at a time.
async fn run_jobs(jobs: Vec<Job>, at_once: usize) -> Result<Vec<Outcome>> {
    let queue = Arc::new(Mutex::new(jobs.into_iter().enumerate()));
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let queue = queue.clone();
        workers.spawn(async move {
            let mut outcomes = Vec::new();
            loop {
                let Some((at, job)) = queue.lock().await.next() else {
                    return outcomes;
                };
                let outcome = run(&job).await;
                eprintln!("{}", one_line(&outcome));
                outcomes.push((at, outcome));
            }
        });
    }
    let mut outcomes = Vec::new();
    while let Some(done) = workers.join_next().await {
        outcomes.extend(done.context("the runner itself failed; please report this")?);
    }
    outcomes.sort_by_key(|(at, _)| *at);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

fn one_line(outcome: &Outcome) -> String {
    let state = match outcome.failure {
        None => "ok",
        Some(_) => "FAILED",
    };
    format!("{} … {state} ({:.1} s)", outcome.name, outcome.seconds)
}

/// Names notebook, cell and message of a failure.
pub fn report(outcome: &Outcome) -> String {
    let Some(failure) = &outcome.failure else {
        return format!("{}: passed", outcome.name);
    };
    let message = failure.message.replace('\n', "\n    ");
    match &failure.cell {
        Some((number, line)) => {
            format!("{}: cell [{number}] `{line}`\n    {message}", outcome.name)
        }
        None => format!("{}:\n    {message}", outcome.name),
    }
}

/// The outcomes, one row a notebook.
pub fn table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "notebook",
        "",
        "cells",
        "seconds",
        "start",
        "slowest cell",
        "claims",
    ]);
    for outcome in outcomes {
        let (ran, all) = outcome.cells;
        table.add_row([
            outcome.name.clone(),
            match outcome.failure {
                None => "passed".to_owned(),
                Some(_) => "FAILED".to_owned(),
            },
            if ran == all {
                all.to_string()
            } else {
                format!("{ran} of {all}")
            },
            format!("{:.1}", outcome.seconds),
            format!("{:.1}", outcome.start_seconds),
            match outcome.slowest {
                Some((number, seconds)) => format!("[{number}] {seconds:.2} s"),
                None => String::new(),
            },
            outcome.claims.to_string(),
        ]);
    }
    for column in [2, 3, 4, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// One call for all notebooks: starting Python takes longer than converting.
fn export_html(place: &Place, executed: &[&Path]) -> Result<()> {
    let out = Command::new(Venv::find(place)?.python())
        .args(["-m", "nbconvert", "--to", "html", "--log-level", "ERROR"])
        .args(executed)
        .env("JUPYTER_PATH", kernelspec::jupyter_path(place))
        .stdin(Stdio::null())
        .output()
        .context("start nbconvert")?;
    if !out.status.success() {
        bail!(
            "the executed copies could not be exported as HTML:\n{}",
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(())
}

fn parse_param(text: &str) -> Result<(String, Value)> {
    let (name, value) =
        (text.split_once('=')).with_context(|| format!("expected NAME=VALUE, got {text}"))?;
    if name.trim().is_empty() {
        bail!("expected NAME=VALUE, got {text}");
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.trim().to_owned(), value))
}

fn parse_seconds(text: &str) -> Result<f64> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds < 1e9 => Ok(seconds),
        _ => bail!("expected a number of seconds above 0, got {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parameters_are_json_or_else_strings() {
        let value = |text| parse_param(text).unwrap().1;
        assert_eq!(value("bits=4"), json!(4));
        assert_eq!(value("p=0.5"), json!(0.5));
        assert_eq!(value("on=true"), json!(true));
        assert_eq!(value("list=[1,2]"), json!([1, 2]));
        assert_eq!(
            value("model=smollm2-135m-instruct"),
            json!("smollm2-135m-instruct")
        );
        assert_eq!(value("empty="), json!(""));
        assert_eq!(value("text=a=b"), json!("a=b"));
        assert!(parse_param("bits").is_err());
        assert!(parse_param("=4").is_err());
    }

    #[test]
    fn limits_are_positive_numbers() {
        assert_eq!(parse_seconds("0.5").unwrap(), 0.5);
        for bad in ["0", "-1", "NaN", "inf", "ten", ""] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_failure_names_notebook_cell_and_message() {
        let outcome = Outcome {
            name: "quant/gptq".into(),
            cells: (3, 9),
            seconds: 2.0,
            start_seconds: 1.0,
            slowest: Some((2, 0.5)),
            claims: 1,
            executed: None,
            failure: Some(crate::runner::Failure {
                cell: Some((3, "let x = y[5];".into())),
                message: "index out of bounds\nat line 1".into(),
            }),
        };
        let text = report(&outcome);
        assert_eq!(
            text,
            "quant/gptq: cell [3] `let x = y[5];`\n    index out of bounds\n    at line 1"
        );
        let table = table(&[outcome]).to_string();
        for part in ["quant/gptq", "FAILED", "3 of 9", "[2] 0.50 s"] {
            assert!(table.contains(part), "{part} in\n{table}");
        }
    }
}
