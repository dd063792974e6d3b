//! Drawing a saved figure again for a venue, from its specification alone.

use std::path::{Path, PathBuf};

use super::manifest;
use super::save::{check_stem, write_whole};
use super::spec::Figure;
use super::venue::Venue;
use crate::{Error, Result};

/// Choices for [`export`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportOptions {
    /// Across the whole text (`Some(true)`), in one column (`Some(false)`), or as the figure was made.
    pub full_width: Option<bool>,
    /// Letters as shapes.
    pub outline_text: bool,
    /// Keep the figure's title; papers say it in the caption instead.
    pub has_title: bool,
}

impl Default for ExportOptions {
    fn default() -> ExportOptions {
        ExportOptions {
            full_width: None,
            outline_text: false,
            has_title: true,
        }
    }
}

/// Draws the figure saved as `stem` under `figures` again for `venue`, into `out/<stem>.{pdf,svg,png}`.
///
/// # Errors
/// [`Error::Io`] if there is no such figure; [`Error::Json`] if its specification cannot be read;
/// [`Error::Figure`] if it cannot be drawn at the venue's width.
pub fn export(
    figures: &Path,
    stem: &str,
    venue: Venue,
    options: ExportOptions,
    out: &Path,
) -> Result<Vec<PathBuf>> {
    check_stem(stem)?;
    let path = figures.join(format!("{stem}.json"));
    let json = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let mut figure = Figure::from_json(&json)?.venue(venue);
    figure.full_width = options.full_width.unwrap_or(figure.full_width);
    if !options.has_title {
        figure.title.clear();
    }
    let rendered = figure.render()?;
    let outlined = options.outline_text || figure.outline_text;
    let contents = [
        ("pdf", rendered.pdf(outlined)?),
        (
            "svg",
            if outlined {
                rendered.outlined_svg(1.0)?.into_bytes()
            } else {
                rendered.svg().as_bytes().to_vec()
            },
        ),
        ("png", rendered.png()?),
    ];
    let mut written = Vec::new();
    for (ending, bytes) in contents {
        let path = out.join(format!("{stem}.{ending}"));
        write_whole(&path, &bytes)?;
        written.push(path);
    }
    Ok(written)
}

/// The saved figures of a directory: stem, title and notebook, in order of stem.
///
/// # Errors
/// [`Error::Json`] if the manifest cannot be read.
pub fn stems(figures: &Path) -> Result<Vec<(String, String, Option<String>)>> {
    let manifest = manifest::read(figures)?;
    Ok(manifest
        .into_iter()
        .map(|(stem, entry)| (stem, entry.title, entry.notebook))
        .collect())
}
