//! How a model answers the questions of [`tasks`](super::tasks): one at a time, by likelihoods.

use std::fmt;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::scorer::{Score, Scorer};
use super::stats::{self, Estimate};
use super::tasks::{Item, Task, WRONG, all, item};
use crate::progress::Progress;
use crate::{Error, Result};

/// How an item went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// 1 if the right answer is likelier than all wrong ones, 1/n if it is one of n equally likely ones, else 0.
    pub choice: f64,
    /// 1 if greedy decoding gives the right answer, else 0.
    pub exact: f64,
    /// −ln of the right answer's probability, nats.
    pub nll: f64,
}

/// How a task went.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskResult {
    /// Name of the task.
    pub task: String,
    /// Item by item.
    pub outcomes: Vec<Outcome>,
    /// Share of right choices; chance is 1 / (1 + [`WRONG`]).
    pub choice: Estimate,
    /// Share of exact answers.
    pub exact: Estimate,
    /// Mean −ln probability of the right answer, nats.
    pub nll: Estimate,
}

/// Asks `items` items of a task.
///
/// # Errors
/// Those of the scorer; [`Error::Argument`] for fewer than two items.
pub fn run(task: &dyn Task, scorer: &dyn Scorer, items: usize, seed: u64) -> Result<TaskResult> {
    let mut progress = Progress::new(task.name(), items as u64, "items");
    let mut outcomes = Vec::with_capacity(items);
    for index in 0..items {
        outcomes.push(ask(&item(task, seed, index), scorer, seed ^ index as u64)?);
        progress.advance(1)?;
    }
    let mean = |value: fn(&Outcome) -> f64| {
        let values: Vec<f64> = outcomes.iter().map(value).collect();
        stats::mean(&values, seed)
    };
    Ok(TaskResult {
        task: task.name(),
        choice: mean(|it| it.choice)?,
        exact: mean(|it| it.exact)?,
        nll: mean(|it| it.nll)?,
        outcomes,
    })
}

/// Asks `items` items of each task of [`all`].
///
/// # Errors
/// As [`run`].
pub fn run_all(scorer: &dyn Scorer, items: usize, seed: u64) -> Result<Vec<TaskResult>> {
    let tasks = all().into_iter().flat_map(|family| (family.members)());
    tasks
        .map(|task| run(task.as_ref(), scorer, items, seed))
        .collect()
}

/// Asks one item. The scorer sees the answers in an order that says nothing.
fn ask(item: &Item, scorer: &dyn Scorer, seed: u64) -> Result<Outcome> {
    let mut answers: Vec<&str> = item.wrong.iter().map(String::as_str).collect();
    answers.push(&item.answer);
    answers.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let scores = scorer.score(&item.prompt, &answers)?;
    let place = answers.iter().position(|it| *it == item.answer);
    let right = place.and_then(|at| scores.get(at)).ok_or_else(|| {
        Error::argument(
            "scores",
            format!("{}, one an answer", answers.len()),
            scores.len(),
        )
    })?;
    let is_better = |it: &&Score| it.ln_likelihood > right.ln_likelihood;
    let is_equal = |it: &&Score| it.ln_likelihood == right.ln_likelihood;
    Ok(Outcome {
        choice: match scores.iter().filter(is_better).count() {
            0 => 1.0 / scores.iter().filter(is_equal).count().max(1) as f64,
            _ => 0.0,
        },
        exact: f64::from(u8::from(right.is_greedy)),
        nll: -right.ln_likelihood,
    })
}

impl fmt::Display for TaskResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |it: &Estimate| {
            format!(
                "{:.3} [{:.3}, {:.3}]",
                it.value, it.interval.low, it.interval.high
            )
        };
        write!(
            f,
            "{}: choice {}, chance {:.2}; exact {}; {:.2} nats; n = {}, 95 % intervals",
            self.task,
            share(&self.choice),
            1.0 / (1 + WRONG) as f64,
            share(&self.exact),
            self.nll.value,
            self.outcomes.len()
        )
    }
}

