//! The texts that a model is calibrated on: windows of tokens, cut evenly from a corpus.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::hub::{self, hex};
use crate::model::Model;
use crate::{Error, Result};

/// Windows of tokens, all of one length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Samples {
    name: String,
    windows: Vec<Vec<u32>>,
    left_out: usize,
}

impl Samples {
    /// `count` windows of `window_tokens` tokens each, at equal distances from the first token of `text` to its last; none overlap.
    /// `name` is for tables: the corpus.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are no windows or no tokens in one, or the text is too short for them; [`Error::Tokenizer`].
    pub fn of_text(
        model: &Model,
        name: &str,
        text: &str,
        count: usize,
        window_tokens: usize,
    ) -> Result<Samples> {
        Samples::of_tokens(name, &model.encode(text)?, count, window_tokens)
    }

    /// Of a corpus that the [`hub`] knows, or a text file.
    ///
    /// # Errors
    /// As [`Samples::of_text`], and those of [`hub::corpus`].
    pub fn of_corpus(
        model: &Model,
        corpus: &str,
        count: usize,
        window_tokens: usize,
    ) -> Result<Samples> {
        let text = hub::corpus(corpus)?.text()?;
        Samples::of_text(model, corpus, &text, count, window_tokens)
    }

    /// As [`Samples::of_text`], of a text's `tokens`.
    ///
    /// # Errors
    /// As [`Samples::of_text`].
    pub fn of_tokens(
        name: &str,
        tokens: &[u32],
        count: usize,
        window_tokens: usize,
    ) -> Result<Samples> {
        let what = format!("calibration text {name:?}");
        if tokens.is_empty() {
            return Err(Error::argument(
                what,
                "at least one window of tokens",
                "no tokens",
            ));
        }
        if count == 0 || window_tokens == 0 {
            let got = format!("{count} windows of {window_tokens} tokens");
            return Err(Error::argument(
                "calibration",
                "at least one window of one token",
                got,
            ));
        }
        let fit = tokens.len() / window_tokens;
        if fit < count {
            let got = format!("{} tokens, which hold {fit}", tokens.len());
            let expected = format!("{count} windows of {window_tokens} tokens");
            return Err(Error::argument(what, expected, got));
        }
        let last = tokens.len() - window_tokens;
        let windows = (0..count).map(|i| {
            let start = i * last / (count - 1).max(1);
            tokens[start..start + window_tokens].to_vec()
        });
        Ok(Samples {
            name: name.to_owned(),
            windows: windows.collect(),
            left_out: 0,
        })
    }

    /// The same windows, of whose first `count` tokens statistics take no notice, though later tokens see them. The first token of a
    /// window is where attention puts what it has no use for ("sink"), with activations a thousand times the rest: a few of them are most of
    /// Σ x·xᵀ.
    ///
    /// # Errors
    /// [`Error::Argument`] if nothing is left of the windows.
    pub fn without_first(mut self, count: usize) -> Result<Samples> {
        let length = self.windows.first().map_or(0, Vec::len);
        if count >= length {
            let expected = format!("fewer than the {length} of a window");
            return Err(Error::argument("tokens left out", expected, count));
        }
        self.left_out = count;
        Ok(self)
    }

    /// Tokens at the beginning of each window that statistics leave out.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Tokens of a window, and how many of its first statistics leave out.
    pub(in crate::quant) fn window(&self) -> (usize, usize) {
        (self.windows.first().map_or(1, Vec::len), self.left_out)
    }

    /// The corpus.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Windows of tokens.
    pub fn windows(&self) -> &[Vec<u32>] {
        &self.windows
    }

    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.windows.iter().map(Vec::len).sum()
    }

    /// sha256 of all tokens, where windows begin and what is left out of them, in hexadecimal.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for window in &self.windows {
            hash.update((window.len() as u64).to_le_bytes());
            for token in window {
                hash.update(token.to_le_bytes());
            }
        }
        if self.left_out > 0 {
            hash.update((self.left_out as u64).to_le_bytes());
        }
        hex(&hash.finalize())
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.windows.first().map_or(0, Vec::len);
        write!(
            f,
            "{} × {length} tokens of {}",
            self.windows.len(),
            self.name
        )?;
        match self.left_out {
            0 => Ok(()),
            count => write!(f, " without the first {count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_spread_over_the_text_and_do_not_overlap() -> Result<()> {
        let tokens: Vec<u32> = (0..103).collect();
        for (count, length) in [(1, 103), (1, 4), (2, 51), (10, 10), (103, 1)] {
            let samples = Samples::of_tokens("t", &tokens, count, length)?;
            let starts: Vec<u32> = samples.windows().iter().map(|it| it[0]).collect();
            assert_eq!((starts.len(), starts[0]), (count, 0));
            assert!(
                starts.windows(2).all(|it| it[1] - it[0] >= length as u32),
                "{starts:?}"
            );
            if count > 1 {
                assert_eq!(samples.windows()[count - 1].last(), Some(&102));
            }
            assert_eq!(samples.tokens(), count * length);
        }
        let halves = Samples::of_tokens("t", &tokens, 2, 3)?;
        let other = Samples::of_tokens("t", &tokens, 1, 6)?;
        assert_ne!(halves.sha256(), other.sha256());
        assert_eq!(halves.to_string(), "2 × 3 tokens of t");
        let without = halves.clone().without_first(2)?;
        assert_ne!(halves.sha256(), without.sha256());
        assert_eq!(without.to_string(), "2 × 3 tokens of t without the first 2");
        assert_eq!(halves.clone().without_first(0)?, halves);
        let error = halves.without_first(3).unwrap_err().to_string();
        assert!(error.contains("fewer than the 3"), "{error}");
        Ok(())
    }

    #[test]
    fn texts_too_short_are_refused_with_what_they_hold() {
        for (tokens, count, length, says) in [
            (0, 1, 1, "no tokens"),
            (5, 0, 1, "0 windows"),
            (5, 1, 0, "of 0 tokens"),
            (5, 1, 6, "5 tokens, which hold 0"),
            (5, 3, 2, "5 tokens, which hold 2"),
        ] {
            let made = Samples::of_tokens("short", &vec![0; tokens], count, length);
            let error = made.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
