//! The Llama transformer in f32 on candle tensors: small and obvious, the truth that fast engines are checked against.
//!
//! ```text
//! x = embedding[tokens]
//! for each layer:  x += Wo · attention(rope(Wq·n), rope(Wk·n), Wv·n),  n = rmsnorm(x)
//!                  x += Wdown · (silu(Wgate·n) ⊙ Wup·n),               n = rmsnorm(x)
//! logits = Whead · rmsnorm(x)
//! ```
//! Shapes: T tokens of this call, S tokens in all (cached and new), K width, H query heads in G groups, D head dimension, V vocabulary.
//! Rotary embedding turns features 2i and 2i + 1 of a head at position p by the angle p · base^(−2i/D) (GGUF's order, see `weights`).
//!
//! Source: Touvron et al. 2023, *LLaMA*; Su et al. 2021, *RoFormer*; Ainslie et al. 2023, *GQA*; Shazeer 2020, *GLU Variants*.
//! Cost a token: 2 · (weights) flops, and reading every weight once.

use candle_core::{D, DType, Device, Tensor};

use super::config::Config;
use super::weights::Weights;
use crate::{Error, Result, interrupt};

#[derive(Debug, Clone)]
struct Layer {
    attn_norm: Tensor,
    attn_q: Tensor,
    attn_k: Tensor,
    attn_v: Tensor,
    attn_output: Tensor,
    ffn_norm: Tensor,
    ffn_gate: Tensor,
    ffn_up: Tensor,
    ffn_down: Tensor,
}

/// The network.
#[derive(Debug, Clone)]
pub struct Llama {
    config: Config,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Tensor,
    /// Angle of each feature pair at position 1: (D/2).
    frequencies: Vec<f64>,
}

/// Keys and values of the tokens seen so far, layer by layer: (G, capacity, D) each. Belongs to one sequence.
#[derive(Debug, Default)]
pub struct KvCache {
    layers: Vec<Option<(Tensor, Tensor)>>,
    tokens: usize,
}

impl KvCache {
    /// An empty cache.
    pub fn new() -> KvCache {
        KvCache::default()
    }

    /// Tokens seen so far.
    pub fn len_tokens(&self) -> usize {
        self.tokens
    }

    /// Appends (G, T, D) keys and values of `layer`; gives all (G, S, D), as views that stay valid until the next call.
    fn append(&mut self, layer: usize, key: &Tensor, value: &Tensor) -> Result<(Tensor, Tensor)> {
        let (groups, new, head_dim) = key.dims3()?;
        let total = self.tokens + new;
        if self.layers.len() <= layer {
            self.layers.resize(layer + 1, None);
        }
        let slot = &mut self.layers[layer];
        let capacity = match slot {
            Some((keys, _)) => keys.dim(1)?,
            None => 0,
        };
        if total > capacity {
            let grown = total.next_power_of_two().max(64);
            let old = self.tokens;
            let grow = |from: Option<&Tensor>| -> Result<Tensor> {
                let to = Tensor::zeros((groups, grown, head_dim), DType::F32, key.device())?;
                if let Some(from) = from
                    && old > 0
                {
                    to.slice_set(&from.narrow(1, 0, old)?.contiguous()?, 1, 0)?;
                }
                Ok(to)
            };
            *slot = Some((
                grow(slot.as_ref().map(|it| &it.0))?,
                grow(slot.as_ref().map(|it| &it.1))?,
            ));
        }
        let Some((keys, values)) = slot else {
            return Ok((key.clone(), value.clone()));
        };
        keys.slice_set(&key.contiguous()?, 1, self.tokens)?;
        values.slice_set(&value.contiguous()?, 1, self.tokens)?;
        Ok((keys.narrow(1, 0, total)?, values.narrow(1, 0, total)?))
    }
}

