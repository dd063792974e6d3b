//! `cargo lab test`: everything CI runs, in one command; every step runs even if an earlier one failed.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};

use crate::doctor::{self, DoctorArgs};
use crate::place::Place;
use crate::run::{self, RunArgs};
use crate::runner::strip_colours;
use crate::{cargo, setup, strict};

mod scaffold;

/// Arguments of `cargo lab test`.
#[derive(Debug, Clone, clap::Args)]
pub struct TestArgs {
    /// Only the steps whose name contains one of these words
    #[arg(value_name = "STEP")]
    only: Vec<String>,
    /// Print the steps' names and do nothing
    #[arg(long)]
    list: bool,
}

/// How many passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Count {
    passed: usize,
    failed: usize,
}

impl Count {
    fn add(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// One thing to be checked.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A cargo command: its arguments, with single spaces between.
    Cargo(&'static str),
    Setup,
    Doctor,
    Notebooks,
    Scaffold,
    Strict,
}

/// Every step by name. Packages are built one by one, as users build them: together, cargo would merge their features.
const STEPS: &[(&str, Step)] = &[
    (
        "format",
        Step::Cargo(
            "fmt --check -p llmkit -p llmkit-lab -p llmkit-kernel -p llmkit-prelude -p llmkit-shared",
        ),
    ),
    (
        "clippy llmkit",
        Step::Cargo("clippy --locked -p llmkit --all-targets -- -D warnings"),
    ),
    (
        "clippy llmkit with notebook",
        Step::Cargo("clippy --locked -p llmkit --features notebook --all-targets -- -D warnings"),
    ),
    (
        "clippy lab",
        Step::Cargo("clippy --locked -p llmkit-lab --all-targets -- -D warnings"),
    ),
    (
        "clippy kernel",
        Step::Cargo("clippy --locked -p llmkit-kernel --all-targets -- -D warnings"),
    ),
    (
        "clippy prelude",
        Step::Cargo("clippy --locked -p llmkit-prelude --all-targets -- -D warnings"),
    ),
    (
        "documentation llmkit",
        // With the shared features, that is with the crates that clippy has checked.
        Step::Cargo("doc --locked --no-deps -p llmkit -p llmkit-shared --features llmkit/notebook"),
    ),
    (
        "documentation lab",
        Step::Cargo("doc --locked --no-deps -p llmkit-lab"),
    ),
    (
        "documentation kernel",
        Step::Cargo("doc --locked --no-deps -p llmkit-kernel"),
    ),
    (
        "documentation prelude",
        Step::Cargo("doc --locked --no-deps -p llmkit-prelude"),
    ),
    (
        "tests llmkit",
        Step::Cargo("test --locked --no-fail-fast -p llmkit --features notebook"),
    ),
    (
        "tests prelude",
        Step::Cargo("test --locked --no-fail-fast -p llmkit-prelude"),
    ),
    (
        "tests lab",
        Step::Cargo("test --locked --no-fail-fast -p llmkit-lab"),
    ),
    ("scaffold", Step::Scaffold),
    ("setup", Step::Setup),
    ("doctor", Step::Doctor),
    (
        "tests kernel",
        Step::Cargo("test --locked --no-fail-fast -p llmkit-kernel"),
    ),
    ("notebooks", Step::Notebooks),
    ("strictness", Step::Strict),
];

/// Runs the steps and prints the counts; true if nothing failed.
///
/// # Errors
/// If a word names no step. A step that cannot be run is a failed step.
pub fn command(place: &Place, args: &TestArgs) -> Result<bool> {
    let chosen = choose(&args.only)?;
    if args.list {
        for (name, _) in chosen {
            println!("{name}");
        }
        return Ok(true);
    }
    let mut total = Count::default();
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["step", "", "seconds", "tests passed", "failed"]);
    for (name, step) in chosen {
        eprintln!("── {name}");
        let start = Instant::now();
        let mut count = Count::default();
        let result = perform(place, step, &mut count);
        let seconds = start.elapsed().as_secs_f64();
        let state = match &result {
            Ok(true) => "ok",
            Ok(false) => "FAILED",
            Err(error) => {
                eprintln!("error: {error:#}");
                "FAILED"
            }
        };
        println!("{name} … {state} ({seconds:.1} s)");
        let of_step = Count {
            passed: usize::from(state == "ok"),
            failed: usize::from(state != "ok"),
        };
        total.add(count);
        total.add(of_step);
        table.add_row([
            name.to_owned(),
            state.to_owned(),
            format!("{seconds:.1}"),
            count.passed.to_string(),
            count.failed.to_string(),
        ]);
    }
    for column in [2, 3, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("\n{table}\nsteps and notebooks count as tests\n");
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(total.failed == 0)
}

fn choose(only: &[String]) -> Result<Vec<(&'static str, Step)>> {
    for word in only {
        if !STEPS.iter().any(|(name, _)| name.contains(word.as_str())) {
            let names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).collect();
            bail!("no step is named {word}; there are: {}", names.join(", "));
        }
    }
    let is_chosen = |name: &str| only.is_empty() || only.iter().any(|word| name.contains(word));
    Ok(STEPS
        .iter()
        .copied()
        .filter(|(name, _)| is_chosen(name))
        .collect())
}

fn perform(place: &Place, step: Step, count: &mut Count) -> Result<bool> {
    match step {
        Step::Cargo(args) => {
            let (subcommand, args) = args.split_once(' ').context("an empty step")?;
            let mut command = cargo::command(place, subcommand);
            command.args(args.split(' '));
            if subcommand == "doc" {
                command.env("RUSTDOCFLAGS", with_flag("RUSTDOCFLAGS", "-Dwarnings"));
            }
            stream(&mut command, &mut std::io::stdout(), count)
        }
        Step::Setup => setup::setup(place).map(|()| true),
        Step::Doctor => doctor::command(place, &DoctorArgs::default()),
        Step::Notebooks => notebooks(place, count),
        Step::Scaffold => scaffold::run(place, count),
        Step::Strict => strict::run(place, &mut count.passed, &mut count.failed),
    }
}

/// The user's flags and one more.
fn with_flag(variable: &str, flag: &str) -> String {
    match std::env::var(variable) {
        Ok(flags) if !flags.trim().is_empty() => format!("{flags} {flag}"),
        _ => flag.to_owned(),
    }
}

/// All notebooks with their quick parameters; nothing in the tree is written.
fn notebooks(place: &Place, count: &mut Count) -> Result<bool> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let args = RunArgs {
        jobs: (cores / 2).clamp(1, 4) as u16,
        out: Some(place.root.join("target/lab/test")),
        scratch: true,
        quick: true,
        ..RunArgs::of(Path::new("all"))
    };
    let outcomes = run::run_all(place, &args)?;
    println!("{}", run::table(&outcomes));
    for outcome in &outcomes {
        match outcome.failure {
            None => count.passed += 1,
            Some(_) => {
                count.failed += 1;
                eprintln!("{}", run::report(outcome));
            }
        }
    }
    Ok(count.failed == 0)
}

