//! Logits against candle's: `cargo run -p llmkit-peers --bin logits -- --help`.

#[path = "../logits/mod.rs"]
mod logits;

use clap::Parser;
use llmkit::{hub, model::Model};

/// Compares logits at every position with candle-transformers' quantized Llama, as it is and with all weights decoded, and says what
/// differences come from.
#[derive(Parser)]
#[command(name = "logits", max_term_width = 100)]
struct Options {
    /// Name or path of a GGUF model of the Llama architecture.
    #[arg(long, default_value = "smollm2-135m-instruct-q4_1")]
    model: String,
    /// The text.
    #[arg(
        long,
        default_value = "The capital of France is Paris, and in 2024 it had about 2.1 million people."
    )]
    text: String,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let asset = hub::model(&options.model)?;
    let tokens = Model::load(&options.model)?.encode(&options.text)?;
    anyhow::ensure!(!tokens.is_empty(), "the text has no tokens");
    println!("{}", asset.provenance);
    println!("{}", logits::compare(asset.path(), &tokens)?);
    Ok(())
}
