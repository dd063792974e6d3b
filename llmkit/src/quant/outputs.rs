//! The error that rounding makes in a layer's outputs, from second moments of its inputs.
//!
//! With inputs X (T, K) and weights that change by E (N, K), Σ over tokens of ‖x·Eᵀ‖² is tr(E·G·Eᵀ), G = Σ x·xᵀ: one product with a K × K
//! matrix however many tokens there were. The part of one group of a row needs only G's block on the diagonal.

use rayon::prelude::*;

use crate::Result;
use crate::kernels::dense::{Element, Into, f32_words, multiply};
use crate::kernels::isa::Isa;
use crate::kernels::panel::Panels;
use crate::kernels::quadratic::quadratic;
use crate::kernels::team::Team;
use crate::quant::calibration::divide;
use crate::quant::parts::Plain;
use crate::quant::{Format, Granularity, Matrix};

/// Rows of G that are multiplied at once: G is symmetric, and what is right of the diagonal in them is all that is computed in vain.
const BLOCK: usize = 96;
/// Rows of a change that a thread takes at a time: a whole number of tiles of every kernel.
const ROWS: usize = 96;

/// G = Σ x·xᵀ in full (K, K).
#[derive(Debug, Clone)]
pub(super) struct Gram {
    columns: usize,
    values: Vec<f32>,
    /// Its lower triangle with half of the diagonal, so that twice this is G: [`BLOCK`] rows each, as long as their last one.
    blocks: Vec<Panels>,
}

impl Gram {
    /// Of its lower triangle, row after row, as [`Channels`](crate::quant::Channels) have it.
    ///
    /// # Panics
    /// If that is not K·(K + 1)/2 long.
    pub fn of(triangle: &[f32], columns: usize) -> Gram {
        let at = |i: usize, j: usize| triangle[i * (i + 1) / 2 + j];
        let mut values = vec![0.0; columns * columns];
        let rows = values.par_chunks_exact_mut(columns).enumerate();
        rows.for_each(|(i, row)| {
            let (left, right) = row.split_at_mut(i + 1);
            left.copy_from_slice(&triangle[i * (i + 1) / 2..][..i + 1]);
            let right = right.iter_mut().zip(i + 1..);
            right.for_each(|(value, j)| *value = at(j, i));
        });
        Gram::new(values, columns)
    }

    /// Of all its values.
    pub fn new(values: Vec<f32>, columns: usize) -> Gram {
        let starts: Vec<usize> = (0..columns).step_by(BLOCK).collect();
        let block = |&start: &usize| {
            let end = columns.min(start + BLOCK);
            let mut half = vec![0.0; (end - start) * end];
            for (row, i) in half.chunks_exact_mut(end).zip(start..) {
                row[..=i].copy_from_slice(&values[i * columns..][..=i]);
                row[i] *= 0.5;
            }
            Panels::of_f32(&half, end)
        };
        let blocks = starts.par_iter().map(block).collect();
        Gram {
            columns,
            values,
            blocks,
        }
    }

    /// That of the inputs whose channels are divided by `scales`.
    pub fn divided(&self, scales: &[f64]) -> Gram {
        let mut values = self.values.clone();
        let rows = values.par_chunks_exact_mut(self.columns).zip(scales);
        rows.for_each(|(row, &own)| divide(row, own, scales));
        Gram::new(values, self.columns)
    }

    /// tr(E·G·Eᵀ) for E (N, K).
    pub fn error(&self, change: &[f32]) -> f64 {
        let mut sums = vec![0.0; change.len() / self.columns];
        let parts = change.chunks(ROWS * self.columns);
        let parts = parts.zip(sums.chunks_mut(ROWS));
        Team::global().each(parts, &|_, (change, sums)| self.errors(change, sums));
        // Row by row, so that the sum has the same bits on any number of threads.
        2.0 * sums.iter().sum::<f64>()
    }

    /// Adds half of e·G·eᵀ to each of `sums`, for some rows e of a change.
    fn errors(&self, change: &[f32], sums: &mut [f64]) {
        let rows = sums.len();
        let (mut part, mut product) = (Vec::new(), vec![0.0; rows * BLOCK]);
        for (b, panels) in self.blocks.iter().enumerate() {
            let start = b * BLOCK;
            let end = self.columns.min(start + BLOCK);
            let lines = change.chunks_exact(self.columns);
            part.clear();
            lines
                .clone()
                .for_each(|e| part.extend_from_slice(&e[..end]));
            let (out, words) = (&mut product[..rows * (end - start)], f32_words(&part));
            multiply(
                Element::F32,
                words,
                panels,
                Into::Replace,
                out,
                Team::global(),
            );
            for ((sum, e), ge) in sums
                .iter_mut()
                .zip(lines)
                .zip(out.chunks_exact(end - start))
            {
                let terms = e[start..end].iter().zip(ge);
                *sum += terms
                    .map(|(e, ge)| f64::from(*e) * f64::from(*ge))
                    .sum::<f64>();
            }
        }
    }

    /// e·G·eᵀ for a change of the weights of one output that starts at input `from`.
    pub fn group_error(&self, change: &[f32], from: usize) -> f64 {
        let block = &self.values[from * self.columns + from..];
        quadratic(Isa::best(), block, self.columns, change)
    }
}

