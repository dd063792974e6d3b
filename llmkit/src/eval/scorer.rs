//! How likely a model finds given answers to a prompt.

use crate::Result;
use crate::kvcache::store::Store;
use crate::model::{Model, Piece};

/// What is known of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// ln of its probability after the prompt, all its tokens together; nats.
    pub ln_likelihood: f64,
    /// Whether each of its tokens is the likeliest after those before: what greedy decoding gives.
    pub is_greedy: bool,
}

/// What judges answers: a model, or in tests something simpler.
pub trait Scorer {
    /// A score for each answer, in order.
    ///
    /// # Errors
    /// Those of the model; [`Error::Argument`](crate::Error::Argument) for an answer without tokens.
    fn score(&self, prompt: &str, answers: &[&str]) -> Result<Vec<Score>>;
}

impl Scorer for Model {
    /// The prompt goes through the model once; answers follow it in forks of its store, together.
    fn score(&self, prompt: &str, answers: &[&str]) -> Result<Vec<Score>> {
        let prompt: Vec<u32> = (self.tokenizer.bos.into_iter())
            .chain(self.encode(prompt)?)
            .collect();
        let answers = (answers.iter())
            .map(|answer| self.encode(answer))
            .collect::<Result<Vec<_>>>()?;
        if answers.iter().any(Vec::is_empty) {
            return Err(crate::Error::argument(
                "answer",
                "at least one token",
                "none",
            ));
        }
        let mut store = self.network().store();
        let first = self.last_logits(&prompt, store.as_mut())?;
        let mut scores: Vec<Score> = (answers.iter())
            .map(|answer| token_score(&first, answer[0]))
            .collect();
        // The last token of an answer is judged, not run.
        let longer: Vec<usize> = (0..answers.len())
            .filter(|&i| answers[i].len() > 1)
            .collect();
        if longer.is_empty() {
            return Ok(scores);
        }
        let mut forks: Vec<Box<dyn Store>> = longer.iter().map(|_| store.fork()).collect();
        let mut pieces: Vec<Piece<'_>> = (forks.iter_mut().zip(&longer))
            .map(|(store, &i)| Piece {
                store: store.as_mut(),
                tokens: &answers[i][..answers[i].len() - 1],
            })
            .collect();
        let hidden = self.network().hidden(&mut pieces, None)?;
        let logits = self.network().logits(&hidden);
        let mut rows = logits.chunks_exact(self.config.vocabulary);
        for &i in &longer {
            for (&token, row) in answers[i][1..].iter().zip(&mut rows) {
                let score = token_score(row, token);
                scores[i].ln_likelihood += score.ln_likelihood;
                scores[i].is_greedy &= score.is_greedy;
            }
        }
        Ok(scores)
    }
}

/// The score of one token; of equal logits the lower id is the greedy one.
fn token_score(logits: &[f32], token: u32) -> Score {
    let own = f64::from(logits[token as usize]);
    let top = logits
        .iter()
        .fold(f64::NEG_INFINITY, |top, &it| top.max(f64::from(it)));
    let total: f64 = logits.iter().map(|&it| (f64::from(it) - top).exp()).sum();
    let first = logits.iter().position(|&it| f64::from(it) == top);
    Score {
        ln_likelihood: own - top - total.ln(),
        is_greedy: first == Some(token as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_scored_by_the_softmax() {
        let logits = [0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()];
        let score = |token| token_score(&logits, token);
        assert!((score(0).ln_likelihood - 0.5f64.ln()).abs() < 1e-7 && score(0).is_greedy);
        assert!((score(2).ln_likelihood - 0.25f64.ln()).abs() < 1e-7 && !score(2).is_greedy);
        let ties = [1.0, 2.0, 2.0];
        assert!(token_score(&ties, 1).is_greedy && !token_score(&ties, 2).is_greedy);
    }
}
