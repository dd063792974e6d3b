//! Perplexities that llama.cpp's own tool printed, to compare ours with.
//!
//! They lie in `data/golden/eval/llama-perplexity.csv`, with what they were measured on; `research/eval/protocols.md` says how.

use std::path::Path;

use serde::Deserialize;

use super::protocols::Protocol;
use crate::{Error, Result, session};

/// One number of `llama-perplexity`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Golden {
    /// Name of the corpus.
    pub corpus: String,
    /// sha256 of its bytes.
    pub corpus_sha256: String,
    /// Weights: `f32` (the checkpoint dequantized), `f32-bos` (the same, marked as wanting a BOS), `native` (its own Q4_1), `q8_0`
    /// (made by llama.cpp from the first).
    pub weights: String,
    /// Tokens in a window (`-c`).
    pub ctx: usize,
    /// Windows (`--chunks`).
    pub chunks: usize,
    /// What it printed.
    pub perplexity: f64,
    /// Its standard error.
    pub error: f64,
}

impl Golden {
    /// The protocol it was measured by.
    pub fn protocol(&self) -> Protocol {
        Protocol::LlamaCpp { ctx: self.ctx }
    }

    /// The numbers for the corpus of these bytes and these weights, in the checkout of the running session.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no such file, [`Error::Format`] if it is not what it should be.
    pub fn of(corpus_sha256: &str, weights: &str) -> Result<Vec<Golden>> {
        let all = read(&session::root().join("data/golden/eval/llama-perplexity.csv"))?;
        let fits = |it: &Golden| it.corpus_sha256 == corpus_sha256 && it.weights == weights;
        Ok(all.into_iter().filter(fits).collect())
    }
}

fn read(path: &Path) -> Result<Vec<Golden>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let rows = reader.deserialize().collect::<Result<Vec<Golden>, _>>();
    rows.map_err(|error| Error::Format {
        file: path.display().to_string(),
        expected: "perplexities of llama.cpp".to_owned(),
        got: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_numbers_are_read() {
        let file = "../data/golden/eval/llama-perplexity.csv";
        let rows = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let known = |row: &&Golden| row.corpus == "wikitext-2" && row.ctx == 512;
        let known = rows.iter().filter(known).find(|row| row.weights == "f32");
        assert_eq!(known.unwrap().perplexity, 27.8419);
        assert!(rows.iter().all(|row| row.corpus_sha256.len() == 64));
        assert!(
            rows.iter()
                .all(|row| row.perplexity > 1.0 && row.error > 0.0)
        );
    }
}
