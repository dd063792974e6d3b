//! A network on candle's tape: the loss of a rounded network, to be differentiated by the rotations of what its layers read.
//!
//! ```text
//! x ↦ round(x·R)·Rᵀ·Wᵀ = round(x·R)·(W·R)ᵀ          rounded in turned coordinates; weights stay as they are
//! round(x) = x + stop(s·⌊x/s⌉ − x),  s = max|x|/(2ᵇ⁻¹ − 1) of a token         its gradient is passed straight through
//! ```
//! R is the stream's rotation for what the norms put out, and a layer's own, head by head, for the mixed values. Without rounding the loss does not
//! depend on orthogonal R at all, which is why learning R can only make up for rounding. Gains of norms are folded into the layers that read
//! them, without which the stream could not be turned.
//!
//! In f32 to learn, in f64 to be checked.

mod ops;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};

use self::ops::{Fixed, Turned, Unlikeliness, Weight};
use super::parts::{Parts, Plain};
use crate::kernels::rope::Pairs;
use crate::linalg::Hadamard;
use crate::model::rope::frequencies;
use crate::model::{Config, Engine, WeightType};
use crate::{Error, Result};

/// Rotations: orthogonal, if the function is to stay.
#[derive(Debug, Clone)]
pub(super) struct Rotations {
    /// Of the residual stream (width, width).
    pub stream: Tensor,
    /// Of the values of each head, one a layer (D, D).
    pub values: Vec<Tensor>,
}

#[derive(Debug)]
struct Layer {
    q: Weight,
    k: Weight,
    v: Weight,
    output: Weight,
    gate: Weight,
    up: Weight,
    down: Weight,
    /// Of queries, keys and values.
    biases: Option<[Tensor; 3]>,
    /// Gains of the norms of queries and keys.
    gains: Option<[Tensor; 2]>,
}

/// The network.
#[derive(Debug)]
pub(super) struct Tape {
    config: Config,
    dtype: DType,
    embedding: Tensor,
    head: Weight,
    layers: Vec<Layer>,
    /// What turns the inputs of `ffn_down` on their way.
    ffn: Option<Arc<Hadamard>>,
}

impl Tape {
    /// Of `parts`, in `dtype`; `ffn` is the rotation in front of their `ffn_down`, if there is one.
    ///
    /// # Errors
    /// [`Error::NotFound`] if a part is missing; [`Error::Tensor`].
    pub fn of(parts: &dyn Parts, ffn: Option<Arc<Hadamard>>, dtype: DType) -> Result<Tape> {
        let config = parts.config().clone();
        let tensor = |plain: Plain| -> Result<Tensor> {
            let shape = (plain.rows(), plain.columns);
            Ok(Tensor::from_vec(plain.values, shape, &Device::Cpu)?.to_dtype(dtype)?)
        };
        let engine = Engine::default();
        // `gain` is that of the norm in front.
        let weight = |name: &str, gain: Option<&[f64]>| -> Result<Weight> {
            let mut plain = parts.matrix(name)?;
            if let Some(gain) = gain {
                plain.scale_columns(gain);
            }
            let turned = plain.transposed();
            if dtype != DType::F32 {
                return Ok(Weight::Plain(tensor(turned)?));
            }
            let layer = |of: &Plain| WeightType::F32.layer(name, &of.to_f32(), of.columns);
            Ok(Weight::Fixed(Fixed {
                forward: layer(&plain)?,
                back: layer(&turned)?,
                engine: engine.clone(),
            }))
        };
        let vector = |name: &str| -> Result<Tensor> {
            let values = parts.vector(name)?;
            let length = values.len();
            Ok(Tensor::from_vec(values, length, &Device::Cpu)?.to_dtype(dtype)?)
        };
        let layer = |n: usize| -> Result<Layer> {
            let name = |part: &str| format!("blk.{n}.{part}.weight");
            let attention = parts.vector(&name("attn_norm"))?;
            let ffn = parts.vector(&name("ffn_norm"))?;
            let bias = |part: &str| vector(&format!("blk.{n}.{part}.bias"));
            Ok(Layer {
                q: weight(&name("attn_q"), Some(&attention))?,
                k: weight(&name("attn_k"), Some(&attention))?,
                v: weight(&name("attn_v"), Some(&attention))?,
                output: weight(&name("attn_output"), None)?,
                gate: weight(&name("ffn_gate"), Some(&ffn))?,
                up: weight(&name("ffn_up"), Some(&ffn))?,
                down: weight(&name("ffn_down"), None)?,
                biases: match config.has_biases {
                    true => Some([bias("attn_q")?, bias("attn_k")?, bias("attn_v")?]),
                    false => None,
                },
                gains: match config.has_qk_norm {
                    true => Some([vector(&name("attn_q_norm"))?, vector(&name("attn_k_norm"))?]),
                    false => None,
                },
            })
        };
        Ok(Tape {
            dtype,
            embedding: tensor(parts.matrix("token_embd.weight")?)?,
            head: weight("output.weight", Some(&parts.vector("output_norm.weight")?))?,
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            ffn,
            config,
        })
    }

