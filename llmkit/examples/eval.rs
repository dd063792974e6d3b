//! Perplexity of a model, and its divergence from a baseline: `cargo lab eval --help`, or
//! `cargo run -p llmkit --example eval -- --help`.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use llmkit::eval::{Comparison, Divergence, Estimate, Floor, Perplexity, Protocol};
use llmkit::hub::{self, Asset};
use llmkit::kernels::{Isa, Team};
use llmkit::model::{Engine, Model, WeightType};
use llmkit::{Error, Result};
use serde_json::Value;

/// Measures a model on a text: perplexity by a named protocol, and divergence from a baseline.
#[derive(Parser)]
#[command(name = "eval", max_term_width = 100)]
struct Options {
    /// Name of a model, or path of a GGUF file or a Hugging Face folder
    model: String,
    /// Name of a corpus (botchan, alice, lee, bottle, wikitext-2), or path of a text file
    #[arg(long, value_name = "NAME|FILE", default_value = "wikitext-2")]
    corpus: String,
    /// llamacpp:CTX, gptq2048, strided:CTX:STRIDE or word
    #[arg(long, default_value = "llamacpp:512")]
    protocol: Protocol,
    /// How weights are kept: f32, bf16, int8, int4 or native (as in the file)
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    weights: WeightType,
    /// Windows (chunks) at most; 0 for the whole text
    #[arg(long, value_name = "N", default_value_t = 0)]
    chunks: usize,
    /// A model to compare with, token by token
    #[arg(long, value_name = "MODEL")]
    baseline: Option<String>,
    /// How the baseline's weights are kept
    #[arg(
        long,
        value_name = "TYPE",
        default_value = "f32",
        requires = "baseline"
    )]
    baseline_weights: WeightType,
    /// The baseline against itself, as the noise floor: in bf16, or on other instructions (arithmetic), or none. Default: bf16 for
    /// f32 weights, else arithmetic
    #[arg(long, value_name = "bf16|arithmetic|none", requires = "baseline")]
    floor: Option<String>,
    /// Threads; 0 for all cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Instruction set: reference, avx2, avx512 …; the best of this machine if not given
    #[arg(long)]
    isa: Option<String>,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// What is printed: lines for people, fields for programs.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
    fields: serde_json::Map<String, Value>,
}

