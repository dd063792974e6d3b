//! LDLQ: error feedback for formats that round several weights at once.
//!
//! ```text
//! ŵ_B = nearest(w_B) for the columns B of a vector,   w_R ← w_R − (w_B − ŵ_B)·(H⁻¹_BB)⁻¹·H⁻¹_BR     for all columns R after it
//! ```
//! What is left over is always at its best, given what is done: so it is for one column at a time in GPTQ, and for vectors of one weight this
//! *is* GPTQ on grids that are fitted before.
//!
//! Source: J. Chee et al., *QuIP* (arXiv 2307.13304), section 3.1, for one weight at a time; A. Tseng et al., *QuIP#* (arXiv 2402.04396),
//! section 4.3 ("block LDLQ"), and *QTIP* (arXiv 2406.11235), section 3, for vectors and trellises.
//!
//! Cost: that of GPTQ and of the format's search.
//!
//! **Where we differ.** T comes from the factor that GPTQ has here, not from a block factorization: a vector's columns are fed back one after
//! the other once all of them are rounded, which gives the same. A trellis lies along a row and is searched again for what is left of it
//! after every eight columns; in the paper it fills tiles of 16 × 16, and errors are passed on after 16. Within a vector, H is not looked
//! at, as in the papers.

use super::{Method, known, parameter};
use crate::quant::calibration::Inputs;
use crate::quant::feedback::{Factor, Grids, Sweep};
use crate::quant::{Applied, Format, Granularity, Matrix, Quantized};
use crate::{Error, Result};

/// Error feedback, vector by vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ldlq {
    /// λ over the mean of H's diagonal, to begin with.
    pub damping: f64,
}

impl Default for Ldlq {
    fn default() -> Ldlq {
        Ldlq { damping: 0.01 }
    }
}

impl Method for Ldlq {
    fn name(&self) -> String {
        match *self == Ldlq::default() {
            true => "ldlq".to_owned(),
            false => format!("ldlq-damp{}", self.damping),
        }
    }

    fn needs_inputs(&self) -> bool {
        true
    }

    fn check(&self, format: &dyn Format) -> Result<()> {
        match (format.vector(), format.granularity()) {
            (usize::MAX, Granularity::Tensor) => Err(Error::argument(
                format!("{} with {}", self.name(), format.name()),
                "a format that rounds less than the whole matrix at once, as there must be something to feed errors back into",
                "one that rounds all of it",
            )),
            _ => Ok(()),
        }
    }

    fn choose(
        &self,
        weights: &Matrix,
        format: &dyn Format,
        inputs: Option<&Inputs>,
    ) -> Result<Quantized> {
        self.check(format)?;
        let inputs = known(self, weights, inputs)?;
        let order = (0..inputs.columns()).collect();
        let factor = Factor::new(inputs, order, self.damping)?;
        Sweep::new(weights, format, &factor, Grids::Before).run(Applied::by(self.name()))
    }

    fn named(&self, name: &str) -> Option<Box<dyn Method>> {
        let damping = parameter(name, ("ldlq", "-damp"), Ldlq::default().damping)?;
        Some(Box::new(Ldlq { damping }))
    }
}

