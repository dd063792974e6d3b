//! The range of a block: fitted to less than its ends, where that leaves less error.

use super::format::{Format, Grid, Whole};
use crate::Result;

/// Cuts that are tried below the whole range.
pub(super) const CUTS: usize = 16;

/// The weights of a block cut to `low` … `high`.
pub(super) fn cut(block: &[f32], low: f32, high: f32) -> Vec<f32> {
    block.iter().map(|w| w.clamp(low, high)).collect()
}

/// Squared error of a block under its codes.
pub(super) fn squared_error(format: &dyn Format, grid: &Grid, block: &[f32], codes: &[u8]) -> f64 {
    let mut values = vec![0.0; block.len()];
    format.values(grid, 0, codes, &mut values);
    let errors = block.iter().zip(&values).map(|(w, v)| f64::from(w - v));
    errors.map(|error| error * error).sum()
}

/// Where `grid` and `codes` may be improved by the range cut to 1 − i/32 of the block's for i = `first` … 16: the grid of least squared
/// error, its codes in `codes`.
///
/// # Errors
/// Those of [`Format::fit`].
pub(super) fn search(
    format: &dyn Format,
    (whole, index): (&Whole, usize),
    block: &[f32],
    (grid, first): (Grid, usize),
    codes: &mut [u8],
) -> Result<Grid> {
    let mut best = grid;
    let mut least = squared_error(format, &best, block, codes);
    let ends = (block.iter()).fold((0f32, 0f32), |(lo, hi), &w| (lo.min(w), hi.max(w)));
    let mut tried = vec![0; block.len()];
    for step in first..=CUTS {
        if least == 0.0 {
            break;
        }
        let share = 1.0 - step as f32 / (2 * CUTS) as f32;
        let grid = format.fit(whole, index, &cut(block, share * ends.0, share * ends.1))?;
        format.round(&grid, 0, block, &mut tried);
        let error = squared_error(format, &grid, block, &tried);
        if error < least {
            (least, best) = (error, grid);
            codes.copy_from_slice(&tried);
        }
    }
    Ok(best)
}
