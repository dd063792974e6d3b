//! Text from a model: options in, text out, printed line by line as it comes.

use std::fmt;
use std::time::Instant;

use super::Model;
use super::sample::{Sampling, draw};
use crate::kvcache::store::Store;
use crate::progress::Progress;
use crate::{Error, Result};

/// What to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// Tokens at most.
    pub max_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// Whether to end at the model's end-of-text token.
    pub stops_at_end: bool,
    /// Whether to print the text as it comes, wrapped into lines of about 100 characters.
    pub prints: bool,
}

impl Default for GenerateOptions {
    /// 64 tokens, greedy, printed.
    fn default() -> GenerateOptions {
        GenerateOptions {
            max_tokens: 64,
            sampling: Sampling::default(),
            stops_at_end: true,
            prints: true,
        }
    }
}

/// A generated text.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The text, without prompt and end token.
    pub text: String,
    /// Its token ids.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Whether the model ended the text itself.
    pub is_complete: bool,
    /// Time for the prompt, in seconds.
    pub prompt_seconds: f64,
    /// Time for the generated tokens, in seconds.
    pub seconds: f64,
}

impl Generation {
    /// Generated tokens a second, the prompt's time left out.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens.len() as f64 / self.seconds.max(1e-9)
    }

    /// Shows text and speed in a notebook.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        write!(
            f,
            "[{} tokens after a prompt of {}, {:.1} tokens/s]",
            self.tokens.len(),
            self.prompt_tokens,
            self.tokens_per_second()
        )
    }
}

impl Model {
    /// Continues `prompt`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the prompt has no tokens or does not fit the context; [`Error::Interrupted`].
    pub fn generate(&self, prompt: &str, options: &GenerateOptions) -> Result<Generation> {
        let prompt_ids = self.encode_prompt(prompt)?;
        let mut generator = options.sampling.generator();
        let mut store = self.network.store();
        let mut printer = LinePrinter::new(options.prints);
        let mut tokens = Vec::new();
        let mut is_complete = false;
        let mut progress = Progress::new("generate", options.max_tokens as u64, "tokens");
        let start = Instant::now();
        let mut logits = match options.max_tokens {
            0 => Vec::new(),
            _ => self.last_logits(&prompt_ids, store.as_mut())?,
        };
        let prompt_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        while tokens.len() < options.max_tokens {
            let law = options.sampling.law(&logits)?;
            let next = draw(&law, &mut generator)
                .ok_or_else(|| Error::argument("logits", "a law to draw from", "none"))?;
            if options.stops_at_end && self.tokenizer.ends.contains(&next) {
                is_complete = true;
                break;
            }
            tokens.push(next);
            printer.show(&self.decode(&tokens)?);
            progress.set(tokens.len() as u64)?;
            if tokens.len() < options.max_tokens {
                logits = self.last_logits(&[next], store.as_mut())?;
            }
        }
        let text = self.decode(&tokens)?;
        printer.finish(&text);
        Ok(Generation {
            text,
            tokens,
            prompt_tokens: prompt_ids.len(),
            is_complete,
            prompt_seconds,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Logits (V) after the last of `tokens`, which follow those in `store`.
    pub(super) fn last_logits(&self, tokens: &[u32], store: &mut dyn Store) -> Result<Vec<f32>> {
        let hidden = self.hidden(tokens, store)?;
        let last = &hidden[hidden.len() - self.config.width..];
        Ok(self.network.logits(last))
    }
}

/// Prints a growing text in whole lines: a notebook shows nothing of a line until it ends.
struct LinePrinter {
    is_on: bool,
    /// Bytes already printed.
    printed: usize,
}

const WRAP_AT: usize = 100;

impl LinePrinter {
    fn new(is_on: bool) -> LinePrinter {
        LinePrinter { is_on, printed: 0 }
    }

    /// Prints what is certain of `text`: lines that have ended, and over-long ones up to a blank.
    fn show(&mut self, text: &str) {
        if !self.is_on {
            return;
        }
        while let Some((line, used)) = next_line(text.get(self.printed..).unwrap_or_default()) {
            println!("{line}");
            self.printed += used;
        }
    }

    fn finish(&mut self, text: &str) {
        self.show(text);
        let rest = text.get(self.printed..).unwrap_or_default();
        if self.is_on && !rest.is_empty() {
            println!("{rest}");
        }
    }
}

/// The next whole line of `rest` and the bytes it takes, if it has one.
fn next_line(rest: &str) -> Option<(&str, usize)> {
    if let Some(end) = rest.find('\n').filter(|&end| end <= WRAP_AT) {
        return Some((&rest[..end], end + 1));
    }
    let blank = rest
        .char_indices()
        .take_while(|&(at, _)| at <= WRAP_AT)
        .filter(|&(_, c)| c == ' ')
        .last()?
        .0;
    (rest.len() > WRAP_AT).then(|| (&rest[..blank], blank + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_newlines_and_at_blanks_of_long_lines() {
        assert_eq!(next_line("a\nb"), Some(("a", 2)));
        assert_eq!(next_line("\n"), Some(("", 1)));
        assert_eq!(next_line("not yet"), None);
        assert_eq!(next_line(""), None);
        let long = format!("{} tail", "é".repeat(40));
        assert_eq!(next_line(&long), None, "85 bytes fit");
        let long = format!("{} {}", "x".repeat(90), "y".repeat(30));
        assert_eq!(next_line(&long), Some((&long[..90], 91)));
        assert_eq!(next_line(&"z".repeat(200)), None, "no place to break");
    }
}
