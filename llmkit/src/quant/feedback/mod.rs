//! Error feedback: columns are rounded one after the other, and what each loses is made up for by those that come later.
//!
//! ```text
//! for each column i, in some order:   ŵᵢ = nearest(wᵢ),   δ = wᵢ − ŵᵢ,   wⱼ ← wⱼ − δ·Tᵢⱼ for all j > i          (each row of W on its own)
//! ```
//! with T from the Hessian of the outputs' error ([`factor`]): the columns that are left are always the best there are, given those that
//! are done.
//!
//! What makes it fast: rows are independent, so threads take some rows each, with all columns; feedback is applied inside a block of
//! columns at once, and to everything right of it as one product when the block is done. Blocks end where a group begins, so that
//! a grid that is fitted when its group begins sees weights that all earlier errors have reached.
//!
//! Source: E. Frantar et al., *GPTQ* (arXiv 2210.17323), algorithm 1. J. Chee et al., *QuIP* (arXiv 2307.13304), have the same
//! codes from sums of original errors (LDLQ); the weights in between differ, and with them grids that are fitted when reached.
//!
//! Cost: N·K² flops and 2·K³/3 for T, all in f64, and two (K, K) matrices.

use std::sync::Mutex;

mod factor;
#[cfg(test)]
mod tests;

pub(super) use factor::Factor;

use super::format::{Format, Granularity, Grid, Whole};
use super::{Applied, Matrix, Quantized, ranges};
use crate::kernels::update::{Rows, update_at};
use crate::kernels::{Isa, Team};
use crate::{Error, Result, interrupt};

/// Columns in a block.
const BLOCK: usize = 64;
/// Rows that a thread takes at a time.
const ROWS: usize = 48;

/// When the grid of a group is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Grids {
    /// When its first column is reached, to the weights as they then are. Needs the columns in their natural order.
    #[default]
    Reached,
    /// Before anything is rounded, to the weights as they were ("static groups").
    Before,
    /// Before, with the range cut to where the squared error of rounding to nearest is least.
    Searched,
}

/// A matrix on its way into a format.
pub(super) struct Sweep<'a> {
    pub weights: &'a Matrix,
    pub format: &'a dyn Format,
    pub factor: &'a Factor,
    pub grids: Grids,
    /// What columns do about inputs that are not what they were, [`Factor::drift`].
    pub drift: Option<&'a [f64]>,
    /// Columns in a block, but for those of whole vectors; the result does not depend on it.
    pub block: usize,
}

/// Some rows: where they begin, their codes and grids.
struct Part<'a> {
    first: usize,
    codes: &'a mut [u8],
    grids: &'a mut [Grid],
}

