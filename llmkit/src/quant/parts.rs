//! The matrices and vectors of a network in f64, to be worked on: what [transforms](super::transform) see.
//!
//! A transform is written against [`Parts`] and knows no precision: on a [`Llama`] what it sets is rounded to f32 once; on a network
//! that is f64 throughout (in tests) the same code shows that the function stays the same to 1e-9 and better.

use std::sync::Arc;

use rayon::prelude::*;

use crate::linalg::{Hadamard, Orthogonal};
use crate::model::{Config, Llama, WeightType};
use crate::{Error, Result};

/// A matrix (N, K) in f64, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Plain {
    /// K.
    pub columns: usize,
    /// N rows of K.
    pub values: Vec<f64>,
}

impl Plain {
    /// N.
    pub fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    /// As f32, rounded to nearest.
    pub fn to_f32(&self) -> Vec<f32> {
        self.values.par_iter().map(|&it| it as f32).collect()
    }

    /// Column j times `factors[j]`.
    ///
    /// # Panics
    /// If there are not K factors.
    pub fn scale_columns(&mut self, factors: &[f64]) {
        assert_eq!(factors.len(), self.columns, "factors of columns");
        let rows = self.values.par_chunks_exact_mut(self.columns);
        rows.for_each(|row| row.iter_mut().zip(factors).for_each(|(x, f)| *x *= f));
    }

    /// Row i times `factors[i]`.
    ///
    /// # Panics
    /// If there are not N factors.
    pub fn scale_rows(&mut self, factors: &[f64]) {
        assert_eq!(factors.len(), self.rows(), "factors of rows");
        let rows = self.values.par_chunks_exact_mut(self.columns);
        rows.zip(factors)
            .for_each(|(row, f)| row.iter_mut().for_each(|x| *x *= f));
    }

    /// W·Q, with Q the rotation, or as many copies of it along the diagonal as fit K.
    ///
    /// # Panics
    /// If K is not a multiple of the rotation's order.
    pub fn rotate_rows(&mut self, rotation: &dyn Orthogonal) {
        assert!(self.columns.is_multiple_of(rotation.order()), "order");
        let parts = self.values.par_chunks_exact_mut(rotation.order());
        parts.for_each(|part| rotation.turn(part));
    }

    /// Qᵀ·W, with Q the rotation, or as many copies of it along the diagonal as fit N.
    ///
    /// # Panics
    /// If N is not a multiple of the rotation's order.
    pub fn rotate_columns(&mut self, rotation: &dyn Orthogonal) {
        *self = self.transposed();
        self.rotate_rows(rotation);
        *self = self.transposed();
    }

    /// Wᵀ.
    pub fn transposed(&self) -> Plain {
        let (rows, columns) = (self.rows(), self.columns);
        let mut values = vec![0.0; self.values.len()];
        let lines = values.par_chunks_exact_mut(rows.max(1)).enumerate();
        lines.for_each(|(j, line)| {
            for (i, out) in line.iter_mut().enumerate() {
                *out = self.values[i * columns + j];
            }
        });
        Plain {
            columns: rows,
            values,
        }
    }

    /// Column j is what column `order[j]` was.
    ///
    /// # Panics
    /// If an entry of `order` is no column.
    pub fn permute_columns(&mut self, order: &[usize]) {
        let columns = self.columns;
        self.values.par_chunks_exact_mut(columns).for_each(|row| {
            let moved: Vec<f64> = order.iter().map(|&from| row[from]).collect();
            row.copy_from_slice(&moved);
        });
    }

    /// Row i is what row `order[i]` was.
    ///
    /// # Panics
    /// If an entry of `order` is no row.
    pub fn permute_rows(&mut self, order: &[usize]) {
        let row = |&from: &usize| &self.values[from * self.columns..][..self.columns];
        self.values = order.iter().flat_map(row).copied().collect();
    }

    /// max |w| of each column.
    pub fn column_maxima(&self) -> Vec<f64> {
        let mut maxima = vec![0f64; self.columns];
        for row in self.values.chunks_exact(self.columns) {
            for (max, x) in maxima.iter_mut().zip(row) {
                *max = max.max(x.abs());
            }
        }
        maxima
    }
}

/// A network whose parts can be read and set, by the names of [`Llama::matrix_names`] and [`Llama::vector_names`].
pub trait Parts {
    /// Sizes.
    fn config(&self) -> &Config;

    /// A matrix; `output.weight` is the head, tied or not.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none of that name.
    fn matrix(&self, name: &str) -> Result<Plain>;

    /// Replaces a matrix. While the head is the embedding, `token_embd.weight` is both; `output.weight` makes a head of its own.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Shape`], [`Error::Format`] if a value is not finite.
    fn set_matrix(&mut self, name: &str, matrix: &Plain) -> Result<()>;

    /// A vector: gains of a norm, biases.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none of that name.
    fn vector(&self, name: &str) -> Result<Vec<f64>>;

