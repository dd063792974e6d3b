//! How matrices and measurements look in a notebook.

use super::{Matrix, Quantized, Sweep};
use crate::report::{Content, Show};

/// As a tensor: shape, range, moments, a small heat map.
impl Show for Matrix {
    fn bundle(&self) -> Vec<(&'static str, Content)> {
        match self.to_tensor() {
            Ok(tensor) => tensor.bundle(),
            Err(error) => error.bundle(),
        }
    }
}

/// One line: format, shape, true size.
impl Show for Quantized {
    fn bundle(&self) -> Vec<(&'static str, Content)> {
        vec![("text/plain", self.to_string().into())]
    }
}

/// As [`Sweep::table`].
impl Show for Sweep {
    fn bundle(&self) -> Vec<(&'static str, Content)> {
        match self.table() {
            Ok(table) => table.bundle(),
            Err(error) => error.bundle(),
        }
    }
}