impl Report {
    fn line(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    fn add(&mut self, name: &str, value: impl Into<Value>) {
        self.fields.insert(name.to_owned(), value.into());
    }

    fn add_estimate(&mut self, name: &str, it: &Estimate) {
        self.add(name, it.value);
        self.add(&format!("{name}_low"), it.interval.low);
        self.add(&format!("{name}_high"), it.interval.high);
    }

    fn add_comparison(&mut self, name: &str, it: &Comparison) {
        self.add_estimate(name, &it.difference);
        self.add(&format!("{name}_outcome"), it.outcome.to_string());
        self.add(&format!("{name}_more_chunks"), it.more_chunks);
    }
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
    // What cannot be is said before anything is loaded.
    let engine = engine(options)?;
    let floor = floor(options)?;
    let corpus = hub::corpus(&options.corpus)?;
    let text = text(&corpus)?;
    let load = |name: &str, weights| -> Result<Model> {
        Ok(Model::load_as(name, weights)?.with_engine(engine.clone()))
    };
    let start = Instant::now();
    let model = load(&options.model, options.weights)?;
    let load_seconds = start.elapsed().as_secs_f64();

    let mut report = Report::default();
    describe(&mut report, options, &model, &corpus, load_seconds);
    let start = Instant::now();
    match &options.baseline {
        None => {
            let found = options.protocol.run(&model, &text, options.chunks)?;
            perplexity(&mut report, "", &found)?;
            speed(&mut report, found.tokens_in, start);
        }
        Some(name) => {
            let baseline = load(name, options.baseline_weights)?;
            let other = floor.map(|it| it.of(name, &baseline)).transpose()?;
            let mut models = vec![&model];
            models.extend(&other);
            let start = Instant::now();
            let found =
                Divergence::run_all(options.protocol, &baseline, &models, &text, options.chunks)?;
            let tokens = (1 + found.len()) * found[0].model.tokens_in;
            report.add("baseline", baseline.provenance.to_string());
            report.add("baseline_weights", options.baseline_weights.name());
            report.line(format!(
                "baseline: {}; weights: {}",
                baseline.provenance, options.baseline_weights
            ));
            perplexity(&mut report, "", &found[0].model)?;
            perplexity(&mut report, "baseline_", &found[0].baseline)?;
            divergence(&mut report, &found, floor)?;
            speed(&mut report, tokens, start);
        }
    }
    let text = match options.json {
        true => Value::from(report.fields).to_string(),
        false => report.lines.join("\n"),
    };
    match writeln!(std::io::stdout(), "{text}") {
        // A reader that is gone has what it wanted.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(Error::io("write", "standard output")),
    }
}

/// The instructions and threads asked for.
fn engine(options: &Options) -> Result<Engine> {
    let mut engine = Engine::default();
    if let Some(name) = &options.isa {
        let plain = |text: &str| text.to_lowercase().replace('-', "");
        let here = Isa::here();
        let found = here.iter().find(|it| plain(&it.to_string()) == plain(name));
        engine.isa = *found.ok_or_else(|| {
            let names: Vec<String> = here.iter().map(|it| plain(&it.to_string())).collect();
            Error::argument(
                "isa",
                format!("one of this machine's: {}", names.join(", ")),
                name,
            )
        })?;
    }
    match options.threads {
        0 => {}
        1..=1024 => engine.team = Arc::new(Team::new(options.threads)),
        many => return Err(Error::argument("threads", "at most 1024", many)),
    }
    Ok(engine)
}

/// The corpus as text.
fn text(corpus: &Asset) -> Result<String> {
    let bytes = std::fs::read(corpus.path()).map_err(Error::io("read", corpus.path()))?;
    String::from_utf8(bytes).map_err(|error| Error::Format {
        file: corpus.path().display().to_string(),
        expected: "text in UTF-8".to_owned(),
        got: format!("other bytes at offset {}", error.utf8_error().valid_up_to()),
    })
}

/// The baseline against itself, in which way.
fn floor(options: &Options) -> Result<Option<Floor>> {
    Ok(match options.floor.as_deref() {
        Some("none") => None,
        Some(named) => Some(
            named
                .parse()
                .map_err(|_| Error::argument("floor", "bf16, arithmetic or none", named))?,
        ),
        None if options.baseline_weights == WeightType::F32 => Some(Floor::Bf16),
        None => Some(Floor::Arithmetic),
    })
}

fn describe(report: &mut Report, options: &Options, model: &Model, corpus: &Asset, seconds: f64) {
    let engine = &model.network().engine;
    let (bytes, threads) = (model.network().bytes(), engine.team.threads());
    let sha256 = corpus.provenance.files.first().map(|it| it.sha256.clone());
    report.add("model", model.provenance.to_string());
    report.add("weights", options.weights.name());
    report.add("weight_bytes", bytes);
    report.add("corpus", corpus.provenance.to_string());
    report.add("corpus_sha256", sha256.clone());
    report.add("protocol", options.protocol.to_string());
    report.add("bos", options.protocol.bos_rule());
    report.add("isa", engine.isa.to_string());
    report.add("threads", threads);
    report.add("load_s", seconds);
    report.line(format!("model: {}", model.provenance));
    report.line(format!(
        "weights: {}, {:.1} MB, loaded in {seconds:.2} s; {}, {threads} threads",
        options.weights,
        bytes as f64 / 1e6,
        engine.isa,
    ));
    report.line(format!("corpus: {}", corpus.provenance));
    report.line(format!("sha256: {}", sha256.unwrap_or_default()));
}

fn perplexity(report: &mut Report, prefix: &str, found: &Perplexity) -> Result<()> {
    let name = format!("{prefix}perplexity");
    report.line(format!("{}{found}", prefix.replace('_', "'s ")));
    report.add(&name, found.value);
    if found.windows.len() > 1 {
        // Windows, not tokens, are redrawn: tokens of a window depend on each other.
        let estimate = found.estimate(0)?;
        report.add_estimate(&name, &estimate);
        let interval = estimate.interval;
        report.line(format!(
            "  95 % over windows: {:.4} … {:.4}",
            interval.low, interval.high
        ));
    }
    report.add(&format!("{prefix}standard_error"), found.standard_error);
    if prefix.is_empty() {
        report.line(format!(
            "  {} of the text's {} tokens read, {} scored",
            found.tokens_in,
            found.text_tokens,
            found.nll.len()
        ));
        report.add("unit", found.protocol.unit());
        report.add("windows", found.windows.len());
        report.add("text_tokens", found.text_tokens);
        report.add("tokens_in", found.tokens_in);
        report.add("tokens_scored", found.nll.len());
    }
    Ok(())
}

fn divergence(report: &mut Report, all: &[Divergence], floor: Option<Floor>) -> Result<()> {
    let found = &all[0];
    report.line(found.to_string());
    report.add("kl_mean", found.mean());
    report.add("kl_median", found.quantile(0.5));
    report.add("kl_p99", found.quantile(0.99));
    report.add("top1_agreement", found.top1_agreement());
    report.add("flips", found.flip_share());
    if found.model.windows.len() < 2 {
        report.line("one window has no interval: no comparison");
        return Ok(());
    }
    let kl = found.kl_estimate(0)?;
    report.add_estimate("kl_mean", &kl);
    report.add_estimate("top1_agreement", &found.agreement_estimate(0)?);
    report.add_estimate("flips", &found.flips_estimate(0)?);
    report.line(format!(
        "  mean KL, 95 % over windows: {:.3e} … {:.3e}",
        kl.interval.low, kl.interval.high
    ));
    let difference = Comparison::of_perplexities(&found.model, &found.baseline, 0)?;
    report.add_comparison("ln_ppl_ratio", &difference);
    report.line(format!("against the baseline, {difference}"));
    if let (Some(floor), Some(of_floor)) = (floor, all.get(1)) {
        let above = Comparison::of_divergences(found, of_floor, 0)?;
        report.add("floor", floor.name());
        report.add_estimate("floor_kl_mean", &of_floor.kl_estimate(0)?);
        report.add("floor_top1_agreement", of_floor.top1_agreement());
        report.add_comparison("kl_above_floor", &above);
        report.line(format!("noise floor ({floor}), {of_floor}"));
        report.line(format!("against the noise floor, {above}"));
    }
    Ok(())
}

fn speed(report: &mut Report, tokens: usize, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    let per_second = tokens as f64 / seconds;
    report.add("seconds", seconds);
    report.add("tokens_per_s", per_second);
    report.line(format!(
        "{tokens} tokens in {seconds:.1} s: {per_second:.0} tokens/s"
    ));
}
