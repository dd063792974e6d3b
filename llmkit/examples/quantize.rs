//! Quantizes a model by recipes and scores the results: `cargo run -p llmkit --example quantize -- --help`.

use std::time::Instant;

use clap::Parser;
use llmkit::eval::Protocol;
use llmkit::model::Model;
use llmkit::quant::{Calibration, Recipe, Samples, quantize};
use llmkit::{Result, hub};

/// Quantizes a model by each recipe in turn; shows what was done, how long it took, and the perplexity.
#[derive(Parser)]
#[command(name = "quantize", max_term_width = 100)]
struct Options {
    /// Name of a model, or path of a GGUF file or a Hugging Face folder
    model: String,
    /// Such as gptq:int4-g64, rtn:nf4-g64, true-sequential,gptq-act-order:int3-g128; as many as you like
    #[arg(long, required = true, num_args = 1.., value_name = "RECIPE")]
    recipe: Vec<Recipe>,
    /// Text to calibrate on: a corpus or a file
    #[arg(long, default_value = "lee")]
    calib: String,
    /// Windows of the calibration
    #[arg(long, default_value_t = 64)]
    samples: usize,
    /// Tokens in a window
    #[arg(long, default_value_t = 512)]
    window: usize,
    /// First tokens of each window that statistics leave out
    #[arg(long, default_value_t = 0)]
    without_first: usize,
    /// Calibrate anew, although it may be in the cache
    #[arg(long)]
    fresh: bool,
    /// Text to score: a corpus or a file
    #[arg(long, default_value = "wikitext-2")]
    corpus: String,
    /// llamacpp:CTX, gptq2048, strided:CTX:STRIDE or word
    #[arg(long, default_value = "llamacpp:512")]
    protocol: Protocol,
    /// Windows to score; 0 for all, and none of it without --score
    #[arg(long, default_value_t = 20)]
    chunks: usize,
    /// Whether to score the original and the results
    #[arg(long)]
    score: bool,
    /// Shows every matrix
    #[arg(long)]
    matrices: bool,
}

fn main() -> std::process::ExitCode {
    match run(&Options::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let model = Model::load(&options.model)?;
    println!(
        "{}\nloaded in {:.2} s",
        model.provenance,
        start.elapsed().as_secs_f64()
    );
    let start = Instant::now();
    let samples = Samples::of_corpus(&model, &options.calib, options.samples, options.window)?
        .without_first(options.without_first)?;
    let calibration = match options.fresh {
        true => Calibration::run(&model, &samples)?,
        false => Calibration::cached(&model, &samples)?,
    };
    println!("{calibration}: {:.2} s", start.elapsed().as_secs_f64());
    let text = match options.score {
        true => Some(hub::corpus(&options.corpus)?.text()?),
        false => None,
    };
    let score = |model: &Model| -> Result<()> {
        if let Some(text) = &text {
            println!("{}", options.protocol.run(model, text, options.chunks)?);
        }
        Ok(())
    };
    score(&model)?;
    for recipe in &options.recipe {
        let (quantized, report) = quantize(&model, recipe, Some(&calibration))?;
        println!("\n{report}");
        if options.matrices {
            for it in &report.layers {
                println!(
                    "{:28} {:>4} x {:<4} {} damping {} clipped {} lost {:.3e} {:.2} dB, {}",
                    it.name,
                    it.shape.0,
                    it.shape.1,
                    it.applied,
                    it.details
                        .damping
                        .map_or("-".to_owned(), |it| it.to_string()),
                    it.clip_rate()
                        .map_or("?".to_owned(), |it| format!("{:.2e}", it)),
                    it.output_error.unwrap_or(f64::NAN),
                    it.sqnr_db,
                    it.runs_as,
                );
            }
        }
        score(&quantized)?;
    }
    Ok(())
}
