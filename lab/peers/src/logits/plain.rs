//! The network in f64, as the formulas stand in the papers, with one thing at a time done as candle does it.
//!
//! Cost: 2 flops a weight and token in plain loops on two threads, about a second for 5 tokens of SmolLM2-135M.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use llmkit::model::{Config, Model};
use llmkit::numeric::ggml::GgmlType;

/// What is not in f64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Nothing.
    Exact,
    /// Products: inputs in f32, summed in f32 one after the other. What "computed in f32" means where nobody has thought about it.
    Sums,
    /// Products: the same in 16 partial sums.
    PartialSums,
    /// Angles of the rotary embedding, their cosines and sines: in f32.
    Angles,
    /// Inputs of products: 8 bits in blocks of 32, with a scale in f16.
    Bytes,
    /// The same, and the scaled sum of each block in f16 where weights are Q4_1.
    BytesAndSums,
    /// The same, and angles in f32.
    BytesAndAngles,
}

impl Variant {
    /// Whether inputs of products are rounded to 8 bits.
    fn is_in_bytes(self) -> bool {
        matches!(
            self,
            Variant::Bytes | Variant::BytesAndSums | Variant::BytesAndAngles
        )
    }

    /// How a row of a matrix and an input are multiplied.
    fn dot(self) -> Dot {
        match self {
            Variant::Sums => dot_of::<f32, 1>,
            Variant::PartialSums => dot_of::<f32, 16>,
            _ => dot_of::<f64, 4>,
        }
    }
}

type Dot = fn(&[f32], &[f64]) -> f64;

/// A model's weights and shape.
pub struct Network<'a> {
    model: &'a Model,
    config: Config,
    /// Minima of Q4_1's blocks, by tensor.
    minima: HashMap<String, Vec<f32>>,
}

