//! Copy: a line of words, once more.
//!
//! Wrong answers are the same words with two neighbours exchanged, late in the line: order has to be kept, not only words.
//!
//! Source: Graves, Wayne & Danihelka 2014, *Neural Turing Machines*, 1410.5401, section 4.1. Where we differ: words instead of bits,
//! and a worked example in front, for the model was not trained on this.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Item, Task, WRONG, words};

/// Words of the line; at least 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copying(pub usize);

impl Task for Copying {
    fn name(&self) -> String {
        format!("copy:{}", self.0)
    }

    fn item(&self, generator: &mut ChaCha8Rng) -> Item {
        let example = words(5, generator).join(" ");
        let line = words(self.0.max(WRONG + 2), generator);
        let mut wrong: Vec<String> = Vec::new();
        while wrong.len() < WRONG {
            let mut other = line.clone();
            let at = generator.random_range(other.len() / 4..other.len() - 1);
            other.swap(at, at + 1);
            let other = format!(" {}", other.join(" "));
            if !wrong.contains(&other) {
                wrong.push(other);
            }
        }
        let line = line.join(" ");
        Item {
            prompt: format!("Text: {example}\nCopy: {example}\n\nText: {line}\nCopy:"),
            answer: format!(" {line}"),
            wrong,
        }
    }

    fn solve(&self, prompt: &str) -> Option<String> {
        let (_, last) = prompt.rsplit_once("Text:")?;
        Some(last.strip_suffix("\nCopy:")?.to_owned())
    }
}
