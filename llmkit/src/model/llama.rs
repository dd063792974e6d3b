//! The transformer: Llama, Mistral, Qwen2 and Qwen3 by flags of [`Config`].
//!
//! ```text
//! x = embedding[tokens]
//! for each layer:  x += Wo · attention(rope(Wq·n), rope(Wk·n), Wv·n),  n = rmsnorm(x)
//!                  x += Wdown · (silu(Wgate·n) ⊙ Wup·n),               n = rmsnorm(x)
//! logits = Whead · rmsnorm(x)
//! ```
//! Shapes: T tokens of this call, S tokens in all (kept and new), K width, H query heads in G groups, D head dimension, V vocabulary.
//! Qwen2 adds biases to q, k and v; Qwen3 normalises each head of q and k before it turns; Mistral sees a window of keys.
//!
//! Several sequences go through the layers together, as rows of one activation; only attention tells them apart. No step sums
//! over rows or cuts its sums by their number, so a sequence's logits have the same bits alone or in a batch, whole or in
//! chunks, on one thread or many (see [`kernels`](crate::kernels)). There is one mode of numerics, the reproducible one: no
//! kernel here would be faster for giving that up. `tests/reproducible.rs` proves it by one hash for every way to compute a text.
//!
//! Source: Touvron et al. 2023, *LLaMA*; Su et al. 2021, *RoFormer*; Ainslie et al. 2023, *GQA*; Shazeer 2020, *GLU Variants*.
//! Cost a token: 2 · (weights) + 4·S·H·D a layer flops, and reading every weight once for all rows together.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::config::Config;
use super::engine::Buffers;
use super::hook::Hook;
use super::layer::Layer;
use super::linear::{Engine, Input, Linear, forward_all, forward_gated};
use super::mix::Heads;
use super::rope::frequencies;
use super::weight_type::WeightType;
use super::weights::Weights;
use crate::attention::{Attention, Flash};
use crate::kernels::activation::each_row;
use crate::kernels::dense::Into;
use crate::kernels::rope::Angles;
use crate::kernels::rows::Rows;
use crate::kvcache::store::{Contiguous, Shape, Store};
use crate::{Error, Result, interrupt};

/// The network. Cloning is cheap: linear layers, attention and the empty store are shared.
#[derive(Debug, Clone)]
pub struct Llama {
    pub(super) config: Config,
    /// Instructions and threads.
    pub engine: Engine,
    pub(super) embedding: Arc<dyn Linear>,
    pub(super) layers: Arc<Vec<Layer>>,
    pub(super) norm: Vec<f32>,
    pub(super) head: Arc<dyn Linear>,
    pub(super) attention: Arc<dyn Attention>,
    /// Empty; what sequences start from.
    store: Arc<dyn Store>,
    angles: Arc<Mutex<Arc<Angles>>>,
}

/// Tokens that follow those in a store.
#[derive(Debug)]
pub struct Piece<'a> {
    /// Keys and values of the sequence so far; gets those of `tokens`.
    pub store: &'a mut dyn Store,
    /// At least one.
    pub tokens: &'a [u32],
}

impl Llama {
    /// The network of `weights`, each checked against the shape that `config` asks for, kept as `kind`.
    ///
    /// # Errors
    /// [`Error::Format`] if a weight is missing or not finite, [`Error::Shape`] if one has another shape.
    pub fn new(config: &Config, weights: &Weights, kind: WeightType) -> Result<Llama> {
        let c = config;
        let embedding = weights.linear("token_embd.weight", c.vocabulary, c.width, kind)?;
        // A model without an output matrix uses its embedding ("tied").
        let head = match weights.shape("output.weight") {
            Some(_) => weights.linear("output.weight", c.vocabulary, c.width, kind)?,
            None => Arc::clone(&embedding),
        };
        Ok(Llama {
            config: c.clone(),
            engine: Engine::default(),
            embedding,
            layers: Arc::new(
                (0..c.layers)
                    .map(|n| Layer::new(n, c, weights, kind))
                    .collect::<Result<_>>()?,
            ),
            norm: weights.vector("output_norm.weight", c.width)?,
            head,
            attention: Arc::new(Flash),
            store: Arc::new(Contiguous::of(kind.keys_and_values(), store_shape(c))),
            angles: Arc::new(Mutex::new(Arc::new(Angles::new(&[], 1.0, 0)))),
        })
    }

    /// The network with another attention in every layer.
    pub fn with_attention(&self, attention: Arc<dyn Attention>) -> Llama {
        Llama {
            attention,
            ..self.clone()
        }
    }

