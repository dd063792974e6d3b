//! Linear layers of a network by name: looked at, and replaced.

use std::sync::Arc;

use super::layer::Layer;
use super::linear::Linear;
use super::llama::Llama;
use crate::{Error, Result};

impl Llama {
    /// The network with one linear layer replaced; `name` as in the file: `blk.3.ffn_up.weight`, `token_embd.weight` (with the
    /// head, if tied), `output.weight`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no linear layer of that name, [`Error::Shape`] if the new one has another shape.
    pub fn with_linear(&self, name: &str, layer: Arc<dyn Linear>) -> Result<Llama> {
        let mut network = self.clone();
        let is_tied = Arc::ptr_eq(&self.embedding, &self.head);
        let slot = match name {
            "token_embd.weight" => Some(&mut network.embedding),
            "output.weight" if !is_tied => Some(&mut network.head),
            _ => matrix(Arc::make_mut(&mut network.layers).as_mut_slice(), name),
        };
        let slot = slot.ok_or_else(|| unknown(name))?;
        if slot.shape() != layer.shape() {
            return Err(Error::Shape {
                operation: format!("replace {name}"),
                expected: format!("{:?}", slot.shape()),
                got: format!("{:?}", layer.shape()),
            });
        }
        *slot = layer;
        if name == "token_embd.weight" && is_tied {
            network.head = Arc::clone(&network.embedding);
        }
        Ok(network)
    }

    /// A linear layer, named as for [`with_linear`](Self::with_linear).
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none of that name.
    pub fn linear(&self, name: &str) -> Result<Arc<dyn Linear>> {
        let found = match name {
            "token_embd.weight" => Some(&self.embedding),
            "output.weight" => Some(&self.head),
            _ => place(name).and_then(|(n, part)| self.layers.get(n)?.matrix(part)),
        };
        found.cloned().ok_or_else(|| unknown(name))
    }
}

/// The matrix of the name `blk.3.ffn_up.weight`.
fn matrix<'a>(layers: &'a mut [Layer], name: &str) -> Option<&'a mut Arc<dyn Linear>> {
    let (n, part) = place(name)?;
    layers.get_mut(n)?.matrix_mut(part)
}

/// Layer and part of the name `blk.3.ffn_up.weight`.
fn place(name: &str) -> Option<(usize, &str)> {
    let (n, part) = name
        .strip_prefix("blk.")?
        .strip_suffix(".weight")?
        .split_once('.')?;
    Some((n.parse().ok()?, part))
}

fn unknown(name: &str) -> Error {
    Error::NotFound {
        what: format!("linear layer {name:?}"),
        tried: vec!["blk.0.attn_q.weight … blk.N.ffn_down.weight, token_embd.weight".to_owned()],
    }
}
