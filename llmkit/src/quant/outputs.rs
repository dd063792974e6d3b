//! The error that rounding makes in a layer's outputs, from second moments of its inputs.
//!
//! With inputs X (T, K) and weights that change by E (N, K), Σ over tokens of ‖x·Eᵀ‖² is tr(E·G·Eᵀ), G = Σ x·xᵀ: one product with a K × K
//! matrix however many tokens there were. The part of one group of a row needs only G's block on the diagonal.

use std::cmp::Ordering;

use rayon::prelude::*;

use crate::Result;
use crate::kernels::dense::{Element, Into, f32_words, multiply};
use crate::kernels::isa::Isa;
use crate::kernels::panel::Panels;
use crate::kernels::quadratic::quadratic;
use crate::kernels::team::Team;
use crate::quant::parts::Plain;
use crate::quant::{Format, Granularity, Matrix};

/// Rows of G that are multiplied at once: G is symmetric, and what is right of the diagonal in them is all that is computed in vain.
const BLOCK: usize = 192;

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
        let places = (0..columns * columns).map(|place| (place / columns, place % columns));
        let values = places.map(|(i, j)| at(i.max(j), i.min(j))).collect();
        Gram::new(values, columns)
    }

    /// Of all its values.
    pub fn new(values: Vec<f32>, columns: usize) -> Gram {
        let starts = (0..columns).step_by(BLOCK);
        let block = |start: usize| {
            let end = columns.min(start + BLOCK);
            let value = |i: usize, j: usize| match j.cmp(&i) {
                Ordering::Less => values[i * columns + j],
                Ordering::Equal => 0.5 * values[i * columns + j],
                Ordering::Greater => 0.0,
            };
            let places = (start..end).flat_map(|i| (0..end).map(move |j| (i, j)));
            let half: Vec<f32> = places.map(|(i, j)| value(i, j)).collect();
            Panels::of_f32(&half, end)
        };
        let blocks = starts.map(block).collect();
        Gram {
            columns,
            values,
            blocks,
        }
    }

    /// That of the inputs whose channels are divided by `scales`.
    pub fn divided(&self, scales: &[f64]) -> Gram {
        let rows = self.values.chunks_exact(self.columns).zip(scales);
        let values = rows.flat_map(|(row, si)| {
            let pairs = row.iter().zip(scales);
            pairs.map(move |(x, sj)| (f64::from(*x) / (si * sj)) as f32)
        });
        Gram::new(values.collect(), self.columns)
    }

    /// tr(E·G·Eᵀ) for E (N, K).
    pub fn error(&self, change: &[f32]) -> f64 {
        let (rows, team) = (change.len() / self.columns, Team::global());
        let mut total = 0.0;
        for (b, panels) in self.blocks.iter().enumerate() {
            let start = b * BLOCK;
            let end = self.columns.min(start + BLOCK);
            let mut part = vec![0.0; rows * end];
            let lines = part.par_chunks_exact_mut(end);
            lines
                .zip(change.par_chunks_exact(self.columns))
                .for_each(|(part, e)| part.copy_from_slice(&e[..end]));
            let mut out = vec![0.0; rows * (end - start)];
            let words = f32_words(&part);
            multiply(Element::F32, words, panels, Into::Replace, &mut out, team);
            let lines = change.par_chunks_exact(self.columns);
            let sums: Vec<f64> = lines
                .zip(out.par_chunks_exact(end - start))
                .map(|(e, ge)| {
                    let terms = e[start..end].iter().zip(ge);
                    terms.map(|(e, ge)| f64::from(*e) * f64::from(*ge)).sum()
                })
                .collect();
            // Row by row, so that the sum has the same bits on any number of threads.
            total += sums.iter().sum::<f64>();
        }
        2.0 * total
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
    let mut scaled = matrix.clone();
    scaled.scale_columns(scales);
    let scaled = Matrix::new(scaled.rows(), scaled.columns, scaled.to_f32())?;
    format
        .check(scaled.rows(), scaled.cols())
        .map_err(|error| error.in_layer(name))?;
    let mut out = rounded(&scaled, format)?;
    let lines = out.par_chunks_exact_mut(matrix.columns);
    lines
        .zip(matrix.values.par_chunks_exact(matrix.columns))
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
fn rounded(weights: &Matrix, format: &dyn Format) -> Result<Vec<f32>> {
    let columns = weights.cols();
    let whole = format.fit_whole(weights)?;
    let encode = |index: usize, block: &mut [f32]| -> Result<()> {
        let mut codes = vec![0; block.len()];
        let grid = format.encode(&whole, index, block, &mut codes)?;
        format.values(&grid, 0, &codes, block);
        Ok(())
    };
    let mut out = weights.data().to_vec();
    let Some(group) = group(format, columns) else {
        encode(0, &mut out)?;
        return Ok(out);
    };
    let per_row = columns.div_ceil(group);
    let rows = out.par_chunks_exact_mut(columns).enumerate();
    rows.try_for_each(|(n, row)| {
        let mut blocks = row.chunks_mut(group).enumerate();
        blocks.try_for_each(|(j, block)| encode(n * per_row + j, block))
    })?;
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
            assert_eq!(rounded(&weights, &format)?, expected.data());
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
