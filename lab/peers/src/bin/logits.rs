//! Logits against candle's: `cargo run -p llmkit-peers --bin logits -- --help`.

#[path = "../logits.rs"]
mod logits;

use anyhow::Context;
use clap::Parser;
use llmkit::{hub, model::Model};

/// Compares logits at every position with candle-transformers' quantized Llama, as it is and with all weights decoded.
#[derive(Parser)]
#[command(name = "logits")]
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

/// Set in the process that this one starts for the second comparison: candle reads it once, when it begins.
const DEQUANTIZE: &str = "CANDLE_DEQUANTIZE_ALL";

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let asset = hub::model(&options.model)?;
    let tokens = Model::load(&options.model)?.encode(&options.text)?;
    println!(
        "{}\n{}",
        asset.provenance,
        logits::compare(asset.path(), &tokens)?
    );
    if std::env::var_os(DEQUANTIZE).is_none() {
        let program = std::env::current_exe().context("find this program")?;
        let arguments = ["--model", &options.model, "--text", &options.text];
        let status = std::process::Command::new(program)
            .args(arguments)
            .env(DEQUANTIZE, "1")
            .status()?;
        anyhow::ensure!(status.success(), "the second comparison failed: {status}");
    }
    Ok(())
}