impl Llama {
    /// The network of `weights`, each checked against the shape that `config` asks for.
    ///
    /// # Errors
    /// [`Error::Format`] if a weight is missing, [`Error::Shape`] if one has another shape. `file` is the name in messages.
    pub fn new(config: &Config, weights: &Weights, file: &str) -> Result<Llama> {
        let get = |name: String, shape: &[usize]| -> Result<Tensor> {
            let tensor = weights.get(&name).ok_or_else(|| Error::Format {
                file: file.to_owned(),
                expected: format!("a tensor {name}"),
                got: "none".to_owned(),
            })?;
            if tensor.dims() != shape {
                return Err(Error::Shape {
                    operation: format!("{file}: {name}"),
                    expected: format!("{shape:?}"),
                    got: format!("{:?}", tensor.dims()),
                });
            }
            Ok(tensor.clone())
        };
        let c = config;
        let (q_width, kv_width) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let layers = (0..c.layers)
            .map(|n| {
                let get =
                    |name: &str, shape: &[usize]| get(format!("blk.{n}.{name}.weight"), shape);
                Ok(Layer {
                    attn_norm: get("attn_norm", &[c.width])?,
                    attn_q: get("attn_q", &[q_width, c.width])?,
                    attn_k: get("attn_k", &[kv_width, c.width])?,
                    attn_v: get("attn_v", &[kv_width, c.width])?,
                    attn_output: get("attn_output", &[c.width, q_width])?,
                    ffn_norm: get("ffn_norm", &[c.width])?,
                    ffn_gate: get("ffn_gate", &[c.ffn_width, c.width])?,
                    ffn_up: get("ffn_up", &[c.ffn_width, c.width])?,
                    ffn_down: get("ffn_down", &[c.width, c.ffn_width])?,
                })
            })
            .collect::<Result<_>>()?;
        let embedding = get("token_embd.weight".to_owned(), &[c.vocabulary, c.width])?;
        // A model without an output matrix uses its embedding ("tied").
        let head = match weights.contains_key("output.weight") {
            true => get("output.weight".to_owned(), &[c.vocabulary, c.width])?,
            false => embedding.clone(),
        };
        let frequencies = (0..c.head_dim / 2)
            .map(|i| c.rope_base.powf(-2.0 * i as f64 / c.head_dim as f64))
            .collect();
        Ok(Llama {
            config: c.clone(),
            embedding,
            layers,
            norm: get("output_norm.weight".to_owned(), &[c.width])?,
            head,
            frequencies,
        })
    }

    /// The residual stream after the last layer and the final norm, (T, K), for `tokens` that follow those in `cache`.
    ///
    /// # Errors
    /// [`Error::Argument`] for no tokens, a token outside the vocabulary or a sequence longer than the model's context;
    /// [`Error::Interrupted`] between layers (the cache is then to be thrown away).
    pub fn hidden(&self, tokens: &[u32], cache: &mut KvCache) -> Result<Tensor> {
        let c = &self.config;
        let total = cache.tokens + tokens.len();
        if tokens.is_empty() {
            return Err(Error::argument("tokens", "at least one", "none"));
        }
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= c.vocabulary) {
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
        let device = self.embedding.device();
        let ids = Tensor::new(tokens, device)?;
        let mut x = self.embedding.index_select(&ids, 0)?;
        let (cos, sin) = self.angles(cache.tokens, tokens.len(), device)?;
        let mask = causal_mask(tokens.len(), total, device)?;
        for (n, layer) in self.layers.iter().enumerate() {
            interrupt::check("forward pass")?;
            let norm = self.rms_norm(&x, &layer.attn_norm)?;
            let query = rotated(
                &heads(&linear(&norm, &layer.attn_q)?, c.head_dim)?,
                &cos,
                &sin,
            )?;
            let key = rotated(
                &heads(&linear(&norm, &layer.attn_k)?, c.head_dim)?,
                &cos,
                &sin,
            )?;
            let value = heads(&linear(&norm, &layer.attn_v)?, c.head_dim)?;
            let (keys, values) = cache.append(n, &key, &value)?;
            let mixed = attention(&query, &keys, &values, mask.as_ref())?;
            x = (x + linear(&mixed, &layer.attn_output)?)?;
            let norm = self.rms_norm(&x, &layer.ffn_norm)?;
            let gated = (linear(&norm, &layer.ffn_gate)?.silu()? * linear(&norm, &layer.ffn_up)?)?;
            x = (x + linear(&gated, &layer.ffn_down)?)?;
        }
        cache.tokens = total;
        self.rms_norm(&x, &self.norm)
    }

