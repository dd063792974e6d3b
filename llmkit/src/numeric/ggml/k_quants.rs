//! Q2_K … Q6_K: super-blocks of 256 weights whose sub-blocks have integer scales under an f16.
//!
//! Each sub-block's scale (and minimum) is searched in f32 (`search.rs`); the greatest fixes d (and dₘ), the
//! others become integers; then every weight is rounded with the scales as they are stored. A sub-block whose stored
//! scale is zero keeps the codes of its search, which then mean nothing.

use super::search::{LEAST, Tries, affine, improved, nearest_int, symmetric};
use super::{Parts, rounded};

/// A sub-block's scales and minima as searched; codes are written where they belong.
fn search_affine(
    block: &[f32],
    codes: &mut [u8],
    sub: usize,
    tries: &Tries,
    weigh: impl Fn(&[f32]) -> Vec<f32>,
) -> (Vec<f32>, Vec<f32>) {
    let blocks = block.chunks_exact(sub).zip(codes.chunks_exact_mut(sub));
    blocks
        .map(|(x, codes)| affine(x, &weigh(x), tries, codes))
        .unzip()
}

/// The greatest, if it is more than zero.
fn greatest(of: &[f32]) -> f32 {
    of.iter()
        .fold(0f32, |max, &x| if x > max { x } else { max })
}

/// Rounds the weights of each sub-block with a step that is not zero: q = nearest((x + shift)/step).
fn round(
    block: &[f32],
    codes: &mut [u8],
    sub: usize,
    range: (i32, i32),
    line: impl Fn(usize) -> (f32, f32),
) {
    let blocks = block.chunks_exact(sub).zip(codes.chunks_exact_mut(sub));
    for (j, (x, codes)) in blocks.enumerate() {
        let (step, shift) = line(j);
        if step == 0.0 {
            continue;
        }
        for (&x, code) in x.iter().zip(codes) {
            let l = nearest_int((x + shift) / step).clamp(range.0, range.1);
            *code = (l - range.0) as u8;
        }
    }
}

/// A block of sub-blocks with scales and minima: `params` are d and dₘ, then both in integers. `codes` are those of the search.
pub(super) fn with_minima(
    block: &[f32],
    params: Vec<f32>,
    mut codes: Vec<u8>,
    (sub, last): (usize, u8),
) -> Parts {
    let mins = 2 + block.len() / sub;
    let line = |j: usize| (params[0] * params[2 + j], params[1] * params[mins + j]);
    round(block, &mut codes, sub, (0, i32::from(last)), line);
    Parts { params, codes }
}

/// A block of sub-blocks of 16 with scales alone: `params` are d, then scales in integers; codes count from −`half`.
pub(super) fn with_scales(block: &[f32], params: Vec<f32>, mut codes: Vec<u8>, half: i32) -> Parts {
    let line = |j: usize| (params[0] * params[1 + j], 0.0);
    round(block, &mut codes, 16, (-half, half - 1), line);
    Parts { params, codes }
}

pub(super) fn q2_k(block: &[f32]) -> Parts {
    let mut codes = vec![0; 256];
    let tries = Tries {
        last: 3,
        from: -0.5,
        by: 0.1,
        steps: 15,
        is_absolute: true,
    };
    let weigh = |x: &[f32]| x.iter().map(|x| x.abs()).collect();
    let (scales, mins) = search_affine(block, &mut codes, 16, &tries, weigh);
    let (max_scale, max_min) = (greatest(&scales), greatest(&mins));
    let four_bits = |of: &[f32], max: f32| -> Vec<f32> {
        let inverse = if max > 0.0 { 15.0 / max } else { 0.0 };
        of.iter()
            .map(|&x| f32::from(nearest_int(inverse * x) as u8 & 15))
            .collect()
    };
    let mut params = vec![rounded(max_scale / 15.0), rounded(max_min / 15.0)];
    params.extend(four_bits(&scales, max_scale));
    params.extend(four_bits(&mins, max_min));
    with_minima(block, params, codes, (16, 3))
}

