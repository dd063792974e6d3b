//! Rows of an activation: values, or what they are computed from where they are wanted.
//!
//! A norm or a gate is read once, by what rounds it for a product. Made row by row on the way there, it stays in the first cache, and
//! what goes to memory is rounded already: of a prompt of 512 a gate is 3 MB in f32. The bits are those of [`rms_norm`](super::activation::rms_norm) and
//! [`swiglu`](super::activation::swiglu), but for a gate that need not be so good.

use std::cell::RefCell;

use super::activation::{NormRow, SwigluRow, each_row};
use super::halves;
use super::isa::{Isa, vectorized};
use super::team::Team;

/// Some rows, all of the same length.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// Values (T, K).
    Values(&'a [f32]),
    /// RMSNorm of `x` (T, K) with `weight` (K).
    Normed {
        /// What is normed.
        x: &'a [f32],
        /// Of each column.
        weight: &'a [f32],
        /// Added to the mean of squares.
        epsilon: f32,
    },
    /// silu(gate) · up, each (T, K).
    Gated {
        /// What goes through the gate's curve.
        gate: &'a [f32],
        /// What it is multiplied with.
        up: &'a [f32],
        /// Whether what reads them rounds them to 8 places or bits, so that they need not be better than that.
        roughly: bool,
    },
}

thread_local! {
    /// A row that has just been computed.
    static ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl<'a> Rows<'a> {
    /// RMSNorm of `x` (T, K) with `weight` (K).
    pub fn normed(x: &'a [f32], weight: &'a [f32], epsilon: f32) -> Rows<'a> {
        Rows::Normed { x, weight, epsilon }
    }

    /// T · K.
    ///
    /// # Panics
    /// If the two parts of a gate are not of a size.
    pub fn len(self) -> usize {
        match self {
            Rows::Values(x) | Rows::Normed { x, .. } => x.len(),
            Rows::Gated { gate, up, .. } => {
                assert_eq!(gate.len(), up.len(), "SwiGLU sizes");
                gate.len()
            }
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Calls `work` with row `index` of `columns` values.
    pub(super) fn row<T>(
        self,
        isa: Isa,
        columns: usize,
        index: usize,
        work: impl FnOnce(&[f32]) -> T,
    ) -> T {
        let here = index * columns..(index + 1) * columns;
        if let Rows::Values(x) = self {
            return work(&x[here]);
        }
        ROW.with_borrow_mut(|row| {
            row.resize(columns, 0.0);
            self.compute(isa, columns, index, row);
            work(row)
        })
    }

    /// Row `index` rounded to bf16, two to a word, an odd end filled up with zero.
    pub(super) fn round(self, isa: Isa, columns: usize, index: usize, out: &mut [u32]) {
        let here = index * columns..(index + 1) * columns;
        match self {
            Rows::Gated { gate, up, roughly } if roughly => {
                halves::round_gated(isa, &gate[here.clone()], &up[here], out);
            }
            _ => self.row(isa, columns, index, |x| halves::round(isa, x, out)),
        }
    }

    /// Row `index`, into `out`.
    fn compute(self, isa: Isa, columns: usize, index: usize, out: &mut [f32]) {
        let here = index * columns..(index + 1) * columns;
        match self {
            Rows::Values(x) => out.copy_from_slice(&x[here]),
            Rows::Normed { x, weight, epsilon } => {
                vectorized(isa, NormRow, (&x[here], weight, epsilon, out));
            }
            Rows::Gated { gate, up, roughly } => {
                let (gate, up) = (&gate[here.clone()], &up[here]);
                if roughly {
                    return halves::gate(isa, gate, up, out);
                }
                out.copy_from_slice(gate);
                vectorized(isa, SwigluRow, (out, up));
            }
        }
    }

    /// All values (T, K).
    pub fn values(self, isa: Isa, columns: usize, team: &Team) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        each_row(&mut out, columns, team, |i, out| {
            self.compute(isa, columns, i, out);
        });
        out
    }
}
