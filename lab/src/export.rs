//! `cargo lab export`: stored figures drawn anew for a venue, without running anything.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cargo;
use crate::place::Place;
use crate::setup::AS_CELLS_LINK_IT;

/// Arguments of `cargo lab export`.
#[derive(Debug, Clone, clap::Args)]
pub struct ExportArgs {
    /// Figures by stem, such as quant/gptq; all of them if none is named
    #[arg(value_name = "FIGURE")]
    figures: Vec<String>,
    /// Width, font size, line width and palette of a venue
    #[arg(long, value_parser = ["icml", "neurips", "acl", "mlsys", "ieee"])]
    venue: Option<String>,
    /// Full text width instead of one column
    #[arg(long)]
    full: bool,
    /// Text as outlines, for venues that refuse embedded fonts of other types
    #[arg(long)]
    outline_text: bool,
    /// Where the files go [default: figures/, beside the stored ones]
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Calls the prelude's `figures` tool, which knows how figures are stored.
///
/// # Errors
/// If it cannot be built or started.
pub fn command(place: &Place, args: &ExportArgs) -> Result<bool> {
    let mut tool = cargo::command(place, "run");
    tool.args(AS_CELLS_LINK_IT).args([
        "--quiet",
        "--package",
        "llmkit-prelude",
        "--bin",
        "figures",
        "--",
        "export",
    ]);
    if let Some(venue) = &args.venue {
        tool.args(["--venue", venue]);
    }
    if args.full {
        tool.arg("--full");
    }
    if args.outline_text {
        tool.arg("--outline-text");
    }
    if let Some(out) = &args.out {
        tool.arg("--out")
            .arg(std::path::absolute(out).context("--out")?);
    }
    tool.arg("--dir")
        .arg(place.root.join("figures"))
        .args(&args.figures);
    let status = tool.status().context("start cargo")?;
    Ok(status.success())
}
