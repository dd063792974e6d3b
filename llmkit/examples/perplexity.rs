//! Perplexity of a model on a corpus by llama.cpp's protocol.
//!
//! `cargo run -p llmkit --example perplexity -- [MODEL [CORPUS [WINDOWS]]]`

use llmkit::eval::perplexity::LlamaCpp;
use llmkit::model::{GenerateOptions, Model};

fn main() -> llmkit::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments
        .next()
        .unwrap_or_else(|| "smollm2-135m-instruct-q4_1".to_owned());
    let corpus = arguments.next().unwrap_or_else(|| "wikitext-2".to_owned());
    let windows = arguments
        .next()
        .and_then(|it| it.parse().ok())
        .unwrap_or(20);
    let start = std::time::Instant::now();
    let model = Model::load(&model)?;
    println!("{model}\nloaded in {:.2} s", start.elapsed().as_secs_f64());
    let answer = model.generate(
        &Model::chat("What is a tensor?"),
        &GenerateOptions::default(),
    )?;
    println!(
        "[{} tokens, {:.1} tokens/s]",
        answer.tokens.len(),
        answer.tokens_per_second()
    );
    let corpus = llmkit::hub::corpus(&corpus)?;
    println!("{}", corpus.provenance);
    let start = std::time::Instant::now();
    let result = LlamaCpp::default().run(&model, &corpus.text()?, windows)?;
    println!("{result} in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}