    /// Replaces a vector.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Shape`], [`Error::Argument`] if a value is not finite.
    fn set_vector(&mut self, name: &str, values: &[f64]) -> Result<()>;

    /// Whether the head is the embedding.
    fn is_tied(&self) -> bool;

    /// Rotates the input of layer `n`'s `ffn_down` on its way.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Shape`]; [`Error::Argument`] if it is rotated already.
    fn set_ffn_rotation(&mut self, n: usize, rotation: Arc<Hadamard>) -> Result<()>;

    /// Whether the input of layer `n`'s `ffn_down` is rotated on its way.
    fn has_ffn_rotation(&self, n: usize) -> bool;
}

/// Reads, changes and sets one matrix.
pub(super) fn edit(
    parts: &mut dyn Parts,
    name: &str,
    change: impl FnOnce(&mut Plain),
) -> Result<()> {
    let mut matrix = parts.matrix(name)?;
    change(&mut matrix);
    parts.set_matrix(name, &matrix)
}

impl Parts for Llama {
    fn config(&self) -> &Config {
        Llama::config(self)
    }

    fn matrix(&self, name: &str) -> Result<Plain> {
        let layer = self.linear(name)?;
        let (rows, columns) = layer.shape();
        let mut values = vec![0.0; rows * columns];
        let lines = values.par_chunks_exact_mut(columns).enumerate();
        lines.for_each_init(
            || vec![0.0; columns],
            |row, (n, out)| {
                layer.row(n, row);
                out.iter_mut()
                    .zip(row)
                    .for_each(|(out, x)| *out = f64::from(*x));
            },
        );
        Ok(Plain { columns, values })
    }

    fn set_matrix(&mut self, name: &str, matrix: &Plain) -> Result<()> {
        let layer = WeightType::F32.layer(name, &matrix.to_f32(), matrix.columns)?;
        *self = match name {
            "output.weight" => self.with_head(layer)?,
            _ => self.with_linear(name, layer)?,
        };
        Ok(())
    }

    fn vector(&self, name: &str) -> Result<Vec<f64>> {
        let values = Llama::vector(self, name)?;
        Ok(values.iter().map(|&it| f64::from(it)).collect())
    }

    fn set_vector(&mut self, name: &str, values: &[f64]) -> Result<()> {
        *self = self.with_vector(name, values.iter().map(|&it| it as f32).collect())?;
        Ok(())
    }

    fn is_tied(&self) -> bool {
        Llama::is_tied(self)
    }

    fn set_ffn_rotation(&mut self, n: usize, rotation: Arc<Hadamard>) -> Result<()> {
        if self.ffn_rotation(n).is_some() {
            let name = format!("input of blk.{n}.ffn_down");
            return Err(Error::argument(
                name,
                "one that is not rotated",
                "a second rotation",
            ));
        }
        *self = self.with_ffn_rotation(n, Some(rotation))?;
        Ok(())
    }

    fn has_ffn_rotation(&self, n: usize) -> bool {
        self.ffn_rotation(n).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, columns: usize) -> Plain {
        Plain {
            columns,
            values: (0..rows * columns)
                .map(|i| (i as f64 * 0.7).sin())
                .collect(),
        }
    }

    #[test]
    fn rows_and_columns_are_not_mixed_up() {
        let w = matrix(3, 2);
        let mut scaled = w.clone();
        scaled.scale_rows(&[1.0, 2.0, 3.0]);
        scaled.scale_columns(&[1.0, 10.0]);
        assert_eq!(scaled.values[3], w.values[3] * 20.0);
        let mut moved = w.clone();
        moved.permute_rows(&[2, 0, 1]);
        moved.permute_columns(&[1, 0]);
        assert_eq!(moved.values[0], w.values[5]);
        assert_eq!(w.transposed().values[1], w.values[2]);
        assert_eq!(w.transposed().transposed(), w);
        assert_eq!(
            w.column_maxima()[1],
            [1, 3, 5]
                .map(|i| w.values[i].abs())
                .into_iter()
                .fold(0.0, f64::max)
        );
    }

    #[test]
    fn both_rotations_are_products_with_the_dense_matrix() -> Result<()> {
        let rotation = Hadamard::random(4, 2)?;
        let q = rotation.dense();
        let w = matrix(8, 4);
        let (mut right, mut left) = (w.clone(), w.clone());
        right.rotate_rows(&rotation);
        left.rotate_columns(&rotation);
        for i in 0..8 {
            for j in 0..4 {
                let wq: f64 = (0..4).map(|k| w.values[i * 4 + k] * q[k * 4 + j]).sum();
                // Two copies of Q along the diagonal for eight rows.
                let (block, row) = (i / 4 * 4, i % 4);
                let qw: f64 = (0..4)
                    .map(|k| q[k * 4 + row] * w.values[(block + k) * 4 + j])
                    .sum();
                assert!((right.values[i * 4 + j] - wq).abs() < 1e-14);
                assert!((left.values[i * 4 + j] - qw).abs() < 1e-14);
            }
        }
        Ok(())
    }
}
