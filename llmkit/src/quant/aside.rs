//! What a quantized matrix stores beside codes and grids: that it was turned, and weights of its own.

use crate::Result;
use crate::linalg::hadamard::{Hadamard, Real};

/// What is done to decoded weights, in the order in which it was put there.
#[derive(Debug, Clone, PartialEq)]
pub enum Aside {
    /// Codes are of the matrix in turned coordinates.
    Turned(Turn),
    /// Some weights are added to what codes say.
    Sparse(Sparse),
}

impl Aside {
    /// Bytes stored.
    pub fn bytes(&self) -> usize {
        match self {
            Aside::Turned(turn) => turn.bytes(),
            Aside::Sparse(sparse) => sparse.bytes(),
        }
    }

    /// Decoded `weights` (N, `cols`) as they are meant.
    ///
    /// # Errors
    /// Those of [`Turn::rotations`].
    pub fn restore(&self, weights: &mut [f32], cols: usize) -> Result<()> {
        match self {
            Aside::Turned(turn) => turn.undo(weights, cols),
            Aside::Sparse(sparse) => {
                sparse.add(weights, cols);
                Ok(())
            }
        }
    }
}

/// An orthogonal matrix made of Hadamard matrices along its diagonal.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotation(Vec<Hadamard>);

impl Rotation {
    /// Of order `length`, in blocks of `block`; with random signs by `seed`, if there is one. What is left at the end, and a whole for
    /// which there is no Hadamard matrix, is cut into powers of two, the greatest first.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if there is no Hadamard matrix of order `block`.
    pub fn new(length: usize, block: Option<usize>, seed: Option<u64>) -> Result<Rotation> {
        let mut sizes = Vec::new();
        let mut left = length;
        match block {
            Some(block) => {
                Hadamard::new(block)?;
                sizes = vec![block; length / block];
                left %= block;
            }
            None if length > 0 && Hadamard::new(length).is_ok() => {
                sizes.push(length);
                left = 0;
            }
            None => {}
        }
        while left > 0 {
            let size = 1 << left.ilog2();
            sizes.push(size);
            left -= size;
        }
        let each = sizes.into_iter().enumerate().map(|(i, size)| match seed {
            Some(seed) => Hadamard::random(size, seed.wrapping_add(i as u64)),
            None => Hadamard::new(size),
        });
        Ok(Rotation(each.collect::<Result<_>>()?))
    }

    /// x ↦ x·Q.
    pub fn apply<T: Real>(&self, x: &mut [T]) {
        self.each(x, |hadamard, part| hadamard.apply(part));
    }

    /// x ↦ x·Qᵀ.
    pub fn invert<T: Real>(&self, x: &mut [T]) {
        self.each(x, |hadamard, part| hadamard.invert(part));
    }

    fn each<T: Real>(&self, x: &mut [T], turn: impl Fn(&Hadamard, &mut [T])) {
        let mut rest = x;
        for hadamard in &self.0 {
            let (part, after) = rest.split_at_mut(hadamard.order());
            turn(hadamard, part);
            rest = after;
        }
    }
}

/// Turned coordinates: W' = Qₙᵀ·W·Qₖ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Hadamard matrices of this order along the inputs and none along the outputs; [`None`] for one of all inputs and one of all
    /// outputs.
    pub block: Option<usize>,
    /// Of random signs.
    pub seed: Option<u64>,
}

impl Turn {
    /// The seed, if there is one.
    pub fn bytes(&self) -> usize {
        match self.seed {
            Some(_) => 8,
            None => 0,
        }
    }

    /// Qₖ, and Qₙ if outputs are turned.
    ///
    /// # Errors
    /// Those of [`Rotation::new`].
    pub fn rotations(&self, rows: usize, cols: usize) -> Result<(Rotation, Option<Rotation>)> {
        let other = self.seed.map(|seed| !seed);
        let outputs = match self.block {
            Some(_) => None,
            None => Some(Rotation::new(rows, None, other)?),
        };
        Ok((Rotation::new(cols, self.block, self.seed)?, outputs))
    }

