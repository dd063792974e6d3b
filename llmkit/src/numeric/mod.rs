//! Element codecs: numbers of few bits, one file each, and what they are made of.
//!
//! | module | what it holds |
//! |---|---|
//! | [`minifloat`] | sign, exponent, mantissa in at most 8 bits: decode, and encode with ties to even |
//! | [`fp8`], [`fp6`], [`fp4`] | the element types of OCP's 8-bit and microscaling specifications |
//! | [`e8m0`] | powers of two, the scales of microscaling |
//! | [`nf4`] | the 16 values of NormalFloat, from the normal quantiles that define them |
//! | [`dynamic8`] | the 8-bit dynamic tree of the second level of NF4's scales |
//! | [`ggml`] | the block types of llama.cpp, byte for byte |
//! | [`kmeans`] | the best points for numbers on a line, exactly and by Lloyd's algorithm |
//! | [`e8p`], [`trellis`] | points in eight dimensions, paths through a trellis: codes for runs of weights |
//! | [`normal`] | density, distribution and quantiles of the normal law in f64 |

pub mod dynamic8;
pub mod e8m0;
pub mod e8p;
pub mod fp4;
pub mod fp6;
pub mod fp8;
pub mod ggml;
pub mod kmeans;
pub mod minifloat;
pub mod nf4;
pub mod normal;
pub mod trellis;

pub use minifloat::{Minifloat, Overflow};

/// The place of the nearest of `points` (ascending, not empty, finite) to `x`; the lower one of a tie.
pub fn nearest(points: &[f32], x: f32) -> usize {
    let above = points.partition_point(|&point| point < x);
    let distance = |at: usize| (f64::from(points[at]) - f64::from(x)).abs();
    match above {
        0 => 0,
        above if above == points.len() => above - 1,
        above if distance(above) < distance(above - 1) => above,
        above => above - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_point_is_that_of_a_search_over_all() {
        let points = [-3.0, -1.0, -0.5, 0.0, 0.25, 7.0];
        for i in -400..1000 {
            let x = i as f32 / 100.0;
            let distance = |point: f32| (point - x).abs();
            let least = points
                .iter()
                .copied()
                .map(distance)
                .fold(f32::MAX, f32::min);
            assert_eq!(distance(points[nearest(&points, x)]), least, "{x}");
        }
        assert_eq!(nearest(&points, -2.0), 0);
        assert_eq!(nearest(&[1.0], f32::MAX), 0);
    }
}
