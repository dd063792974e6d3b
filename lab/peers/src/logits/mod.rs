//! Our logits against those of candle-transformers' `quantized_llama`, on the same GGUF file.
//!
//! Ours: weights decoded to f32, activations in f32. candle's, in two ways:
//!
//! * as it runs by default: weights stay quantized, and each input of a matrix product is rounded to 8 bits in blocks of 32
//!   (Q8_0, Q8_1) or 256 (Q8_K), as llama.cpp does, because its products are of whole numbers. That is the whole difference: a
//!   rounding of half of 1/127 of a block's largest value, at each of 211 products;
//! * with `CANDLE_DEQUANTIZE_ALL=1`, where it decodes weights as we do: what is left is the order of sums in f32.
//!
//! The two together show the cause: what the first has and the second has not is the rounding of activations.

use std::fmt;
use std::path::Path;

use candle_core::quantized::gguf_file;
use candle_core::{Device, IndexOp, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use llmkit::model::Model;

/// Differences at one position.
#[derive(Debug, Clone, Copy)]
pub struct Difference {
    /// Position in the sequence.
    pub position: usize,
    /// Largest |ours − candle's| over the vocabulary, over the largest |ours|.
    pub relative: f64,
    /// KL divergence of candle's law of the next token from ours, in nats.
    pub divergence: f64,
    /// Whether both have the same likeliest token.
    pub same_top: bool,
}

/// What [`compare`] found.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Whether candle decoded all weights (`CANDLE_DEQUANTIZE_ALL`).
    pub is_dequantized: bool,
    /// At each position.
    pub differences: Vec<Difference>,
}

impl Comparison {
    /// The largest relative difference at any position.
    pub fn largest(&self) -> f64 {
        self.differences
            .iter()
            .fold(0.0, |top, it| top.max(it.relative))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = match self.is_dequantized {
            true => "candle with weights decoded to f32: sums in another order",
            false => "candle as it is: inputs of products rounded to 8 bits",
        };
        writeln!(f, "{cause}")?;
        writeln!(
            f,
            "position  max |difference| / max |logit|  KL divergence  same top"
        )?;
        for it in &self.differences {
            let top = if it.same_top { "yes" } else { "no" };
            writeln!(
                f,
                "{:8}  {:30.3e}  {:13.3e}  {top}",
                it.position, it.relative, it.divergence
            )?;
        }
        let same = self.differences.iter().filter(|it| it.same_top).count();
        write!(
            f,
            "largest {:.3e} · same top {same} of {}",
            self.largest(),
            self.differences.len()
        )
    }
}

/// Logits of `tokens` at every position, by both, in this process.
///
/// # Errors
/// What either says of the file or of the tokens.
pub fn compare(path: &Path, tokens: &[u32]) -> anyhow::Result<Comparison> {
    let model = Model::load(&path.display().to_string())?;
    let ours: Vec<Vec<f32>> = model.logits(tokens)?.to_vec2()?;
    let mut file = std::fs::File::open(path)?;
    let content = gguf_file::Content::read(&mut file)?;
    let mut theirs = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
    let mut differences = Vec::new();
    for (position, (&token, ours)) in tokens.iter().zip(&ours).enumerate() {
        // It gives the last position's logits only: token by token, with its cache.
        let input = Tensor::new(&[[token]], &Device::Cpu)?;
        let logits: Vec<f32> = theirs.forward(&input, position)?.i(0)?.to_vec1()?;
        anyhow::ensure!(
            logits.len() == ours.len(),
            "vocabularies of {} and {}",
            ours.len(),
            logits.len()
        );
        differences.push(difference(position, ours, &logits));
    }
    let is_dequantized =
        std::env::var("CANDLE_DEQUANTIZE_ALL").is_ok_and(|it| !matches!(&*it, "" | "0"));
    Ok(Comparison {
        is_dequantized,
        differences,
    })
}

fn difference(position: usize, ours: &[f32], theirs: &[f32]) -> Difference {
    let largest =
        |values: &mut dyn Iterator<Item = f64>| values.fold(0.0f64, |top, it| top.max(it.abs()));
    let gap = largest(
        &mut ours
            .iter()
            .zip(theirs)
            .map(|(a, b)| f64::from(*a) - f64::from(*b)),
    );
    let (p, q) = (log_softmax(ours), log_softmax(theirs));
    let top = |values: &[f64]| (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]));
    Difference {
        position,
        relative: gap / largest(&mut ours.iter().map(|&it| f64::from(it))),
        divergence: p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum(),
        same_top: top(&p) == top(&q),
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits
        .iter()
        .fold(f64::MIN, |top, &it| top.max(f64::from(it)));
    let sum: f64 = logits.iter().map(|&it| (f64::from(it) - top).exp()).sum();
    logits
        .iter()
        .map(|&it| f64::from(it) - top - sum.ln())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_what_they_say() {
        let same = difference(3, &[1.0, 2.0, -4.0], &[1.0, 2.0, -4.0]);
        assert_eq!((same.relative, same.same_top), (0.0, true));
        assert!(same.divergence.abs() < 1e-15);
        let other = difference(0, &[1.0, 2.0, -4.0], &[3.0, 2.0, -4.0]);
        assert_eq!((other.relative, other.same_top), (0.5, false));
        assert!(other.divergence > 0.1);
    }

    #[test]
    fn the_real_models_logits_are_candles() {
        // Where the model is in reach. The bound is generous, not derived: inputs in 8 bits at each of 211 products.
        let Ok(asset) = llmkit::hub::model("smollm2-135m-instruct-q4_1") else {
            println!("skipped: the model is out of reach");
            return;
        };
        let found = compare(asset.path(), &[504, 3575, 282, 4649, 314]).unwrap();
        println!("{found}");
        assert!(found.largest() < 0.05, "{found}");
        assert!(found.differences.iter().all(|it| it.same_top), "{found}");
    }
}
