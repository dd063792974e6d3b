//! What an experiment does to a forward pass: it sees every activation by name, and may replace it.
//!
//! An activation has the name of the weight it meets:
//!
//! | name | columns | what |
//! |---|---|---|
//! | `blk.3.attn_q.in` | K | the normed residual stream; also the input of attn_k and attn_v |
//! | `blk.3.attn_q.out`, `blk.3.attn_k.out`, `blk.3.attn_v.out` | H·D, G·D, G·D | biases added, not yet normed (Qwen3) or turned |
//! | `blk.3.attn_output.in` | H·D | mixed values of all heads |
//! | `blk.3.mid` | K | the residual stream after attention |
//! | `blk.3.ffn_gate.in` | K | that, normed; also the input of ffn_up |
//! | `blk.3.ffn_down.in` | feed-forward width | silu(gate) ⊙ up |
//! | `blk.3.out` | K | the residual stream after the layer |
//! | `output.in` | K | the residual stream after the last layer, normed: what the head sees |
//!
//! They come in this order, layer by layer. What is written to `values` goes on; there is nothing else that does. Queries, keys
//! and values are also within reach of the [`Attention`](crate::attention::Attention) and [`Store`](crate::kvcache::store::Store)
//! that a network has.
//!
//! A hook is a type with [`Hook`], or any closure:
//!
//! ```no_run
//! use llmkit::model::{Model, Record};
//! let model = Model::load("smollm2-135m-instruct")?;
//! let tokens = model.encode("The capital of France is")?;
//!
//! // Ablate the attention of layer 3.
//! let mut ablate = |name: &str, _columns: usize, values: &mut [f32]| {
//!     if name == "blk.3.attn_output.in" {
//!         values.fill(0.0);
//!     }
//!     Ok(())
//! };
//! let without = model.hidden_with(&tokens, model.network().store().as_mut(), &mut ablate)?;
//!
//! // Keep what enters each layer's feed-forward network.
//! let mut record = Record::new("blk.*.ffn_down.in");
//! model.hidden_with(&tokens, model.network().store().as_mut(), &mut record)?;
//! let third = record.get("blk.3.ffn_down.in")?;
//! # Ok::<(), llmkit::Error>(())
//! ```

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use crate::{Error, Result};

/// What an experiment does to a forward pass.
pub trait Hook {
    /// Sees, and may change, an activation (T rows of `columns`) on its way; [names](self) are those of the weights it meets.
    ///
    /// # Errors
    /// What it likes; the pass ends with it, and the stores keep the tokens they had.
    fn visit(&mut self, name: &str, columns: usize, values: &mut [f32]) -> Result<()>;
}

impl<F> Hook for F
where
    F: FnMut(&str, usize, &mut [f32]) -> Result<()>,
{
    fn visit(&mut self, name: &str, columns: usize, values: &mut [f32]) -> Result<()> {
        self(name, columns, values)
    }
}

/// Keeps the activations whose names fit a pattern, those of later passes below those of earlier ones. Changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pattern: String,
    /// Columns and rows by name.
    found: BTreeMap<String, (usize, Vec<f32>)>,
}

impl Record {
    /// Of names that fit `pattern`, in which each `*` stands for any characters: `blk.*.mid`, `*`.
    pub fn new(pattern: impl Into<String>) -> Record {
        Record {
            pattern: pattern.into(),
            found: BTreeMap::new(),
        }
    }

    /// Names recorded so far, sorted.
    pub fn names(&self) -> Vec<&str> {
        self.found.keys().map(String::as_str).collect()
    }

    /// The activation of a name (T, columns), T being the tokens of all passes.
    ///
    /// # Errors
    /// [`Error::NotFound`] if nothing of that name was recorded.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let (columns, values) = self.found.get(name).ok_or_else(|| Error::NotFound {
            what: format!("activation {name:?}"),
            tried: vec![format!(
                "{} recorded as {:?}",
                self.found.len(),
                self.pattern
            )],
        })?;
        let shape = (values.len() / columns, *columns);
        Ok(Tensor::from_slice(values, shape, &Device::Cpu)?)
    }
}

impl Hook for Record {
    fn visit(&mut self, name: &str, columns: usize, values: &mut [f32]) -> Result<()> {
        if fits(&self.pattern, name) {
            let found = self.found.entry(name.to_owned());
            let (_, kept) = found.or_insert_with(|| (columns, Vec::new()));
            kept.extend_from_slice(values);
        }
        Ok(())
    }
}

/// Whether `name` fits `pattern`, in which `*` stands for any characters, none included.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        // The first place is as good as any: it leaves the most for those that follow.
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("output.in", "output.in", true),
            ("output.in", "output.in2", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("blk.*.mid", "blk.13.mid", true),
            ("blk.*.mid", "blk.13.mid.x", false),
            ("blk.*.attn_*.out", "blk.1.attn_q.out", true),
            ("blk.*.attn_*.out", "blk.1.ffn.out", false),
            ("*.in*", "a.in.in", true),
            ("a*a", "a", false),
            ("a*b*b", "ab", false),
            ("*é", "né", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_record_keeps_the_rows_of_all_passes() {
        let mut record = Record::new("blk.*.mid");
        record
            .visit("blk.0.mid", 2, &mut [1.0, 2.0, 3.0, 4.0])
            .unwrap();
        record.visit("blk.0.out", 2, &mut [9.0, 9.0]).unwrap();
        record.visit("blk.0.mid", 2, &mut [5.0, 6.0]).unwrap();
        assert_eq!(record.names(), ["blk.0.mid"]);
        let rows: Vec<Vec<f32>> = record.get("blk.0.mid").unwrap().to_vec2().unwrap();
        assert_eq!(rows, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
        assert!(
            record
                .get("blk.0.out")
                .unwrap_err()
                .to_string()
                .contains("blk.*.mid")
        );
    }
}
