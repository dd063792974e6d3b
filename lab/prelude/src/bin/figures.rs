//! Draws saved figures again for a venue, from their specifications alone: what `cargo lab export` calls.

use std::path::PathBuf;
use std::process::ExitCode;

use llmkit::report::{ExportOptions, Venue, export, stems};
use llmkit::session;

const USAGE: &str = "\
Draws saved figures again for a venue, without running their notebooks.

  figures list   [--dir FIGURES]
  figures export --venue icml|neurips|acl|mlsys|ieee [--full | --column] [--outline-text] [--no-title]
                 [--dir FIGURES] [--out DIR] [STEM…]

  --full, --column   across the whole text, or in one column (default: as the figure was made)
  --outline-text     letters as shapes, for venues that refuse some font formats
  --no-title         without the title: papers say it in the caption
  --dir FIGURES      where figures are saved (default: figures/ of the checkout)
  --out DIR          where to write (default: FIGURES/export/VENUE)
  STEM               a figure, such as quant/gptq (default: all)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("figures: {message}");
            ExitCode::FAILURE
        }
    }
}

/// What the command line asks for.
#[derive(Default)]
struct Request {
    venue: Option<Venue>,
    options: ExportOptions,
    figures: Option<PathBuf>,
    out: Option<PathBuf>,
    stems: Vec<String>,
}

fn run(arguments: &[String]) -> Result<(), String> {
    let Some((command, rest)) = arguments.split_first() else {
        return Err(format!("expected a command\n\n{USAGE}"));
    };
    match command.as_str() {
        "list" => list(&parse(rest)?),
        "export" => export_all(&parse(rest)?),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        other => Err(format!("expected list or export, got {other:?}\n\n{USAGE}")),
    }
}

fn parse(arguments: &[String]) -> Result<Request, String> {
    let mut request = Request::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || {
            rest.next()
                .ok_or_else(|| format!("expected a value after {argument}"))
        };
        match argument.as_str() {
            "--venue" => {
                request.venue = Some(value()?.parse().map_err(|error| format!("{error}"))?);
            }
            "--full" => request.options.full_width = Some(true),
            "--column" => request.options.full_width = Some(false),
            "--outline-text" => request.options.outline_text = true,
            "--no-title" => request.options.has_title = false,
            "--dir" => request.figures = Some(value()?.into()),
            "--out" => request.out = Some(value()?.into()),
            "--help" | "-h" => return Err(USAGE.into()),
            flag if flag.starts_with('-') => {
                return Err(format!("expected an option, got {flag}\n\n{USAGE}"));
            }
            stem => request.stems.push(stem.to_owned()),
        }
    }
    Ok(request)
}

fn figures_dir(request: &Request) -> PathBuf {
    request.figures.clone().unwrap_or_else(session::figures_dir)
}

fn list(request: &Request) -> Result<(), String> {
    let figures = figures_dir(request);
    let known = stems(&figures).map_err(|error| error.to_string())?;
    if known.is_empty() {
        println!("no figures saved under {}", figures.display());
    }
    let width = known.iter().map(|(stem, ..)| stem.len()).max().unwrap_or(0);
    for (stem, title, notebook) in known {
        let notebook = notebook.unwrap_or_default();
        println!(
            "{}",
            format!("{stem:width$}  {title}  {notebook}").trim_end()
        );
    }
    Ok(())
}

fn export_all(request: &Request) -> Result<(), String> {
    let venue = request.venue.ok_or_else(|| {
        format!(
            "expected --venue, one of {}",
            Venue::ALL.map(Venue::name).join(", ")
        )
    })?;
    let figures = figures_dir(request);
    let out = request
        .out
        .clone()
        .unwrap_or_else(|| figures.join("export").join(venue.name()));
    let wanted: Vec<String> = if request.stems.is_empty() {
        let known = stems(&figures).map_err(|error| error.to_string())?;
        known.into_iter().map(|(stem, ..)| stem).collect()
    } else {
        request.stems.clone()
    };
    if wanted.is_empty() {
        return Err(format!("no figures saved under {}", figures.display()));
    }
    let mut failed = Vec::new();
    for stem in &wanted {
        match export(&figures, stem, venue, request.options, &out) {
            Ok(files) => {
                for file in files {
                    println!("{}", file.display());
                }
            }
            Err(error) => {
                eprintln!("figures: {stem}: {error}");
                failed.push(stem.as_str());
            }
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "{} of {} figures failed: {}",
            failed.len(),
            wanted.len(),
            failed.join(", ")
        ))
    }
}