/// The one with the authors' damping.
pub(super) fn members() -> Vec<Box<dyn Method>> {
    vec![Box::new(Ldlq::default())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::trellis::Hash;
    use crate::quant::format::{self, E8p, Trellis};
    use crate::quant::method::{Gptq, Rtn, named};
    use crate::quant::samples;

    fn layer(rows: usize, columns: usize) -> Result<(Matrix, Inputs)> {
        let x = samples::correlated(4 * columns, columns, 8);
        let weights = Matrix::new(rows, columns, samples::smooth(rows, columns, 9))?;
        Ok((weights, Inputs::of_samples("x", &x, columns)?))
    }

    #[test]
    fn one_weight_at_a_time_it_is_gptq() -> Result<()> {
        let (weights, inputs) = layer(12, 96)?;
        let gptq = Gptq {
            grids: Grids::Before,
            ..Gptq::default()
        };
        let mut count = 0;
        for format in format::all().iter().flat_map(|family| (family.members)()) {
            if format.vector() > 1 || format.check(12, 96).is_err() {
                continue;
            }
            let ours = Ldlq::default().choose(&weights, format.as_ref(), Some(&inputs))?;
            let theirs = gptq.choose(&weights, format.as_ref(), Some(&inputs))?;
            assert_eq!(ours.codes(), theirs.codes(), "{}", format.name());
            count += 1;
        }
        assert!(count > 40, "{count} formats");
        Ok(())
    }

    /// H + λ·I, inverted by Gauss and Jordan.
    fn inverse(inputs: &Inputs) -> Vec<f64> {
        let k = inputs.columns();
        let mean = (0..k).map(|i| inputs.hessian(i, i)).sum::<f64>() / k as f64;
        let mut rows: Vec<Vec<f64>> = (0..k)
            .map(|i| {
                let own = (0..k)
                    .map(|j| inputs.hessian(i, j) + f64::from(u8::from(i == j)) * 0.01 * mean);
                own.chain((0..k).map(|j| f64::from(u8::from(i == j))))
                    .collect()
            })
            .collect();
        for i in 0..k {
            let pivot = rows[i][i];
            rows[i].iter_mut().for_each(|it| *it /= pivot);
            let own = rows[i].clone();
            for (j, row) in rows.iter_mut().enumerate() {
                if j != i {
                    let factor = row[i];
                    row.iter_mut().zip(&own).for_each(|(a, b)| *a -= factor * b);
                }
            }
        }
        rows.iter()
            .flat_map(|row| row[k..].iter().copied())
            .collect()
    }

    /// ε with ε·A = δ, by elimination; A is small.
    fn solve(a: &[f64], delta: &[f64]) -> Vec<f64> {
        let n = delta.len();
        let mut rows: Vec<Vec<f64>> = (0..n)
            .map(|i| (0..n).map(|j| a[j * n + i]).chain([delta[i]]).collect())
            .collect();
        for i in 0..n {
            let pivot = rows[i][i];
            rows[i].iter_mut().for_each(|it| *it /= pivot);
            let own = rows[i].clone();
            for (j, row) in rows.iter_mut().enumerate() {
                if j != i {
                    let factor = row[i];
                    row.iter_mut().zip(&own).for_each(|(a, b)| *a -= factor * b);
                }
            }
        }
        rows.iter().map(|row| row[n]).collect()
    }

    /// The definition, with the inverse of what is left by elimination. `forget` feeds back as if the vector's columns were alone.
    fn slow(
        weights: &Matrix,
        format: &dyn Format,
        inputs: &Inputs,
        forget: bool,
    ) -> Result<Vec<u8>> {
        let (rows, k) = (weights.rows(), weights.cols());
        let group = match format.granularity() {
            Granularity::Group(group) => group,
            Granularity::Channel | Granularity::Tensor => k,
        };
        // Of a trellis the first eight weights are decided, and the rest is rounded again.
        let is_block = format.vector() == usize::MAX;
        let length = if is_block { 8 } else { format.vector() };
        let whole = format.fit_whole(weights)?;
        let blocks = format.granularity().blocks(rows, k);
        let grids = (blocks.enumerate())
            .map(|(index, block)| format.fit(&whole, index, &weights.data()[block]))
            .collect::<Result<Vec<_>>>()?;
        let mut codes = vec![0; rows * k];
        // Of all columns from the current one on: that of what is left after elimination is a part of the inverse.
        let inverse = inverse(inputs);
        for row in 0..rows {
            let mut w: Vec<f64> = weights.data()[row * k..][..k]
                .iter()
                .map(|&w| f64::from(w))
                .collect();
            // H⁻¹ of the columns that are left.
            let mut left = inverse.clone();
            let starts = (0..k).step_by(group);
            let starts = starts.flat_map(|at| (at..k.min(at + group)).step_by(length.min(group)));
            for first in starts {
                let block = first - first % group..k.min(first - first % group + group);
                let end = block.end.min(first + length);
                let rest = first..if is_block { block.end } else { end };
                let now: Vec<f32> = w[rest.clone()].iter().map(|&w| w as f32).collect();
                let grid = match format.granularity() {
                    Granularity::Tensor => &grids[0],
                    _ => &grids[row * k.div_ceil(group) + first / group],
                };
                let mut values = vec![0.0; now.len()];
                if is_block {
                    let mut all = vec![0.0; block.len()];
                    let own = &mut codes[row * k..][block];
                    format.round_rest(grid, first % group, &now, own);
                    format.values(grid, 0, own, &mut all);
                    values.copy_from_slice(&all[first % group..]);
                } else {
                    let own = &mut codes[row * k..][first..end];
                    format.round(grid, first % group, &now, own);
                    format.values(grid, first % group, own, &mut values);
                }
                let delta: Vec<f64> = (0..end - first)
                    .map(|i| w[first + i] - f64::from(values[i]))
                    .collect();
                let n = delta.len();
                let mut a = vec![0.0; n * n];
                for i in 0..n {
                    for j in 0..n {
                        let is_there = i == j || !forget;
                        a[i * n + j] = if is_there {
                            left[(first + i) * k + first + j]
                        } else {
                            0.0
                        };
                    }
                }
                let epsilon = solve(&a, &delta);
                for at in end..k {
                    let change: f64 = (0..n)
                        .map(|i| epsilon[i] * left[(first + i) * k + at])
                        .sum();
                    w[at] -= change;
                }
                // Eliminate the vector's columns one by one.
                for i in first..end {
                    let pivot = left[i * k + i];
                    let own: Vec<f64> = left[i * k..][..k].to_vec();
                    for at in (0..k).filter(|&at| at != i) {
                        let factor = left[at * k + i] / pivot;
                        for j in 0..k {
                            left[at * k + j] -= factor * own[j];
                        }
                    }
                }
            }
        }
        Ok(codes)
    }

    /// The feedback of a vector against its definition; planted: columns of a vector that are fed back each for itself.
    #[test]
    fn vectors_are_fed_back_as_the_definition_says() -> Result<()> {
        let (weights, inputs) = layer(4, 64)?;
        for format in [
            E8p::new(Granularity::Channel)?.shared(),
            E8p::new(Granularity::Group(24))?.shared(),
            E8p::new(Granularity::Tensor)?.shared(),
            Trellis::new(2, 8, Hash::ThreeInst, Granularity::Group(20))?.shared(),
        ] {
            let ours = Ldlq::default().choose(&weights, format.as_ref(), Some(&inputs))?;
            let expected = slow(&weights, format.as_ref(), &inputs, false)?;
            let differ = |other: &[u8]| {
                ours.codes()
                    .iter()
                    .zip(other)
                    .filter(|(a, b)| a != b)
                    .count()
            };
            // A tie that falls the other way changes what comes after it.
            assert!(
                differ(&expected) <= 4,
                "{}: {}",
                format.name(),
                differ(&expected)
            );
            let planted = slow(&weights, format.as_ref(), &inputs, true)?;
            assert!(
                differ(&planted) > 16,
                "{}: {}",
                format.name(),
                differ(&planted)
            );
        }
        Ok(())
    }

    #[test]
    fn outputs_lose_less_than_without_feedback() -> Result<()> {
        let (weights, inputs) = layer(16, 192)?;
        // Inputs are like their neighbours, less so those that are 32 columns away: there is less to make up for.
        for (format, most) in [
            (E8p::new(Granularity::Channel)?.shared(), 0.9),
            (
                Trellis::new(2, 8, Hash::ThreeInst, Granularity::Group(32))?.shared(),
                1.0,
            ),
        ] {
            let lost = |method: &dyn Method| -> Result<f64> {
                let found = method.choose(&weights, format.as_ref(), Some(&inputs))?;
                inputs.output_error(&weights, &found.decode()?)
            };
            let (plain, ours) = (lost(&Rtn)?, lost(&Ldlq::default())?);
            assert!(ours < most * plain, "{}: {plain}, {ours}", format.name());
        }
        let whole = Trellis::new(2, 8, Hash::ThreeInst, Granularity::Tensor)?;
        let error = Ldlq::default().check(&whole).unwrap_err().to_string();
        assert!(
            error.contains("ldlq") && error.contains(&whole.name()),
            "{error}"
        );
        for name in ["ldlq", "ldlq-damp0.1"] {
            assert_eq!(named(name)?.name(), name);
        }
        Ok(())
    }
}
