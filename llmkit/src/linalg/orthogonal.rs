//! Orthogonal matrices, fast or dense.

use std::fmt;

use super::Hadamard;

/// An orthogonal matrix Q (n, n), as what it does to a row.
pub trait Orthogonal: fmt::Display + Send + Sync {
    /// n.
    fn order(&self) -> usize;

    /// x ↦ x·Q.
    ///
    /// # Panics
    /// If `x` is not n long.
    fn turn(&self, x: &mut [f64]);
}

impl Orthogonal for Hadamard {
    fn order(&self) -> usize {
        Hadamard::order(self)
    }

    fn turn(&self, x: &mut [f64]) {
        self.apply(x);
    }
}

/// Q as numbers, row-major: n² products a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    order: usize,
    values: Vec<f64>,
}

impl Dense {
    /// Of n² numbers; that they are orthogonal is the caller's business.
    ///
    /// # Panics
    /// If their count is not `order`².
    pub fn new(order: usize, values: Vec<f64>) -> Dense {
        assert_eq!(values.len(), order * order, "a square matrix");
        Dense { order, values }
    }
}

impl fmt::Display for Dense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a learned matrix of order {}", self.order)
    }
}

impl Orthogonal for Dense {
    fn order(&self) -> usize {
        self.order
    }

    fn turn(&self, x: &mut [f64]) {
        assert_eq!(x.len(), self.order, "rotated values");
        let mut sums = vec![0.0; self.order];
        for (x, row) in x.iter().zip(self.values.chunks_exact(self.order)) {
            for (sum, q) in sums.iter_mut().zip(row) {
                *sum += x * q;
            }
        }
        x.copy_from_slice(&sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dense_matrix_turns_as_the_fast_one_does() -> crate::Result<()> {
        let fast = Hadamard::random(24, 3)?;
        let dense = Dense::new(24, fast.dense());
        let x: Vec<f64> = (0..24).map(|i| (i as f64 * 0.9).cos()).collect();
        let (mut a, mut b) = (x.clone(), x);
        fast.turn(&mut a);
        dense.turn(&mut b);
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-14));
        Ok(())
    }
}
