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

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::config::Config;
use super::engine::Buffers;
use super::hook::Hook;
use super::layer::Layer;
use super::linear::{Engine, Input, Linear, forward_all};
use super::rope::frequencies;
use super::weight_type::WeightType;
use super::weights::Weights;
use crate::attention::{Attention, Call, Flash, Mask, Sequence};
use crate::kernels::activation::{each_row, position_not_finite, rms_norm};
use crate::kernels::aligned::Aligned;
use crate::kernels::dense::Into;
use crate::kernels::product::multiply_columns;
use crate::kernels::rope::Angles;
use crate::kernels::rows::Rows;
use crate::kvcache::store::{Contiguous, Shape, Store};
use crate::{Error, Result, interrupt};

/// Columns of logits at a time: of 256 rows 2 MiB.
pub(crate) const SOME_LOGITS: usize = 2048;

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
    attention: Arc<dyn Attention>,
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
        let (isa, team) = (self.engine.isa, self.engine.team.as_ref());
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
            for (heads, norm) in [&mut *q, &mut *k].into_iter().zip(&layer.qk_norms) {
                if !norm.is_empty() {
                    let before = heads.to_vec();
                    rms_norm(isa, &before, norm, epsilon, heads, team);
                }
            }
            angles.turn_rows(isa, c.pairs, &positions, q, q_width, team);
            angles.turn_rows(isa, c.pairs, &positions, k, kv_width, team);
            // An infinite key could hide behind a score of −∞, and a value would spoil rows that do not see it (0 · ∞); all else
            // that is not finite shows in the layer's output.
            self.check_finite(format_args!("blk.{n}.attn_k.out"), kv_width, k)?;
            self.check_finite(format_args!("blk.{n}.attn_v.out"), kv_width, v)?;
            let mut from = 0;
            let writes = pieces.iter_mut().map(|piece| {
                let rows = from..from + piece.tokens.len() * kv_width;
                from = rows.end;
                (&mut *piece.store, rows)
            });
            // Keys of a token go to as many cache lines as they have features: with many sequences that takes a while.
            team.each(writes, &|_, (store, rows)| {
                store.write(n, &k[rows.clone()], &v[rows], team);
            });
            let sequences: Vec<Sequence<'_>> = (pieces.iter())
                .map(|piece| Sequence {
                    store: &*piece.store,
                    positions: piece.store.tokens()..piece.store.tokens() + piece.tokens.len(),
                })
                .collect();
            let call = Call {
                engine: &self.engine,
                layer: n,
                heads: c.heads,
                mask: Mask { window: c.window },
                sequences: &sequences,
                queries: q,
            };
            self.attention.attend(&call, mixed);
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
            let mut products: [(&dyn Linear, &mut [f32]); 2] =
                [(&*layer.ffn_gate, &mut *gate), (&*layer.ffn_up, &mut *up)];
            forward_all(&input, &mut products, &self.engine);
            drop(input);
            let gated = Rows::Gated { gate, up };
            let mut input = Input::of_rows(gated, c.ffn_width, &self.engine);
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

    /// What the head sees of the residual stream `x` after the last layer.
    pub(super) fn final_norm(&self, x: &[f32], hook: Option<&mut dyn Hook>) -> Result<Vec<f32>> {
        let c = &self.config;
        let (isa, team) = (self.engine.isa, self.engine.team.as_ref());
        let mut normed = vec![0.0; x.len()];
        rms_norm(isa, x, &self.norm, c.norm_epsilon as f32, &mut normed, team);
        if let Some(hook) = hook {
            hook.visit("output.in", c.width, &mut normed)?;
        }
        self.check_finite(format_args!("output.in"), c.width, &normed)?;
        Ok(normed)
    }

    /// Logits (T, V) of [`hidden`](Self::hidden) states (T, K).
    pub fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        let mut out = Vec::new();
        self.logits_into(hidden, &mut out);
        out
    }

    /// [`logits`](Self::logits) in place of what was in `out`.
    pub fn logits_into(&self, hidden: &[f32], out: &mut Vec<f32>) {
        let input = Input::new(hidden, self.config.width, &self.engine);
        out.resize(
            hidden.len() / self.config.width * self.config.vocabulary,
            0.0,
        );
        self.head.forward(&input, Into::Replace, out, &self.engine);
    }

    /// Logits of [`hidden`](Self::hidden) states (T, K) for some tokens of the vocabulary at a time (T, some), to `see` with the first of these:
    /// all at once would not stay in caches. A head that has a way of its own to multiply hands out all at once.
    ///
    /// # Errors
    /// What `see` says.
    pub fn logits_by_columns(
        &self,
        hidden: &[f32],
        see: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let (width, all) = (self.config.width, self.config.vocabulary);
        let input = Input::new(hidden, width, &self.engine);
        let Some(matrix) = self.head.matrix(&input) else {
            return see(0, &self.logits(hidden));
        };
        let (isa, team) = (self.engine.isa, self.engine.team.as_ref());
        let mut buffer = Aligned::new();
        for first in (0..all).step_by(SOME_LOGITS) {
            let columns = first..all.min(first + SOME_LOGITS);
            let out = buffer.floats_mut(hidden.len() / width * columns.len());
            multiply_columns(isa, matrix, columns, out, team);
            see(first, out)?;
        }
        Ok(())
    }

    /// Whether all pieces can be run.
    pub(super) fn check(&self, pieces: &[Piece<'_>]) -> Result<()> {
        let c = &self.config;
        for piece in pieces {
            let total = piece.store.tokens() + piece.tokens.len();
            if piece.tokens.is_empty() {
                return Err(Error::argument("tokens", "at least one", "none"));
            }
            if let Some(&id) = piece.tokens.iter().find(|&&id| id as usize >= c.vocabulary) {
                return Err(Error::argument(
                    "token id",
                    format!("below {}", c.vocabulary),
                    id,
                ));
            }
            if total > c.context_tokens {
                return Err(Error::argument(
                    "tokens",
                    format!("at most {} in all", c.context_tokens),
                    total,
                ));
            }
            self.check_store(piece.store)?;
        }
        Ok(())
    }

    fn check_store(&self, store: &dyn Store) -> Result<()> {
        let (expected, got) = (self.store_shape(), store.shape());
        match got == expected {
            true => Ok(()),
            false => Err(Error::argument(
                "store",
                format!("{expected:?}"),
                format!("{got:?}"),
            )),
        }
    }

    /// Whether an activation is a number everywhere.
    fn check_finite(&self, name: fmt::Arguments<'_>, columns: usize, values: &[f32]) -> Result<()> {
        match position_not_finite(self.engine.isa, values, &self.engine.team) {
            None => Ok(()),
            Some(at) => Err(Error::Format {
                file: format!("activation {name}, token {}", at / columns),
                expected: "finite numbers".to_owned(),
                got: values[at].to_string(),
            }),
        }
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
