//! The same types with an importance for each column ("importance matrix"): errors are weighted by it in every search.
//!
//! Where the importance of a weight x is i, its error counts i·√(σ² + x²), σ² being the mean square of the row (types of 32), of the
//! super-block (Q2_K), or twice that; in Q6_K, i alone. Q4_0 … Q5_1, which span the range without an importance, are searched then, and scales
//! of sub-blocks are rounded to their few bits with weights too.
//!
//! Source: llama.cpp, `ggml-quants.c` (`quantize_row_*_impl` with `quant_weights`); the matrix is of I. Kawrakow (llama.cpp #4861).

use super::k_quants::{q6_k, with_minima, with_scales};
use super::search::{Tries, affine, positive, symmetric};
use super::{GgmlType, Parts, iq4_nl, rounded};

/// A block; `power` is the mean square of its row. Types without such a search are as they are without.
pub(super) fn quantize(of: GgmlType, block: &[f32], importance: &[f32], power: f32) -> Parts {
    match of {
        GgmlType::Q4_0 => one_scale(block, &weigh(block, importance, power), 8),
        GgmlType::Q5_0 => one_scale(block, &weigh(block, importance, power), 16),
        GgmlType::Q4_1 => one_line(block, &weigh(block, importance, power), 15),
        GgmlType::Q5_1 => one_line(block, &weigh(block, importance, power), 31),
        GgmlType::Q2_K => q2_k(block, importance),
        GgmlType::Q3_K => q3_k(block, importance),
        GgmlType::Q4_K => six_bit_scales(block, importance, 15),
        GgmlType::Q5_K => six_bit_scales(block, importance, 31),
        GgmlType::Q6_K => q6_k(block, Some(importance)),
        GgmlType::IQ4_NL => {
            let weights = weigh(block, importance, squares(block) * (2.0 / 32.0));
            iq4_nl::quantize(block, Some(&weights))
        }
        GgmlType::Q8_0 | GgmlType::TQ1_0 | GgmlType::TQ2_0 => of.quantize(block),
    }
}

/// Σx², in order.
pub(super) fn squares(x: &[f32]) -> f32 {
    x.iter().fold(0f32, |sum, x| sum + x * x)
}

fn weigh(x: &[f32], importance: &[f32], power: f32) -> Vec<f32> {
    let pairs = x.iter().zip(importance);
    pairs.map(|(x, i)| i * (power + x * x).sqrt()).collect()
}

fn one_scale(block: &[f32], weights: &[f32], half: i32) -> Parts {
    let mut codes = vec![0; block.len()];
    let d = symmetric(block, Some(weights), half, &mut codes);
    let params = vec![rounded(d)];
    Parts { params, codes }
}

fn tries(last: u8) -> Tries {
    Tries {
        last,
        from: -0.9,
        by: 0.05,
        steps: 36,
        is_absolute: false,
    }
}

fn one_line(block: &[f32], weights: &[f32], last: u8) -> Parts {
    let mut codes = vec![0; block.len()];
    let (d, min) = affine(block, weights, &tries(last), &mut codes);
    let params = vec![rounded(d), rounded(-min)];
    Parts { params, codes }
}

/// Scales, minima and sums of weights of sub-blocks of `sub`.
fn lines(
    block: &[f32],
    importance: &[f32],
    power: f32,
    (sub, last): (usize, u8),
    codes: &mut [u8],
) -> [Vec<f32>; 3] {
    let mut found = [(); 3].map(|()| Vec::new());
    let parts = (block.chunks_exact(sub))
        .zip(importance.chunks_exact(sub))
        .zip(codes.chunks_exact_mut(sub));
    for ((x, importance), codes) in parts {
        let weights = weigh(x, importance, power);
        let sum = weights.iter().fold(0f32, |sum, w| sum + w);
        let (scale, min) = affine(x, &weights, &tries(last), codes);
        found[0].push(scale);
        found[1].push(min);
        found[2].push(sum);
    }
    found
}

/// d and dₘ, then scales and minima in integers up to `last`.
fn params([scales, mins, sums]: &[Vec<f32>; 3], last: i32) -> Vec<f32> {
    let mut integers = vec![0; scales.len()];
    let mut params = vec![0.0, 0.0];
    for (i, of) in [scales, mins].into_iter().enumerate() {
        params[i] = rounded(positive(of, sums, last, &mut integers));
        params.extend(integers.iter().map(|&it| f32::from(it)));
    }
    params
}

fn q2_k(block: &[f32], importance: &[f32]) -> Parts {
    let mut codes = vec![0; 256];
    let power = squares(block) / 256.0;
    let found = lines(block, importance, power, (16, 3), &mut codes);
    let params = params(&found, 15);
    with_minima(block, params, codes, (16, 3))
}

fn six_bit_scales(block: &[f32], importance: &[f32], last: u8) -> Parts {
    let mut codes = vec![0; 256];
    let power = 2.0 * squares(block) / 256.0;
    let found = lines(block, importance, power, (32, last), &mut codes);
    let params = params(&found, 63);
    with_minima(block, params, codes, (32, last))
}

fn q3_k(block: &[f32], importance: &[f32]) -> Parts {
    let mut codes = vec![0; 256];
    let power = 2.0 * squares(block) / 256.0;
    let (mut scales, mut sums) = (Vec::new(), Vec::new());
    let parts = (block.chunks_exact(16))
        .zip(importance.chunks_exact(16))
        .zip(codes.chunks_exact_mut(16));
    for ((x, importance), codes) in parts {
        let weights = weigh(x, importance, power);
        sums.push(weights.iter().fold(0f32, |sum, w| sum + w));
        scales.push(symmetric(x, Some(&weights), 4, codes));
    }
    let mut integers = [0; 16];
    let d = symmetric(&scales, Some(&sums), 32, &mut integers);
    let mut params = vec![rounded(d)];
    params.extend(integers.iter().map(|&it| f32::from(it) - 32.0));
    with_scales(block, params, codes, 4)
}
