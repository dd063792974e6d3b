//! Which tokens of a text are scored, and after which context: the part of "perplexity" that papers leave out.
//!
//! The same model on the same text has as many perplexities as there are protocols (LLaMA-7B on WikiText-2: 5.68 by
//! GPTQ's, 5.91 by llama.cpp's, 8.71 a word by lm-evaluation-harness's), so a protocol is an object, printed with every number.
//!
//! | protocol | windows | scored | average over |
//! |---|---|---|---|
//! | [`Protocol::LlamaCpp`] | `ctx` tokens side by side, BOS in place of the first | second half | tokens |
//! | [`Protocol::Gptq`] | `ctx` tokens side by side | all but the first | tokens |
//! | [`Protocol::Strided`] | `ctx` tokens, each `stride` further | those not scored before | tokens |
//! | [`Protocol::WordLevel`] | `ctx` tokens, each seeing one token before | all | words |

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::{Error, Result};

/// A way to cut a text into windows and to average.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// llama.cpp, `tools/perplexity/perplexity.cpp`: positions ctx/2 … ctx − 2 of a window predict tokens ctx/2 + 1 … ctx − 1, so
    /// that every scored token has at least ctx/2 before it. For models that want a beginning-of-sequence token it is put before the
    /// text, and then replaces the first token of each window. Needs two windows of text.
    ///
    /// Where we differ: markup such as `<|im_start|>` in the text becomes a special token; a final line end, which
    /// llama.cpp drops, is kept (it is in no whole window but the last).
    LlamaCpp {
        /// Tokens in a window (`-c`).
        ctx: usize,
    },
    /// Frantar et al. 2022, *GPTQ*, `opt.py`: ctx is 2048 there; the first tokens of a window have next to no context.
    Gptq {
        /// Tokens in a window.
        ctx: usize,
    },
    /// Hugging Face, *Perplexity of fixed-length models*: overlapping windows, so that tokens have at least ctx − stride before
    /// them. The last window may be short.
    Strided {
        /// Tokens in a window.
        ctx: usize,
        /// Tokens from one window to the next.
        stride: usize,
    },
    /// EleutherAI's lm-evaluation-harness, `wikitext`: every token is scored once, in windows that see one token before theirs (the
    /// first: the model's BOS, or else its end-of-text token), and the sum is divided by the number of words (pieces between
    /// white space). Where we differ: the harness scores each article alone, we the text as a whole.
    WordLevel {
        /// Tokens in a window.
        ctx: usize,
    },
}

/// A window of a text, as token positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Tokens given to the model.
    pub tokens: Range<usize>,
    /// Tokens whose likelihood is taken; each needs the one before it among the model's.
    pub scored: Range<usize>,
    /// What becomes of the beginning-of-sequence token.
    pub start: Start,
}

/// How a window begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With its first token.
    Plain,
    /// With the beginning-of-sequence token in place of the first, for models that want one.
    Replaced,
    /// With the beginning-of-sequence token (or else end-of-text) put in front.
    Prefixed,
}

impl Protocol {
    /// llama.cpp's with its usual 512 tokens.
    pub const LLAMA_CPP: Protocol = Protocol::LlamaCpp { ctx: 512 };
    /// That of the GPTQ paper and most after it.
    pub const GPTQ_2048: Protocol = Protocol::Gptq { ctx: 2048 };

