//! Text from a model: options in, text out, piece by piece as it comes.
//!
//! The same seed gives the same tokens on any number of threads, in any chunks and in any batch, for logits have the same bits
//! (see [`kernels`](crate::kernels)) and each sequence has a generator of its own.
//!
//! ```no_run
//! use llmkit::model::sample::{Temperature, TopP};
//! use llmkit::model::{GenerateOptions, Model, Sampling};
//! let model = Model::load("smollm2-135m-instruct")?;
//! let options = GenerateOptions {
//!     max_tokens: 200,
//!     sampling: Sampling::plain().with(Temperature(0.7)).with(TopP(0.9)).seeded(3),
//!     stop: vec!["\n\n".into()],
//!     ..GenerateOptions::default()
//! };
//! let mut stream = model.stream("Once upon a time", &options)?;
//! for piece in &mut stream {
//!     print!("{}", piece?);
//! }
//! println!("[{}]", stream.finish());
//! # Ok::<(), llmkit::Error>(())
//! ```

use std::fmt;
use std::time::Instant;

use rand_chacha::ChaCha8Rng;

use super::printer::LinePrinter;
use super::sample::{Past, Sampling, draw};
use super::stream::{Stops, Text};
use super::{Model, Piece};
use crate::kvcache::store::Store;
use crate::progress::Progress;
use crate::{Error, Result};

/// What to generate.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// Tokens at most.
    pub max_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// Whether to end at the model's end-of-text token.
    pub stops_at_end: bool,
    /// Ends before any of these; they are not part of the text, whatever tokens they are spread over.
    pub stop: Vec<String>,
    /// Tokens of the prompt that go through the model at once; the result does not depend on it.
    pub chunk_tokens: usize,
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
            stop: Vec::new(),
            chunk_tokens: 512,
            prints: true,
        }
    }
}

/// Why a generation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// The model ended the text itself.
    End,
    /// This stop string came.
    Stop(String),
    /// As many tokens as asked for.
    Length,
    /// The model's context is full.
    Context,
    /// Not yet: more was to come.
    Unfinished,
}

impl fmt::Display for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finish::End => write!(f, "the model ended the text"),
            Finish::Stop(stop) => write!(f, "stopped at {stop:?}"),
            Finish::Length => write!(f, "as many tokens as asked for"),
            Finish::Context => write!(f, "the context is full"),
            Finish::Unfinished => write!(f, "unfinished"),
        }
    }
}

/// A generated text.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The text, without prompt, end token and stop string.
    pub text: String,
    /// Its token ids, those of a stop string included.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Why it ended.
    pub finish: Finish,
    /// Time for the prompt, in seconds.
    pub prompt_seconds: f64,
    /// Time for the generated tokens, in seconds.
    pub seconds: f64,
}

impl Generation {
    /// Whether the model ended the text itself.
    pub fn is_complete(&self) -> bool {
        self.finish == Finish::End
    }

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
            "[{} tokens after a prompt of {}, {:.1} tokens/s; {}]",
            self.tokens.len(),
            self.prompt_tokens,
            self.tokens_per_second(),
            self.finish
        )
    }
}

/// One sequence on its way: everything but the model.
#[derive(Debug)]
struct Sequence<'a> {
    options: &'a GenerateOptions,
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    store: Box<dyn Store>,
    generator: ChaCha8Rng,
    text: Text,
    stops: Stops,
    finish: Finish,
    prompt_seconds: f64,
    start: Instant,
}

impl<'a> Sequence<'a> {
    /// `index` of a batch: sequence i draws as if it were alone with the seed + i.
    fn new(
        model: &Model,
        prompt: &str,
        options: &'a GenerateOptions,
        index: usize,
    ) -> Result<Sequence<'a>> {
        let seed = options.sampling.seed.wrapping_add(index as u64);
        Ok(Sequence {
            options,
            prompt: model.encode_prompt(prompt)?,
            tokens: Vec::new(),
            store: model.network.store(),
            generator: options.sampling.clone().seeded(seed).generator(),
            text: Text::default(),
            stops: Stops::new(&options.stop)?,
            finish: match options.max_tokens {
                0 => Finish::Length,
                _ => Finish::Unfinished,
            },
            prompt_seconds: 0.0,
            start: Instant::now(),
        })
    }

    fn is_going(&self) -> bool {
        self.finish == Finish::Unfinished
    }

    /// Logits after the prompt.
    fn prefill(&mut self, model: &Model) -> Result<Vec<f32>> {
        let logits = model.prefill(&self.prompt, self.store.as_mut(), self.options.chunk_tokens)?;
        self.prompt_seconds = self.start.elapsed().as_secs_f64();
        self.start = Instant::now();
        Ok(logits)
    }

    /// Draws the next token; the text that it lets be shown, which may be none.
    fn take(&mut self, model: &Model, logits: &[f32]) -> Result<String> {
        let past = Past {
            prompt: &self.prompt,
            generated: &self.tokens,
        };
        let law = self.options.sampling.law(logits, past)?;
        let next = draw(&law, &mut self.generator)
            .ok_or_else(|| Error::argument("logits", "a law to draw from", "none"))?;
        let decode = |ids: &[u32]| model.decode(ids);
        let mut shown = String::new();
        if self.options.stops_at_end && model.tokenizer.ends.contains(&next) {
            self.finish = Finish::End;
        } else {
            self.tokens.push(next);
            let new = self.text.push(next, &decode)?;
            let (piece, stop) = self.stops.push(&new);
            shown = piece;
            if let Some(stop) = stop {
                self.finish = Finish::Stop(stop);
                return Ok(shown);
            }
            if self.tokens.len() >= self.options.max_tokens {
                self.finish = Finish::Length;
            } else if self.store.tokens() >= model.config.context_tokens {
                self.finish = Finish::Context;
            }
        }
        if !self.is_going() {
            let rest = self.text.finish(&decode)?;
            let (piece, stop) = self.stops.push(&rest);
            shown += &piece;
            match stop {
                Some(stop) => self.finish = Finish::Stop(stop),
                None => shown += &self.stops.finish(),
            }
        }
        Ok(shown)
    }

    fn generation(self, text: String) -> Generation {
        Generation {
            text,
            tokens: self.tokens,
            prompt_tokens: self.prompt.len(),
            finish: self.finish,
            prompt_seconds: self.prompt_seconds,
            seconds: self.start.elapsed().as_secs_f64(),
        }
    }
}

