//! `cargo lab bench`: what is measured, by whom, and kept in `data/bench/<machine>/`.
//!
//! | file | what |
//! |---|---|
//! | [`notebook`] | how long a notebook's user waits |
//! | [`engine`] | our engine: prompts, decoding, batches, threads, loading, memory, limits of the machine |
//! | [`peers`] | our engine and others in turns, on the same weights |
//! | [`groups`] | what is measured against whom |
//! | [`peer_venv`] | how the others get here |
//! | [`duel`] | how turns are taken and ratios made |
//! | [`worker`] | a program that runs cases for us, over standard input and output |
//! | [`lines`] | what is told of the engine alone |
//! | [`record`] | medians, and files |

mod duel;
mod engine;
mod groups;
mod lines;
mod notebook;
mod peer_venv;
mod peers;
mod record;
mod worker;

use std::path::PathBuf;

use anyhow::Result;

use crate::place::Place;

/// Arguments of `cargo lab bench`.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    /// Waiting times of notebooks, medians over the rounds, against their targets
    Notebook(notebook::NotebookArgs),
    /// Our engine alone: prompts, decoding, batches, threads, loading, memory, and the machine's limits
    Engine(engine::EngineArgs),
    /// Our engine against llama.cpp, PyTorch and candle: in turns, same weights, same threads
    Peers(peers::PeersArgs),
}

/// Measures, prints, and keeps the numbers. True whatever the numbers are: they are no test.
///
/// # Errors
/// If what is measured cannot be set up or fails.
pub fn command(place: &Place, args: &BenchArgs) -> Result<bool> {
    match &args.what {
        What::Notebook(args) => notebook::command(place, args),
        What::Engine(args) => engine::command(place, args),
        What::Peers(args) => peers::command(place, args),
    }
}

/// Where the peers' private environment is, or would be; none without Python.
pub fn peers_dir(place: &Place) -> Option<PathBuf> {
    let venv = peer_venv::PeerVenv::find(place, None).ok()?;
    Some(venv.dir().to_owned())
}
