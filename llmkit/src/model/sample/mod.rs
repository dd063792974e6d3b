//! From logits to the next token: processors one after the other, then a draw.
//!
//! A [`Processor`] changes logits or drops tokens; what is left, renormalised, is the [law](Sampling::law) that the next token is
//! drawn from. [`Sampling::with`] puts processors in the order of Hugging Face's `generate`, which is the order of [`all`]:
//!
//! | | file | what it does |
//! |---|---|---|
//! | 1 | [`repetition`] | makes tokens of the text so far less likely, by a factor |
//! | 2 | [`presence`] | the same by amounts, once and for each time |
//! | 3 | [`temperature`] | divides logits |
//! | 4 | [`top_k`] | keeps the k likeliest |
//! | 5 | [`top_p`] | keeps the fewest likeliest that reach a probability |
//! | 6 | [`min_p`] | keeps those not much less likely than the likeliest |
//! | 7 | [`typical`] | keeps those about as surprising as a token is on average |
//!
//! Each sees the law that those before it left, renormalised. llama.cpp's order is penalties, top-k, typical, top-p, min-p,
//! temperature: there the cuts are made at temperature 1, and a high temperature does not let more tokens in. That order too can
//! be had: [`Sampling::in_order`].
//!
//! Ties go to the lower id, so that every step is a function of its input. Logits and probabilities are f64.
//!
//! A new processor is one new file and two lines here: `pub mod x;` and a row in [`all`].

use std::fmt;
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

pub use super::law::{Candidate, Candidates, Chance, draw};
use crate::Result;

pub mod min_p;
pub mod presence;
pub mod repetition;
pub mod temperature;
pub mod top_k;
pub mod top_p;
pub mod typical;

pub use min_p::MinP;
pub use presence::Presence;
pub use repetition::Repetition;
pub use temperature::Temperature;
pub use top_k::TopK;
pub use top_p::TopP;
pub use typical::Typical;

/// The text so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Past<'a> {
    /// Tokens of the prompt.
    pub prompt: &'a [u32],
    /// Tokens generated after it.
    pub generated: &'a [u32],
}

impl Past<'_> {
    /// The last `count` tokens (all, if there is no count), the newest first.
    pub fn last(&self, count: Option<usize>) -> impl Iterator<Item = u32> {
        let newest_first = self.generated.iter().rev().chain(self.prompt.iter().rev());
        newest_first.copied().take(count.unwrap_or(usize::MAX))
    }
}

/// One step from logits to a law.
pub trait Processor: fmt::Debug + Send + Sync {
    /// Unique name with all parameters, as tables have it: `top_k=40`.
    fn name(&self) -> String;

    /// The row of [`all`] whose place in the order it takes; any other name is the last place.
    fn family(&self) -> &'static str;

    /// Whether its settings make sense.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if not.
    fn check(&self) -> Result<()>;

    /// Changes logits, or drops candidates.
    fn apply(&self, past: Past<'_>, candidates: &mut Candidates);
}

/// A row of [`all`]: the file's name and the processors in it that contracts run over.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Name of the module.
    pub name: &'static str,
    /// Members of the family, one for each setting worth trying.
    pub members: fn() -> Vec<Arc<dyn Processor>>,
}

/// Every kind of processor in the order of use, one row a file.
pub fn all() -> Vec<Family> {
    vec![
        Family {
            name: "repetition",
            members: || vec![Arc::new(Repetition::new(1.3))],
        },
        Family {
            name: "presence",
            members: || {
                vec![Arc::new(Presence {
                    presence: 0.5,
                    frequency: 0.25,
                })]
            },
        },
        Family {
            name: "temperature",
            members: || vec![Arc::new(Temperature(0.7))],
        },
        Family {
            name: "top_k",
            members: || vec![Arc::new(TopK(5))],
        },
        Family {
            name: "top_p",
            members: || vec![Arc::new(TopP(0.8))],
        },
        Family {
            name: "min_p",
            members: || vec![Arc::new(MinP(0.1))],
        },
        Family {
            name: "typical",
            members: || vec![Arc::new(Typical(0.7))],
        },
    ]
}

/// How the next token is chosen.
///
/// ```
/// use llmkit::model::sample::{MinP, Past, Sampling, Temperature, TopK};
/// let sampling = Sampling::plain().with(TopK(2)).with(Temperature(0.5)).seeded(7);
/// assert_eq!(sampling.to_string(), "temperature=0.5, top_k=2, seed 7");
/// // Probabilities 1/2, 1/4, 1/4: temperature 1/2 squares them, two are kept.
/// let law = sampling.law(&[0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()], Past::default())?;
/// assert!((law[0].probability - 0.8).abs() < 1e-6);
/// # Ok::<(), llmkit::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampling {
    processors: Vec<Arc<dyn Processor>>,
    /// Seed of the generator (ChaCha with 8 rounds: the same tokens on every machine and version).
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Sampling {
        Sampling::greedy()
    }
}

impl Sampling {
    /// Always the likeliest token.
    pub fn greedy() -> Sampling {
        Sampling::plain().with(Temperature(0.0))
    }

    /// Each token as likely as the model says.
    pub fn plain() -> Sampling {
        Sampling::in_order(Vec::new())
    }

    /// These processors in this order.
    pub fn in_order(processors: Vec<Arc<dyn Processor>>) -> Sampling {
        Sampling {
            processors,
            seed: 0,
        }
    }

    /// With one processor more, at its place in the order of [`all`]; it takes the place of one of its family.
    pub fn with(mut self, processor: impl Processor + 'static) -> Sampling {
        let order = all();
        let place = |it: &dyn Processor| {
            order
                .iter()
                .position(|row| row.name == it.family())
                .unwrap_or(order.len())
        };
        let own = place(&processor);
        self.processors
            .retain(|it| it.family() != processor.family());
        let at = self
            .processors
            .iter()
            .take_while(|it| place(it.as_ref()) <= own)
            .count();
        self.processors.insert(at, Arc::new(processor));
        self
    }

    /// With another seed.
    pub fn seeded(self, seed: u64) -> Sampling {
        Sampling { seed, ..self }
    }

    /// Processors in the order of use.
    pub fn processors(&self) -> &[Arc<dyn Processor>] {
        &self.processors
    }

    /// The exact distribution the next token is drawn from, likeliest first; it sums to 1.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if there are no logits, one is NaN or +∞, all are −∞, or a setting is out of range.
    pub fn law(&self, logits: &[f32], past: Past<'_>) -> Result<Vec<Chance>> {
        self.processors.iter().try_for_each(|it| it.check())?;
        let mut candidates = Candidates::new(logits)?;
        for processor in &self.processors {
            processor.apply(past, &mut candidates);
        }
        Ok(candidates.law())
    }

    /// The generator that [`draw`] takes.
    pub fn generator(&self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.seed)
    }
}

impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for processor in &self.processors {
            write!(f, "{}, ", processor.name())?;
        }
        write!(f, "seed {}", self.seed)
    }
}
