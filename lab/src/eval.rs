//! `cargo lab eval`: perplexity and divergence from the shell, by the library's example of that name.

use std::ffi::OsString;

use anyhow::{Context, Result};

use crate::cargo;
use crate::place::Place;

/// Arguments of `cargo lab eval`. What they mean is the library's business; here they have names and help.
#[derive(Debug, Clone, clap::Args)]
pub struct EvalArgs {
    /// Name of a model, or path of a GGUF file or a Hugging Face folder
    model: OsString,
    /// Name of a corpus, or path of a text file [default: wikitext-2]
    #[arg(long, value_name = "NAME|FILE")]
    corpus: Option<OsString>,
    /// llamacpp:CTX, gptq2048, strided:CTX:STRIDE or word [default: llamacpp:512]
    #[arg(long)]
    protocol: Option<String>,
    /// How weights are kept: f32, bf16, int8, int4 or native (as in the file) [default: f32]
    #[arg(long, value_name = "TYPE")]
    weights: Option<String>,
    /// Windows (chunks) at most; 0 for the whole text [default: 0]
    #[arg(long, value_name = "N")]
    chunks: Option<u64>,
    /// A model to compare with, token by token: KL divergence, flips, and a verdict with its interval
    #[arg(long, value_name = "MODEL")]
    baseline: Option<OsString>,
    /// How the baseline's weights are kept [default: f32]
    #[arg(long, value_name = "TYPE", requires = "baseline")]
    baseline_weights: Option<String>,
    /// The baseline against itself: bf16, arithmetic (other instructions) or none [default: bf16, for f32 weights]
    #[arg(long, requires = "baseline")]
    floor: Option<String>,
    /// Threads; 0 for all cores [default: 0]
    #[arg(long, value_name = "N")]
    threads: Option<u64>,
    /// Instruction set: reference, avx2, avx512 … [default: the best of this machine]
    #[arg(long)]
    isa: Option<String>,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

impl EvalArgs {
    /// The same for the example.
    fn words(&self) -> Vec<OsString> {
        let text = |text: &Option<String>| text.as_ref().map(OsString::from);
        let number = |number: Option<u64>| number.map(|it| OsString::from(it.to_string()));
        let mut words = Vec::new();
        for (name, value) in [
            ("--corpus", self.corpus.clone()),
            ("--protocol", text(&self.protocol)),
            ("--weights", text(&self.weights)),
            ("--chunks", number(self.chunks)),
            ("--baseline", self.baseline.clone()),
            ("--baseline-weights", text(&self.baseline_weights)),
            ("--floor", text(&self.floor)),
            ("--threads", number(self.threads)),
            ("--isa", text(&self.isa)),
        ] {
            if let Some(value) = value {
                // One word, so that a value that begins with a dash stays a value.
                let mut word = OsString::from(name);
                word.push("=");
                word.push(value);
                words.push(word);
            }
        }
        if self.json {
            words.push("--json".into());
        }
        words.push("--".into());
        words.push(self.model.clone());
        words
    }
}

/// Builds the example if it is stale and runs it in the caller's directory, so that paths mean what they say.
///
/// # Errors
/// If it cannot be built or started.
pub fn command(place: &Place, args: &EvalArgs) -> Result<bool> {
    example(place, "eval", args.words())
}

/// Builds the library's example `name` if it is stale and runs it with `words` in the caller's directory.
pub fn example(place: &Place, name: &str, words: Vec<OsString>) -> Result<bool> {
    let here = std::env::current_dir().context("the working directory is gone")?;
    let example = place.build_dir().join("debug/examples").join(name);
    let mut build = cargo::command(place, "build");
    // With the features that notebooks use, so that the library is compiled once for both.
    build.args(["--locked", "--package", "llmkit", "--features", "notebook"]);
    build.args(["--example", name]);
    if example.exists() {
        // The first build takes minutes and says what it does; later ones take a moment.
        build.arg("--quiet");
    }
    if !build.status().context("start cargo")?.success() {
        return Ok(false);
    }
    let status = std::process::Command::new(&example)
        .args(words)
        .current_dir(here)
        .status()
        .with_context(|| format!("start {}", example.display()))?;
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: EvalArgs,
    }

    fn words(line: &[&str]) -> Vec<String> {
        let cli = Cli::try_parse_from([&["eval"][..], line].concat()).unwrap();
        let words = cli.args.words();
        words
            .into_iter()
            .map(|it| it.into_string().unwrap())
            .collect()
    }

    #[test]
    fn only_what_was_given_is_passed_on() {
        assert_eq!(words(&["smollm2"]), ["--", "smollm2"]);
        let all = [
            "smollm2",
            "--corpus",
            "a b.txt",
            "--protocol",
            "strided:2048:512",
            "--weights",
            "int8",
            "--chunks",
            "20",
            "--baseline",
            "other",
            "--baseline-weights",
            "bf16",
            "--floor",
            "none",
            "--threads",
            "1",
            "--isa",
            "avx2",
            "--json",
        ];
        let expected = [
            "--corpus=a b.txt",
            "--protocol=strided:2048:512",
            "--weights=int8",
            "--chunks=20",
            "--baseline=other",
            "--baseline-weights=bf16",
            "--floor=none",
            "--threads=1",
            "--isa=avx2",
            "--json",
            "--",
            "smollm2",
        ];
        assert_eq!(words(&all), expected);
    }

    #[test]
    fn options_of_a_baseline_need_one() {
        for line in [["m", "--floor", "none"], ["m", "--baseline-weights", "f32"]] {
            assert!(Cli::try_parse_from([&["eval"][..], &line].concat()).is_err());
        }
        assert!(Cli::try_parse_from(["eval"]).is_err());
    }
}