/// Results as a table: task, items, choice, exact and nats with their 95 % intervals.
///
/// # Errors
/// [`Error::Table`].
#[cfg(feature = "notebook")]
pub fn table(results: &[TaskResult]) -> Result<polars::prelude::DataFrame> {
    use polars::prelude::*;
    let column = |value: fn(&TaskResult) -> f64| results.iter().map(value).collect::<Vec<f64>>();
    Ok(df!(
        "task" => results.iter().map(|it| it.task.clone()).collect::<Vec<String>>(),
        "items" => results.iter().map(|it| it.outcomes.len() as u32).collect::<Vec<u32>>(),
        "choice" => column(|it| it.choice.value),
        "choice low" => column(|it| it.choice.interval.low),
        "choice high" => column(|it| it.choice.interval.high),
        "exact" => column(|it| it.exact.value),
        "exact low" => column(|it| it.exact.interval.low),
        "exact high" => column(|it| it.exact.interval.high),
        "nats" => column(|it| it.nll.value),
    )?)
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;
    use crate::eval::tasks::tests::each;
    use crate::eval::tasks::{Copying, Needle};

    /// Knows what the task's own solver says.
    struct Perfect<'a>(&'a dyn Task);

    impl Scorer for Perfect<'_> {
        fn score(&self, prompt: &str, answers: &[&str]) -> Result<Vec<Score>> {
            let right = self.0.solve(prompt).unwrap_or_default();
            let score = |answer: &&str| Score {
                ln_likelihood: if **answer == right { -0.1 } else { -9.0 },
                is_greedy: **answer == right,
            };
            Ok(answers.iter().map(score).collect())
        }
    }

    /// Knows nothing: numbers from the prompt and the answer by chance, the same for all, or the place in the list.
    enum Ignorant {
        Random,
        Equal,
        First,
        Last,
    }

    impl Scorer for Ignorant {
        fn score(&self, prompt: &str, answers: &[&str]) -> Result<Vec<Score>> {
            let score = |(at, answer): (usize, &&str)| {
                let text = format!("{prompt}{answer}");
                let seed = text.bytes().fold(7u64, |hash, it| {
                    hash.wrapping_mul(0x100_0000_01b3) ^ u64::from(it)
                });
                let random: f64 = ChaCha8Rng::seed_from_u64(seed).random();
                Score {
                    ln_likelihood: match self {
                        Ignorant::Random => random,
                        Ignorant::Equal => 0.0,
                        Ignorant::First => -(at as f64),
                        Ignorant::Last => at as f64,
                    },
                    is_greedy: false,
                }
            };
            Ok(answers.iter().enumerate().map(score).collect())
        }
    }

    #[test]
    fn a_perfect_reader_is_always_right_and_an_ignorant_one_by_chance() {
        let items = 400;
        for task in each() {
            let task = task.as_ref();
            let perfect = run(task, &Perfect(task), items, 1).unwrap();
            assert_eq!(
                (perfect.choice.value, perfect.exact.value),
                (1.0, 1.0),
                "{perfect}"
            );
            for scorer in [Ignorant::Random, Ignorant::First, Ignorant::Last] {
                let found = run(task, &scorer, items, 1).unwrap();
                // Four standard deviations of a share of a quarter.
                let bound = 4.0 * (0.25 * 0.75 / items as f64).sqrt();
                assert!((found.choice.value - 0.25).abs() < bound, "{found}");
                assert_eq!(found.exact.value, 0.0);
            }
            let equal = run(task, &Ignorant::Equal, 10, 1).unwrap();
            assert_eq!(equal.choice.value, 0.25, "ties share");
        }
        assert!(run(&Copying(8), &Ignorant::Equal, 1, 0).is_err());
    }

    /// A needle with a wrong answer for the right one.
    #[derive(Debug)]
    struct Lost;

    impl Task for Lost {
        fn name(&self) -> String {
            "lost".into()
        }
        fn item(&self, generator: &mut ChaCha8Rng) -> Item {
            let mut item = Needle(8).item(generator);
            std::mem::swap(&mut item.answer, &mut item.wrong[0]);
            item
        }
        fn solve(&self, prompt: &str) -> Option<String> {
            Needle(8).solve(prompt)
        }
    }

    #[test]
    fn a_wrong_answer_key_is_noticed() {
        let found = run(&Lost, &Perfect(&Lost), 50, 1).unwrap();
        assert_eq!(found.choice.value, 0.0);
        let own = item(&Lost, 5, 0);
        assert_ne!(Lost.solve(&own.prompt), Some(own.answer));
    }

    #[cfg(feature = "notebook")]
    #[test]
    fn the_table_has_a_row_a_task() {
        let task = Copying(8);
        let results = [run(&task, &Perfect(&task), 4, 1).unwrap()];
        assert_eq!(table(&results).unwrap().shape(), (1, 9));
    }
}
