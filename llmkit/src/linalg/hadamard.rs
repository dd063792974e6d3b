//! Rotations by Hadamard matrices, x ↦ x·Q with Q = diag(signs)·H/√n, in n·(Σ m + k) instead of n² additions.
//!
//! ```text
//! H = P₁ ⊗ P₂ ⊗ … ⊗ S₂ₖ    orders m₁, m₂, …, 2ᵏ       H·Hᵀ = n·I
//! ```
//! S₂ = [[1, 1], [1, −1]] doubles an order (Sylvester 1867). Other orders come from the quadratic residues of a prime p
//! (R. E. A. C. Paley, *On orthogonal matrices*, 1933): p + 1 if p ≡ 3 mod 4, and 2·(p + 1) if p ≡ 1 mod 4. Of all products with the
//! order n the cheapest is taken: 576 = 12·12·4 and 1536 = 12·128 for SmolLM2-135M, 896 = 28·32 for Qwen2.5-0.5B.
//! Random signs in front of it (N. Halko et al. 2011; QuaRot, arXiv 2404.00456) make the rotation a random one.
//!
//! Cost: n additions for each halving, n·m for a factor of order m; no multiplication but signs and one scale.
//!
//! **Error.** Each of the n outputs is a sum of n products ±x; a factor of order m adds m of them one after the other. So with unit
//! roundoff u, |error| ≤ (Σ m + k + 2)·u·‖x‖₁/√n ≤ (Σ m + k + 2)·u·‖x‖₂, to first order in u.
//!
//! **Where we differ.** QuaRot looks orders up in a table of published matrices and refuses the rest; we build them. Orders whose
//! largest factor is above [`LARGEST`] are refused: their cost would be that of a dense matrix.

use std::fmt;
use std::ops::{Add, Mul, Sub};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use super::paley::LARGEST;
use super::paley::{Factor, factorization, paley};
use crate::{Error, Result};

/// f32 and f64.
pub trait Real:
    Copy + Default + Send + Sync + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self>
{
    /// The nearest one.
    fn of(value: f64) -> Self;
}

impl Real for f32 {
    fn of(value: f64) -> f32 {
        value as f32
    }
}

impl Real for f64 {
    fn of(value: f64) -> f64 {
        value
    }
}

/// An orthogonal matrix Q (n, n) of entries ±1/√n.
#[derive(Clone, PartialEq)]
pub struct Hadamard {
    order: usize,
    factors: Vec<Factor>,
    /// Signs of the inputs; empty for all plus.
    signs: Vec<bool>,
}

impl Hadamard {
    /// Of order n, without random signs.
    ///
    /// # Errors
    /// [`Error::Argument`] if we cannot build one.
    pub fn new(order: usize) -> Result<Hadamard> {
        let odd = order >> order.trailing_zeros().min(usize::BITS - 1);
        let cheapest = match odd {
            0 => None,
            1 => Some(Vec::new()),
            _ => factorization(order, LARGEST),
        };
        let orders = cheapest.ok_or_else(|| {
            let expected = format!(
                "a power of two, or that times p + 1 or 2·(p + 1) for primes p, none above {LARGEST}"
            );
            Error::argument("order of a Hadamard matrix", expected, order)
        })?;
        Ok(Hadamard {
            order,
            factors: orders.into_iter().filter_map(paley).collect(),
            signs: Vec::new(),
        })
    }

