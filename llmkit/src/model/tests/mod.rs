//! The model against hand-made files, candle's own decoder, a dense reimplementation, and the real SmolLM2 where it is in reach.

mod chat;
mod edit;
mod files;
mod folders;
mod generation;
mod law;
mod network;
mod plain;
pub(crate) mod real;
mod reproducible;
mod sampling;
mod sequences;
pub(crate) mod tiny;
mod tokens;

pub(in crate::model) use files::one_matrix;

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CPU: Device = Device::Cpu;

fn noise(shape: &[usize], scale: f32, seed: u64) -> Tensor {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| scale * (generator.random::<f32>() - 0.5))
        .collect();
    Tensor::from_vec(values, shape, &CPU).unwrap()
}