    /// Logits (T, V) of [`hidden`](Self::hidden) states (T, K).
    ///
    /// # Errors
    /// [`Error::Tensor`] if `hidden` has another width.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        linear(hidden, &self.head)
    }

    /// x / sqrt(mean(x²) + ε) · w, over the last dimension.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + self.config.norm_epsilon)?.sqrt()?;
        Ok(x.broadcast_div(&scale)?.broadcast_mul(weight)?)
    }

    /// cos and sin of each position and feature pair: (T, D/2, 1) each. Angles are computed in f64.
    fn angles(&self, start: usize, count: usize, device: &Device) -> Result<(Tensor, Tensor)> {
        let angles: Vec<f64> = (start..start + count)
            .flat_map(|position| {
                self.frequencies
                    .iter()
                    .map(move |frequency| position as f64 * frequency)
            })
            .collect();
        let of = |f: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|&angle| f(angle) as f32).collect();
            Tensor::from_vec(values, (count, self.frequencies.len(), 1), device)
        };
        Ok((of(f64::cos)?, of(f64::sin)?))
    }
}

/// x · Wᵀ: (T, K) and (N, K) to (T, N).
fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    Ok(x.matmul(&weight.t()?)?)
}

/// (T, H·D) to (H, T, D).
fn heads(x: &Tensor, head_dim: usize) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    Ok(x.reshape((tokens, width / head_dim, head_dim))?
        .transpose(0, 1)?
        .contiguous()?)
}

/// Turns each pair (2i, 2i + 1) of (H, T, D) by its angle.
fn rotated(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (heads, tokens, head_dim) = x.dims3()?;
    let pairs = x.reshape((heads, tokens, head_dim / 2, 2))?;
    let (even, odd) = (pairs.narrow(3, 0, 1)?, pairs.narrow(3, 1, 1)?);
    let even_out = (even.broadcast_mul(cos)? - odd.broadcast_mul(sin)?)?;
    let odd_out = (even.broadcast_mul(sin)? + odd.broadcast_mul(cos)?)?;
    Ok(Tensor::cat(&[even_out, odd_out], 3)?.reshape((heads, tokens, head_dim))?)
}

/// (T, S): 0 where token i of this call may look (positions up to its own), −∞ elsewhere. None for one token.
fn causal_mask(new: usize, total: usize, device: &Device) -> Result<Option<Tensor>> {
    if new == 1 {
        return Ok(None);
    }
    let before = total - new;
    let mask: Vec<f32> = (0..new)
        .flat_map(|i| {
            (0..total).map(move |j| {
                if j <= before + i {
                    0.0
                } else {
                    f32::NEG_INFINITY
                }
            })
        })
        .collect();
    Ok(Some(Tensor::from_vec(mask, (new, total), device)?))
}

/// softmax(q·kᵀ/√D + mask)·v: queries (H, T, D), keys and values (G, S, D), result (T, H·D).
/// The H/G query heads of a group are one longer block of queries: nothing is copied.
fn attention(
    query: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let (heads, tokens, head_dim) = query.dims3()?;
    let (groups, total, _) = keys.dims3()?;
    let shared = heads / groups;
    let query = (query / (head_dim as f64).sqrt())?.reshape((groups, shared * tokens, head_dim))?;
    let mut scores = query.matmul(&keys.t()?)?;
    if let Some(mask) = mask {
        scores = scores
            .reshape((groups, shared, tokens, total))?
            .broadcast_add(mask)?
            .reshape((groups, shared * tokens, total))?;
    }
    let weights = scores
        .broadcast_sub(&scores.max_keepdim(D::Minus1)?)?
        .exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    Ok(weights
        .matmul(&values.contiguous()?)?
        .reshape((heads, tokens, head_dim))?
        .transpose(0, 1)?
        .reshape((tokens, heads * head_dim))?)
}
