//! IQ4_NL: 16 unevenly spaced values under one f16 scale, for 32 weights.
//!
//! The scale is searched: fifteen ways to lay the greatest weight near the least value (and one the other way round),
//! each followed by the least-squares scale for its codes with weights x²; the best counts. Layout as Q4_0.

use super::search::LEAST;
use super::{Parts, rounded};

/// What codes stand for, least first.
pub const VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// ggml's search for the nearest value: binary, the upper one of a tie.
fn index(x: f32) -> u8 {
    let value = |i: usize| f32::from(VALUES[i]);
    if x <= value(0) {
        return 0;
    }
    if x >= value(15) {
        return 15;
    }
    let (mut low, mut high) = (0, 15);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if x < value(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    (if x - value(high - 1) < value(high) - x {
        high - 1
    } else {
        high
    }) as u8
}

/// With weights x² if there are no others.
pub(super) fn quantize(block: &[f32], weights: Option<&[f32]>) -> Parts {
    let (mut greatest, mut max) = (0f32, 0f32);
    for &x in block {
        if x.abs() > greatest {
            (greatest, max) = (x.abs(), x);
        }
    }
    let scale = if greatest < LEAST {
        0.0
    } else {
        search(block, weights, max)
    };
    let id = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    Parts {
        params: vec![rounded(scale)],
        codes: block.iter().map(|&x| index(id * x)).collect(),
    }
}

fn search(block: &[f32], weights: Option<&[f32]>, max: f32) -> f32 {
    // Σwqx and Σwq² for the codes that 1/d = id gives.
    let sums = |id: f32| {
        (block.iter().enumerate()).fold((0f32, 0f32), |(qx, q2), (i, &x)| {
            let w = weights.map_or(x * x, |weights| weights[i]);
            let q = f32::from(VALUES[usize::from(index(id * x))]);
            (qx + w * q * x, q2 + w * q * q)
        })
    };
    let (qx, q2) = sums(1.0 / (-max / f32::from(VALUES[0])));
    let mut d = if q2 > 0.0 { qx / q2 } else { 0.0 };
    let mut best = d * qx;
    for i in -7..=7 {
        let (qx, q2) = sums((i as f32 + f32::from(VALUES[0])) / max);
        if q2 > 0.0 && qx * qx > best * q2 {
            d = qx / q2;
            best = d * qx;
        }
    }
    d
}

/// The code of the nearest of `d`·[`VALUES`], by search over all.
pub(super) fn nearest(d: f32, weight: f32) -> u8 {
    let distance = |code: u8| {
        let value = d * f32::from(VALUES[usize::from(code)]);
        (f64::from(value) - f64::from(weight)).abs()
    };
    (0..16)
        .min_by(|&a, &b| distance(a).total_cmp(&distance(b)))
        .unwrap_or(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_search_finds_the_nearest() {
        for i in -1300..=1300 {
            let x = i as f32 / 10.0;
            let distance = |code: u8| (f32::from(VALUES[usize::from(code)]) - x).abs();
            assert_eq!(distance(index(x)), distance(nearest(1.0, x)), "{x}");
        }
    }
}
