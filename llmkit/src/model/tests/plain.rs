//! A network of two layers, once more in f64 with plain loops: the truth for `network.rs`.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::super::Config;
use super::noise;
use crate::kernels::rope::Pairs;

pub(super) type Tensors = BTreeMap<String, Tensor>;

/// Weights for a configuration; vectors around one, matrices around zero.
pub(super) fn tiny(config: Config) -> (Config, Tensors) {
    let mut weights = Tensors::new();
    let mut add = |name: String, shape: &[usize], scale: f32| {
        let seed = weights.len() as u64;
        let value = if shape.len() == 1 {
            (noise(shape, 0.5, seed) + 1.0).unwrap()
        } else {
            noise(shape, scale, seed)
        };
        weights.insert(name, value);
    };
    add("token_embd.weight".into(), &[50, 24], 2.0);
    add("output_norm.weight".into(), &[24], 1.0);
    for n in 0..2 {
        for (name, shape) in [
            ("attn_norm", &[24][..]),
            ("attn_q", &[24, 24]),
            ("attn_k", &[8, 24]),
            ("attn_v", &[8, 24]),
            ("attn_output", &[24, 24]),
            ("ffn_norm", &[24]),
            ("ffn_gate", &[40, 24]),
            ("ffn_up", &[40, 24]),
            ("ffn_down", &[24, 40]),
        ] {
            add(format!("blk.{n}.{name}.weight"), shape, 1.0);
        }
        if config.has_biases {
            for (name, length) in [("attn_q", 24), ("attn_k", 8), ("attn_v", 8)] {
                add(format!("blk.{n}.{name}.bias"), &[length], 1.0);
            }
        }
        if config.has_qk_norm {
            add(format!("blk.{n}.attn_q_norm.weight"), &[4], 1.0);
            add(format!("blk.{n}.attn_k_norm.weight"), &[4], 1.0);
        }
    }
    (config, weights)
}

/// The same network once more, in f64 with plain loops, token by token, as the formulas stand in the papers.
pub(super) fn plain(config: &Config, weights: &Tensors, tokens: &[u32]) -> Vec<Vec<f64>> {
    let matrix = |name: &str| -> Vec<Vec<f64>> {
        let rows: Vec<Vec<f32>> = weights[name].to_vec2().unwrap();
        rows.iter()
            .map(|row| row.iter().map(|&x| f64::from(x)).collect())
            .collect()
    };
    let vector = |name: &str| -> Vec<f64> {
        let values: Vec<f32> = weights[name].to_vec1().unwrap();
        values.iter().map(|&x| f64::from(x)).collect()
    };
    let product = |m: &[Vec<f64>], x: &[f64]| -> Vec<f64> {
        m.iter()
            .map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum())
            .collect()
    };
    let norm = |x: &[f64], w: &[f64]| -> Vec<f64> {
        let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        x.iter()
            .zip(w)
            .map(|(v, w)| v / (mean + config.norm_epsilon).sqrt() * w)
            .collect()
    };
    let d = config.head_dim;
    let rope = |x: &mut [f64], position: usize| {
        for head in x.chunks_mut(d) {
            for i in 0..d / 2 {
                let angle = position as f64 * config.rope_base.powf(-2.0 * i as f64 / d as f64);
                let (first, second) = match config.pairs {
                    Pairs::Neighbours => (2 * i, 2 * i + 1),
                    Pairs::Halves => (i, i + d / 2),
                };
                let (a, b) = (head[first], head[second]);
                head[first] = a * angle.cos() - b * angle.sin();
                head[second] = a * angle.sin() + b * angle.cos();
            }
        }
    };
    let embedding = matrix("token_embd.weight");
    let mut past: Vec<Vec<(Vec<f64>, Vec<f64>)>> = vec![vec![]; config.layers];
    let mut out = Vec::new();
    for (position, &token) in tokens.iter().enumerate() {
        let mut x = embedding[token as usize].clone();
        for (n, past) in past.iter_mut().enumerate() {
            let name = |part: &str| format!("blk.{n}.{part}.weight");
            let h = norm(&x, &vector(&name("attn_norm")));
            let mut q = product(&matrix(&name("attn_q")), &h);
            let mut k = product(&matrix(&name("attn_k")), &h);
            let mut v = product(&matrix(&name("attn_v")), &h);
            if config.has_biases {
                for (x, part) in [(&mut q, "attn_q"), (&mut k, "attn_k"), (&mut v, "attn_v")] {
                    let bias = vector(&format!("blk.{n}.{part}.bias"));
                    x.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
                }
            }
            if config.has_qk_norm {
                for (x, part) in [(&mut q, "attn_q_norm"), (&mut k, "attn_k_norm")] {
                    let weight = vector(&name(part));
                    *x = x.chunks(d).flat_map(|head| norm(head, &weight)).collect();
                }
            }
            rope(&mut q, position);
            rope(&mut k, position);
            past.push((k, v));
            let first = config
                .window
                .map_or(0, |window| (position + 1).saturating_sub(window));
            let past = &past[first..];
            let mut mixed = vec![0.0; config.heads * d];
            for head in 0..config.heads {
                let group = head * config.kv_heads / config.heads;
                let scores: Vec<f64> = past
                    .iter()
                    .map(|(k, _)| {
                        (0..d)
                            .map(|i| q[head * d + i] * k[group * d + i])
                            .sum::<f64>()
                            / (d as f64).sqrt()
                    })
                    .map(f64::exp)
                    .collect();
                let total: f64 = scores.iter().sum();
                for (score, (_, v)) in scores.iter().zip(past.iter()) {
                    (0..d).for_each(|i| mixed[head * d + i] += score / total * v[group * d + i]);
                }
            }
            let add =
                |x: &mut Vec<f64>, y: Vec<f64>| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
            add(&mut x, product(&matrix(&name("attn_output")), &mixed));
            let h = norm(&x, &vector(&name("ffn_norm")));
            let gate = product(&matrix(&name("ffn_gate")), &h);
            let up = product(&matrix(&name("ffn_up")), &h);
            let gated: Vec<f64> = gate
                .iter()
                .zip(up)
                .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
                .collect();
            add(&mut x, product(&matrix(&name("ffn_down")), &gated));
        }
        out.push(product(
            &embedding,
            &norm(&x, &vector("output_norm.weight")),
        ));
    }
    out
}
