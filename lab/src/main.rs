//! `cargo lab`: sets up, opens, runs, tests and exports the notebooks. It knows nothing about any algorithm.

mod bench;
mod cargo;
mod clean;
mod client;
mod doctor;
mod eval;
mod export;
mod kernelspec;
mod ledger;
mod new;
mod notebook;
mod open;
mod outputs;
mod place;
mod process;
mod quantize;
mod run;
mod runner;
mod say;
mod seed;
mod select;
mod setup;
mod strict;
mod test;
mod venv;
mod wire;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use place::Place;

/// The laboratory: without a command, sets up what is missing and opens JupyterLab on notebooks/.
#[derive(Debug, Parser)]
#[command(
    name = "cargo lab",
    bin_name = "cargo lab",
    version,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Action>,
    #[command(flatten)]
    open: open::OpenArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make what is missing: kernel, prelude, JupyterLab; stopped half-way, the next call goes on
    Setup,
    /// Run notebooks headless from a fresh kernel; any error, panic or timeout fails
    Run(run::RunArgs),
    /// Everything CI runs: format, clippy, documentation, tests, doctor, notebooks
    Test(test::TestArgs),
    /// Look at each part: is it there, which version, how to mend it
    Doctor(doctor::DoctorArgs),
    /// Remove what setup made for this checkout
    Clean(clean::CleanArgs),
    /// Draw stored figures anew for a venue, without running anything
    Export(export::ExportArgs),
    /// Start a method: module, note and notebook, registered and tested
    New(new::NewArgs),
    /// Measure how long a notebook's user waits
    Bench(bench::BenchArgs),
    /// Perplexity of a model on a text, and its divergence from a baseline
    Eval(eval::EvalArgs),
    /// A model through a recipe into a file that others read; --list says what recipes are made of
    Quantize(quantize::QuantizeArgs),
    /// List the recorded claims; --check measures the stale ones again
    Ledger(ledger::LedgerArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command; false means that what was checked did not pass.
fn dispatch(cli: Cli) -> Result<bool> {
    let place = Place::find()?;
    match cli.command {
        None => open::command(&place, &cli.open),
        Some(Action::Setup) => setup::setup(&place).map(|()| true),
        Some(Action::Run(args)) => run::command(&place, &args),
        Some(Action::Test(args)) => test::command(&place, &args),
        Some(Action::Doctor(args)) => doctor::command(&place, &args),
        Some(Action::Clean(args)) => clean::command(&place, &args).map(|()| true),
        Some(Action::Export(args)) => export::command(&place, &args),
        Some(Action::New(args)) => new::command(&place, &args),
        Some(Action::Bench(args)) => bench::command(&place, &args),
        Some(Action::Eval(args)) => eval::command(&place, &args),
        Some(Action::Quantize(args)) => quantize::command(&place, &args),
        Some(Action::Ledger(args)) => ledger::command(&place, &args),
    }
}
