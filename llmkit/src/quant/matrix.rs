//! A weight matrix that has been looked at: not empty, finite, as long as its shape says.

use std::fmt;

use candle_core::{DType, Device, Tensor};

use super::Granularity;
use crate::{Error, Result};

/// A weight matrix `[N, K]` (outputs × inputs), row-major, finite, not empty.
#[derive(Clone, PartialEq)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
}

impl Matrix {
    /// A matrix of `rows` × `cols` (N × K) from row-major `data`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `data` is empty or does not have `rows * cols` elements, [`Error::Argument`] naming
    /// the first element that is not finite.
    pub fn new(rows: usize, cols: usize, data: Vec<f32>) -> Result<Matrix> {
        Matrix::named("weights", rows, cols, data)
    }

    /// A matrix from a two-dimensional candle tensor of any float type; `name` appears in errors.
    ///
    /// # Errors
    /// [`Error::Shape`] if the tensor has not exactly two dimensions or is empty, [`Error::Argument`] naming the
    /// first element that is not finite, [`Error::Tensor`] if it cannot be read as f32.
    pub fn from_tensor(name: &str, tensor: &Tensor) -> Result<Matrix> {
        let [rows, cols] = *tensor.dims() else {
            return Err(Error::Shape {
                operation: format!("read {name} as a matrix"),
                expected: "[N, K]".into(),
                got: format!("{:?}", tensor.dims()),
            });
        };
        let data = tensor
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        Matrix::named(name, rows, cols, data)
    }

    fn named(name: &str, rows: usize, cols: usize, data: Vec<f32>) -> Result<Matrix> {
        if data.is_empty() || rows.checked_mul(cols) != Some(data.len()) {
            return Err(Error::Shape {
                operation: format!("read {name} as a matrix"),
                expected: format!("[{rows}, {cols}] with at least one element"),
                got: format!("{} elements", data.len()),
            });
        }
        if let Some(at) = data.iter().position(|w| !w.is_finite()) {
            return Err(Error::argument(
                format!("{name}[{}, {}]", at / cols, at % cols),
                "a finite weight",
                data[at],
            ));
        }
        Ok(Matrix { rows, cols, data })
    }

    /// Outputs N.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs K.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The elements, row-major, `rows * cols` of them.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The elements, when nothing else is needed of it.
    pub(super) fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// Row `n`, K elements.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such row.
    pub fn row(&self, n: usize) -> Result<&[f32]> {
        self.data
            .chunks_exact(self.cols)
            .nth(n)
            .ok_or_else(|| Error::argument("row", format!("0 … {}", self.rows - 1), n))
    }

    /// How many different values each block of `granularity` holds. 2ᵇ or fewer in every block of g weights is the
    /// trace of an earlier b-bit quantization in groups of g.
    pub fn distinct_values(&self, granularity: Granularity) -> Vec<usize> {
        granularity
            .blocks(self.rows, self.cols)
            .map(|block| {
                let mut values = self.data[block].to_vec();
                // Adding 0 makes −0 into 0.
                values.iter_mut().for_each(|value| *value += 0.0);
                values.sort_by(f32::total_cmp);
                values.dedup();
                values.len()
            })
            .collect()
    }

    /// The matrix as a candle tensor `[N, K]`, f32, on the CPU.
    ///
    /// # Errors
    /// [`Error::Tensor`] if candle refuses.
    pub fn to_tensor(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(
            &self.data,
            (self.rows, self.cols),
            &Device::Cpu,
        )?)
    }

    /// [`to_tensor`](Self::to_tensor) when nothing else is needed of it.
    pub(super) fn into_tensor(self) -> Result<Tensor> {
        let shape = (self.rows, self.cols);
        Ok(Tensor::from_vec(self.data, shape, &Device::Cpu)?)
    }
}

impl fmt::Debug for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = self
            .data
            .iter()
            .fold((f32::MAX, f32::MIN), |(lo, hi), &w| (lo.min(w), hi.max(w)));
        write!(
            f,
            "Matrix [{}, {}], {:.4} … {:.4}",
            self.rows, self.cols, range.0, range.1
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_matrices_are_refused_by_name() {
        for (rows, cols, data, says) in [
            (0, 3, vec![], "[0, 3]"),
            (2, 2, vec![1.0; 3], "3 elements"),
            (usize::MAX, 2, vec![1.0; 3], "3 elements"),
            (2, 2, vec![0.0, 1.0, 2.0, f32::NAN], "weights[1, 1]"),
            (1, 2, vec![f32::NEG_INFINITY, 0.0], "weights[0, 0]"),
        ] {
            let error = Matrix::new(rows, cols, data).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn an_earlier_quantization_shows_in_the_values() -> Result<()> {
        let matrix = Matrix::new(1, 5, vec![0.5, -0.0, 0.0, 0.5, 0.25])?;
        assert_eq!(matrix.distinct_values(Granularity::Channel), [3]);
        assert_eq!(matrix.distinct_values(Granularity::Group(2)), [2, 2, 1]);
        Ok(())
    }

    #[test]
    fn tensors_go_in_and_out() -> Result<()> {
        let tensor = Tensor::arange(0f32, 6.0, &Device::Cpu)?.reshape((2, 3))?;
        // A transposed view is not contiguous: the elements must still come in row-major order.
        let matrix = Matrix::from_tensor("w", &tensor.t()?)?;
        assert_eq!(matrix.data(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(matrix.row(2)?, [2.0, 5.0]);
        assert!(matrix.row(3).is_err());
        assert_eq!(
            matrix.to_tensor()?.to_vec2::<f32>()?,
            tensor.t()?.to_vec2::<f32>()?
        );
        let cube = Tensor::zeros((2, 2, 2), DType::F32, &Device::Cpu)?;
        let error = Matrix::from_tensor("blk.0", &cube).unwrap_err().to_string();
        assert!(
            error.contains("blk.0") && error.contains("[2, 2, 2]"),
            "{error}"
        );
        Ok(())
    }
}
