//! A network in f64 with plain loops.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::kernels::rope::Pairs;
use crate::linalg::Hadamard;
use crate::model::{Config, Llama};
use crate::quant::parts::{Parts, Plain};
use crate::{Error, Result};

/// A network that is f64 throughout.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::quant) struct Exact {
    pub config: Config,
    matrices: BTreeMap<String, Plain>,
    vectors: BTreeMap<String, Vec<f64>>,
    rotations: BTreeMap<usize, Arc<Hadamard>>,
}

impl Exact {
    pub fn of(network: &Llama) -> Exact {
        let matrix = |name: String| (name.clone(), Parts::matrix(network, &name).unwrap());
        let vector = |name: String| (name.clone(), Parts::vector(network, &name).unwrap());
        let rotation = |n: usize| Some((n, Arc::new(network.ffn_rotation(n)?.clone())));
        Exact {
            config: network.config().clone(),
            matrices: network.matrix_names().into_iter().map(matrix).collect(),
            vectors: network.vector_names().into_iter().map(vector).collect(),
            rotations: (0..network.config().layers).filter_map(rotation).collect(),
        }
    }

    fn missing(name: &str) -> Error {
        Error::NotFound {
            what: name.to_owned(),
            tried: vec![],
        }
    }

    /// Logits (T, V), as the formulas stand in the papers.
    pub fn logits(&self, tokens: &[u32]) -> Vec<f64> {
        let c = &self.config;
        let d = c.head_dim;
        let product = |name: &str, x: &[f64]| -> Vec<f64> {
            let m = self.matrix(name).unwrap();
            let rows = m.values.chunks_exact(m.columns);
            rows.map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum())
                .collect()
        };
        let norm = |x: &[f64], w: &[f64]| -> Vec<f64> {
            let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
            let root = (mean + c.norm_epsilon).sqrt();
            x.iter().zip(w).map(|(v, w)| v / root * w).collect()
        };
        let turn = |x: &mut [f64], position: usize| {
            for head in x.chunks_mut(d) {
                for i in 0..d / 2 {
                    let angle = position as f64 * c.rope_base.powf(-2.0 * i as f64 / d as f64);
                    let (first, second) = match c.pairs {
                        Pairs::Neighbours => (2 * i, 2 * i + 1),
                        Pairs::Halves => (i, i + d / 2),
                    };
                    let (a, b) = (head[first], head[second]);
                    head[first] = a * angle.cos() - b * angle.sin();
                    head[second] = a * angle.sin() + b * angle.cos();
                }
            }
        };
        let add = |x: &mut [f64], y: &[f64]| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
        let mut past: Vec<Vec<(Vec<f64>, Vec<f64>)>> = vec![vec![]; c.layers];
        let mut out = Vec::new();
        for (position, &token) in tokens.iter().enumerate() {
            let embedding = &self.matrices["token_embd.weight"];
            let mut x = embedding.values[token as usize * c.width..][..c.width].to_vec();
            for (n, past) in past.iter_mut().enumerate() {
                let name = |part: &str| format!("blk.{n}.{part}");
                let weight = |part: &str| name(&format!("{part}.weight"));
                let h = norm(&x, &self.vectors[&weight("attn_norm")]);
                let [mut q, mut k, mut v] = ["attn_q", "attn_k", "attn_v"].map(|part| {
                    let mut out = product(&weight(part), &h);
                    if let Some(bias) = self.vectors.get(&name(&format!("{part}.bias"))) {
                        add(&mut out, bias);
                    }
                    out
                });
                if c.has_qk_norm {
                    for (x, part) in [(&mut q, "attn_q_norm"), (&mut k, "attn_k_norm")] {
                        *x = x
                            .chunks(d)
                            .flat_map(|head| norm(head, &self.vectors[&weight(part)]))
                            .collect();
                    }
                }
                turn(&mut q, position);
                turn(&mut k, position);
                v.shrink_to_fit();
                past.push((k, v));
                let seen = &past[c
                    .window
                    .map_or(0, |window| (position + 1).saturating_sub(window))..];
                let mut mixed = vec![0.0; c.heads * d];
                for head in 0..c.heads {
                    let group = head * c.kv_heads / c.heads;
                    let q = &q[head * d..][..d];
                    let score = |k: &[f64]| {
                        q.iter()
                            .zip(&k[group * d..])
                            .map(|(a, b)| a * b)
                            .sum::<f64>()
                            / (d as f64).sqrt()
                    };
                    let scores: Vec<f64> = seen.iter().map(|(k, _)| score(k)).collect();
                    let top = scores.iter().copied().fold(f64::MIN, f64::max);
                    let total: f64 = scores.iter().map(|it| (it - top).exp()).sum();
                    for (score, (_, v)) in scores.iter().zip(seen) {
                        let share = (score - top).exp() / total;
                        (0..d).for_each(|i| mixed[head * d + i] += share * v[group * d + i]);
                    }
                }
                add(&mut x, &product(&weight("attn_output"), &mixed));
                let h = norm(&x, &self.vectors[&weight("ffn_norm")]);
                let (gate, up) = (
                    product(&weight("ffn_gate"), &h),
                    product(&weight("ffn_up"), &h),
                );
                let mut gated: Vec<f64> = gate
                    .iter()
                    .zip(up)
                    .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
                    .collect();
                if let Some(rotation) = self.rotations.get(&n) {
                    rotation.apply(&mut gated);
                }
                add(&mut x, &product(&weight("ffn_down"), &gated));
            }
            out.extend(product(
                "output.weight",
                &norm(&x, &self.vectors["output_norm.weight"]),
            ));
        }
        out
    }
}

impl Parts for Exact {
    fn config(&self) -> &Config {
        &self.config
    }

    fn matrix(&self, name: &str) -> Result<Plain> {
        let name = if name == "output.weight" && self.is_tied() {
            "token_embd.weight"
        } else {
            name
        };
        self.matrices
            .get(name)
            .cloned()
            .ok_or_else(|| Exact::missing(name))
    }

    fn set_matrix(&mut self, name: &str, matrix: &Plain) -> Result<()> {
        self.matrices.insert(name.to_owned(), matrix.clone());
        Ok(())
    }

    fn vector(&self, name: &str) -> Result<Vec<f64>> {
        self.vectors
            .get(name)
            .cloned()
            .ok_or_else(|| Exact::missing(name))
    }

    fn set_vector(&mut self, name: &str, values: &[f64]) -> Result<()> {
        self.vectors.insert(name.to_owned(), values.to_vec());
        Ok(())
    }

    fn is_tied(&self) -> bool {
        !self.matrices.contains_key("output.weight")
    }

    fn set_ffn_rotation(&mut self, n: usize, rotation: Arc<Hadamard>) -> Result<()> {
        self.rotations.insert(n, rotation);
        Ok(())
    }

    fn has_ffn_rotation(&self, n: usize) -> bool {
        self.rotations.contains_key(&n)
    }
}