    /// The windows of a text of `tokens` tokens, in order.
    ///
    /// # Errors
    /// [`Error::Argument`] if a size is too small or the text is too short for one window (two for llama.cpp's).
    pub fn windows(self, tokens: usize) -> Result<Vec<Window>> {
        let short = |least: usize| {
            let expected = format!("at least {least} tokens for {self}");
            Err(Error::argument(
                "text",
                expected,
                format!("{tokens} tokens"),
            ))
        };
        let side_by_side = |ctx: usize, skipped: usize, start: Start| {
            let window = move |i: usize| Window {
                tokens: i * ctx..(i + 1) * ctx,
                scored: i * ctx + skipped..(i + 1) * ctx,
                start,
            };
            Ok((0..tokens / ctx).map(window).collect())
        };
        match self {
            Protocol::LlamaCpp { ctx } if ctx < 4 => {
                Err(Error::argument("ctx", "at least 4 tokens", ctx))
            }
            Protocol::LlamaCpp { ctx } if tokens < ctx.saturating_mul(2) => {
                short(ctx.saturating_mul(2))
            }
            Protocol::LlamaCpp { ctx } => side_by_side(ctx, ctx / 2 + 1, Start::Replaced),
            Protocol::Gptq { ctx } if ctx < 2 => {
                Err(Error::argument("ctx", "at least 2 tokens", ctx))
            }
            Protocol::Gptq { ctx } if tokens < ctx => short(ctx),
            Protocol::Gptq { ctx } => side_by_side(ctx, 1, Start::Plain),
            Protocol::Strided { ctx, stride } if ctx < 2 || !(1..=ctx).contains(&stride) => {
                let got = format!("ctx {ctx}, stride {stride}");
                Err(Error::argument(
                    "window",
                    "ctx of at least 2, stride of 1 to ctx",
                    got,
                ))
            }
            Protocol::Strided { .. } if tokens < 2 => short(2),
            Protocol::Strided { ctx, stride } => {
                let mut windows = Vec::new();
                let mut done = 1;
                for start in (0..tokens).step_by(stride) {
                    let end = tokens.min(start.saturating_add(ctx));
                    let scored = done.max(start + 1)..end;
                    // A last token alone in its window has nothing before it.
                    if !scored.is_empty() {
                        windows.push(Window {
                            tokens: start..end,
                            scored,
                            start: Start::Plain,
                        });
                    }
                    done = end;
                    if end == tokens {
                        break;
                    }
                }
                Ok(windows)
            }
            Protocol::WordLevel { ctx } if ctx < 2 => {
                Err(Error::argument("ctx", "at least 2 tokens", ctx))
            }
            Protocol::WordLevel { .. } if tokens < 1 => short(1),
            Protocol::WordLevel { ctx } => {
                let window = |start: usize| {
                    let end = tokens.min(start.saturating_add(ctx));
                    Window {
                        tokens: start.saturating_sub(1)..end,
                        scored: start..end,
                        start: match start {
                            0 => Start::Prefixed,
                            _ => Start::Plain,
                        },
                    }
                };
                Ok((0..tokens).step_by(ctx).map(window).collect())
            }
        }
    }

    /// What the sum of negative log-likelihoods is divided by, in a word.
    pub fn unit(self) -> &'static str {
        match self {
            Protocol::WordLevel { .. } => "word",
            _ => "token",
        }
    }

    /// What becomes of the beginning-of-sequence token, in a few words.
    pub fn bos_rule(self) -> &'static str {
        match self {
            Protocol::LlamaCpp { .. } => {
                "BOS before the text and in place of each window's first token, if the model wants one"
            }
            Protocol::Gptq { .. } | Protocol::Strided { .. } => "no BOS",
            Protocol::WordLevel { .. } => "BOS (or else end-of-text) before the text",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protocol::LlamaCpp { ctx } => write!(f, "llamacpp:{ctx}"),
            Protocol::Gptq { ctx } => write!(f, "gptq{ctx}"),
            Protocol::Strided { ctx, stride } => write!(f, "strided:{ctx}:{stride}"),
            Protocol::WordLevel { ctx } => write!(f, "word:{ctx}"),
        }
    }
}

impl FromStr for Protocol {
    type Err = Error;

