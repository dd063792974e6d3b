//! From queries, keys and values to what is mixed of them: heads normed and turned, keys and values kept, attention.

use std::sync::atomic::{AtomicBool, Ordering};

use super::layer::Layer;
use super::llama::{Llama, Piece};
use crate::Result;
use crate::attention::{Call, Mask, Sequence};
use crate::kernels::activation::{position_not_finite, rms_norm};
use crate::kernels::rope::Angles;

/// Sequences for each thread from which on a thread does all that is to be done for one of them.
const MANY: usize = 4;

/// Activations of some tokens, those of all pieces one after the other.
pub(super) struct Heads<'a> {
    /// Queries (T, H·D), as the products left them.
    pub q: &'a mut [f32],
    /// Keys (T, G·D), likewise.
    pub k: &'a mut [f32],
    /// Values (T, G·D).
    pub v: &'a mut [f32],
    /// Gets what attention makes of them (T, H·D).
    pub mixed: &'a mut [f32],
    /// Of each token in its sequence.
    pub positions: &'a [usize],
}

impl<'a> Heads<'a> {
    /// The first `tokens`, and the others; head dimensions follow from the lengths.
    fn split(self, tokens: usize) -> (Heads<'a>, Heads<'a>) {
        let of = |all: usize| all / self.positions.len() * tokens;
        let (q, of_q) = self.q.split_at_mut(of(self.q.len()));
        let (k, of_k) = self.k.split_at_mut(of(self.k.len()));
        let (v, of_v) = self.v.split_at_mut(of(self.v.len()));
        let (mixed, of_mixed) = self.mixed.split_at_mut(of(self.mixed.len()));
        let (positions, others) = self.positions.split_at(tokens);
        let first = Heads {
            q,
            k,
            v,
            mixed,
            positions,
        };
        let rest = Heads {
            q: of_q,
            k: of_k,
            v: of_v,
            mixed: of_mixed,
            positions: others,
        };
        (first, rest)
    }
}

impl Llama {
    /// Norms and turns queries and keys of layer `n`, writes keys and values to the stores of `pieces`, and attends.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) if keys or values are not finite: those of their sequence are not written then.
    pub(super) fn mix(
        &self,
        (n, layer): (usize, &Layer),
        angles: &Angles,
        heads: Heads<'_>,
        pieces: &mut [Piece<'_>],
    ) -> Result<()> {
        let team = &self.engine.team;
        let tokens = heads.positions.len();
        let longest = pieces.iter().map(|it| it.tokens.len()).max().unwrap_or(0);
        let is_fine = AtomicBool::new(true);
        let all = Heads {
            q: &mut *heads.q,
            k: &mut *heads.k,
            v: &mut *heads.v,
            ..heads
        };
        let one = |heads: Heads<'_>, pieces: &mut [Piece<'_>]| {
            if !self.mix_some((n, layer), angles, heads, pieces) {
                is_fine.store(false, Ordering::Relaxed);
            }
        };
        // One region instead of five, and what a sequence needs stays with its thread.
        match tokens >= longest * MANY * team.threads() {
            false => one(all, pieces),
            true => {
                let mut rest = Some(all);
                let parts = pieces.chunks_mut(1).map_while(|piece| {
                    let (own, others) = rest.take()?.split(piece[0].tokens.len());
                    rest = Some(others);
                    Some((own, piece))
                });
                let parts: Vec<_> = parts.collect();
                team.each(parts, &|_, (heads, piece)| {
                    piece[0].store.expect(n);
                    one(heads, piece);
                });
            }
        }
        if is_fine.into_inner() {
            return Ok(());
        }
        let width = self.config.kv_heads * self.config.head_dim;
        self.check_finite(format_args!("blk.{n}.attn_k.out"), width, heads.k)?;
        self.check_finite(format_args!("blk.{n}.attn_v.out"), width, heads.v)
    }

    /// As [`mix`](Self::mix), all together; whether keys and values were finite.
    fn mix_some(
        &self,
        (n, layer): (usize, &Layer),
        angles: &Angles,
        heads: Heads<'_>,
        pieces: &mut [Piece<'_>],
    ) -> bool {
        let c = &self.config;
        let (isa, team) = (self.engine.isa, self.engine.team.as_ref());
        let (q_width, kv_width) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let Heads {
            q,
            k,
            v,
            mixed,
            positions,
        } = heads;
        for (heads, norm) in [&mut *q, &mut *k].into_iter().zip(&layer.qk_norms) {
            if !norm.is_empty() {
                let before = heads.to_vec();
                rms_norm(isa, &before, norm, c.norm_epsilon as f32, heads, team);
            }
        }
        angles.turn_rows(isa, c.pairs, positions, q, q_width, team);
        angles.turn_rows(isa, c.pairs, positions, k, kv_width, team);
        // An infinite key could hide behind a score of −∞, and a value would spoil rows that do not see it (0 · ∞); all else
        // that is not finite shows in the layer's output.
        if [&*k, &*v]
            .iter()
            .any(|it| position_not_finite(isa, it, team).is_some())
        {
            return false;
        }
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
        true
    }
}
