//! Quantizes a model by a recipe, writes it, scores it: `cargo lab quantize --help`, or `cargo run -p llmkit --example quantize -- --help`.

mod list;

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use llmkit::eval::Protocol;
use llmkit::model::Model;
use llmkit::model::blocks::BlockType;
use llmkit::quant::export::{Layout, Matrices, Types, Written, check_recipe, export, replace};
use llmkit::quant::pipeline::Grid;
use llmkit::quant::{Calibration, Finished, Job, Recipe, Report, Samples};
use llmkit::{Error, Result, hub, interrupt};
use serde_json::{Value, json};

/// Quantizes a model by a recipe and writes it; by several, and shows what each did.
#[derive(Parser)]
#[command(name = "quantize", max_term_width = 100)]
struct Options {
    /// Name of a model, or path of a GGUF file or a Hugging Face folder
    #[arg(required_unless_present = "list")]
    model: Option<String>,
    /// Such as gptq:int4-g64, rotate,smooth-a0.5,gptq:int4-g64,eora-r16, rtn:int8-channel@a8-token; several without --out
    #[arg(long, required_unless_present = "list", num_args = 1.., value_name = "RECIPE")]
    recipe: Vec<Recipe>,
    /// Text to calibrate on: a corpus or a file; lee, if the recipe needs one
    #[arg(long, value_name = "CORPUS|FILE")]
    calib: Option<String>,
    /// Windows of the calibration
    #[arg(long, default_value_t = 64)]
    samples: usize,
    /// Tokens in a window
    #[arg(long, alias = "window", default_value_t = 512)]
    length: usize,
    /// First tokens of each window that statistics leave out
    #[arg(long, default_value_t = 0)]
    without_first: usize,
    /// Calibrate anew, although it may be in the cache
    #[arg(long)]
    fresh: bool,
    /// What is written: FILE.gguf, or a folder
    #[arg(long, value_name = "FILE.gguf|DIR")]
    out: Option<PathBuf>,
    /// Of a folder: gptq, awq, compressed-tensors (packed codes) or safetensors (decoded)
    #[arg(long, requires = "out", default_value = "safetensors")]
    layout: String,
    /// Type of what is not quantized in a folder, and of all in safetensors: F32, F16 or BF16
    #[arg(long, requires = "out", value_name = "TYPE", value_parser = block, default_value = "F16")]
    rest: BlockType,
    /// ggml's type of embedding and head in a GGUF file; as in the source, or F16 if transforms change them
    #[arg(long, requires = "out", value_name = "TYPE", value_parser = block)]
    embedding: Option<BlockType>,
    /// Replace what is there already
    #[arg(long, requires = "out")]
    force: bool,
    /// Text to measure each layer's errors on, a corpus or a file: 4 windows of it
    #[arg(long, value_name = "CORPUS|FILE")]
    judge: Option<String>,
    /// Text to score: a corpus or a file
    #[arg(long, default_value = "wikitext-2")]
    corpus: String,
    /// llamacpp:CTX, gptq2048, strided:CTX:STRIDE or word
    #[arg(long, default_value = "llamacpp:512")]
    protocol: Protocol,
    /// Windows to score; 0 for all
    #[arg(long, default_value_t = 20)]
    chunks: usize,
    /// Whether to score the original and the results
    #[arg(long)]
    score: bool,
    /// Judges all recipes alike instead: divergence, perplexity and bytes on --chunks windows, one row each, kept in the cache
    #[arg(long, conflicts_with_all = ["out", "score", "judge"])]
    grid: bool,
    /// Shows every matrix
    #[arg(long)]
    matrices: bool,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    /// What recipes are made of: methods, formats and transforms, their settings and papers
    #[arg(long)]
    list: bool,
}

fn block(name: &str) -> Result<BlockType> {
    let found = BlockType::ALL
        .into_iter()
        .find(|it| it.name().eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        Error::argument("type", BlockType::ALL.map(BlockType::name).join(", "), name)
    })
}