impl<'a> Network<'a> {
    /// For a Llama without biases, norms of heads, windows and stretched frequencies.
    ///
    /// # Errors
    /// If it has one of them.
    pub fn new(model: &'a Model, minima: HashMap<String, Vec<f32>>) -> anyhow::Result<Network<'a>> {
        let config = model.config.clone();
        let is_plain = !config.has_biases && !config.has_qk_norm && config.window.is_none();
        anyhow::ensure!(
            is_plain && config.scaling == llmkit::model::RopeScaling::None,
            "only a Llama without extensions is compared: {config:?}"
        );
        Ok(Network {
            model,
            config,
            minima,
        })
    }

    /// Logits of `tokens` at every position.
    ///
    /// # Errors
    /// If a weight is missing.
    pub fn logits(&self, tokens: &[u32], variant: Variant) -> anyhow::Result<Vec<Vec<f64>>> {
        let embedding = self.weight("token_embd.weight")?;
        let width = self.config.width;
        let row = |&token: &u32| wide(&embedding[token as usize * width..][..width]);
        let mut x: Vec<Vec<f64>> = tokens.iter().map(row).collect();
        for n in 0..self.config.layers {
            let name = |part: &str| format!("blk.{n}.{part}.weight");
            let h = self.norm(&name("attn_norm"), &x)?;
            let mut q = self.product(&name("attn_q"), &h, variant)?;
            let mut k = self.product(&name("attn_k"), &h, variant)?;
            let v = self.product(&name("attn_v"), &h, variant)?;
            for rows in [&mut q, &mut k] {
                for (position, row) in rows.iter_mut().enumerate() {
                    self.rotate(row, position, variant);
                }
            }
            let mixed = self.attend(&q, &k, &v);
            add(
                &mut x,
                &self.product(&name("attn_output"), &mixed, variant)?,
            );
            let h = self.norm(&name("ffn_norm"), &x)?;
            let mut gate = self.product(&name("ffn_gate"), &h, variant)?;
            let up = self.product(&name("ffn_up"), &h, variant)?;
            for (gate, up) in gate.iter_mut().flatten().zip(up.iter().flatten()) {
                *gate *= up / (1.0 + (-*gate).exp());
            }
            add(&mut x, &self.product(&name("ffn_down"), &gate, variant)?);
        }
        let x = self.norm("output_norm.weight", &x)?;
        let has_head = self
            .model
            .tensor_names()
            .iter()
            .any(|it| it == "output.weight");
        let head = match has_head {
            true => "output.weight",
            false => "token_embd.weight",
        };
        self.product(head, &x, variant)
    }

    fn weight(&self, name: &str) -> anyhow::Result<Vec<f32>> {
        Ok(self.model.weight(name)?.flatten_all()?.to_vec1()?)
    }

    fn norm(&self, name: &str, x: &[Vec<f64>]) -> anyhow::Result<Vec<Vec<f64>>> {
        let weight = wide(&self.weight(name)?);
        let one = |row: &Vec<f64>| {
            let mean = row.iter().map(|it| it * it).sum::<f64>() / row.len() as f64;
            let scale = 1.0 / (mean + self.config.norm_epsilon).sqrt();
            row.iter()
                .zip(&weight)
                .map(|(x, w)| x * scale * w)
                .collect()
        };
        Ok(x.iter().map(one).collect())
    }

    /// W·x for each row x.
    fn product(
        &self,
        name: &str,
        x: &[Vec<f64>],
        variant: Variant,
    ) -> anyhow::Result<Vec<Vec<f64>>> {
        let weight = self.weight(name)?;
        let is_rounded = variant.is_in_bytes();
        let rounded: Vec<Rounded> = match is_rounded {
            true => x.iter().map(|row| round(row)).collect::<Result<_, _>>()?,
            false => Vec::new(),
        };
        let inputs: Vec<&[f64]> = match is_rounded {
            true => rounded.iter().map(|it| it.values.as_slice()).collect(),
            false => x.iter().map(Vec::as_slice).collect(),
        };
        let mut out = multiply(&weight, &inputs, variant.dot());
        let minima = self.minima.get(name).filter(|_| variant != Variant::Bytes);
        if let (true, Some(minima)) = (is_rounded, minima) {
            let excess: Vec<&[f64]> = rounded.iter().map(|it| it.excess.as_slice()).collect();
            add(&mut out, &multiply(minima, &excess, variant.dot()));
        }
        Ok(out)
    }

    /// Turns neighbours (2i, 2i + 1) of each head: rows of GGUF's Llamas are in that order.
    fn rotate(&self, row: &mut [f64], position: usize, variant: Variant) {
        let (d, base) = (self.config.head_dim, self.config.rope_base);
        for head in row.chunks_exact_mut(d) {
            for (i, pair) in head.chunks_exact_mut(2).enumerate() {
                let (cos, sin) = match variant {
                    Variant::Angles | Variant::BytesAndAngles => {
                        let frequency = 1.0 / (base as f32).powf((2 * i) as f32 / d as f32);
                        let angle = position as f32 * frequency;
                        (f64::from(angle.cos()), f64::from(angle.sin()))
                    }
                    _ => {
                        let angle = position as f64 * base.powf(-2.0 * i as f64 / d as f64);
                        (angle.cos(), angle.sin())
                    }
                };
                let (a, b) = (pair[0], pair[1]);
                (pair[0], pair[1]) = (a * cos - b * sin, a * sin + b * cos);
            }
        }
    }

    fn attend(&self, q: &[Vec<f64>], k: &[Vec<f64>], v: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let d = self.config.head_dim;
        let mut mixed = vec![vec![0.0; self.config.heads * d]; q.len()];
        for (position, (q, mixed)) in q.iter().zip(&mut mixed).enumerate() {
            let heads = q.chunks_exact(d).zip(mixed.chunks_exact_mut(d));
            for (head, (q, mixed)) in heads.enumerate() {
                let own = head * self.config.kv_heads / self.config.heads * d;
                let own = own..own + d;
                let score = |k: &Vec<f64>| {
                    let products = q.iter().zip(&k[own.clone()]).map(|(q, k)| q * k);
                    products.sum::<f64>() / (d as f64).sqrt()
                };
                let scores: Vec<f64> = k[..=position].iter().map(score).collect();
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let total: f64 = scores.iter().map(|it| (it - top).exp()).sum();
                for (score, v) in scores.iter().zip(v) {
                    let share = (score - top).exp() / total;
                    let values = mixed.iter_mut().zip(&v[own.clone()]);
                    values.for_each(|(mixed, v)| *mixed += share * v);
                }
            }
        }
        mixed
    }
}

/// A row in 8 bits.
struct Rounded {
    values: Vec<f64>,
    /// What a block's sum in f16 has more than the sum of its values.
    excess: Vec<f64>,
}

/// As candle's and ggml's Q8_0 and Q8_1: codes from a scale in f32, values from that scale in f16. Q8_1 has the sum of the codes as
/// well (f16 holds it up to 2048 exactly) times the scale, in f16.
fn round(row: &[f64]) -> anyhow::Result<Rounded> {
    let (mut values, mut sums) = (Vec::new(), Vec::new());
    for block in row.chunks_exact(32) {
        let block: Vec<f32> = block.iter().map(|&it| it as f32).collect();
        let parts = GgmlType::Q8_0.quantize(&block);
        let scale = f64::from(parts.params[0]);
        let codes = parts.codes.iter().map(|&code| f64::from(code) - 128.0);
        sums.push(codes.clone().sum::<f64>() * scale);
        values.extend(codes.map(|code| code * scale));
    }
    let in_f16: Vec<f64> = Tensor::from_slice(&sums, sums.len(), &Device::Cpu)?
        .to_dtype(DType::F16)?
        .to_dtype(DType::F64)?
        .to_vec1()?;
    let excess = in_f16.iter().zip(&sums).map(|(a, b)| a - b).collect();
    Ok(Rounded { values, excess })
}

/// W·x for each x, rows of W shared by two threads.
fn multiply(weight: &[f32], x: &[&[f64]], dot: Dot) -> Vec<Vec<f64>> {
    let columns = x.first().map_or(1, |row| row.len());
    let rows = weight.len() / columns;
    let some = |weight: &[f32]| -> Vec<Vec<f64>> {
        let each = weight.chunks_exact(columns);
        each.map(|row| x.iter().map(|x| dot(row, x)).collect())
            .collect()
    };
    let (first, second) = weight.split_at(rows / 2 * columns);
    let (first, second) = std::thread::scope(|scope| {
        let other = scope.spawn(|| some(second));
        let own = some(first);
        (own, other.join())
    });
    // A thread that panics has said so.
    let by_row: Vec<Vec<f64>> = first
        .into_iter()
        .chain(second.unwrap_or_default())
        .collect();
    (0..x.len())
        .map(|t| by_row.iter().map(|row| row[t]).collect())
        .collect()
}

/// A precision to compute in.
trait Float: Copy + std::ops::Mul<Output = Self> + std::ops::AddAssign + Into<f64> {
    /// Zero.
    const ZERO: Self;
    /// The nearest.
    fn of(value: f64) -> Self;
}

impl Float for f32 {
    const ZERO: f32 = 0.0;
    fn of(value: f64) -> f32 {
        value as f32
    }
}

impl Float for f64 {
    const ZERO: f64 = 0.0;
    fn of(value: f64) -> f64 {
        value
    }
}

/// Σ a·b in `N` partial sums, each product and sum rounded to `F`.
fn dot_of<F: Float, const N: usize>(a: &[f32], b: &[f64]) -> f64 {
    let mut sums = [F::ZERO; N];
    let (a, a_rest) = a.as_chunks::<N>();
    let (b, b_rest) = b.as_chunks::<N>();
    for (a, b) in a.iter().zip(b) {
        for (sum, (&a, &b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += F::of(f64::from(a)) * F::of(b);
        }
    }
    let mut total = F::ZERO;
    sums.into_iter().for_each(|it| total += it);
    for (&a, &b) in a_rest.iter().zip(b_rest) {
        total += F::of(f64::from(a)) * F::of(b);
    }
    total.into()
}

fn add(to: &mut [Vec<f64>], what: &[Vec<f64>]) {
    let values = to.iter_mut().flatten().zip(what.iter().flatten());
    values.for_each(|(to, it)| *to += it);
}

/// The same in f64.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&it| f64::from(it)).collect()
}
