//! How fast the engine is: `cargo run -p llmkit --example engine -- --help`. One JSON object a line.

use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use llmkit::kernels::{Isa, Team};
use llmkit::model::{Engine, Model, Piece, WeightType};

/// Times prompts, decoding and batches.
#[derive(Parser)]
#[command(name = "engine")]
struct Options {
    /// Name or path of a model.
    #[arg(long, default_value = "smollm2-135m-instruct-q4_1")]
    model: String,
    /// How weights are kept; may be given several times.
    #[arg(long, default_values_t = [WeightType::F32, WeightType::Bf16, WeightType::Int8, WeightType::Int4])]
    weights: Vec<WeightType>,
    /// Tokens of a prompt.
    #[arg(long, default_values_t = [512])]
    prompt: Vec<usize>,
    /// Tokens to decode.
    #[arg(long, default_value_t = 64)]
    decode: usize,
    /// Sequences decoded at once.
    #[arg(long, default_values_t = [1, 16])]
    batch: Vec<usize>,
    /// Threads; 0 for all.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Instruction set: avx512, avx2 or best.
    #[arg(long, default_value = "best")]
    isa: String,
    /// Runs of each; the median is given.
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

fn main() -> llmkit::Result<()> {
    let options = Options::parse();
    let isa = match options.isa.as_str() {
        "avx2" => Isa::Avx2,
        "avx512" => Isa::Avx512,
        _ => Isa::best(),
    };
    let team = match options.threads {
        0 => Arc::clone(Team::global()),
        threads => Arc::new(Team::new(threads)),
    };
    for &weights in &options.weights {
        let start = Instant::now();
        let engine = Engine {
            isa,
            team: Arc::clone(&team),
        };
        let model = Model::load_as(&options.model, weights)?.with_engine(engine);
        let load = start.elapsed().as_secs_f64();
        let first = Instant::now();
        model.next_tokens("Hello", 1)?;
        report(weights, "load", "s", &[load]);
        report(
            weights,
            "first token after loading",
            "s",
            &[first.elapsed().as_secs_f64()],
        );
        let token = |i: usize| (i * 7919 % 40_000) as u32 + 1000;
        for &prompt in &options.prompt {
            let tokens: Vec<u32> = (0..prompt).map(token).collect();
            let mut rates = Vec::new();
            for _ in 0..options.runs {
                let start = Instant::now();
                let hidden = model.hidden(&tokens, model.network().store().as_mut())?;
                let last = &hidden[hidden.len() - model.config.width..];
                std::hint::black_box(model.network().logits(last));
                rates.push(prompt as f64 / start.elapsed().as_secs_f64());
            }
            report(weights, &format!("prompt {prompt}"), "tokens/s", &rates);
        }
        for &batch in &options.batch {
            let mut rates = Vec::new();
            for _ in 0..options.runs {
                let mut stores: Vec<_> = (0..batch).map(|_| model.network().store()).collect();
                let start = Instant::now();
                for step in 0..options.decode {
                    let tokens: Vec<u32> = (0..batch).map(|i| token(step + i)).collect();
                    let mut pieces: Vec<Piece<'_>> = (stores.iter_mut().zip(tokens.chunks(1)))
                        .map(|(store, tokens)| Piece {
                            store: store.as_mut(),
                            tokens,
                        })
                        .collect();
                    let hidden = model.network().hidden(&mut pieces, None)?;
                    std::hint::black_box(model.network().logits(&hidden));
                }
                rates.push((options.decode * batch) as f64 / start.elapsed().as_secs_f64());
            }
            report(
                weights,
                &format!("decode {} × {batch}", options.decode),
                "tokens/s",
                &rates,
            );
        }
    }
    Ok(())
}

fn report(weights: WeightType, case: &str, unit: &str, values: &[f64]) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let line = serde_json::json!({
        "bench": "engine", "weights": weights.name(), "case": case, "unit": unit,
        "median": sorted[sorted.len() / 2], "min": sorted[0], "max": sorted[sorted.len() - 1], "runs": sorted.len(),
    });
    println!("{line}");
}
