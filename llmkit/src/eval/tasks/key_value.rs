//! Key–value recall: a list of pairs, one of them asked for.
//!
//! Wrong answers are values of other keys of the list: the value has to be the key's own.
//!
//! Source: Arora et al. 2023, *Zoology*, 2312.04927 (multi-query associative recall); Liu et al. 2023, *Lost in the Middle*,
//! 2307.03172, section 3. Where we differ: keys are words and values numbers, which small models can read.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Item, Task, WRONG, number, others, words};

/// Pairs in the list; at least 4, at most as many as there are words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyValue(pub usize);

impl Task for KeyValue {
    fn name(&self) -> String {
        format!("key_value:{}", self.0)
    }

    fn item(&self, generator: &mut ChaCha8Rng) -> Item {
        let keys = words(self.0.max(WRONG + 1), generator);
        let mut values: Vec<u32> = Vec::new();
        while values.len() < keys.len() {
            let value = number(generator);
            if !values.contains(&value) {
                values.push(value);
            }
        }
        let list: String = (keys.iter().zip(&values))
            .map(|(key, value)| format!("{key}: {value}\n"))
            .collect();
        let asked = generator.random_range(0..keys.len());
        let wrong = others(&values, &values[asked], generator);
        Item {
            prompt: format!("{list}\nThe value from the list above:\n{}:", keys[asked]),
            answer: format!(" {}", values[asked]),
            wrong: wrong.iter().map(|it| format!(" {it}")).collect(),
        }
    }

    fn solve(&self, prompt: &str) -> Option<String> {
        let (list, question) = prompt.rsplit_once("\n\nThe value from the list above:\n")?;
        let line = list.lines().find(|line| line.starts_with(question))?;
        Some(line.strip_prefix(question)?.to_owned())
    }
}