fn main() -> std::process::ExitCode {
    // Ctrl-C ends the work between two steps, so that nothing half-written stays.
    if let Err(error) = interrupt::install() {
        eprintln!("note: Ctrl-C will end at once: {error}");
    }
    match run(&Options::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if options.list {
        return say(&list::list(options.json));
    }
    let layout = check_options(options)?;
    let line = |text: String| match options.json {
        true => eprintln!("{text}"),
        false => println!("{text}"),
    };
    let start = Instant::now();
    let name = options.model.as_deref().unwrap_or_default();
    let model = Model::load(name)?;
    line(format!(
        "{}\nloaded in {:.2} s",
        model.provenance,
        start.elapsed().as_secs_f64()
    ));
    for recipe in &options.recipe {
        if let Some(layout) = layout {
            check_recipe(&model, recipe, layout)?;
        }
    }
    let calibration = calibration(options, &model)?;
    if let Some(calibration) = &calibration {
        line(format!(
            "{calibration}: {:.2} s",
            start.elapsed().as_secs_f64()
        ));
    }
    if options.grid {
        return grid(options, &model, calibration.as_ref());
    }
    let judge = match &options.judge {
        Some(name) => Some(Samples::of_corpus(
            &model,
            name,
            8,
            options.length.min(512),
        )?),
        None => None,
    };
    let text = match options.score {
        true => Some(hub::corpus(&options.corpus)?.text()?),
        false => None,
    };
    let score = |model: &Model| -> Result<Option<f64>> {
        let Some(text) = &text else { return Ok(None) };
        let found = options.protocol.run(model, text, options.chunks)?;
        line(found.to_string());
        Ok(Some(found.value))
    };
    let original = score(&model)?;
    let mut all = Vec::new();
    for recipe in &options.recipe {
        let mut job = Job::new(&model, recipe, calibration.as_ref())?;
        job.run()?;
        let mut finished = job.finish()?;
        if let Some(samples) = &judge {
            finished.judge(samples)?;
        }
        line(format!("\n{}", finished.report));
        if options.matrices {
            line(matrices(&finished.report));
        }
        let perplexity = score(&finished.model)?;
        let written = match (layout, &options.out) {
            (Some(layout), Some(out)) => {
                Some(write(&finished, recipe, out, layout, options.force)?)
            }
            _ => None,
        };
        if let Some(written) = &written {
            line(written.to_string());
            if let Some(activations) = &recipe.activations {
                line(format!(
                    "note: a file holds weights; inputs are rounded ({activations}) only where it is run so"
                ));
            }
        }
        let mut row = finished.report.to_json();
        row["perplexity"] = json!(perplexity);
        row["written"] = written.map_or(Value::Null, |it| {
            json!({ "path": it.path, "tensor_bytes": it.bytes(), "tensors": it.tensors.len(), "file_bytes": size(&it.path) })
        });
        all.push(row);
    }
    if options.json {
        let out = json!({ "model": model.provenance.to_string(), "original_perplexity": original, "recipes": all });
        say(&out.to_string())?;
    }
    Ok(())
}

/// All recipes on one text.
fn grid(options: &Options, model: &Model, calibration: Option<&Calibration>) -> Result<()> {
    let text = hub::corpus(&options.corpus)?.text()?;
    let start = Instant::now();
    let mut grid = Grid::new(model, calibration, &text, options.protocol, options.chunks)?;
    if options.fresh {
        grid = grid.fresh();
    }
    grid.run(&options.recipe)?;
    if options.json {
        let rows = json!({ "model": model.provenance.to_string(), "cells": grid.cells() });
        return say(&rows.to_string());
    }
    for it in grid.cells() {
        say(&format!(
            "{:50} KL {:.4e} nats, perplexity {:.4} (original {:.4}), {:.1} MB of {:.1}, {} tokens as {}; {:.1} s + {:.1} s",
            it.recipe,
            it.kl,
            it.perplexity,
            it.original_perplexity,
            it.bytes as f64 / 1e6,
            it.model_bytes as f64 / 1e6,
            it.tokens,
            it.runs_as,
            it.quantize_s,
            it.judge_s,
        ))?;
    }
    say(&format!("{:.1} s in all", start.elapsed().as_secs_f64()))
}

/// What cannot be is said before anything is loaded; where to write, if anywhere.
fn check_options(options: &Options) -> Result<Option<Layout>> {
    let Some(out) = &options.out else {
        return Ok(None);
    };
    if options.recipe.len() > 1 {
        return Err(Error::argument(
            "recipe",
            "one, with --out",
            format!("{}", options.recipe.len()),
        ));
    }
    if out.exists() && !options.force {
        let name = format!("--out {}", out.display());
        return Err(Error::argument(
            name,
            "a name that is not taken, or --force",
            "one that is",
        ));
    }
    let is_gguf = out
        .extension()
        .is_some_and(|it| it.eq_ignore_ascii_case("gguf"));
    if is_gguf {
        let is_changed = options.recipe.iter().any(|it| !it.transforms.is_empty());
        return Ok(Some(Layout::Gguf(Types {
            matrices: None,
            embedding: options.embedding.or(is_changed.then_some(BlockType::F16)),
        })));
    }
    Ok(Some(match options.layout.as_str() {
        "safetensors" => Layout::Plain(options.rest),
        "gptq" => Layout::Gptq(options.rest),
        "awq" => Layout::Awq(options.rest),
        "compressed-tensors" => Layout::CompressedTensors(options.rest),
        other => {
            let expected =
                "gptq, awq, compressed-tensors or safetensors; or a file that ends in .gguf";
            return Err(Error::argument("layout", expected, other));
        }
    }))
}

/// The statistics, if any recipe needs them or they were asked for.
fn calibration(options: &Options, model: &Model) -> Result<Option<Calibration>> {
    let is_needed = options.recipe.iter().any(Recipe::needs_calibration);
    if !is_needed && options.calib.is_none() {
        return Ok(None);
    }
    let corpus = options.calib.as_deref().unwrap_or("lee");
    let samples = Samples::of_corpus(model, corpus, options.samples, options.length)?
        .without_first(options.without_first)?;
    Ok(Some(match options.fresh {
        true => Calibration::run(model, &samples)?,
        false => Calibration::cached(model, &samples)?,
    }))
}

/// Codes where the layout holds codes, else what the network computes with.
fn write(
    finished: &Finished,
    recipe: &Recipe,
    out: &Path,
    layout: Layout,
    force: bool,
) -> Result<Written> {
    interrupt::check(&format!("write {recipe}"))?;
    let nothing = Matrices::new();
    let matrices = match layout {
        Layout::Plain(_) => &nothing,
        _ => &finished.matrices,
    };
    match force {
        true => replace(&finished.model, matrices, out, layout),
        false => export(&finished.model, matrices, out, layout),
    }
}

/// Bytes of a file, or of all files of a folder.
fn size(path: &Path) -> u64 {
    let of = |path: &Path| std::fs::metadata(path).map_or(0, |it| it.len());
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|it| of(&it.path())).sum(),
        Err(_) => of(path),
    }
}

fn matrices(report: &Report) -> String {
    let line = |it: &llmkit::quant::pipeline::Layer| {
        format!(
            "{:28} {:>4} x {:<4} {} damping {} clipped {} lost {:.3e} {:.2} dB, {} bytes, {}",
            it.name,
            it.shape.0,
            it.shape.1,
            it.applied,
            it.details
                .damping
                .map_or("-".to_owned(), |it| it.to_string()),
            it.clip_rate()
                .map_or("?".to_owned(), |it| format!("{it:.2e}")),
            it.output_error.unwrap_or(f64::NAN),
            it.sqnr_db,
            it.bytes,
            it.runs_as,
        )
    };
    report
        .layers
        .iter()
        .map(line)
        .collect::<Vec<String>>()
        .join("\n")
}

fn say(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        // A reader that is gone has what it wanted.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(Error::io("write", "standard output")),
    }
}
