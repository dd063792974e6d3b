//! Induction: words in no order, then one of them again; what followed it the first time follows now.
//!
//! Wrong answers are other words of the text. This is what induction heads do: `… A B … A` → `B`.
//!
//! Source: Olsson et al. 2022, *In-context Learning and Induction Heads*, 2209.11895. Where we differ: up to three words come again,
//! not one, so that there is more to find the place by.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Item, Task, WRONG, others, words};

/// Words of the text, all different; at least 5, at most as many as there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Induction(pub usize);

impl Task for Induction {
    fn name(&self) -> String {
        format!("induction:{}", self.0)
    }

    fn item(&self, generator: &mut ChaCha8Rng) -> Item {
        let text = words(self.0.max(WRONG + 2), generator);
        // Up to three words again, the last of them the one in question.
        let last = generator.random_range(0..text.len() - 1);
        let again = &text[last.saturating_sub(2)..=last];
        let right = text[last + 1];
        let candidates: Vec<&str> = text
            .iter()
            .copied()
            .filter(|it| *it != text[last])
            .collect();
        let wrong = others(&candidates, &right, generator);
        Item {
            prompt: format!("{} {}", text.join(" "), again.join(" ")),
            answer: format!(" {right}"),
            wrong: wrong.iter().map(|it| format!(" {it}")).collect(),
        }
    }

    fn solve(&self, prompt: &str) -> Option<String> {
        let words: Vec<&str> = prompt.split(' ').collect();
        let (last, before) = words.split_last()?;
        let first = before.iter().position(|it| it == last)?;
        Some(format!(" {}", words.get(first + 1)?))
    }
}