    /// Of order n, with random signs.
    ///
    /// # Errors
    /// As [`Hadamard::new`].
    pub fn random(order: usize, seed: u64) -> Result<Hadamard> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Ok(Hadamard {
            signs: (0..order).map(|_| random.random()).collect(),
            ..Hadamard::new(order)?
        })
    }

    /// Rows and columns.
    pub fn order(&self) -> usize {
        self.order
    }

    /// x ↦ x·Q.
    ///
    /// # Panics
    /// If `x` is not n long.
    pub fn apply<T: Real>(&self, x: &mut [T]) {
        assert_eq!(x.len(), self.order, "rotated values");
        self.sign(x);
        self.multiply(x, false);
    }

    /// x ↦ x·Qᵀ, which undoes [`apply`](Self::apply).
    ///
    /// # Panics
    /// If `x` is not n long.
    pub fn invert<T: Real>(&self, x: &mut [T]) {
        assert_eq!(x.len(), self.order, "rotated values");
        self.multiply(x, true);
        self.sign(x);
    }

    /// Q as its definition says, row-major: slow, obvious, what the fast way is checked against.
    pub fn dense(&self) -> Vec<f64> {
        let n = self.order;
        let scale = 1.0 / (n as f64).sqrt();
        (0..n * n)
            .map(|at| {
                let (mut i, mut j, mut size) = (at / n, at % n, n);
                let mut is_plus = self.signs.get(i).copied().unwrap_or(true);
                for factor in &self.factors {
                    size /= factor.order;
                    is_plus ^= !factor.is_plus[i / size * factor.order + j / size];
                    (i, j) = (i % size, j % size);
                }
                // Sylvester's: minus where an odd number of bits are set in both.
                is_plus ^= (i & j).count_ones() % 2 == 1;
                if is_plus { scale } else { -scale }
            })
            .collect()
    }

    fn sign<T: Real>(&self, x: &mut [T]) {
        for (x, &is_plus) in x.iter_mut().zip(&self.signs) {
            *x = if is_plus { *x } else { T::default() - *x };
        }
    }

    fn multiply<T: Real>(&self, x: &mut [T], is_inverse: bool) {
        let mut size = self.order;
        let mut scratch = vec![T::default(); if self.factors.is_empty() { 0 } else { size }];
        for factor in &self.factors {
            let inner = size / factor.order;
            for block in x.chunks_exact_mut(size) {
                factor.multiply(block, inner, is_inverse, &mut scratch[..size]);
            }
            size = inner;
        }
        // Butterflies, until blocks are single values; S₂ is its own transpose.
        while size > 1 {
            for block in x.chunks_exact_mut(size) {
                let (first, second) = block.split_at_mut(size / 2);
                for (a, b) in first.iter_mut().zip(second) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            size /= 2;
        }
        let scale = T::of(1.0 / (self.order as f64).sqrt());
        x.iter_mut().for_each(|x| *x = *x * scale);
    }
}

impl Factor {
    /// Rows of `inner` values: row j becomes Σᵢ row i · P\[i, j\], or P\[j, i\] for the inverse.
    fn multiply<T: Real>(&self, block: &mut [T], inner: usize, is_inverse: bool, out: &mut [T]) {
        for (j, out) in out.chunks_exact_mut(inner).enumerate() {
            out.fill(T::default());
            for (i, row) in block.chunks_exact(inner).enumerate() {
                let at = match is_inverse {
                    true => j * self.order + i,
                    false => i * self.order + j,
                };
                let pairs = out.iter_mut().zip(row);
                match self.is_plus[at] {
                    true => pairs.for_each(|(out, &x)| *out = *out + x),
                    false => pairs.for_each(|(out, &x)| *out = *out - x),
                }
            }
        }
        block.copy_from_slice(out);
    }
}

impl fmt::Display for Hadamard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let product: usize = self.factors.iter().map(|it| it.order).product();
        for factor in &self.factors {
            write!(f, "H{} ⊗ ", factor.order)?;
        }
        write!(f, "H{}", self.order / product)
    }
}

