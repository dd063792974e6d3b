//! Perplexity of a model, and its divergence from a baseline: `cargo run -p llmkit --example eval -- --help`.

use std::path::Path;
use std::time::Instant;

use clap::Parser;
use llmkit::eval::{Divergence, Perplexity, Protocol, stats};
use llmkit::hub;
use llmkit::model::{Model, WeightType};

/// Measures a model on a text: perplexity by a named protocol, and divergence from a baseline.
#[derive(Parser)]
#[command(name = "eval")]
struct Options {
    /// Name of a model, or path of a GGUF file or a Hugging Face folder.
    model: String,
    /// Name of a corpus (botchan, alice, lee, wikitext-2), or path of a text file.
    #[arg(long, default_value = "wikitext-2")]
    corpus: String,
    /// llamacpp:CTX, gptq2048, strided:CTX:STRIDE or word.
    #[arg(long, default_value = "llamacpp:512")]
    protocol: Protocol,
    /// How weights are kept: f32, bf16, int8, int4 or native (as in the file).
    #[arg(long, default_value = "f32")]
    weights: WeightType,
    /// Windows at most; 0 for the whole text.
    #[arg(long, default_value_t = 0)]
    chunks: usize,
    /// A model to compare with, token by token (f32 weights).
    #[arg(long)]
    baseline: Option<String>,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
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

fn run(options: &Options) -> llmkit::Result<()> {
    let (text, corpus) = corpus(&options.corpus)?;
    let start = Instant::now();
    let model = Model::load_as(&options.model, options.weights)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let mut json = serde_json::json!({
        "model": model.provenance.to_string(),
        "weights": options.weights.name(),
        "weight_bytes": model.network().bytes(),
        "corpus": corpus,
        "protocol": options.protocol.to_string(),
        "bos": options.protocol.bos_rule(),
        "isa": model.network().engine.isa.to_string(),
        "threads": model.network().engine.team.threads(),
        "load_s": load_seconds,
    });
    let mut lines = vec![
        model.provenance.to_string(),
        format!(
            "weights: {}, {:.1} MB, loaded in {load_seconds:.2} s",
            options.weights,
            model.network().bytes() as f64 / 1e6
        ),
        corpus,
    ];
    let mut add = |name: &str, value: serde_json::Value| json[name] = value;
    match &options.baseline {
        None => {
            let result = options.protocol.run(&model, &text, options.chunks)?;
            let seconds = start.elapsed().as_secs_f64();
            // Windows, not tokens, are redrawn: tokens of a window depend on each other.
            let interval = interval(&result)?;
            add("perplexity", result.value.into());
            add("low", interval.0.into());
            add("high", interval.1.into());
            add("standard_error", result.standard_error.into());
            add("unit", result.protocol.unit().into());
            add("windows", result.windows.into());
            add("tokens_scored", result.nll.len().into());
            add("tokens_in", result.tokens_in.into());
            add("seconds", seconds.into());
            add("tokens_per_s", (result.tokens_in as f64 / seconds).into());
            lines.push(result.to_string());
            lines.push(format!(
                "95 % interval over windows: {:.4} … {:.4}",
                interval.0, interval.1
            ));
            lines.push(format!(
                "{} tokens in {seconds:.1} s: {:.0} tokens/s",
                result.tokens_in,
                result.tokens_in as f64 / seconds
            ));
        }
        Some(name) => {
            let baseline = Model::load(name)?;
            let start = Instant::now();
            let found =
                Divergence::run(options.protocol, &baseline, &model, &text, options.chunks)?;
            let seconds = start.elapsed().as_secs_f64();
            let kl = stats::mean(&found.kl, 0)?;
            let difference = stats::mean(&found.nll_differences(), 0)?;
            add("baseline", baseline.provenance.to_string().into());
            add("kl_mean", found.mean().into());
            add("kl_low", kl.interval.low.into());
            add("kl_high", kl.interval.high.into());
            add("kl_median", found.quantile(0.5).into());
            add("kl_p99", found.quantile(0.99).into());
            add("top1_agreement", found.top1_agreement().into());
            add("flips", found.flips().into());
            add("ln_ppl_ratio", difference.value.into());
            add("ln_ppl_ratio_low", difference.interval.low.into());
            add("ln_ppl_ratio_high", difference.interval.high.into());
            add("tokens_scored", found.kl.len().into());
            add("seconds", seconds.into());
            lines.push(format!("baseline: {}", baseline.provenance));
            lines.push(found.to_string());
            lines.push(format!(
                "mean KL, 95 %: {:.5} … {:.5}",
                kl.interval.low, kl.interval.high
            ));
            lines.push(format!(
                "ln(perplexity / baseline's): {:+.5}, 95 %: {:+.5} … {:+.5}: {}",
                difference.value,
                difference.interval.low,
                difference.interval.high,
                verdict(
                    &found.nll_differences(),
                    difference.interval.low,
                    difference.interval.high
                ),
            ));
        }
    }
    match options.json {
        true => println!("{json}"),
        false => println!("{}", lines.join("\n")),
    }
    Ok(())
}

/// Which is better, or "tie" and how many tokens would tell them apart.
fn verdict(differences: &[f64], low: f64, high: f64) -> String {
    if low > 0.0 {
        return "worse than the baseline".to_owned();
    }
    if high < 0.0 {
        return "better than the baseline".to_owned();
    }
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    let half = (high - low) / 2.0;
    // An interval shrinks with the square root of the sample; it must become smaller than the mean.
    let times = (half / mean).powi(2);
    match times.is_finite() && times < 1e6 {
        true => format!("tie; about {times:.0} times as many tokens would tell"),
        false => "tie".to_owned(),
    }
}

fn interval(result: &Perplexity) -> llmkit::Result<(f64, f64)> {
    let by_window = stats::mean(&result.by_window(), 0)?;
    let to_units = result.nll.len() as f64 / result.units as f64;
    Ok((
        (by_window.interval.low * to_units).exp(),
        (by_window.interval.high * to_units).exp(),
    ))
}

/// The text, and a line that says which.
fn corpus(name: &str) -> llmkit::Result<(String, String)> {
    let path = Path::new(name);
    if path.is_file() {
        let text = std::fs::read_to_string(path).map_err(llmkit::Error::io("read", path))?;
        let sha256 = hub::sha256_file(path)?;
        return Ok((text, format!("{name} (sha256 {sha256})")));
    }
    let corpus = hub::corpus(name)?;
    Ok((corpus.text()?, corpus.provenance.to_string()))
}