impl<'a> Sweep<'a> {
    /// With the usual blocks.
    pub fn new(
        weights: &'a Matrix,
        format: &'a dyn Format,
        factor: &'a Factor,
        grids: Grids,
    ) -> Sweep<'a> {
        Sweep {
            weights,
            format,
            factor,
            grids,
            drift: None,
            block: BLOCK,
        }
    }

    /// Columns that share a grid.
    fn group(&self) -> usize {
        match self.format.granularity() {
            Granularity::Tensor | Granularity::Channel => self.weights.cols(),
            Granularity::Group(group) => group.min(self.weights.cols()),
        }
    }

    /// Rounds everything; `applied` gets damping, dead inputs and what was clipped.
    ///
    /// # Errors
    /// [`Error::Argument`] if the format cannot store a shape or a range, or grids are to be fitted when they are reached and columns
    /// are not in their order; [`Error::Interrupted`].
    pub fn run(&self, applied: Applied) -> Result<Quantized> {
        let (rows, cols) = (self.weights.rows(), self.weights.cols());
        self.format.check(rows, cols)?;
        let whole = self.format.fit_whole(self.weights)?;
        let is_natural = self.factor.order.iter().copied().eq(0..cols);
        let groups = cols.div_ceil(self.group());
        let is_tensor = self.format.granularity() == Granularity::Tensor;
        let is_before = self.grids != Grids::Reached || groups == 1;
        if (!is_before || self.format.vector() > 1) && !is_natural {
            let got = "columns in another order";
            return Err(Error::argument(
                "grids",
                "fitted before where columns are reordered, and weights that are rounded one by one",
                got,
            ));
        }
        let blocks = self.format.granularity().blocks(rows, cols);
        let mut grids = match is_before {
            true => (blocks.enumerate())
                .map(|(index, block)| self.fit(&whole, index, &self.weights.data()[block]))
                .collect::<Result<Vec<Grid>>>()?,
            false => vec![Grid(Vec::new()); blocks.len()],
        };
        let mut codes = vec![0; rows * cols];
        // One grid for all rows is nobody's to change.
        let mut shared: Vec<Grid> = match is_tensor {
            true => vec![grids[0].clone(); rows],
            false => std::mem::take(&mut grids),
        };
        let parts = (codes.chunks_mut(ROWS * cols))
            .zip(shared.chunks_mut(ROWS * groups))
            .enumerate()
            .map(|(index, (codes, grids))| Part {
                first: index * ROWS,
                codes,
                grids,
            });
        let clipped = Mutex::new(Ok(Some(0)));
        Team::global().each(parts, &|_, part| {
            let new = self.some_rows(part, &whole, is_before);
            if let Ok(mut all) = clipped.lock() {
                *all = match (std::mem::replace(&mut *all, Ok(None)), new) {
                    (Err(error), _) | (_, Err(error)) => Err(error),
                    (Ok(a), Ok(b)) => Ok(a.zip(b).map(|(a, b)| a + b)),
                };
            }
        });
        let clipped = clipped.into_inner().unwrap_or(Ok(None))?;
        let grids = if is_tensor { grids } else { shared };
        let applied = Applied {
            damping: Some(self.factor.damping),
            dead_inputs: self.factor.dead,
            clipped,
            ..applied
        };
        let quantized = Quantized::pack(self.format, rows, cols, &whole, &codes, &grids)?;
        Ok(quantized.applying(applied))
    }

    /// The grid of a block before anything is rounded.
    fn fit(&self, whole: &Whole, index: usize, block: &[f32]) -> Result<Grid> {
        let grid = self.format.fit(whole, index, block)?;
        if self.grids != Grids::Searched {
            return Ok(grid);
        }
        let mut codes = vec![0; block.len()];
        self.format.round(&grid, 0, block, &mut codes);
        ranges::search(self.format, (whole, index), block, (grid, 1), &mut codes)
    }

    /// Columns that are decided at once.
    fn vector(&self) -> usize {
        let vector = match self.format.vector() {
            usize::MAX => self.format.stride(),
            vector => vector,
        };
        vector.min(self.group())
    }

    /// The sweep over all columns of some rows; how many weights were beyond their grid, if the format can tell.
    fn some_rows(&self, part: Part<'_>, whole: &Whole, is_before: bool) -> Result<Option<usize>> {
        interrupt::check("error feedback")?;
        let (cols, group, format) = (self.weights.cols(), self.group(), self.format);
        let Factor {
            order, feedback, ..
        } = self.factor;
        let (groups, isa) = (cols.div_ceil(group), Isa::best());
        let rows = part.codes.len() / cols;
        let original = &self.weights.data()[part.first * cols..][..rows * cols];
        // In the order of the sweep, as they change.
        let mut weights: Vec<f64> = (original.chunks_exact(cols))
            .flat_map(|row| order.iter().map(|&column| f64::from(row[column])))
            .collect();
        let (is_vector, vector) = (format.vector() > 1, self.vector());
        let bound = |grid: &Grid| match is_vector {
            true => 0.0,
            false => format.max_error(grid, &[]),
        };
        let mut bounds: Vec<f64> = match is_before {
            true => part.grids.iter().map(bound).collect(),
            false => vec![0.0; rows * groups],
        };
        let (mut clipped, mut is_known) = (0, true);
        // −δ of the columns of a block, of whole vectors.
        let width = match format.vector() {
            usize::MAX => group,
            vector => self.block.next_multiple_of(vector),
        };
        let mut errors = vec![0.0; rows * width];
        // Weights of the columns of a block as they were when it was their turn.
        let mut turns = vec![
            0.0;
            if self.drift.is_some() {
                rows * width
            } else {
                0
            }
        ];
        // Values of the vector that is being rounded, row by row.
        let mut ahead = vec![0.0; if is_vector { rows * width } else { 0 }];
        // Those of all of a block, where its weights hang together.
        let mut whole_block = vec![0.0; group];
        // Weights of a block as they change, close together.
        let mut block = vec![0.0; rows * width];
        let mut start = 0;
        while start < cols {
            // A group that is fitted when it is reached begins a block.
            let next = if is_before {
                cols
            } else {
                (start / group + 1) * group
            };
            let end = match format.vector() {
                usize::MAX => cols.min(start + group),
                _ => cols.min(start + width).min(next),
            };
            if !is_before && start.is_multiple_of(group) {
                for row in 0..rows {
                    let of_group = start..cols.min(start + group);
                    let now = weights[row * cols..][of_group].iter().map(|&w| w as f32);
                    let now: Vec<f32> = now.collect();
                    check_finite(&now, format)?;
                    let (at, index) = (start / group, (part.first + row) * groups + start / group);
                    part.grids[row * groups + at] = format.fit(whole, index, &now)?;
                    bounds[row * groups + at] = bound(&part.grids[row * groups + at]);
                }
            }
            let of_rows = block.chunks_exact_mut(width);
            for (block, weights) in of_rows.zip(weights.chunks_exact(cols)) {
                block[..end - start].copy_from_slice(&weights[start..end]);
            }
            for i in start..end {
                let (column, at) = (order[i], i - start);
                if is_vector && (i % group).is_multiple_of(vector) {
                    let is_block = format.vector() == usize::MAX;
                    let stop = if is_block { end } else { i + vector };
                    for row in 0..rows {
                        let now = block[row * width..][at..stop - start].iter();
                        let now: Vec<f32> = now.map(|&w| w as f32).collect();
                        check_finite(&now, format)?;
                        let grid = &part.grids[row * groups + i / group];
                        let values = &mut ahead[row * width + at..][..stop - i];
                        let codes = &mut part.codes[row * cols..];
                        if is_block {
                            let (codes, from) = (&mut codes[start..end], at);
                            format.round_rest(grid, from, &now, codes);
                            let block = &mut whole_block[..end - start];
                            format.values(grid, 0, codes, block);
                            values.copy_from_slice(&block[from..]);
                        } else {
                            let codes = &mut codes[i..stop];
                            format.round(grid, i % group, &now, codes);
                            format.values(grid, i % group, codes, values);
                        }
                    }
                }
                for row in 0..rows {
                    let turn = block[row * width + at];
                    let (grid, rounded) = (row * groups + column / group, [turn as f32]);
                    check_finite(&rounded, format)?;
                    let value = if is_vector {
                        f64::from(ahead[row * width + at])
                    } else {
                        let (mut code, mut value) = ([0], [0.0]);
                        format.round(&part.grids[grid], column % group, &rounded, &mut code);
                        format.values(&part.grids[grid], column % group, &code, &mut value);
                        part.codes[row * cols + column] = code[0];
                        f64::from(value[0])
                    };
                    clipped += usize::from((f64::from(rounded[0]) - value).abs() > bounds[grid]);
                    is_known &= bounds[grid] > 0.0;
                    errors[row * width + at] = value - turn;
                    if self.drift.is_some() {
                        turns[row * width + at] = turn;
                    }
                }
                // What the columns of the block that are left make up for.
                let sizes = (rows, 1, end - i - 1);
                for (left, right) in [(&errors, Some(&feedback[..])), (&turns, self.drift)] {
                    let Some(right) = right else { continue };
                    let left = Rows {
                        values: &left[at..],
                        stride: width,
                    };
                    let right = Rows {
                        values: &right[i * cols..][..end][i + 1..],
                        stride: cols,
                    };
                    update_at(isa, left, right, sizes, &mut block[at + 1..], width);
                }
            }
            if end < cols {
                let sizes = (rows, end - start, cols - end);
                let pairs = [(&errors, Some(&feedback[..])), (&turns, self.drift)];
                for (left, right) in pairs {
                    let Some(right) = right else { continue };
                    let left = Rows {
                        values: left,
                        stride: width,
                    };
                    let right = Rows {
                        values: &right[start * cols + end..],
                        stride: cols,
                    };
                    update_at(isa, left, right, sizes, &mut weights[end..], cols);
                }
            }
            start = end;
        }
        Ok(is_known.then_some(clipped))
    }
}

/// Feedback may drive a weight out of f32's range before it is its turn.
fn check_finite(weights: &[f32], format: &dyn Format) -> Result<()> {
    match weights.iter().find(|it| !it.is_finite()) {
        None => Ok(()),
        Some(weight) => {
            let name = format!("weight under error feedback in {}", format.name());
            Err(Error::argument(name, "a finite number", weight))
        }
    }
}