impl fmt::Debug for Hadamard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signs = if self.signs.is_empty() {
            ""
        } else {
            " with signs"
        };
        write!(f, "Hadamard {} = {self}{signs}", self.order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: [usize; 17] = [
        1, 2, 4, 8, 12, 20, 24, 28, 36, 60, 64, 76, 144, 192, 576, 896, 1536,
    ];

    fn noise(count: usize) -> Vec<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        (0..count).map(|_| random.random::<f64>() - 0.5).collect()
    }

    /// max |QQᵀ − I|.
    fn defect(q: &[f64], n: usize) -> f64 {
        let rows: Vec<&[f64]> = q.chunks_exact(n).collect();
        let mut worst = 0f64;
        for i in 0..n {
            for j in 0..=i {
                let dot: f64 = rows[i].iter().zip(rows[j]).map(|(a, b)| a * b).sum();
                worst = worst.max((dot - f64::from(u8::from(i == j))).abs());
            }
        }
        worst
    }

    #[test]
    fn all_orders_are_orthogonal_to_1e_12() -> Result<()> {
        for n in ORDERS {
            let rotation = Hadamard::random(n, 3)?;
            let worst = defect(&rotation.dense(), n);
            assert!(worst < 1e-12, "{rotation:?}: {worst}");
        }
        Ok(())
    }

    #[test]
    fn fast_is_dense_and_inverts() -> Result<()> {
        for n in ORDERS {
            let rotation = Hadamard::random(n, 5)?;
            let (q, x) = (rotation.dense(), noise(n));
            let expected: Vec<f64> = (0..n)
                .map(|j| (0..n).map(|i| x[i] * q[i * n + j]).sum())
                .collect();
            let mut fast = x.clone();
            rotation.apply(&mut fast);
            let size = x.iter().map(|x| x * x).sum::<f64>().sqrt();
            let close = |a: &[f64], b: &[f64]| {
                a.iter()
                    .zip(b)
                    .all(|(a, b)| (a - b).abs() <= 1e-14 * n as f64 * size)
            };
            assert!(close(&fast, &expected), "{rotation:?}");
            rotation.invert(&mut fast);
            assert!(close(&fast, &x), "{rotation:?}");
        }
        Ok(())
    }

    #[test]
    fn single_precision_stays_within_the_bound_at_the_head() -> Result<()> {
        for n in ORDERS {
            let rotation = Hadamard::random(n, 1)?;
            let mut exact = noise(n);
            // What f32 is given is exact in f64.
            exact.iter_mut().for_each(|x| *x = f64::from(*x as f32));
            let mut single: Vec<f32> = exact.iter().map(|&x| x as f32).collect();
            let size = exact.iter().map(|x| x * x).sum::<f64>().sqrt();
            rotation.apply(&mut exact);
            rotation.apply(&mut single);
            let orders: usize = rotation.factors.iter().map(|it| it.order).sum();
            let product: usize = rotation.factors.iter().map(|it| it.order).product();
            let steps = orders + (n / product).ilog2() as usize + 2;
            let bound = steps as f64 * 2f64.powi(-24) * size;
            for (exact, single) in exact.iter().zip(&single) {
                assert!((exact - f64::from(*single)).abs() <= bound, "{rotation:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn this_models_orders_are_the_expected_products() -> Result<()> {
        for (n, expected) in [
            (576, "H12 ⊗ H12 ⊗ H4"),
            (1536, "H12 ⊗ H128"),
            (192, "H12 ⊗ H16"),
            (64, "H64"),
            (896, "H28 ⊗ H32"),
        ] {
            assert_eq!(Hadamard::new(n)?.to_string(), expected);
        }
        Ok(())
    }

    #[test]
    fn orders_that_cannot_be_built_are_refused() {
        // 92 and 184 exist (Williamson's), but not by these constructions; there is none of the others.
        for n in [0, 3, 6, 9, 18, 92, 184, 577] {
            let error = Hadamard::new(n).unwrap_err().to_string();
            assert!(error.contains(&n.to_string()), "{error}");
        }
    }

    #[test]
    fn a_matrix_that_is_transposed_is_caught() -> Result<()> {
        // Planted: Paley's first matrices are skew, so that the inverse is not the matrix again.
        let rotation = Hadamard::new(12)?;
        let x = noise(12);
        let mut twice = x.clone();
        rotation.apply(&mut twice);
        rotation.apply(&mut twice);
        assert!(twice.iter().zip(&x).any(|(a, b)| (a - b).abs() > 0.1));
        Ok(())
    }
}
