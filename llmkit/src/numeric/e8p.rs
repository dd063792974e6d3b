//! E8P: 65,536 points of the lattice E8 + ¼, eight weights in 16 bits.
//!
//! Code = 256·a + f. Magnitudes: row a of a table of 256 vectors with half-odd coordinates, namely all 227 of squared norm
//! at most 10, then 29 of squared norm 12. Signs: an even number of flips, bits of f, after the last coordinate of a row
//! with an odd sum has been negated; if f itself has an odd number of bits, its lowest is toggled first and the shift is −¼
//! on every coordinate instead of +¼.
//!
//! Source: A. Tseng et al., *QuIP#: Even Better LLM Quantization with Hadamard Incoherence and Lattice Codebooks* (arXiv
//! 2402.04396), section 4.2 and appendix C, and the authors' code for the 29.
//!
//! Cost: encoding looks at 512 candidates a vector and finds the best signs of each directly: about 4,000 operations.
//!
//! **Where we differ.** The published list of the 29 writes one vector twice, (1,3,3,3,1,1,3,3)/2, where its pattern asks
//! for (3,1,3,3,1,1,3,3)/2; ours follows the pattern, so that all 65,536 points are different. Coordinates are in order,
//! not shuffled for a GPU's nibbles.

use std::sync::LazyLock;

/// Weights in a vector.
pub const DIMENSION: usize = 8;

type Point = [f32; DIMENSION];

/// The table of magnitudes, with the last coordinate negated where the sum would be odd.
static ROWS: LazyLock<Vec<Point>> = LazyLock::new(|| {
    let mut rows = Vec::with_capacity(256);
    // Coordinates ½, 1½, 2½ as digits of a number in base 3; squared norm = 2 + 2·(number of 1s) + 6·(number of 2s).
    for number in 0..3usize.pow(8) {
        let point: Point =
            std::array::from_fn(|i| 0.5 + (number / 3usize.pow(7 - i as u32) % 3) as f32);
        if point.iter().map(|x| x * x).sum::<f32>() <= 10.0 {
            rows.push(point);
        }
    }
    let row = |bits: u32| -> Point {
        std::array::from_fn(|i| if bits >> (7 - i) & 1 == 1 { 1.5 } else { 0.5 })
    };
    // Five of 1½: one in the first half and four in the second; three and two, except one; and a last one.
    rows.extend([0x8f, 0x4f, 0x2f, 0x1f].map(row));
    for first in [0xe0, 0xd0, 0xb0, 0x70] {
        rows.extend([0xc, 0xa, 0x6, 0x9, 0x5, 0x3].map(|second| row(first | second)));
    }
    rows.push(row(0xce));
    for row in &mut rows {
        if row.iter().sum::<f32>() % 2.0 != 0.0 {
            row[7] = -row[7];
        }
    }
    rows
});

/// The point that `code` stands for.
pub fn decode(code: u16) -> Point {
    let row = ROWS[usize::from(code >> 8)];
    let flips = code & 255;
    let is_odd = flips.count_ones() % 2 == 1;
    let (flips, shift) = if is_odd {
        (flips ^ 1, -0.25)
    } else {
        (flips, 0.25)
    };
    std::array::from_fn(|i| (if flips >> i & 1 == 1 { -row[i] } else { row[i] }) + shift)
}

/// The code of the point nearest to `x`.
pub fn encode(x: &Point) -> u16 {
    let mut best = (f64::INFINITY, 0);
    for (is_odd, shift) in [(false, 0.25), (true, -0.25)] {
        // In f64 the distances of 512 candidates are exact enough that the nearest is the nearest.
        let y: [f64; DIMENSION] = std::array::from_fn(|i| f64::from(x[i]) - shift);
        for (a, row) in ROWS.iter().enumerate() {
            let (mut flips, mut dot, mut least, mut cheapest, mut norm) =
                (0u16, 0.0, f64::MAX, 0, 0.0);
            for (i, (&magnitude, y)) in row.iter().zip(y).enumerate() {
                let product = f64::from(magnitude) * y;
                norm += f64::from(magnitude) * f64::from(magnitude);
                dot += product.abs();
                flips |= u16::from(product < 0.0) << i;
                if product.abs() < least {
                    (least, cheapest) = (product.abs(), i);
                }
            }
            if flips.count_ones() % 2 == 1 {
                flips ^= 1 << cheapest;
                dot -= 2.0 * least;
            }
            let distance = norm - 2.0 * dot + y.iter().map(|y| y * y).sum::<f64>();
            if distance < best.0 {
                best = (distance, (a as u16) << 8 | flips ^ u16::from(is_odd));
            }
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::collections::BTreeSet;

    #[test]
    fn the_published_structure() {
        assert_eq!(ROWS.len(), 256);
        let norm = |point: &Point| point.iter().map(|x| x * x).sum::<f32>();
        assert_eq!(ROWS.iter().filter(|row| norm(row) <= 10.0).count(), 227);
        assert_eq!(ROWS.iter().filter(|row| norm(row) == 12.0).count(), 29);
        let mut points = BTreeSet::new();
        for code in 0..=u16::MAX {
            let point = decode(code);
            // Less a quarter: all integers or all half-odd, with an even sum. That is E8.
            let lattice = point.map(|x| x - 0.25);
            let doubled = lattice.map(|x| (2.0 * x) as i32);
            assert!(
                lattice
                    .iter()
                    .zip(doubled)
                    .all(|(x, d)| 2.0 * x == d as f32)
            );
            assert!(
                doubled.windows(2).all(|pair| (pair[0] - pair[1]) % 2 == 0),
                "{point:?}"
            );
            assert_eq!(doubled.iter().sum::<i32>() % 4, 0, "{point:?}");
            points.insert(point.map(|x| (4.0 * x) as i32));
        }
        assert_eq!(points.len(), 65_536);
    }

    #[test]
    fn the_nearest_of_all() {
        let all: Vec<Point> = (0..=u16::MAX).map(decode).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        for scale in [0.1f32, 0.7, 1.0, 2.0, 5.0] {
            for _ in 0..30 {
                let x: Point = std::array::from_fn(|_| {
                    scale * (0..3).map(|_| rng.random_range(-1f32..1.0)).sum::<f32>()
                });
                let distance = |point: &Point| -> f64 {
                    x.iter()
                        .zip(point)
                        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
                        .sum()
                };
                let least = all.iter().map(distance).fold(f64::MAX, f64::min);
                let ours = distance(&decode(encode(&x)));
                assert!((ours - least).abs() < 1e-9, "{x:?}: {ours} {least}");
            }
        }
        for code in (0..=u16::MAX).step_by(37) {
            assert_eq!(encode(&decode(code)), code);
        }
    }
}
