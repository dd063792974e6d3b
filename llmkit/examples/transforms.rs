//! What a transform costs and what it gives: `cargo run -p llmkit --example transforms -- rotate smooth --bits 4`.
//!
//! Each transform in turn, statistics collected anew in between; then every matrix of the layers rounded to nearest, and
//! perplexity before and after.

use std::time::Instant;

use clap::Parser;
use llmkit::eval::Protocol;
use llmkit::hub;
use llmkit::model::{Llama, Model, Piece, WeightType};
use llmkit::quant::format::IntAffine;
use llmkit::quant::method::Rtn;
use llmkit::quant::transform::{Awq, Permute, Rotate, Smooth, Transform};
use llmkit::quant::{
    Collect, Format, Granularity, Matrix, Method, Outliers, Parts, Plain, Statistics,
};
use llmkit::{Error, Result};

/// Transforms a model, rounds it, and measures it.
#[derive(Parser)]
struct Options {
    /// rotate, offline, smooth, permute, awq, scales: any number of them, in order
    transforms: Vec<String>,
    /// Name of a model, or path
    #[arg(long, default_value = "smollm2-135m-instruct")]
    model: String,
    /// Bits of the codes; 0 for no rounding
    #[arg(long, default_value_t = 4)]
    bits: u32,
    /// Weights in a group
    #[arg(long, default_value_t = 64)]
    group: usize,
    /// α of smoothing
    #[arg(long, default_value_t = 0.5)]
    alpha: f64,
    /// Corpus for statistics
    #[arg(long, default_value = "lee")]
    calibration: String,
    /// Windows of 512 tokens for statistics
    #[arg(long, default_value_t = 16)]
    samples: usize,
    /// Corpus for perplexity
    #[arg(long, default_value = "wikitext-2")]
    corpus: String,
    /// Windows of perplexity; 0 for none
    #[arg(long, default_value_t = 8)]
    chunks: usize,
    /// What each transform did, place by place
    #[arg(long)]
    report: bool,
}

const WINDOW: usize = 512;

fn statistics(network: &Llama, tokens: &[u32], has_gram: bool) -> Result<Statistics> {
    let mut collect = Collect::new(has_gram);
    for window in tokens.chunks_exact(WINDOW) {
        let mut store = network.store();
        let mut pieces = [Piece {
            store: store.as_mut(),
            tokens: window,
        }];
        network.hidden(&mut pieces, Some(&mut collect))?;
    }
    Ok(collect.finish())
}

fn peaks(network: &Llama, tokens: &[u32]) -> Result<()> {
    let mut outliers = Outliers::default();
    let mut store = network.store();
    let mut pieces = [Piece {
        store: store.as_mut(),
        tokens: &tokens[..WINDOW],
    }];
    network.hidden(&mut pieces, Some(&mut outliers))?;
    for part in [
        "mid",
        "attn_q.in",
        "attn_output.in",
        "ffn_gate.in",
        "ffn_down.in",
    ] {
        let it = outliers.of_all_layers(part)?;
        println!(
            "  {part:15} kurtosis {:8.2}  max/median {:6.1}",
            it.kurtosis, it.peak
        );
    }
    Ok(())
}

fn rounded(network: &Llama, format: &dyn Format) -> Result<Llama> {
    let mut out = network.clone();
    for name in network.matrix_names() {
        if name.starts_with("blk.") {
            let matrix = Parts::matrix(network, &name)?;
            let weights = Matrix::new(matrix.rows(), matrix.columns, matrix.to_f32())?;
            let decoded = Rtn.quantize(&weights, format)?.decode()?;
            let plain = Plain {
                columns: matrix.columns,
                values: decoded.data().iter().map(|&it| f64::from(it)).collect(),
            };
            out.set_matrix(&name, &plain)?;
        }
    }
    Ok(out)
}

fn main() -> Result<()> {
    let options = Options::parse();
    let model = Model::load_as(&options.model, WeightType::F32)?;
    println!("{}", model.provenance);
    let format = IntAffine::new(options.bits.clamp(2, 8), Granularity::Group(options.group))?;
    let text = hub::corpus(&options.calibration)?.text()?;
    let mut tokens = model.encode(&text)?;
    tokens.truncate(options.samples.max(1) * WINDOW);
    let mut network = model.network().clone();
    println!("before");
    peaks(&network, &tokens)?;
    for name in &options.transforms {
        let transform: Box<dyn Transform> = match name.as_str() {
            "rotate" => Box::new(Rotate::new(0)),
            "offline" => Box::new(Rotate::offline(0)),
            "smooth" => Box::new(Smooth::new(options.alpha)?),
            "permute" => Box::new(Permute),
            "awq" => Box::new(Awq::new(&format)),
            "scales" => Box::new(Awq::scales(&format)),
            other => {
                let expected = "rotate, offline, smooth, permute, awq or scales";
                return Err(Error::argument("transform", expected, other));
            }
        };
        let start = Instant::now();
        let needs_gram = matches!(name.as_str(), "awq" | "scales");
        let seen = match transform.needs_statistics() {
            true => statistics(&network, &tokens, needs_gram)?,
            false => Statistics::default(),
        };
        let collected = start.elapsed().as_secs_f64();
        let (next, report) = transform.run(&network, &seen)?;
        let all = start.elapsed().as_secs_f64();
        println!(
            "{}: {collected:.1} s for statistics, {:.1} s for the rest",
            transform.name(),
            all - collected
        );
        if options.report {
            println!("{report}");
        }
        network = next;
        peaks(&network, &tokens)?;
    }
    if options.chunks > 0 {
        let text = hub::corpus(&options.corpus)?.text()?;
        let perplexity = |what: &str, network: Llama| -> Result<()> {
            let model = model.with_network(network)?;
            let found = Protocol::LLAMA_CPP.run(&model, &text, options.chunks)?;
            println!("{what:30} perplexity {:.4}", found.value);
            Ok(())
        };
        perplexity("as it is", model.network().clone())?;
        perplexity("transformed", network.clone())?;
        if options.bits > 0 {
            perplexity(
                &format!("{} of the original", format.name()),
                rounded(model.network(), &format)?,
            )?;
            perplexity(
                &format!("{} of the transformed", format.name()),
                rounded(&network, &format)?,
            )?;
        }
    }
    Ok(())
}
