//! A model step by step: logits of whole texts and of last tokens, ragged batches, chunks, hooks, and parts swapped for others.
//!
//! Keys and values of a sequence live in a [`Store`], which the caller has: a store that is forked goes two ways, one that is
//! truncated goes back.
//!
//! ```no_run
//! use llmkit::attention::Naive;
//! use llmkit::model::{Model, Piece};
//! let model = Model::load("smollm2-135m-instruct")?;
//!
//! // All logits (T, V) of a text, and those after the last token alone.
//! let tokens = model.encode("The capital of France is")?;
//! let all = model.logits(&tokens)?;
//! let mut store = model.network().store();
//! let last = model.last_logits(&tokens, store.as_mut())?;
//!
//! // Two ways to go on from there, in one pass over the weights; `store` stays where it is.
//! let (paris, rome) = (model.encode(" Paris")?, model.encode(" Rome, or")?);
//! let mut forks = [store.fork(), store.fork()];
//! let [first, second] = &mut forks;
//! let mut pieces = [
//!     Piece { store: first.as_mut(), tokens: &paris },
//!     Piece { store: second.as_mut(), tokens: &rome },
//! ];
//! let next = model.step(&mut pieces)?;
//! assert_eq!(next.len(), 2);
//!
//! // Back to the first two tokens.
//! store.truncate(2);
//!
//! // Sequences of any lengths at once, from their beginnings.
//! let next = model.batch_logits(&[&tokens, &paris, &rome])?;
//! assert_eq!(next.dims(), [3, model.config.vocabulary]);
//!
//! // The same weights with another attention.
//! let slow = model.with_attention(std::sync::Arc::new(Naive));
//! # Ok::<(), llmkit::Error>(())
//! ```

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::hook::Hook;
use super::{Linear, Model, Piece};
use crate::attention::Attention;
use crate::kvcache::store::Store;
use crate::{Error, Result};

impl Model {
    /// Hidden states (T, K) of `tokens` that follow those in `store`, with a hook on the way.
    ///
    /// # Errors
    /// As [`Llama::hidden`](super::Llama::hidden).
    pub fn hidden_with(
        &self,
        tokens: &[u32],
        store: &mut dyn Store,
        hook: &mut dyn Hook,
    ) -> Result<Vec<f32>> {
        self.network
            .hidden(&mut [Piece { store, tokens }], Some(hook))
    }

    /// Logits (V) after the last of each piece's tokens: the head runs on these alone.
    ///
    /// # Errors
    /// As [`Llama::hidden`](super::Llama::hidden).
    pub fn step(&self, pieces: &mut [Piece<'_>]) -> Result<Vec<Vec<f32>>> {
        let hidden = self.network.hidden(pieces, None)?;
        let mut rows = hidden.chunks_exact(self.config.width);
        let mut last = Vec::with_capacity(pieces.len() * self.config.width);
        for piece in pieces.iter() {
            // A piece has at least one token: `hidden` saw to it.
            last.extend_from_slice(rows.nth(piece.tokens.len() - 1).unwrap_or_default());
        }
        let logits = self.network.logits(&last);
        let rows = logits.chunks_exact(self.config.vocabulary);
        Ok(rows.map(<[f32]>::to_vec).collect())
    }

    /// Logits (V) after the last of `tokens`, which follow those in `store`.
    ///
    /// # Errors
    /// As [`Llama::hidden`](super::Llama::hidden).
    pub fn last_logits(&self, tokens: &[u32], store: &mut dyn Store) -> Result<Vec<f32>> {
        let logits = self.step(&mut [Piece { store, tokens }])?;
        Ok(logits.into_iter().next().unwrap_or_default())
    }

    /// [`last_logits`](Self::last_logits) in passes of at most `chunk_tokens`: the same bits, less memory for activations.
    ///
    /// # Errors
    /// As [`last_logits`](Self::last_logits), and [`Error::Argument`] for chunks of no tokens. The store then has the tokens it had.
    pub fn prefill(
        &self,
        tokens: &[u32],
        store: &mut dyn Store,
        chunk_tokens: usize,
    ) -> Result<Vec<f32>> {
        if chunk_tokens == 0 {
            return Err(Error::argument("chunk", "at least one token", "none"));
        }
        // All that can be wrong with the whole is found before its first chunk runs.
        self.network.check(&[Piece { store, tokens }])?;
        let before = store.tokens();
        let mut run = || {
            let last = (tokens.len() - 1) / chunk_tokens * chunk_tokens;
            for chunk in tokens[..last].chunks(chunk_tokens) {
                self.hidden(chunk, store)?;
            }
            self.last_logits(&tokens[last..], store)
        };
        let logits = run();
        if logits.is_err() {
            store.truncate(before);
        }
        logits
    }

    /// Logits (B, V) after the last token of each sequence, all from their beginnings, in one pass.
    ///
    /// # Errors
    /// As [`Model::logits`].
    pub fn batch_logits(&self, sequences: &[&[u32]]) -> Result<Tensor> {
        let mut stores: Vec<_> = sequences.iter().map(|_| self.network.store()).collect();
        let mut pieces: Vec<Piece<'_>> = (stores.iter_mut().zip(sequences))
            .map(|(store, tokens)| Piece {
                store: store.as_mut(),
                tokens,
            })
            .collect();
        let logits = self.step(&mut pieces)?.concat();
        let shape = (sequences.len(), self.config.vocabulary);
        Ok(Tensor::from_vec(logits, shape, &Device::Cpu)?)
    }

    /// The same model with another attention in every layer.
    pub fn with_attention(&self, attention: Arc<dyn Attention>) -> Model {
        let mut model = self.clone();
        model.network = self.network.with_attention(attention);
        model
    }

    /// The same model whose sequences start in empty stores like `store`.
    ///
    /// # Errors
    /// [`Error::Argument`] if it has another shape than [`Llama::store_shape`](super::Llama::store_shape).
    pub fn with_store(&self, store: &dyn Store) -> Result<Model> {
        let mut model = self.clone();
        model.network = self.network.with_store(store)?;
        Ok(model)
    }

    /// The same model with one linear layer replaced; [`weight`](Self::weight) still gives what the file has.
    ///
    /// # Errors
    /// As [`Llama::with_linear`](super::Llama::with_linear).
    pub fn with_linear(&self, name: &str, layer: Arc<dyn Linear>) -> Result<Model> {
        let mut model = self.clone();
        model.network = self.network.with_linear(name, layer)?;
        Ok(model)
    }

    /// The same model with several weight matrices replaced: each by name, with the values that [`weight`](Self::weight) then gives, and
    /// the layer that runs.
    ///
    /// # Errors
    /// As [`Llama::with_linear`](super::Llama::with_linear).
    pub fn with_layers(
        &self,
        layers: impl IntoIterator<Item = (String, Tensor, Arc<dyn Linear>)>,
    ) -> Result<Model> {
        let mut model = self.clone();
        for (name, values, layer) in layers {
            model.network = model.network.with_linear(&name, layer)?;
            model.weights.replace(&name, values);
        }
        Ok(model)
    }
}