/// A text that comes piece by piece: an iterator of what can be shown, whole characters, nothing of a stop string. Tokens are
/// computed when asked for.
#[derive(Debug)]
pub struct Stream<'a> {
    model: &'a Model,
    sequence: Sequence<'a>,
    /// Whether no step has failed.
    is_sound: bool,
}

impl Stream<'_> {
    /// Why it ended.
    pub fn finish(&self) -> &Finish {
        &self.sequence.finish
    }

    /// Tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.sequence.tokens
    }

    fn step(&mut self) -> Result<String> {
        let sequence = &mut self.sequence;
        let logits = match sequence.tokens.last() {
            None => sequence.prefill(self.model)?,
            Some(&last) => self.model.last_logits(&[last], sequence.store.as_mut())?,
        };
        sequence.take(self.model, &logits)
    }
}

impl Iterator for Stream<'_> {
    type Item = Result<String>;

    /// The next piece of text, never empty. An error is the last item.
    fn next(&mut self) -> Option<Result<String>> {
        while self.sequence.is_going() && self.is_sound {
            match self.step() {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Some(Ok(piece)),
                Err(error) => {
                    self.is_sound = false;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl Model {
    /// Continues `prompt` piece by piece.
    ///
    /// # Errors
    /// [`Error::Argument`] if the prompt has no tokens or a stop string is empty. The stream's items may be errors as well:
    /// [`Error::Argument`] if the prompt does not fit the context; [`Error::Interrupted`].
    pub fn stream<'a>(&'a self, prompt: &str, options: &'a GenerateOptions) -> Result<Stream<'a>> {
        Ok(Stream {
            model: self,
            sequence: Sequence::new(self, prompt, options, 0)?,
            is_sound: true,
        })
    }

    /// Continues `prompt`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the prompt has no tokens or does not fit the context, or a stop string is empty;
    /// [`Error::Interrupted`].
    pub fn generate(&self, prompt: &str, options: &GenerateOptions) -> Result<Generation> {
        let mut stream = self.stream(prompt, options)?;
        let mut printer = LinePrinter::new(options.prints);
        let mut progress = Progress::new("generate", options.max_tokens as u64, "tokens");
        let mut text = String::new();
        while stream.sequence.is_going() {
            text += &stream.step()?;
            printer.show(&text);
            progress.set(stream.tokens().len() as u64)?;
        }
        printer.finish(&text);
        Ok(stream.sequence.generation(text))
    }

    /// Continues several prompts together, each token of all of them in one pass over the weights. Text i is the one that
    /// [`generate`](Self::generate) gives alone with the seed + i. Prints nothing.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), if any of them fails.
    pub fn generate_batch(
        &self,
        prompts: &[&str],
        options: &GenerateOptions,
    ) -> Result<Vec<Generation>> {
        let mut sequences = (prompts.iter().enumerate())
            .map(|(index, prompt)| Sequence::new(self, prompt, options, index))
            .collect::<Result<Vec<_>>>()?;
        let total = (options.max_tokens * prompts.len()) as u64;
        let mut progress = Progress::new("generate", total, "tokens");
        let mut texts = vec![String::new(); sequences.len()];
        for (sequence, text) in sequences.iter_mut().zip(&mut texts) {
            if sequence.is_going() {
                let logits = sequence.prefill(self)?;
                *text += &sequence.take(self, &logits)?;
            }
        }
        while sequences.iter().any(Sequence::is_going) {
            let mut going: Vec<_> = (sequences.iter_mut().zip(&mut texts))
                .filter(|(it, _)| it.is_going())
                .collect();
            let mut pieces = Vec::with_capacity(going.len());
            for (sequence, _) in &mut going {
                let last = sequence.tokens.len() - 1;
                pieces.push(Piece {
                    store: sequence.store.as_mut(),
                    tokens: &sequence.tokens[last..],
                });
            }
            let logits = self.step(&mut pieces)?;
            for ((sequence, text), logits) in going.into_iter().zip(logits) {
                text.push_str(&sequence.take(self, &logits)?);
            }
            let done: usize = sequences.iter().map(|it| it.tokens.len()).sum();
            progress.set(done as u64)?;
        }
        let finished = sequences.into_iter().zip(texts);
        Ok(finished.map(|(it, text)| it.generation(text)).collect())
    }
}
