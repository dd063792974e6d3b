//! Short tasks without training or examples from outside: items made from a seed, each with its answer computed.
//!
//! | file | the model has to |
//! |---|---|
//! | [`needle`] | find one fact in a long text of no use |
//! | [`copy`] | say a text again |
//! | [`key_value`] | look up one of many pairs |
//! | [`induction`] | continue after a word as the text did before |
//!
//! An item is a prompt, the right answer and wrong ones of the same form. Two things are measured, both from likelihoods: whether the
//! right answer is likelier than all wrong ones (*choice*; chance is one in as many as there are), and whether greedy decoding gives
//! the right answer word for word (*exact*). Items are independent, so means have bootstrap intervals.
//!
//! ```no_run
//! use llmkit::eval::tasks;
//! use llmkit::model::Model;
//! let model = Model::load("smollm2-135m-instruct")?;
//! for result in tasks::run_all(&model, 50, 0)? {
//!     println!("{result}");
//! }
//! # Ok::<(), llmkit::Error>(())
//! ```
//!
//! A new task is one new file and two lines here: `pub mod x;` and a row in [`all`]; the contract tests loop over [`all`].
//!
//! | contract | meaning |
//! |---|---|
//! | deterministic | the same seed gives the same items, however many are asked for |
//! | solvable | [`solve`](Task::solve) finds the answer from the prompt alone, and no wrong one |
//! | chance | a scorer that knows nothing is right as often as chance says |

use std::fmt;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub mod copy;
pub mod induction;
pub mod key_value;
pub mod needle;

#[cfg(feature = "notebook")]
pub use super::answers::table;
pub use super::answers::{Outcome, TaskResult, run, run_all};
pub use super::scorer::{Score, Scorer};
pub use copy::Copying;
pub use induction::Induction;
pub use key_value::KeyValue;
pub use needle::Needle;

/// Wrong answers of an item.
pub const WRONG: usize = 3;

/// A question with its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What the model reads.
    pub prompt: String,
    /// What follows, a blank in front.
    pub answer: String,
    /// [`WRONG`] answers of the same form.
    pub wrong: Vec<String>,
}

/// A kind of question.
pub trait Task: fmt::Debug + Send + Sync {
    /// Unique name with all parameters: `needle:32`.
    fn name(&self) -> String;

    /// A new item.
    fn item(&self, generator: &mut ChaCha8Rng) -> Item;

    /// The answer, worked out from a prompt of this task alone: what a perfect reader would say.
    fn solve(&self, prompt: &str) -> Option<String>;
}

/// A row of [`all`]: the file's name and the tasks in it.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Name of the module.
    pub name: &'static str,
    /// Members of the family, one for each size worth asking.
    pub members: fn() -> Vec<Box<dyn Task>>,
}

/// Every kind of task, one row a file.
pub fn all() -> Vec<Family> {
    vec![
        Family {
            name: "needle",
            members: || vec![Box::new(Needle(8)), Box::new(Needle(64))],
        },
        Family {
            name: "copy",
            members: || vec![Box::new(Copying(8)), Box::new(Copying(24))],
        },
        Family {
            name: "key_value",
            members: || vec![Box::new(KeyValue(8)), Box::new(KeyValue(32))],
        },
        Family {
            name: "induction",
            members: || vec![Box::new(Induction(16)), Box::new(Induction(64))],
        },
    ]
}

/// Item `index` of a seed: the same however many there are.
pub fn item(task: &dyn Task, seed: u64, index: usize) -> Item {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(index as u64);
    task.item(&mut generator)
}

/// Common words, each with one meaning in these tasks: itself.
const WORDS: &str = "apple bird boat bread bridge butter candle castle chair cheese cloud coffee corn cotton desk dog door dream \
    engine farm fish flower forest fruit garden glass gold grass hat horse house island kitchen knife lake lamp leaf lemon letter \
    lion market milk mirror moon morning mountain music needle night ocean orange paper pencil picture pocket queen rain river road \
    salt school sheep ship silver snow song spoon spring star stone storm sugar summer sun table tea tiger train tree valley wall \
    water wheel wind window winter wood";

/// `count` different words.
fn words(count: usize, generator: &mut ChaCha8Rng) -> Vec<&'static str> {
    let mut words: Vec<&str> = WORDS.split_whitespace().collect();
    words.shuffle(generator);
    words.truncate(count);
    words
}

/// A number of four digits.
fn number(generator: &mut ChaCha8Rng) -> u32 {
    generator.random_range(1000..10_000)
}

/// [`WRONG`] of `values`, none of them `right`, each once.
fn others<T: Clone + PartialEq>(values: &[T], right: &T, generator: &mut ChaCha8Rng) -> Vec<T> {
    let mut found: Vec<T> = Vec::new();
    let mut shuffled = values.to_vec();
    shuffled.shuffle(generator);
    for value in shuffled {
        if value != *right && !found.contains(&value) && found.len() < WRONG {
            found.push(value);
        }
    }
    found
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::eval) fn each() -> impl Iterator<Item = Box<dyn Task>> {
        all().into_iter().flat_map(|family| (family.members)())
    }

    #[test]
    fn items_are_deterministic_and_their_answers_follow_from_the_prompt() {
        for task in each() {
            let name = task.name();
            for index in 0..200 {
                let own = item(task.as_ref(), 5, index);
                assert_eq!(own, item(task.as_ref(), 5, index), "{name}");
                assert_ne!(own, item(task.as_ref(), 6, index), "{name}");
                assert_ne!(own, item(task.as_ref(), 5, index + 1), "{name}");
                assert_eq!(
                    task.solve(&own.prompt).as_ref(),
                    Some(&own.answer),
                    "{name}: {own:?}"
                );
                let mut answers = own.wrong.clone();
                answers.push(own.answer.clone());
                assert!(
                    answers
                        .iter()
                        .all(|it| it.starts_with(' ') && !it.ends_with(' ')),
                    "{name}: {own:?}"
                );
                answers.sort();
                answers.dedup();
                assert_eq!(answers.len(), 1 + WRONG, "{name}: {own:?}");
                assert!(
                    !own.prompt.ends_with(' '),
                    "the blank belongs to the answer"
                );
            }
        }
    }
}