/// E = W − Q(W·diag(s))·diag(s)⁻¹, in f32.
pub(super) fn change(
    matrix: &Plain,
    scales: &[f64],
    format: &dyn Format,
    name: &str,
) -> Result<Vec<f32>> {
    let columns = matrix.columns;
    let mut scaled = vec![0.0; matrix.values.len()];
    let lines = scaled.par_chunks_exact_mut(columns);
    lines
        .zip(matrix.values.par_chunks_exact(columns))
        .for_each(|(scaled, row)| {
            for ((scaled, w), s) in scaled.iter_mut().zip(row).zip(scales) {
                *scaled = (w * s) as f32;
            }
        });
    format
        .check(matrix.rows(), columns)
        .map_err(|error| error.in_layer(name))?;
    let mut out = rounded(Matrix::new(matrix.rows(), columns, scaled)?, format)?;
    let lines = out.par_chunks_exact_mut(columns);
    lines
        .zip(matrix.values.par_chunks_exact(columns))
        .for_each(|(out, row)| {
            for ((out, w), s) in out.iter_mut().zip(row).zip(scales) {
                *out = (w - f64::from(*out) / s) as f32;
            }
        });
    Ok(out)
}

/// The weights that rounding to nearest makes of `weights`.
///
/// # Errors
/// Those of the format.
fn rounded(weights: Matrix, format: &dyn Format) -> Result<Vec<f32>> {
    let columns = weights.cols();
    let whole = format.fit_whole(&weights)?;
    let encode = |index: usize, block: &mut [f32], codes: &mut [u8]| -> Result<()> {
        let codes = &mut codes[..block.len()];
        let grid = format.encode(&whole, index, block, codes)?;
        format.values(&grid, 0, codes, block);
        Ok(())
    };
    let mut out = weights.into_data();
    let Some(group) = group(format, columns) else {
        let mut codes = vec![0; out.len()];
        encode(0, &mut out, &mut codes)?;
        return Ok(out);
    };
    let per_row = columns.div_ceil(group);
    let rows = out.par_chunks_exact_mut(columns).enumerate();
    rows.try_for_each_init(
        || vec![0; group],
        |codes, (n, row)| {
            let mut blocks = row.chunks_mut(group).enumerate();
            blocks.try_for_each(|(j, block)| encode(n * per_row + j, block, codes))
        },
    )?;
    Ok(out)
}

/// Weights in a group of rows of `columns`; none if the whole matrix has one grid.
pub(super) fn group(format: &dyn Format, columns: usize) -> Option<usize> {
    match format.granularity() {
        Granularity::Tensor => None,
        Granularity::Channel => Some(columns),
        Granularity::Group(group) => Some(group.min(columns)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::format::IntAffine;
    use crate::quant::method::Rtn;
    use crate::quant::{Collect, Method};

    #[test]
    fn what_is_rounded_here_is_round_to_nearest() -> Result<()> {
        let data: Vec<f32> = (0..5 * 20).map(|i| (i as f32 * 0.7).sin()).collect();
        let weights = Matrix::new(5, 20, data)?;
        for granularity in [
            Granularity::Tensor,
            Granularity::Channel,
            Granularity::Group(8),
        ] {
            let format = IntAffine::new(3, granularity)?;
            let expected = Rtn.quantize(&weights, &format)?.decode()?;
            assert_eq!(rounded(weights.clone(), &format)?, expected.data());
        }
        Ok(())
    }

    #[test]
    fn the_error_is_that_of_the_outputs_token_by_token() -> Result<()> {
        error_is_right(20)?;
        // More than one block of G, the last of them not whole.
        error_is_right(2 * BLOCK + 9)
    }

    fn error_is_right(columns: usize) -> Result<()> {
        let (tokens, rows) = (7, 5);
        let noise = |count: usize, at: f32| {
            (0..count)
                .map(|i| (i as f32 * at).sin())
                .collect::<Vec<f32>>()
        };
        let (x, change) = (noise(tokens * columns, 0.7), noise(rows * columns, 1.3));
        let mut collect = Collect::new(true);
        crate::model::Hook::visit(&mut collect, "a.in", columns, &mut x.clone())?;
        let statistics = collect.finish();
        let gram = Gram::of(&statistics.get("a.in")?.gram, columns);
        // ‖x·Eᵀ‖² over channels from … to, in f64.
        let expected = |change: &[f32], from: usize, width: usize, scales: &[f64]| -> f64 {
            let tokens = x.chunks_exact(columns);
            let outputs = tokens.flat_map(|x| change.chunks_exact(width).map(move |e| (x, e)));
            outputs
                .map(|(x, e)| {
                    let terms = x[from..].iter().zip(e).zip(&scales[from..]);
                    let dot: f64 = terms
                        .map(|((x, e), s)| f64::from(*x) / s * f64::from(*e))
                        .sum();
                    dot * dot
                })
                .sum()
        };
        let close = |got: f64, expected: f64| {
            assert!((got / expected - 1.0).abs() < 1e-5, "{got} for {expected}");
        };
        let ones = vec![1.0; columns];
        close(gram.error(&change), expected(&change, 0, columns, &ones));
        close(
            gram.group_error(&change[..6], 9),
            expected(&change[..6], 9, 6, &ones),
        );
        let scales: Vec<f64> = (0..columns).map(|k| 1.0 + k as f64 / 7.0).collect();
        close(
            gram.divided(&scales).error(&change),
            expected(&change, 0, columns, &scales),
        );
        Ok(())
    }
}