/// Q4_K and Q5_K, which differ in the greatest code and in the scales tried.
fn six_bit_scales(block: &[f32], tries: &Tries) -> Parts {
    let mut codes = vec![0; 256];
    let weigh = |x: &[f32]| {
        let mut sum = 0f32;
        x.iter().for_each(|x| sum += x * x);
        let mean = (sum / 32.0).sqrt();
        x.iter().map(|x| mean + x.abs()).collect()
    };
    let (scales, mins) = search_affine(block, &mut codes, 32, tries, weigh);
    let (max_scale, max_min) = (greatest(&scales), greatest(&mins));
    let six_bits = |of: &[f32], max: f32| -> Vec<f32> {
        let inverse = if max > 0.0 { 63.0 / max } else { 0.0 };
        of.iter()
            .map(|&x| f32::from((nearest_int(inverse * x) as u8).min(63)))
            .collect()
    };
    let mut params = vec![rounded(max_scale / 63.0), rounded(max_min / 63.0)];
    params.extend(six_bits(&scales, max_scale));
    params.extend(six_bits(&mins, max_min));
    with_minima(block, params, codes, (32, tries.last))
}

pub(super) fn q4_k(block: &[f32]) -> Parts {
    let tries = Tries {
        last: 15,
        from: -1.0,
        by: 0.1,
        steps: 20,
        is_absolute: false,
    };
    six_bit_scales(block, &tries)
}

pub(super) fn q5_k(block: &[f32]) -> Parts {
    let tries = Tries {
        last: 31,
        from: -0.5,
        by: 0.1,
        steps: 15,
        is_absolute: false,
    };
    six_bit_scales(block, &tries)
}

/// The scale of greatest magnitude, the first of equals, and that magnitude.
fn signed_greatest(scales: &[f32]) -> (f32, f32) {
    scales.iter().fold((0f32, 0f32), |(max, greatest), &scale| {
        if scale.abs() > greatest {
            (scale, scale.abs())
        } else {
            (max, greatest)
        }
    })
}

pub(super) fn q3_k(block: &[f32]) -> Parts {
    let mut codes = vec![0; 256];
    let blocks = block.chunks_exact(16).zip(codes.chunks_exact_mut(16));
    let scales: Vec<f32> = blocks.map(|(x, codes)| improved(x, 4, codes)).collect();
    let (max, _) = signed_greatest(&scales);
    let mut params = vec![0.0];
    if max == 0.0 {
        // The stored six bits are all zero then, which stands for −32.
        params.extend([-32.0; 16]);
    } else {
        let inverse = -32.0 / max;
        params[0] = rounded(1.0 / inverse);
        let six_bits =
            |&scale: &f32| f32::from(nearest_int(inverse * scale) as i8).clamp(-32.0, 31.0);
        params.extend(scales.iter().map(six_bits));
    }
    with_scales(block, params, codes, 4)
}

/// With an importance for each column or without.
pub(super) fn q6_k(block: &[f32], importance: Option<&[f32]>) -> Parts {
    let mut codes = vec![0; 256];
    let blocks = block.chunks_exact(16).zip(codes.chunks_exact_mut(16));
    let scales: Vec<f32> = blocks
        .enumerate()
        .map(|(j, (x, codes))| {
            let importance = importance.map(|it| &it[16 * j..16 * (j + 1)]);
            symmetric(x, importance, 32, codes)
        })
        .collect();
    let (max, greatest) = signed_greatest(&scales);
    if greatest < LEAST {
        return Parts {
            params: vec![0.0; 17],
            codes: vec![0; 256],
        };
    }
    let inverse = -128.0 / max;
    let mut params = vec![rounded(1.0 / inverse)];
    let eight_bits = |&scale: &f32| f32::from(nearest_int(inverse * scale).min(127) as i8);
    params.extend(scales.iter().map(eight_bits));
    with_scales(block, params, codes, 32)
}
