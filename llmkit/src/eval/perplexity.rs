//! Perplexity: how surprised a model is by a text, exp of the mean negative log-likelihood of its tokens.
//!
//! Numbers of different protocols cannot be compared, so a protocol is an object of its own. Likelihoods are computed
//! in f64 from the model's f32 logits.

use std::fmt;

use candle_core::Tensor;

use crate::model::{KvCache, Model};
use crate::progress::Progress;
use crate::{Error, Result};

/// The protocol of llama.cpp's `llama-perplexity`: the text is tokenized as a whole and cut into windows of `ctx` tokens side by
/// side; of each window only the second half is scored, so that every scored token has at least ctx/2 − 1 before it.
///
/// In a window, positions ctx/2 … ctx − 2 predict tokens ctx/2 + 1 … ctx − 1: ctx − ctx/2 − 1 scores (255 of 512). The
/// first token of a window is replaced by the beginning-of-sequence token for models that want one (SmolLM2 does not).
///
/// Source: llama.cpp, `tools/perplexity/perplexity.cpp`. Where we differ: markup such as `<|im_start|>` in the text would become
/// a special token here; a final line end, which llama.cpp drops, is kept (it is in no whole window but the last).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LlamaCpp {
    /// Tokens in a window (`-c`).
    pub ctx: usize,
}

impl Default for LlamaCpp {
    fn default() -> LlamaCpp {
        LlamaCpp { ctx: 512 }
    }
}

/// A measured perplexity.
#[derive(Debug, Clone, PartialEq)]
pub struct Perplexity {
    /// exp of the mean negative log-likelihood.
    pub value: f64,
    /// Standard error of `value`, from the spread of the tokens' log-likelihoods, as llama.cpp computes it.
    pub standard_error: f64,
    /// Windows used.
    pub windows: usize,
    /// Negative log-likelihood of each scored token, in nats, in text order: what paired comparisons need.
    pub nll: Vec<f64>,
}

impl fmt::Display for Perplexity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "perplexity {:.4} ± {:.4} ({} tokens scored in {} windows)",
            self.value,
            self.standard_error,
            self.nll.len(),
            self.windows
        )
    }
}

impl Perplexity {
    fn of(nll: Vec<f64>, windows: usize) -> Perplexity {
        let count = nll.len() as f64;
        let mean = nll.iter().sum::<f64>() / count;
        let variance = nll.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / count;
        let value = mean.exp();
        Perplexity {
            value,
            standard_error: if nll.len() > 1 {
                value * (variance / (count - 1.0)).sqrt()
            } else {
                f64::NAN
            },
            windows,
            nll,
        }
    }

    /// Shows the line in a notebook.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl LlamaCpp {
    /// Perplexity of `text` under `model`, over its first `max_windows` windows (`--chunks`; 0 = all).
    ///
    /// # Errors
    /// [`Error::Argument`] if `ctx` is below 4 or the text has fewer than two windows (as llama.cpp wants), [`Error::Interrupted`].
    pub fn run(&self, model: &Model, text: &str, max_windows: usize) -> Result<Perplexity> {
        let tokens = model.encode(text)?;
        let first = self.ctx / 2;
        self.score(&tokens, max_windows, |window| {
            let mut window = window.to_vec();
            if let Some(bos) = model.tokenizer.bos {
                window[0] = bos;
            }
            let hidden = model.network().hidden(&window, &mut KvCache::new())?;
            // Only the rows that are scored go through the head, the most expensive matrix.
            model
                .network()
                .logits(&hidden.narrow(0, first, self.ctx - 1 - first)?)
        })
    }

    /// The protocol over any source of logits: `logits` gives, for a window of `ctx` tokens, the rows of positions
    /// ctx/2 … ctx − 2, each over the vocabulary.
    fn score(
        &self,
        tokens: &[u32],
        max_windows: usize,
        mut logits: impl FnMut(&[u32]) -> Result<Tensor>,
    ) -> Result<Perplexity> {
        let ctx = self.ctx;
        if ctx < 4 {
            return Err(Error::argument("ctx", "at least 4 tokens", ctx));
        }
        if tokens.len() < 2 * ctx {
            let expected = format!("at least two windows of {ctx} tokens");
            return Err(Error::argument(
                "text",
                expected,
                format!("{} tokens", tokens.len()),
            ));
        }
        let whole = tokens.len() / ctx;
        let windows = if max_windows == 0 {
            whole
        } else {
            whole.min(max_windows)
        };
        let first = ctx / 2;
        let mut progress = Progress::new("perplexity", windows as u64, "windows");
        let mut nll = Vec::with_capacity(windows * (ctx - 1 - first));
        for window in tokens.chunks_exact(ctx).take(windows) {
            let rows: Vec<Vec<f32>> = logits(window)?.to_vec2()?;
            for (row, &target) in rows.iter().zip(&window[first + 1..]) {
                nll.push(negative_log_likelihood(row, target)?);
            }
            progress.advance(1)?;
        }
        Ok(Perplexity::of(nll, windows))
    }
}

