//! Nasty texts and the ids that a model's tokenizer gives them, a JSON object a line:
//! `cargo run -p llmkit --example tokens -- --count 12000 | python lab/check_tokens.py MODEL.gguf`.

mod strings;

use std::io::Write;

use clap::Parser;
use llmkit::hub;
use llmkit::model::Tokenizer;
use llmkit::model::gguf::Gguf;

/// Prints texts with their ids, and says how many texts do not come back from them.
#[derive(Parser)]
#[command(name = "tokens")]
struct Options {
    /// Name or path of a GGUF model.
    #[arg(long, default_value = "smollm2-135m-instruct-q4_1")]
    model: String,
    /// Texts.
    #[arg(long, default_value_t = 12_000)]
    count: u64,
}

fn main() -> llmkit::Result<()> {
    let options = Options::parse();
    let asset = hub::model(&options.model)?;
    eprintln!("{}", asset.provenance);
    let tokenizer = Tokenizer::from_gguf(&Gguf::open(asset.path())?)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut changed = 0;
    for number in 0..options.count {
        let text = strings::nasty(number);
        let ids = tokenizer.encode(&text)?;
        changed += u64::from(tokenizer.decode(&ids)? != text);
        let line = serde_json::json!({ "text": text, "ids": ids });
        writeln!(out, "{line}").map_err(llmkit::Error::io("write", "standard output"))?;
    }
    eprintln!("{changed} of {} texts do not come back", options.count);
    Ok(())
}
