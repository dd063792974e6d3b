//! Changes of a network that leave its function the same and make its weights, or its activations, easier to round.
//!
//! A transform sees a network's [`Parts`] and [`Statistics`] of its activations; what comes out is a network again, which any
//! [`Method`](super::Method) quantizes into any [`Format`]. Transforms follow each other; statistics
//! are those of the network that a transform is given, so they are collected anew in between where it needs some.
//!
//! A new transform is one new file and two lines here: `pub mod x;` and a row in [`all`]. The contract tests
//! (`quant/equivalence.rs`) loop over [`all`].
//!
//! | contract | meaning |
//! |---|---|
//! | same function | logits before and after agree to 1e-9 in f64 if [`Transform::is_exact`], on every architecture |
//! | single precision | in f32 they differ from the exact ones by at most four times what f32 differs without the transform |
//! | nothing silent | every place that is left as it was stands in the report, with the reason |
//! | deterministic | twice the same input gives twice the same bits |
//!
//! ```no_run
//! use llmkit::model::Model;
//! use llmkit::quant::{Statistics, Transform, transform::Rotate};
//! let model = Model::load("smollm2-135m-instruct")?;
//! let (rotated, report) = Rotate::new(0).run(model.network(), &Statistics::default())?;
//! println!("{report}");
//! let model = model.with_network(rotated)?;
//! # Ok::<(), llmkit::Error>(())
//! ```

use std::collections::BTreeMap;
use std::fmt;

use super::parts::Parts;
use super::{Format, Statistics};
use crate::model::Llama;
use crate::{Error, Result};

pub mod awq;
pub mod permute;
pub mod rotate;
pub mod smooth;
pub mod spin;

pub use awq::Awq;
pub use permute::Permute;
pub use rotate::Rotate;
pub use smooth::Smooth;
pub use spin::Spin;

/// A change of a network that leaves its function the same.
pub trait Transform: fmt::Debug + Send + Sync {
    /// Unique name with all parameters: `smooth-a0.5`.
    fn name(&self) -> String;

    /// Whether the function stays the same up to rounding; no for what also cuts weights off, as AWQ's clipping does.
    fn is_exact(&self) -> bool {
        true
    }

    /// Whether [`apply`](Self::apply) looks at statistics.
    fn needs_statistics(&self) -> bool {
        true
    }

    /// Whether all it does is in the weights, so that a file can hold it; no for what the network has to do on its way.
    fn is_in_weights(&self) -> bool {
        true
    }

    /// Changes `parts`, of which `statistics` were collected.
    ///
    /// # Errors
    /// [`Error::Argument`] with the reason where it is not defined for such a network,
    /// [`Error::NotFound`] where statistics are missing, [`Error::Interrupted`].
    /// `parts` may then be changed in some places and not in others.
    fn apply(&self, parts: &mut dyn Parts, statistics: &Statistics) -> Result<Report>;

    /// [`apply`](Self::apply) on a copy of a network, which stays as it is.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn run(&self, network: &Llama, statistics: &Statistics) -> Result<(Llama, Report)> {
        let mut network = network.clone();
        let report = self.apply(&mut network, statistics)?;
        Ok((network, report))
    }

    /// The transform of this family that `name` names, if there is one, for weights that will be stored in `format`: what a recipe's
    /// text stands for. A family whose members are all it has need not say it.
    ///
    /// # Errors
    /// [`Error::Argument`] for a name of this family with a parameter that it refuses.
    fn named(&self, _name: &str, _format: &dyn Format) -> Result<Option<Box<dyn Transform>>> {
        Ok(None)
    }
}

/// The transform of this name: a member of a family, or one with other parameters (`smooth-a0.7`); `awq` is for `format`.
///
/// # Errors
/// [`Error::Argument`] with all names if there is none, or with what a parameter may be.
pub fn named(name: &str, format: &dyn Format) -> Result<Box<dyn Transform>> {
    let members = || all().into_iter().flat_map(|family| (family.members)());
    if let Some(member) = members().find(|member| member.name() == name) {
        return Ok(member);
    }
    for member in members() {
        if let Some(found) = member.named(name, format)? {
            return Ok(found);
        }
    }
    let names: Vec<String> = members().map(|member| member.name()).collect();
    Err(Error::argument("transform", names.join(", "), name))
}

/// What a transform did, place by place.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// In the order in which it happened.
    pub steps: Vec<Step>,
    /// By what the channels of activations were divided (K), so that statistics can follow; of an activation that is not named nothing
    /// changed. [`None`] if it is not as simple as that: statistics are then collected anew. What weights lose where they are cut counts
    /// as rounding does, and changes no statistics.
    pub divided: Option<BTreeMap<String, Vec<f64>>>,
}

/// What happened at one place.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Where: `blk.3.attn_norm → attn_q, attn_k, attn_v`.
    pub place: String,
    /// Whether anything was changed there.
    pub is_done: bool,
    /// What was done, or why nothing was.
    pub what: String,
}

impl Report {
    /// Of a transform that does nothing to activations but divide their channels.
    fn of_scales() -> Report {
        Report {
            divided: Some(BTreeMap::new()),
            ..Report::default()
        }
    }

    /// The channels of `activation` were divided by `scales` (K).
    fn divides(&mut self, activation: String, scales: Vec<f64>) {
        let known = self.divided.get_or_insert_default();
        known.insert(activation, scales);
    }

    pub(super) fn done(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.steps.push(Step {
            place: place.into(),
            is_done: true,
            what: what.into(),
        });
    }

    pub(super) fn skipped(&mut self, place: impl Into<String>, why: impl Into<String>) {
        self.steps.push(Step {
            place: place.into(),
            is_done: false,
            what: why.into(),
        });
    }

    /// The steps that left their place as it was.
    pub fn left(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| !step.is_done)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.left().count();
        let done = self.steps.len() - left;
        write!(f, "{done} steps, {left} places left as they were")?;
        for step in &self.steps {
            let sign = if step.is_done { ' ' } else { '✗' };
            write!(f, "\n{sign} {}: {}", step.place, step.what)?;
        }
        Ok(())
    }
}

/// A row of [`all`]: the file's name and the transforms in it that contracts run over.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Name of the module: `rotate`.
    pub name: &'static str,
    /// Members of the family, one for each setting worth comparing.
    pub members: fn() -> Vec<Box<dyn Transform>>,
}

/// Every family of transforms, one row a file.
pub fn all() -> Vec<Family> {
    vec![
        Family {
            name: "awq",
            members: awq::members,
        },
        Family {
            name: "permute",
            members: permute::members,
        },
        Family {
            name: "rotate",
            members: rotate::members,
        },
        Family {
            name: "smooth",
            members: smooth::members,
        },
        Family {
            name: "spin",
            members: spin::members,
        },
    ]
}