/// Runs a command, passes on what it prints, and counts the test results in it.
fn stream(command: &mut Command, to: &mut impl Write, count: &mut Count) -> Result<bool> {
    if std::io::stderr().is_terminal() && std::env::var_os("CARGO_TERM_COLOR").is_none() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let mut child = (command.stdin(Stdio::null()).stdout(Stdio::piped()))
        .spawn()
        .context("start cargo")?;
    let stdout = child.stdout.take().context("cargo's output")?;
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .context("read cargo's output")?
        > 0
    {
        // Nobody may be looking; the tests go on.
        let _ = to.write_all(&line);
        if let Some(result) = test_result(&String::from_utf8_lossy(&line)) {
            count.add(result);
        }
        line.clear();
    }
    Ok(child.wait().context("wait for cargo")?.success())
}

/// The counts of a line `test result: ok. 5 passed; 0 failed; …`.
fn test_result(line: &str) -> Option<Count> {
    let plain = strip_colours(line);
    let (_, counts) = plain
        .trim()
        .strip_prefix("test result: ")?
        .split_once(". ")?;
    let number = |word: &str| {
        let part = counts.split(';').find(|part| part.trim().ends_with(word))?;
        part.split_whitespace().next()?.parse().ok()
    };
    Some(Count {
        passed: number("passed")?,
        failed: number("failed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_in_colour_too() {
        let line = "test result: \u{1b}[32mok\u{1b}(B\u{1b}[m. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        assert_eq!(
            test_result(line),
            Some(Count {
                passed: 5,
                failed: 0
            })
        );
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored";
        assert_eq!(
            test_result(line),
            Some(Count {
                passed: 12,
                failed: 3
            })
        );
        assert_eq!(test_result("test a ... ok"), None);
        assert_eq!(test_result("test result: ok."), None);
    }

    #[test]
    fn a_command_s_counts_and_status_are_taken() {
        let mut count = Count::default();
        let script = "echo 'test result: ok. 2 passed; 0 failed'; echo 'test result: FAILED. 1 passed; 1 failed'; exit 1";
        let mut shown = Vec::new();
        let mut command = Command::new("sh");
        let passed = stream(command.args(["-c", script]), &mut shown, &mut count).unwrap();
        assert_eq!(shown.iter().filter(|byte| **byte == b'\n').count(), 2);
        assert!(!passed);
        assert_eq!(
            count,
            Count {
                passed: 3,
                failed: 1
            }
        );
        assert!(stream(&mut Command::new("true"), &mut shown, &mut count).unwrap());
        assert!(stream(&mut Command::new("/nonexistent"), &mut shown, &mut count).is_err());
    }

    #[test]
    fn steps_are_chosen_by_part_of_their_name() {
        let clippy = choose(&["clippy".to_owned()]).unwrap();
        assert!(clippy.len() == 5 && clippy.iter().all(|(name, _)| name.starts_with("clippy")));
        assert_eq!(choose(&[]).unwrap().len(), STEPS.len());
        assert!(choose(&["dance".to_owned()]).is_err());
    }

    #[test]
    fn the_user_s_flags_are_kept() {
        assert_eq!(
            with_flag("LLMKIT_NO_SUCH_VARIABLE", "-Dwarnings"),
            "-Dwarnings"
        );
        // PATH is set everywhere tests run.
        let path = std::env::var("PATH").unwrap();
        assert_eq!(with_flag("PATH", "-x"), format!("{path} -x"));
    }
}
