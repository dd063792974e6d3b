//! `cargo lab quantize`: a model through a recipe into a file, by the library's example of that name.

use std::ffi::OsString;

use anyhow::Result;

use crate::eval::example;
use crate::place::Place;

/// Arguments of `cargo lab quantize`. What they mean is the library's business; here they have names and help.
#[derive(Debug, Clone, clap::Args)]
pub struct QuantizeArgs {
    /// Name of a model, or path of a GGUF file or a Hugging Face folder
    #[arg(required_unless_present = "list")]
    model: Option<OsString>,
    /// What is done, such as gptq:int4-g64, rotate-offline,gptq:int4-g64 or smooth,rtn:int8-channel@a8-token
    #[arg(long, value_name = "TEXT", required_unless_present = "list")]
    recipe: Option<String>,
    /// Text to calibrate on: a corpus or a file [default: lee, if the recipe needs one]
    #[arg(long, value_name = "CORPUS|FILE")]
    calib: Option<OsString>,
    /// Windows of the calibration [default: 64]
    #[arg(long, value_name = "N")]
    samples: Option<u64>,
    /// Tokens in a window [default: 512]
    #[arg(long, value_name = "L")]
    length: Option<u64>,
    /// What is written: FILE.gguf, or a folder
    #[arg(long, value_name = "FILE.gguf|DIR", required_unless_present = "list")]
    out: Option<OsString>,
    /// Of a folder: gptq, awq, compressed-tensors or safetensors [default: safetensors]
    #[arg(long)]
    layout: Option<String>,
    /// Type of what is not quantized in a folder: F32, F16 or BF16 [default: F16]
    #[arg(long, value_name = "TYPE")]
    rest: Option<String>,
    /// ggml's type of embedding and head in a GGUF file [default: as in the source]
    #[arg(long, value_name = "TYPE")]
    embedding: Option<String>,
    /// Replace what is there already
    #[arg(long)]
    force: bool,
    /// Text to measure each layer's errors on: a corpus or a file
    #[arg(long, value_name = "CORPUS|FILE")]
    judge: Option<OsString>,
    /// Perplexity of the original and the result on 20 windows of wikitext-2
    #[arg(long)]
    score: bool,
    /// Show every matrix
    #[arg(long)]
    matrices: bool,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    /// What recipes are made of: methods, formats and transforms, their settings and papers
    #[arg(long)]
    list: bool,
}

impl QuantizeArgs {
    /// The same for the example.
    fn words(&self) -> Vec<OsString> {
        let text = |text: &Option<String>| text.as_ref().map(OsString::from);
        let number = |number: Option<u64>| number.map(|it| OsString::from(it.to_string()));
        let mut words = Vec::new();
        for (name, value) in [
            ("--recipe", text(&self.recipe)),
            ("--calib", self.calib.clone()),
            ("--samples", number(self.samples)),
            ("--length", number(self.length)),
            ("--out", self.out.clone()),
            ("--layout", text(&self.layout)),
            ("--rest", text(&self.rest)),
            ("--embedding", text(&self.embedding)),
            ("--judge", self.judge.clone()),
        ] {
            if let Some(value) = value {
                // One word, so that a value that begins with a dash stays a value.
                let mut word = OsString::from(name);
                word.push("=");
                word.push(value);
                words.push(word);
            }
        }
        for (name, is_given) in [
            ("--force", self.force),
            ("--score", self.score),
            ("--matrices", self.matrices),
            ("--json", self.json),
            ("--list", self.list),
        ] {
            if is_given {
                words.push(name.into());
            }
        }
        if let Some(model) = &self.model {
            words.push("--".into());
            words.push(model.clone());
        }
        words
    }
}

/// Builds the example if it is stale and runs it in the caller's directory.
pub fn command(place: &Place, args: &QuantizeArgs) -> Result<bool> {
    example(place, "quantize", args.words())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: QuantizeArgs,
    }

    fn words(line: &[&str]) -> Vec<String> {
        let cli = Cli::try_parse_from([&["quantize"][..], line].concat()).unwrap();
        let words = cli.args.words();
        words
            .into_iter()
            .map(|it| it.into_string().unwrap())
            .collect()
    }

    #[test]
    fn only_what_was_given_is_passed_on() {
        let least = ["smollm2", "--recipe", "gptq:int4-g64", "--out", "a b.gguf"];
        assert_eq!(
            words(&least),
            ["--recipe=gptq:int4-g64", "--out=a b.gguf", "--", "smollm2"]
        );
        let all = [
            "smollm2",
            "--recipe",
            "rotate-offline,gptq:int4-g64",
            "--calib",
            "alice",
            "--samples",
            "8",
            "--length",
            "256",
            "--out",
            "folder",
            "--layout",
            "gptq",
            "--rest",
            "BF16",
            "--embedding",
            "Q8_0",
            "--force",
            "--judge",
            "lee",
            "--score",
            "--matrices",
            "--json",
        ];
        let expected = [
            "--recipe=rotate-offline,gptq:int4-g64",
            "--calib=alice",
            "--samples=8",
            "--length=256",
            "--out=folder",
            "--layout=gptq",
            "--rest=BF16",
            "--embedding=Q8_0",
            "--judge=lee",
            "--force",
            "--score",
            "--matrices",
            "--json",
            "--",
            "smollm2",
        ];
        assert_eq!(words(&all), expected);
        assert_eq!(words(&["--list"]), ["--list"]);
        assert_eq!(words(&["--list", "--json"]), ["--json", "--list"]);
    }

    #[test]
    fn a_model_a_recipe_and_a_place_are_needed() {
        for line in [
            &[][..],
            &["m"],
            &["m", "--recipe", "rtn:int4-g64"],
            &["m", "--out", "x.gguf"],
            &["--recipe", "rtn:int4-g64", "--out", "x.gguf"],
        ] {
            assert!(
                Cli::try_parse_from([&["quantize"][..], line].concat()).is_err(),
                "{line:?}"
            );
        }
    }
}
