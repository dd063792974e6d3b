//! A layer that runs with its correction.

use std::sync::Arc;

use super::add_rows;
use crate::kernels::dense::{Element, Into};
use crate::model::Engine;
use crate::model::linear::{Dense, Input, Linear};

/// A layer with its correction: base(x) + B·(A·x).
#[derive(Debug)]
pub struct Corrected {
    base: Arc<dyn Linear>,
    a: Dense,
    b: Dense,
    /// A and B row by row.
    factors: (Vec<f32>, Vec<f32>),
    rank: usize,
}

impl Corrected {
    /// The layer that runs `base` and adds B·(A·x), with A (`rank`, `columns`) and B (N, `rank`).
    pub(super) fn new(
        base: Arc<dyn Linear>,
        factors: (Vec<f32>, Vec<f32>),
        (rank, columns): (usize, usize),
    ) -> Corrected {
        Corrected {
            base,
            a: Dense::new(Element::F32, &factors.0, columns),
            b: Dense::new(Element::F32, &factors.1, rank),
            factors,
            rank,
        }
    }
}

impl Linear for Corrected {
    fn shape(&self) -> (usize, usize) {
        self.base.shape()
    }

    fn kind(&self) -> String {
        format!("{} + rank {}", self.base.kind(), self.rank)
    }

    fn bytes(&self) -> usize {
        let rows = size_of_val(self.factors.0.as_slice()) + size_of_val(self.factors.1.as_slice());
        self.base.bytes() + self.a.bytes() + self.b.bytes() + rows
    }

    fn row(&self, n: usize, out: &mut [f32]) {
        self.base.row(n, out);
        let (a, b) = &self.factors;
        add_rows(a, &b[n * self.rank..][..self.rank], out);
    }

    fn forward(&self, x: &Input<'_>, into: Into, out: &mut [f32], engine: &Engine) {
        self.base.forward(x, into, out, engine);
        if self.rank == 0 {
            return;
        }
        let mut thin = vec![0.0; x.len() / x.columns * self.rank];
        self.a.forward(x, Into::Replace, &mut thin, engine);
        let thin = Input::new(&thin, self.rank, engine);
        self.b.forward(&thin, Into::Add, out, engine);
    }
}