    /// Mean −ln p of the tokens of `windows` after the first of each, all of one length; inputs of the layers rounded to `bits`, or not at all.
    ///
    /// # Errors
    /// [`Error::Argument`] for windows of fewer than two tokens or of different lengths; [`Error::Tensor`].
    pub fn loss(
        &self,
        windows: &[Vec<u32>],
        rotations: &Rotations,
        bits: Option<u32>,
    ) -> Result<Tensor> {
        let length = windows.first().map_or(0, Vec::len);
        if length < 2 || windows.iter().any(|it| it.len() != length) {
            let got = format!("{} windows, the first of {length}", windows.len());
            let expected = "windows of one length, two tokens or more";
            return Err(Error::argument("tokens to learn from", expected, got));
        }
        let logits = self.logits(windows, rotations, bits)?;
        // The last token of a window has no next one.
        let next = windows.iter().flat_map(|it| {
            let after = it[1..].iter().copied().map(Some);
            after.chain([None])
        });
        let next = next.collect();
        Ok(logits.contiguous()?.apply_op1(Unlikeliness { next })?)
    }

    /// Logits (B·T, V).
    fn logits(
        &self,
        windows: &[Vec<u32>],
        rotations: &Rotations,
        bits: Option<u32>,
    ) -> Result<Tensor> {
        let (batch, length) = (windows.len(), windows[0].len());
        let ids = Tensor::from_vec(windows.concat(), batch * length, &Device::Cpu)?;
        let mut x = self.embedding.index_select(&ids, 0)?;
        let angles = self.angles(length)?;
        let mask = self.mask(length)?;
        let back = rotations.stream.t()?;
        let turned = |x: &Tensor| -> Result<Tensor> {
            Ok(rounded(&x.matmul(&rotations.stream)?, bits)?.matmul(&back)?)
        };
        for (layer, values) in self.layers.iter().zip(&rotations.values) {
            let h = turned(&self.normed(&x)?)?;
            let mixed = self.attention(layer, &h, (batch, length), &angles, &mask)?;
            let heads = (batch * length * self.config.heads, self.config.head_dim);
            let across = (batch * length, self.config.heads * self.config.head_dim);
            // A token's heads share a scale.
            let mixed = mixed.reshape(heads)?.matmul(values)?.reshape(across)?;
            let mixed = rounded(&mixed, bits)?.reshape(heads)?;
            let mixed = mixed.matmul(&values.t()?)?.reshape(across)?;
            x = (x + layer.output.times(&mixed)?)?;
            let h = turned(&self.normed(&x)?)?;
            let gated = (layer.gate.times(&h)?.silu()? * layer.up.times(&h)?)?;
            let gated = match &self.ffn {
                Some(ffn) => gated.contiguous()?.apply_op1(Turned {
                    rotation: Arc::clone(ffn),
                    is_back: false,
                })?,
                None => gated,
            };
            x = (x + layer.down.times(&rounded(&gated, bits)?)?)?;
        }
        self.head.times(&self.normed(&x)?)
    }

    /// x over its root mean square.
    fn normed(&self, x: &Tensor) -> Result<Tensor> {
        let power = x.sqr()?.mean_keepdim(D::Minus1)?;
        Ok(x.broadcast_div(&(power + self.config.norm_epsilon)?.sqrt()?)?)
    }