    /// W (N, `cols`) in turned coordinates.
    ///
    /// # Errors
    /// Those of [`Rotation::new`].
    pub fn apply(&self, weights: &mut [f32], cols: usize) -> Result<()> {
        let (inputs, outputs) = self.rotations(weights.len() / cols.max(1), cols)?;
        weights
            .chunks_exact_mut(cols)
            .for_each(|row| inputs.apply(row));
        if let Some(outputs) = outputs {
            down(weights, cols, |column| outputs.apply(column));
        }
        Ok(())
    }

    /// The way back.
    ///
    /// # Errors
    /// Those of [`Rotation::new`].
    pub fn undo(&self, weights: &mut [f32], cols: usize) -> Result<()> {
        let (inputs, outputs) = self.rotations(weights.len() / cols.max(1), cols)?;
        if let Some(outputs) = outputs {
            down(weights, cols, |column| outputs.invert(column));
        }
        weights
            .chunks_exact_mut(cols)
            .for_each(|row| inputs.invert(row));
        Ok(())
    }
}

/// Changes each column.
pub(super) fn down<T: Real>(matrix: &mut [T], cols: usize, change: impl Fn(&mut [T])) {
    // Sixteen at a time: a line of the cache is read once.
    for first in (0..cols).step_by(16) {
        let count = 16.min(cols - first);
        let rows = matrix.len() / cols;
        let mut columns = vec![T::default(); rows * count];
        for (n, row) in matrix.chunks_exact(cols).enumerate() {
            for (i, &value) in row[first..first + count].iter().enumerate() {
                columns[i * rows + n] = value;
            }
        }
        columns.chunks_exact_mut(rows).for_each(&change);
        for (n, row) in matrix.chunks_exact_mut(cols).enumerate() {
            for (i, value) in row[first..first + count].iter_mut().enumerate() {
                *value = columns[i * rows + n];
            }
        }
    }
}

/// Weights stored one by one, in f16, each with its column; how many each row has, in 32 bits.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sparse {
    /// Row, column and value, row by row.
    pub entries: Vec<(usize, usize, half::f16)>,
    /// N and K of the matrix.
    pub shape: (usize, usize),
}

impl Sparse {
    /// A value and a column of 16 bits (32 where K is above 2¹⁶) each, and a count a row.
    pub fn bytes(&self) -> usize {
        let index = if self.shape.1 <= 1 << 16 { 2 } else { 4 };
        self.entries.len() * (2 + index) + 4 * self.shape.0
    }

    fn add(&self, weights: &mut [f32], cols: usize) {
        for &(row, column, value) in &self.entries {
            weights[row * cols + column] += value.to_f32();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::samples;

    #[test]
    fn turns_are_undone_and_keep_lengths() -> Result<()> {
        for (rows, cols) in [(12, 48), (3, 67), (1, 1), (5, 3), (20, 576)] {
            let original = samples::correlated(rows, cols, 3);
            for (block, seed) in [(None, Some(7)), (Some(16), None), (Some(12), Some(1))] {
                let turn = Turn { block, seed };
                let mut weights = original.clone();
                turn.apply(&mut weights, cols)?;
                let power = |w: &[f32]| w.iter().map(|w| f64::from(w * w)).sum::<f64>();
                assert!((power(&weights) / power(&original) - 1.0).abs() < 1e-5);
                assert!(cols < 2 || rows < 2 || weights != original);
                turn.undo(&mut weights, cols)?;
                let most = original.iter().fold(0f32, |a, w| a.max(w.abs()));
                let off = weights.iter().zip(&original).map(|(a, b)| (a - b).abs());
                assert!(off.fold(0.0, f32::max) < 1e-5 * most);
                assert_eq!(turn.bytes(), if seed.is_some() { 8 } else { 0 });
            }
        }
        assert!(Rotation::new(64, Some(5), None).is_err());
        Ok(())
    }

    #[test]
    fn sparse_weights_are_added_and_counted() {
        let entries = vec![
            (0, 1, half::f16::from_f32(2.0)),
            (1, 0, half::f16::from_f32(-1.0)),
        ];
        let sparse = Sparse {
            entries,
            shape: (2, 2),
        };
        let mut weights = [1.0; 4];
        sparse.add(&mut weights, 2);
        assert_eq!(weights, [1.0, 3.0, 0.0, 1.0]);
        assert_eq!(sparse.bytes(), 2 * 4 + 2 * 4);
    }
}
