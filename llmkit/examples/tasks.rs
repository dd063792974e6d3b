//! Short tasks with computed answers: `cargo run -p llmkit --example tasks -- --help`.

use clap::Parser;
use llmkit::eval::tasks;
use llmkit::model::{Model, WeightType};

/// Asks a model to find a needle, copy, look up and continue.
#[derive(Parser)]
#[command(name = "tasks")]
struct Options {
    /// Name of a model, or path of a GGUF file or a Hugging Face folder.
    model: String,
    /// How weights are kept: f32, bf16, int8, int4 or native (as in the file).
    #[arg(long, default_value = "f32")]
    weights: WeightType,
    /// Items of each task.
    #[arg(long, default_value_t = 50)]
    items: usize,
    /// Seed of the items.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One JSON object a task on standard output.
    #[arg(long)]
    json: bool,
}

fn main() -> llmkit::Result<()> {
    let options = Options::parse();
    let model = Model::load_as(&options.model, options.weights)?;
    println!("{}; weights: {}", model.provenance, options.weights);
    for it in tasks::run_all(&model, options.items, options.seed)? {
        let json = serde_json::json!({
            "task": it.task, "items": it.outcomes.len(), "seed": options.seed, "weights": options.weights.name(),
            "choice": it.choice, "exact": it.exact, "nll": it.nll,
        });
        match options.json {
            true => println!("{json}"),
            false => println!("{it}"),
        }
    }
    Ok(())
}