/// −log softmax(row)\[target\], in f64.
fn negative_log_likelihood(row: &[f32], target: u32) -> Result<f64> {
    let own = row
        .get(target as usize)
        .ok_or_else(|| Error::argument("token id", format!("below {}", row.len()), target))?;
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !top.is_finite() || own.is_nan() {
        return Err(Error::argument("logits", "finite numbers", top));
    }
    let total: f64 = row
        .iter()
        .map(|&it| (f64::from(it) - f64::from(top)).exp())
        .sum();
    Ok(total.ln() + (f64::from(top) - f64::from(*own)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Logits under which token t has probability 2^-(t + 1) (of four: 1/2, 1/4, 1/8, 1/8).
    fn halves(rows: usize) -> Result<Tensor> {
        let row: Vec<f32> = [0.5f32, 0.25, 0.125, 0.125]
            .iter()
            .map(|p| p.ln())
            .collect();
        Ok(Tensor::from_vec(row.repeat(rows), (rows, 4), &Device::Cpu)?)
    }

    #[test]
    fn the_second_half_of_each_window_is_scored_once() {
        let protocol = LlamaCpp { ctx: 8 };
        // Two whole windows and a rest; the last three tokens of each window are scored, the rest must not matter.
        let tokens = [3, 3, 3, 3, 3, 0, 1, 0, 3, 3, 3, 3, 3, 1, 1, 2, 3, 3];
        let mut seen = Vec::new();
        let result = protocol
            .score(&tokens, 0, |window| {
                seen.push(window.to_vec());
                halves(3)
            })
            .unwrap();
        assert_eq!(seen, [tokens[..8].to_vec(), tokens[8..16].to_vec()]);
        let bits: Vec<f64> = result
            .nll
            .iter()
            .map(|nats| nats / std::f64::consts::LN_2)
            .collect();
        for (got, expected) in bits.iter().zip([1.0, 2.0, 1.0, 2.0, 2.0, 3.0]) {
            assert!((got - expected).abs() < 1e-6, "{bits:?}");
        }
        assert_eq!((result.nll.len(), result.windows), (6, 2));
        let mean_bits = 11.0 / 6.0;
        assert!((result.value - 2f64.powf(mean_bits)).abs() < 1e-5);
        // Spread of (1, 2, 1, 2, 2, 3) bits: variance 17/36, over 5 degrees of freedom.
        let expected = result.value * (17.0f64 / 36.0 / 5.0).sqrt() * std::f64::consts::LN_2;
        assert!((result.standard_error - expected).abs() < 1e-5);
        assert_eq!(
            protocol.score(&tokens, 1, |_| halves(3)).unwrap().nll.len(),
            3
        );
    }

    #[test]
    fn short_texts_and_bad_logits_are_refused() {
        let protocol = LlamaCpp { ctx: 8 };
        assert!(protocol.score(&[0; 15], 0, |_| halves(3)).is_err());
        assert!(
            LlamaCpp { ctx: 3 }
                .score(&[0; 100], 0, |_| halves(1))
                .is_err()
        );
        assert!(
            protocol.score(&[9; 16], 0, |_| halves(3)).is_err(),
            "unknown token"
        );
        let nan = || Ok(Tensor::full(f32::NAN, (3, 4), &Device::Cpu)?);
        assert!(protocol.score(&[0; 16], 0, |_| nan()).is_err());
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let nll = negative_log_likelihood(&[3e38, -3e38, 3e38], 0).unwrap();
        assert!((nll - std::f64::consts::LN_2).abs() < 1e-12);
        assert!(negative_log_likelihood(&[], 0).is_err());
    }
}
