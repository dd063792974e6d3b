//! Each kernel on each instruction set of this machine against its reference, and planted bugs that these checks catch.
//!
//! One file a kernel. A check is a function of the kernel: it says whether the kernel is right, so that the same check is shown to
//! refuse wrong ones.

mod activation;
mod attention;
mod dense;
mod gated;
mod gram;
mod halves;
mod integer;
mod likelihood;
mod panel;
mod product;
mod quadratic;
mod rope;
mod rounding;
mod softmax;
mod team;
mod tiled;
mod trellis;
mod update;
mod windowed;

use super::isa::Isa;

/// Unit roundoff of f32, 2⁻²⁴.
const UNIT: f64 = 1.0 / (1u64 << 24) as f64;

/// Reproducible numbers in −1 … 1, with some that are twenty times as large (as activations have).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        // Knuth's MMIX generator; the high bits are good.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let value = (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0;
        if (self.0 >> 32).is_multiple_of(29) {
            20.0 * value
        } else {
            value
        }
    }

    fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }

    fn below(&mut self, limit: usize) -> usize {
        self.next();
        (self.0 >> 33) as usize % limit
    }
}

fn fast() -> Vec<Isa> {
    Isa::here()
        .into_iter()
        .filter(|&isa| isa != Isa::Reference)
        .collect()
}

/// (T, N, K): one of each, tails of panels, tiles and words.
const SIZES: [(usize, usize, usize); 13] = [
    (0, 16, 32),
    (1, 1, 1),
    (1, 16, 4),
    (1, 200, 33),
    (2, 17, 64),
    (3, 40, 7),
    (5, 33, 96),
    (7, 64, 31),
    (12, 31, 128),
    (13, 48, 65),
    (25, 100, 576),
    (1, 576, 1536),
    (40, 5, 2),
];