    /// Reads what [`Display`](fmt::Display) writes; `word` alone is `word:2048`.
    fn from_str(text: &str) -> Result<Protocol> {
        let wrong = || {
            Error::argument(
                "protocol",
                "llamacpp:CTX, gptq2048, strided:CTX:STRIDE or word",
                text,
            )
        };
        let number = |text: &str| text.parse::<usize>().map_err(|_| wrong());
        if let Some(ctx) = text.strip_prefix("gptq") {
            return Ok(Protocol::Gptq {
                ctx: number(ctx.trim_start_matches(':'))?,
            });
        }
        let parts: Vec<&str> = text.split(':').collect();
        Ok(match parts[..] {
            ["llamacpp", ctx] => Protocol::LlamaCpp { ctx: number(ctx)? },
            ["strided", ctx, stride] => Protocol::Strided {
                ctx: number(ctx)?,
                stride: number(stride)?,
            },
            ["word"] => Protocol::WordLevel { ctx: 2048 },
            ["word", ctx] => Protocol::WordLevel { ctx: number(ctx)? },
            _ => return Err(wrong()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(protocol: Protocol, tokens: usize) -> Vec<usize> {
        let windows = protocol.windows(tokens).unwrap();
        for window in &windows {
            let first = window.tokens.start + usize::from(window.start != Start::Prefixed);
            assert!(
                window.scored.start >= first && window.scored.end <= window.tokens.end,
                "{window:?}"
            );
        }
        windows.into_iter().flat_map(|it| it.scored).collect()
    }

    #[test]
    fn each_protocol_scores_what_its_source_does() {
        // Two whole windows of 8 and a rest that must not matter.
        assert_eq!(
            scored(Protocol::LlamaCpp { ctx: 8 }, 18),
            [5, 6, 7, 13, 14, 15]
        );
        assert_eq!(scored(Protocol::Gptq { ctx: 4 }, 10), [1, 2, 3, 5, 6, 7]);
        // Strides cover everything but the first token once, whatever the overlap.
        for stride in 1..=6 {
            for tokens in 2..40 {
                let expected: Vec<usize> = (1..tokens).collect();
                let mut got = scored(Protocol::Strided { ctx: 6, stride }, tokens);
                let windows = Protocol::Strided { ctx: 6, stride }.windows(tokens);
                assert!(windows.unwrap().iter().all(|it| !it.scored.is_empty()));
                // Windows side by side cannot score their own first tokens.
                let lost = if stride == 6 { (tokens - 1) / 6 } else { 0 };
                assert_eq!(got.len(), expected.len() - lost, "{stride} {tokens}");
                got.dedup();
                assert!(got.is_sorted());
            }
        }
        for tokens in 1..30 {
            let expected: Vec<usize> = (0..tokens).collect();
            assert_eq!(scored(Protocol::WordLevel { ctx: 7 }, tokens), expected);
        }
    }

    #[test]
    fn short_texts_and_small_windows_are_refused() {
        assert!(Protocol::LlamaCpp { ctx: 8 }.windows(15).is_err());
        assert!(Protocol::LlamaCpp { ctx: 3 }.windows(100).is_err());
        assert!(Protocol::Gptq { ctx: 1 }.windows(100).is_err());
        assert!(Protocol::GPTQ_2048.windows(2047).is_err());
        assert!(
            Protocol::Strided { ctx: 8, stride: 0 }
                .windows(100)
                .is_err()
        );
        assert!(
            Protocol::Strided { ctx: 8, stride: 9 }
                .windows(100)
                .is_err()
        );
        assert!(Protocol::Strided { ctx: 8, stride: 4 }.windows(1).is_err());
        assert!(Protocol::WordLevel { ctx: 8 }.windows(0).is_err());
        // Sizes without measure are long windows, not overflows.
        let most = usize::MAX;
        assert!(Protocol::LlamaCpp { ctx: most }.windows(100).is_err());
        assert!(Protocol::Gptq { ctx: most }.windows(100).is_err());
        for stride in [1, most] {
            let windows = Protocol::Strided { ctx: most, stride }
                .windows(100)
                .unwrap();
            assert_eq!((windows.len(), windows[0].scored.clone()), (1, 1..100));
        }
        let windows = Protocol::WordLevel { ctx: most }.windows(100).unwrap();
        assert_eq!(windows[0].scored, 0..100);
    }

    #[test]
    fn names_are_read_back() {
        for protocol in [
            Protocol::LLAMA_CPP,
            Protocol::GPTQ_2048,
            Protocol::Strided {
                ctx: 2048,
                stride: 512,
            },
            Protocol::WordLevel { ctx: 2048 },
        ] {
            assert_eq!(protocol.to_string().parse::<Protocol>().unwrap(), protocol);
        }
        assert_eq!(
            "word".parse::<Protocol>().unwrap(),
            Protocol::WordLevel { ctx: 2048 }
        );
        for odd in [
            "",
            "llamacpp",
            "llamacpp:x",
            "gptq",
            "strided:5",
            "words",
            "llamacpp:99999999999999999999",
        ] {
            assert!(odd.parse::<Protocol>().is_err(), "{odd}");
        }
    }
}
