//! Needle in a haystack: one fact somewhere in a text of no use, asked for at its end.
//!
//! Wrong answers differ from the right one in one digit: the number has to be read, not guessed from the look of it.
//!
//! Source: Kamradt 2023, *Needle In A Haystack* (github.com/gkamradt/LLMTest_NeedleInAHaystack). Where we differ: sentences are made
//! from words at random instead of essays, so that no model has seen them, and the answer is a number.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::{Item, Task, WRONG, number, words};

/// Sentences of the haystack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needle(pub usize);

const NAMES: [&str; 12] = [
    "Ada", "Alan", "Emma", "George", "Grace", "Henry", "Jane", "Mary", "Paul", "Peter", "Rosa",
    "Tom",
];
const VERBS: [&str; 8] = [
    "lies near",
    "stands behind",
    "belongs to",
    "looks like",
    "was lost with",
    "is older than",
    "is under",
    "was made for",
];

impl Task for Needle {
    fn name(&self) -> String {
        format!("needle:{}", self.0)
    }

    fn item(&self, generator: &mut ChaCha8Rng) -> Item {
        let mut sentences: Vec<String> = (0..self.0)
            .map(|_| {
                let nouns = words(2, generator);
                let verb = VERBS.choose(generator).copied().unwrap_or_default();
                format!("The {} {verb} the {}.", nouns[0], nouns[1])
            })
            .collect();
        let name = NAMES.choose(generator).copied().unwrap_or_default();
        let secret = number(generator);
        let place = generator.random_range(0..=sentences.len());
        sentences.insert(place, format!("The secret number of {name} is {secret}."));
        let mut wrong: Vec<String> = Vec::new();
        while wrong.len() < WRONG {
            // One digit, not the first, becomes another.
            let place = 10u32.pow(generator.random_range(0..3));
            let digit = secret / place % 10;
            let other = (digit + generator.random_range(1..10)) % 10;
            let other = format!(" {}", secret - digit * place + other * place);
            if !wrong.contains(&other) {
                wrong.push(other);
            }
        }
        Item {
            prompt: format!(
                "{}\n\nQuestion: What is the secret number of {name}?\nAnswer: The secret number of {name} is",
                sentences.join(" ")
            ),
            answer: format!(" {secret}"),
            wrong,
        }
    }

    fn solve(&self, prompt: &str) -> Option<String> {
        let (_, question) = prompt.rsplit_once("Answer: ")?;
        let (_, after) = prompt.split_once(&format!("{question} "))?;
        Some(format!(" {}", after.split_once('.')?.0))
    }
}