    fn attention(
        &self,
        layer: &Layer,
        h: &Tensor,
        (batch, length): (usize, usize),
        angles: &[Tensor; 2],
        mask: &Tensor,
    ) -> Result<Tensor> {
        let c = &self.config;
        let part = |weight: &Weight, heads: usize, number: usize| -> Result<Tensor> {
            let mut out = weight.times(h)?;
            if let Some(biases) = &layer.biases {
                out = out.broadcast_add(&biases[number])?;
            }
            let mut out = out.reshape((batch, length, heads, c.head_dim))?;
            if let Some(gains) = layer.gains.as_ref().filter(|_| number < 2) {
                out = self.normed(&out)?.broadcast_mul(&gains[number])?;
            }
            Ok(out.transpose(1, 2)?.contiguous()?)
        };
        let q = self.placed(&part(&layer.q, c.heads, 0)?, angles)?;
        let k = self.placed(&part(&layer.k, c.kv_heads, 1)?, angles)?;
        let v = part(&layer.v, c.kv_heads, 2)?;
        let shared = |x: &Tensor| -> Result<Tensor> {
            let each = c.heads / c.kv_heads;
            let wide = (batch, c.kv_heads, each, length, c.head_dim);
            let all = x.unsqueeze(2)?.broadcast_as(wide)?.contiguous()?;
            Ok(all.reshape((batch, c.heads, length, c.head_dim))?)
        };
        let scale = 1.0 / (c.head_dim as f64).sqrt();
        let scores = (q.matmul(&shared(&k)?.t()?.contiguous()?)? * scale)?;
        let scores = scores.broadcast_add(mask)?;
        let top = scores.max_keepdim(D::Minus1)?.detach();
        let shares = scores.broadcast_sub(&top)?.exp()?;
        let shares = shares.broadcast_div(&shares.sum_keepdim(D::Minus1)?)?;
        let mixed = shares.matmul(&shared(&v)?)?.transpose(1, 2)?.contiguous()?;
        Ok(mixed.reshape((batch * length, c.heads * c.head_dim))?)
    }

    /// x (B, H, T, D), turned by its positions.
    fn placed(&self, x: &Tensor, [cos, sin]: &[Tensor; 2]) -> Result<Tensor> {
        let (batch, heads, length, d) = x.dims4()?;
        let (first, second) = match self.config.pairs {
            Pairs::Halves => (x.narrow(3, 0, d / 2)?, x.narrow(3, d / 2, d / 2)?),
            Pairs::Neighbours => {
                let pairs = x.reshape((batch, heads, length, d / 2, 2))?;
                let one = |at: usize| -> Result<Tensor> {
                    Ok(pairs.narrow(4, at, 1)?.squeeze(4)?.contiguous()?)
                };
                (one(0)?, one(1)?)
            }
        };
        let a = (first.broadcast_mul(cos)? - second.broadcast_mul(sin)?)?;
        let b = (first.broadcast_mul(sin)? + second.broadcast_mul(cos)?)?;
        Ok(match self.config.pairs {
            Pairs::Halves => Tensor::cat(&[a, b], 3)?,
            Pairs::Neighbours => Tensor::stack(&[a, b], 4)?.reshape((batch, heads, length, d))?,
        })
    }

    /// Cosines and sines (T, D/2).
    fn angles(&self, length: usize) -> Result<[Tensor; 2]> {
        let (frequencies, magnitude) = frequencies(&self.config);
        let table = |of: fn(f64) -> f64| -> Result<Tensor> {
            let values: Vec<f64> = (0..length)
                .flat_map(|at| {
                    frequencies
                        .iter()
                        .map(move |w| magnitude * of(at as f64 * w))
                })
                .collect();
            let shape = (length, frequencies.len());
            Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(self.dtype)?)
        };
        Ok([table(f64::cos)?, table(f64::sin)?])
    }

    /// 0 where a query sees a key, very little where not (T, T).
    fn mask(&self, length: usize) -> Result<Tensor> {
        let window = self.config.window.unwrap_or(length);
        let sees = |query: usize, key: usize| key <= query && query - key < window;
        let values: Vec<f64> = (0..length * length)
            .map(|at| {
                if sees(at / length, at % length) {
                    0.0
                } else {
                    -1e30
                }
            })
            .collect();
        Ok(Tensor::from_vec(values, (length, length), &Device::Cpu)?.to_dtype(self.dtype)?)
    }
}

/// Each row to `bits`, as [`Activations`](super::pipeline::Activations) do with a scale a token; what it changes has no gradient of its own.
fn rounded(x: &Tensor, bits: Option<u32>) -> Result<Tensor> {
    let Some(bits) = bits else {
        return Ok(x.clone());
    };
    let most = f64::from((1u32 << (bits - 1)) - 1);
    let plain = x.detach();
    // Rows of zeros stay so.
    let scale = ((plain.abs()?.max_keepdim(D::Minus1)? / most)? + 1e-30)?;
    let codes = plain.broadcast_div(&scale)?.round()?;
    let moved = (codes.broadcast_mul(&scale)? - &plain)?;
    Ok((x + moved.detach())?)
}
