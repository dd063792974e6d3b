//! Cutting weights before they are rounded, group by group of a row, as far as the outputs gain by it: the second half of
//! [AWQ](super::transform::awq).
//!
//! ```text
//! argmin over m ∈ {1, 0.95, …, 0.5} of e·G·eᵀ,     e = Q(clamp(w, −m·max|w|, m·max|w|)) − w
//! ```
//! for each group w of a row, G being the block of Σ x·xᵀ that belongs to it. Queries and keys are left.
//!
//! Source: J. Lin et al., *AWQ* (arXiv 2306.00978), and its repository, `auto_clip.py` (2023).
//!
//! Cost: 11 roundings of the matrix and 11·N·K·g multiplications in groups of g.

use rayon::prelude::*;

use crate::Result;
use crate::quant::outputs::{Gram, group};
use crate::quant::parts::{Parts, Plain};
use crate::quant::transform::Report;
use crate::quant::{Format, Matrix, Whole};

/// Steps in which a range could shrink to nothing, of which half are tried: the original's.
const STEPS: usize = 20;

/// Cuts the weights of each group where that makes the group's part of the output better.
pub(super) fn cut(
    format: &dyn Format,
    parts: &mut dyn Parts,
    name: &str,
    gram: &Gram,
    report: &mut Report,
) -> Result<()> {
    let place = format!("{name} clipped");
    if name.contains("attn_q") || name.contains("attn_k") {
        report.skipped(
            place,
            "queries and keys meet in a product, where cut weights weigh twice",
        );
        return Ok(());
    }
    let matrix = parts.matrix(name)?;
    let columns = matrix.columns;
    let Some(group) = group(format, columns) else {
        report.skipped(place, "one grid for the whole matrix: no groups to search");
        return Ok(());
    };
    let weights = Matrix::new(matrix.rows(), columns, matrix.to_f32())?;
    let whole = format.fit_whole(&weights)?;
    let per_row = columns.div_ceil(group);
    let mut clipped = weights.data().to_vec();
    let rows = clipped.par_chunks_exact_mut(columns).enumerate();
    let counts: Vec<usize> = rows
        .map(|(n, row)| {
            let mut count = 0;
            for (j, block) in row.chunks_mut(group).enumerate() {
                let error = |change: &[f32]| gram.group_error(change, j * group);
                let index = n * per_row + j;
                count += usize::from(cut_group(format, &whole, index, block, error)?);
            }
            Ok(count)
        })
        .collect::<Result<_>>()?;
    let count: usize = counts.iter().sum();
    let groups = weights.rows() * per_row;
    match count {
        0 => report.skipped(place, format!("none of {groups} groups is better for it")),
        _ => {
            let values = clipped.iter().map(|&it| f64::from(it)).collect();
            parts.set_matrix(name, &Plain { columns, values })?;
            report.done(place, format!("{count} of {groups} groups"));
        }
    }
    Ok(())
}

/// Cuts `block` where that lessens the `error` of its part of the output.
fn cut_group(
    format: &dyn Format,
    whole: &Whole,
    index: usize,
    block: &mut [f32],
    error: impl Fn(&[f32]) -> f64,
) -> Result<bool> {
    let original = block.to_vec();
    let largest = original.iter().fold(0f32, |max, w| max.max(w.abs()));
    let (mut codes, mut values) = (vec![0; block.len()], vec![0.0; block.len()]);
    let (mut cut, mut change) = (original.clone(), original.clone());
    let mut least = f64::INFINITY;
    let mut is_cut = false;
    for step in 0..=STEPS / 2 {
        let bound = largest * (1.0 - step as f32 / STEPS as f32);
        cut.iter_mut()
            .zip(&original)
            .for_each(|(cut, w)| *cut = w.clamp(-bound, bound));
        let grid = format.encode(whole, index, &cut, &mut codes)?;
        format.values(&grid, 0, &codes, &mut values);
        let pairs = values.iter().zip(&original);
        (change.iter_mut().zip(pairs)).for_each(|(change, (v, w))| *change = v - w);
        let error = error(&change);
        if error < least {
            least = error;
            is_cut = step > 0;
            block.copy_from_slice(&cut);
        }
    }
    Ok(is_cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::Granularity;
    use crate::quant::format::IntSymmetric;

    #[test]
    fn an_outlier_that_meets_silence_is_cut() -> Result<()> {
        // Channel 3 of 8 has a huge weight and no activation: cutting it makes the others' grid finer.
        let format = IntSymmetric::new(3, Granularity::Group(8))?;
        let original = [0.11f32, -0.2, 0.33, 0.9, 0.08, -0.27, 0.31, 0.19];
        let mut gram = vec![0.0; 64];
        (0..8).filter(|i| *i != 3).for_each(|i| gram[i * 9] = 1.0);
        let clip = |gram: &[f32]| -> Result<[f32; 8]> {
            let gram = Gram::new(gram.to_vec(), 8);
            let mut block = original;
            let error = |change: &[f32]| gram.group_error(change, 0);
            let is_cut = cut_group(&format, &Whole::default(), 0, &mut block, error)?;
            assert_eq!(is_cut, block != original);
            Ok(block)
        };
        assert!(clip(&gram)?[3] < 0.6);
        // Where it is heard, it stays.
        gram[27] = 100.0;
        assert_eq!(clip(&gram)?, original);
        Ok(())
    }
}
