//! `cargo lab`: sets up, opens, runs, tests and exports the notebooks. It knows nothing about any algorithm.

mod cargo;
mod client;
mod kernelspec;
mod notebook;
mod outputs;
mod place;
mod process;
mod run;
mod runner;
mod select;
mod setup;
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
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make what is missing: kernel, prelude, JupyterLab; stopped half-way, the next call goes on
    Setup,
    /// Run notebooks headless from a fresh kernel; any error, panic or timeout fails
    Run(run::RunArgs),
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
        None => Ok(true),
        Some(Action::Setup) => setup::setup(&place).map(|()| true),
        Some(Action::Run(args)) => run::command(&place, &args),
    }
}