    /// The network whose [`store`](Self::store) makes stores like `store`, empty ones.
    ///
    /// # Errors
    /// [`Error::Argument`] if its shape is not this network's.
    pub fn with_store(&self, store: &dyn Store) -> Result<Llama> {
        self.check_store(store)?;
        Ok(Llama {
            store: Arc::from(store.empty()),
            ..self.clone()
        })
    }

    /// Bytes of all weights in memory; a matrix used twice counts once.
    pub fn bytes(&self) -> usize {
        let head = match Arc::ptr_eq(&self.embedding, &self.head) {
            true => 0,
            false => self.head.bytes(),
        };
        self.layers.iter().map(Layer::bytes).sum::<usize>()
            + self.embedding.bytes()
            + head
            + 4 * self.norm.len()
    }

    /// How the weights of the first layer's queries are kept.
    pub fn kind(&self) -> String {
        self.layers
            .first()
            .map_or_else(|| self.head.kind(), |it| it.attn_q.kind())
    }

    /// An empty store for one sequence.
    pub fn store(&self) -> Box<dyn Store> {
        self.store.empty()
    }

    /// What a store for this network keeps.
    pub fn store_shape(&self) -> Shape {
        store_shape(&self.config)
    }

    /// The residual stream after the last layer and the final norm, (T, K), for all pieces one after the other.
    ///
    /// # Errors
    /// [`Error::Argument`] for no tokens, a token outside the vocabulary, a sequence longer than the model's context, or a store of
    /// another shape; [`Error::Format`] if an activation is not finite (with its layer); [`Error::Interrupted`] between layers;
    /// what a hook says. The stores then keep the tokens they had.
    pub fn hidden(
        &self,
        pieces: &mut [Piece<'_>],
        mut hook: Option<&mut dyn Hook>,
    ) -> Result<Vec<f32>> {
        let mut x = self.embed(pieces)?;
        let on_the_way: Option<&mut dyn Hook> = match &mut hook {
            Some(hook) => Some(&mut **hook),
            None => None,
        };
        self.through(0..self.layers.len(), &mut x, pieces, on_the_way)?;
        let normed = self.final_norm(&x, hook)?;
        for piece in pieces {
            piece.store.commit(piece.tokens.len());
        }
        Ok(normed)
    }

    /// The residual stream before the first layer (T, K): the embeddings of all pieces, one after the other.
    ///
    /// # Errors
    /// [`Error::Argument`] as for [`hidden`](Self::hidden).
    pub fn embed(&self, pieces: &[Piece<'_>]) -> Result<Vec<f32>> {
        self.check(pieces)?;
        let width = self.config.width;
        let mut x = Vec::new();
        for &token in pieces.iter().flat_map(|piece| piece.tokens) {
            let start = x.len();
            x.resize(start + width, 0.0);
            self.embedding.row(token as usize, &mut x[start..]);
        }
        Ok(x)
    }

    /// Takes the residual stream `x` (T, K) through some `layers`, for those who go layer by layer; [`hidden`](Self::hidden) is this for
    /// all of them. Stores get keys and values of these layers, and do not count the tokens as theirs.
    ///
    /// # Errors
    /// Those of [`hidden`](Self::hidden); [`Error::Argument`] for layers that are not there, [`Error::Shape`] if `x` is not (T, K).
    pub fn through(
        &self,
        layers: Range<usize>,
        x: &mut [f32],
        pieces: &mut [Piece<'_>],
        mut hook: Option<&mut dyn Hook>,
    ) -> Result<()> {
        let c = &self.config;
        self.check(pieces)?;
        let layers_here = self.layers.get(layers.clone()).ok_or_else(|| {
            let expected = format!("a part of 0 .. {}", c.layers);
            Error::argument("layers", expected, format!("{layers:?}"))
        })?;
        let team = self.engine.team.as_ref();
        let mut positions = Vec::new();
        for piece in pieces.iter() {
            positions.extend(piece.store.tokens()..piece.store.tokens() + piece.tokens.len());
        }
        let tokens = positions.len();
        if x.len() != tokens * c.width {
            return Err(Error::Shape {
                operation: "run layers".to_owned(),
                expected: format!("[{tokens}, {}]", c.width),
                got: format!("{} values", x.len()),
            });
        }
        let angles = self.angles(positions.iter().max().map_or(0, |it| it + 1));
        let (q_width, kv_width) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let epsilon = c.norm_epsilon as f32;
        let widths = [
            q_width,
            kv_width,
            kv_width,
            q_width,
            c.ffn_width,
            c.ffn_width,
        ];
        let mut buffers = Buffers::take();
        let [q, k, v, mixed, gate, up] = buffers.parts(widths.map(|it| tokens * it));
        let is_watched = hook.is_some();
        let mut visit = |n: usize, part: &str, columns: usize, values: &mut [f32]| match &mut hook {
            Some(hook) => hook.visit(&format!("blk.{n}.{part}"), columns, values),
            None => Ok(()),
        };
        for (n, layer) in layers.zip(layers_here) {
            interrupt::check("forward pass")?;
            let mut input = Input::of_rows(
                Rows::normed(x, &layer.attn_norm, epsilon),
                c.width,
                &self.engine,
            );
            if is_watched {
                visit(n, "attn_q.in", c.width, input.values_mut())?;
            }
            let mut products: [(&dyn Linear, &mut [f32]); 3] = [
                (&*layer.attn_q, &mut *q),
                (&*layer.attn_k, &mut *k),
                (&*layer.attn_v, &mut *v),
            ];
            forward_all(&input, &mut products, &self.engine);
            drop(input);
            for (out, bias) in [&mut *q, &mut *k, &mut *v].into_iter().zip(&layer.biases) {
                if !bias.is_empty() {
                    let rows = out.chunks_exact_mut(bias.len());
                    rows.for_each(|row| row.iter_mut().zip(bias).for_each(|(x, b)| *x += b));
                }
            }
            visit(n, "attn_q.out", q_width, q)?;
            visit(n, "attn_k.out", kv_width, k)?;
            visit(n, "attn_v.out", kv_width, v)?;
            let heads = Heads {
                q: &mut *q,
                k: &mut *k,
                v: &mut *v,
                mixed: &mut *mixed,
                positions: &positions,
            };
            self.mix((n, layer), &angles, heads, pieces)?;
            visit(n, "attn_output.in", q_width, mixed)?;
            let input = Input::new(mixed, q_width, &self.engine);
            layer
                .attn_output
                .forward(&input, Into::Add, x, &self.engine);
            drop(input);
            visit(n, "mid", c.width, x)?;
            let mut input = Input::of_rows(
                Rows::normed(x, &layer.ffn_norm, epsilon),
                c.width,
                &self.engine,
            );
            if is_watched {
                visit(n, "ffn_gate.in", c.width, input.values_mut())?;
            }
            let ffn: [&dyn Linear; 2] = [&*layer.ffn_gate, &*layer.ffn_up];
            let is_plain = is_watched || layer.ffn_rotation.is_some();
            let made = match is_plain {
                true => None,
                false => forward_gated(&input, ffn, &*layer.ffn_down, &self.engine),
            };
            let mut input = match made {
                Some(gated) => gated,
                None => {
                    let [of_gate, of_up] = ffn;
                    let mut products = [(of_gate, &mut *gate), (of_up, &mut *up)];
                    forward_all(&input, &mut products, &self.engine);
                    drop(input);
                    // What a hook sees is what is rounded then: one that changes nothing must not change anything.
                    let roughly = layer.ffn_down.rounds_inputs();
                    let gated = Rows::Gated { gate, up, roughly };
                    Input::of_rows(gated, c.ffn_width, &self.engine)
                }
            };
            if let Some(rotation) = &layer.ffn_rotation {
                let rows = input.values_mut();
                each_row(rows, c.ffn_width, team, |_, row| rotation.apply(row));
            }
            if is_watched {
                visit(n, "ffn_down.in", c.ffn_width, input.values_mut())?;
            }
            layer.ffn_down.forward(&input, Into::Add, x, &self.engine);
            drop(input);
            visit(n, "out", c.width, x)?;
            self.check_finite(format_args!("blk.{n}.out"), c.width, x)?;
        }
        Ok(())
    }

    /// Angles of at least `positions` positions: grown to the next power of two when they are not enough.
    fn angles(&self, positions: usize) -> Arc<Angles> {
        let mut angles = self.angles.lock().unwrap_or_else(PoisonError::into_inner);
        if angles.positions() < positions {
            let (frequencies, magnitude) = frequencies(&self.config);
            let enough = positions.next_power_of_two().max(512);
            *angles = Arc::new(Angles::new(&frequencies, magnitude, enough));
        }
        Arc::clone(&angles)
    }
}

fn store_shape(config: &Config) -> Shape {
    Shape {
        layers: config.layers,
        groups: config.kv_heads,
        head_dim: config.head_dim,
    }
}
