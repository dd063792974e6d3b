//! A network taken apart and put together again: matrices and vectors by name, as experiments on weights need them.
//!
//! Names are those of GGUF: `token_embd.weight`, `output.weight` (if the head is not the embedding itself), `output_norm.weight`,
//! `blk.3.ffn_up.weight`, `blk.3.attn_norm.weight`, `blk.3.attn_q.bias` …

use std::sync::Arc;

use super::layer::{MATRICES, VECTORS};
use super::linear::Linear;
use super::{Config, Llama, Model};
use crate::linalg::Hadamard;
use crate::{Error, Result};

const EMBEDDING: &str = "token_embd.weight";
const HEAD: &str = "output.weight";
const NORM: &str = "output_norm.weight";

impl Llama {
    /// Sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether the head is the embedding.
    pub fn is_tied(&self) -> bool {
        Arc::ptr_eq(&self.embedding, &self.head)
    }

    /// What the head sees of a residual stream (T, K) that [`through`](Self::through) has taken to the end: the states of
    /// [`hidden`](Self::hidden).
    ///
    /// # Errors
    /// [`Error::Format`] if one is not finite.
    pub fn normed(&self, x: &[f32]) -> Result<Vec<f32>> {
        self.final_norm(x, None)
    }

    /// Names of all matrices, in the order in which they are used.
    pub fn matrix_names(&self) -> Vec<String> {
        let layers = (0..self.layers.len())
            .flat_map(|n| MATRICES.map(|part| format!("blk.{n}.{part}.weight")));
        let head = (!self.is_tied()).then(|| HEAD.to_owned());
        let embedding = std::iter::once(EMBEDDING.to_owned());
        embedding.chain(layers).chain(head).collect()
    }

    /// Names of all vectors: gains of norms, and biases where there are some.
    pub fn vector_names(&self) -> Vec<String> {
        let of_layers = self.layers.iter().enumerate().flat_map(|(n, layer)| {
            let has = |part: &&str| layer.vector(part).is_some_and(|it| !it.is_empty());
            let parts: Vec<&str> = VECTORS.into_iter().filter(has).collect();
            parts.into_iter().map(move |part| format!("blk.{n}.{part}"))
        });
        of_layers.chain([NORM.to_owned()]).collect()
    }

    /// The vector of a name: gains of a norm, or biases.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    pub fn vector(&self, name: &str) -> Result<&[f32]> {
        let found = match name {
            NORM => Some(&self.norm),
            _ => place(name).and_then(|(n, part)| self.layers.get(n)?.vector(part)),
        };
        let found = found.map(Vec::as_slice).filter(|it| !it.is_empty());
        found.ok_or_else(|| missing("vector", name))
    }

    /// The network with one vector replaced.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none of that name, [`Error::Shape`] if the new one has another length,
    /// [`Error::Argument`] if a value is not finite.
    pub fn with_vector(&self, name: &str, values: Vec<f32>) -> Result<Llama> {
        let length = self.vector(name)?.len();
        if values.len() != length {
            return Err(Error::Shape {
                operation: format!("replace {name}"),
                expected: format!("[{length}]"),
                got: format!("[{}]", values.len()),
            });
        }
        if let Some(at) = values.iter().position(|it| !it.is_finite()) {
            let name = format!("{name}[{at}]");
            return Err(Error::argument(name, "a finite number", values[at]));
        }
        let mut network = self.clone();
        let slot = match name {
            NORM => Some(&mut network.norm),
            _ => place(name).and_then(|(n, part)| {
                Arc::make_mut(&mut network.layers)
                    .get_mut(n)?
                    .vector_mut(part)
            }),
        };
        *slot.ok_or_else(|| missing("vector", name))? = values;
        Ok(network)
    }

    /// The network with a head of its own, no longer the embedding.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is not (V, K).
    pub fn with_head(&self, head: Arc<dyn Linear>) -> Result<Llama> {
        if head.shape() != self.head.shape() {
            return Err(Error::Shape {
                operation: format!("replace {HEAD}"),
                expected: format!("{:?}", self.head.shape()),
                got: format!("{:?}", head.shape()),
            });
        }
        let mut network = self.clone();
        network.head = head;
        Ok(network)
    }

    /// What rotates the input of layer `n`'s `ffn_down` on its way: what no matrix in front can take over, because a product stands
    /// between. [Hooks](super::hook) see the rotated activation, which is what the matrix sees.
    pub fn ffn_rotation(&self, n: usize) -> Option<&Hadamard> {
        self.layers.get(n)?.ffn_rotation.as_deref()
    }

    /// The network whose input of layer `n`'s `ffn_down` is rotated on its way, or not.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such layer, [`Error::Shape`] if the rotation is not of the feed-forward width.
    pub fn with_ffn_rotation(&self, n: usize, rotation: Option<Arc<Hadamard>>) -> Result<Llama> {
        let name = format!("blk.{n}.ffn_down.in");
        if let Some(order) = rotation.as_ref().map(|it| it.order())
            && order != self.config.ffn_width
        {
            return Err(Error::Shape {
                operation: format!("rotate {name}"),
                expected: self.config.ffn_width.to_string(),
                got: order.to_string(),
            });
        }
        let mut network = self.clone();
        match Arc::make_mut(&mut network.layers).get_mut(n) {
            Some(layer) => layer.ffn_rotation = rotation,
            None => return Err(missing("activation", &name)),
        }
        Ok(network)
    }
}

impl Model {
    /// The same model with another network; [`weight`](Self::weight) still gives what the file has.
    ///
    /// # Errors
    /// [`Error::Argument`] if the network is of another configuration.
    pub fn with_network(&self, network: Llama) -> Result<Model> {
        if *network.config() != self.config {
            let (expected, got) = (&self.config, network.config());
            return Err(Error::argument(
                "network",
                format!("{expected:?}"),
                format!("{got:?}"),
            ));
        }
        let mut model = self.clone();
        model.network = network;
        Ok(model)
    }
}

/// Layer and part of the name `blk.3.ffn_up.weight`.
fn place(name: &str) -> Option<(usize, &str)> {
    let (n, part) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((n.parse().ok()?, part))
}

fn missing(what: &str, name: &str) -> Error {
    Error::NotFound {
        what: format!("{what} {name:?}"),
        tried: vec![
            "blk.0.attn_q.weight … blk.N.ffn_down.weight, token_embd.weight, output.weight if it is not tied".to_owned(),
            "blk.0.attn_norm.weight, blk.0.ffn_norm.weight, output_norm.weight, and what else the architecture has".to_owned(),
        ],
    }
}
