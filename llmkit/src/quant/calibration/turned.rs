//! What is known of inputs, in coordinates that are turned or stretched.

use super::Inputs;
use crate::quant::aside::{Rotation, down};
use crate::{Error, Result};

impl Inputs {
    /// Of inputs whose channel j is divided by sⱼ, each number as exact as f32 has it.
    ///
    /// # Errors
    /// [`Error::Shape`] if `scales` are not K; [`Error::Format`] if what comes out is not finite.
    pub(in crate::quant) fn divided(&self, scales: &[f64]) -> Result<Inputs> {
        let k = self.columns();
        if scales.len() != k {
            return Err(Error::Shape {
                operation: format!("divide {}", self.name()),
                expected: format!("[{k}] scales"),
                got: format!("[{}]", scales.len()),
            });
        }
        let mut gram = self.triangle().to_vec();
        let mut rest = &mut gram[..];
        for (i, &scale) in scales.iter().enumerate() {
            let (row, after) = rest.split_at_mut(i + 1);
            divide(row, scale, scales);
            rest = after;
        }
        let sizes: Vec<f64> = scales.iter().map(|it| it.abs()).collect();
        let of = |values: &[f32]| {
            let mut values = values.to_vec();
            divide(&mut values, 1.0, &sizes);
            values
        };
        let (means, most) = (of(self.mean_abs()), of(self.max_abs()));
        let divided = Inputs::new(self.name(), self.tokens(), gram, means, most)?;
        let Some(drift) = self.drift_sums() else {
            return Ok(divided);
        };
        let mut drift = drift.to_vec();
        (drift.chunks_exact_mut(k).zip(scales)).for_each(|(row, &own)| divide(row, own, scales));
        divided.with_drift(drift)
    }

    /// Of x·Q: QᵀGQ exactly (in f64), and bounds for the rest: magnitudes of a sum are not known from those of its terms. The mean |x·Q| of
    /// a channel is at most the root of its mean square, which is what stands there; so is the greatest, by the sum of all greatest.
    pub(in crate::quant) fn turned(&self, rotation: &Rotation) -> Result<Inputs> {
        let k = self.columns();
        let mut gram = vec![0f64; k * k];
        let mut triangle = self.triangle().iter();
        for i in 0..k {
            for j in 0..=i {
                let value = triangle.next().copied().map_or(0.0, f64::from);
                (gram[i * k + j], gram[j * k + i]) = (value, value);
            }
        }
        gram.chunks_exact_mut(k).for_each(|row| rotation.apply(row));
        down(&mut gram, k, |column| rotation.apply(column));
        let mut lower = Vec::with_capacity(k * (k + 1) / 2);
        for i in 0..k {
            lower.extend(gram[i * k..][..i].iter().map(|&it| it as f32));
            // A channel that is never active may be below zero by rounding.
            lower.push(gram[i * k + i].max(0.0) as f32);
        }
        let tokens = self.tokens() as f64;
        let mean = |i: usize| (gram[i * k + i].max(0.0) / tokens).sqrt() as f32;
        let most: f32 = self.max_abs().iter().sum();
        let means = (0..k).map(mean).collect();
        let turned = Inputs::new(self.name(), self.tokens(), lower, means, vec![most; k])?;
        let Some(drift) = self.drift_sums() else {
            return Ok(turned);
        };
        let mut drift: Vec<f64> = drift.iter().map(|&it| f64::from(it)).collect();
        drift
            .chunks_exact_mut(k)
            .for_each(|row| rotation.apply(row));
        down(&mut drift, k, |column| rotation.apply(column));
        turned.with_drift(drift.iter().map(|&it| it as f32).collect())
    }
}

/// Products of inputs, of one channel whose inputs are divided by `own` with the first of all, which are divided by `scales`.
pub(in crate::quant) fn divide(row: &mut [f32], own: f64, scales: &[f64]) {
    for (value, scale) in row.iter_mut().zip(scales) {
        *value = (f64::from(*value) / (own * scale)) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::samples;

    #[test]
    fn statistics_are_those_of_divided_inputs() -> Result<()> {
        let columns = 13;
        let mut x = samples::correlated(60, columns, 3);
        let inputs = Inputs::of_samples("x", &x, columns)?;
        // Powers of two, also below zero: nothing is rounded.
        let scales: Vec<f64> = (0..columns)
            .map(|i| [0.25, -8.0, 1.0, 64.0][i % 4])
            .collect();
        for row in x.chunks_mut(columns) {
            (row.iter_mut().zip(&scales)).for_each(|(it, scale)| *it /= *scale as f32);
        }
        let divided = inputs.divided(&scales)?;
        assert!(divided == Inputs::of_samples("x", &x, columns)?);
        let drift: Vec<f32> = (0..columns * columns).map(|i| i as f32).collect();
        let drifted = inputs.clone().with_drift(drift.clone())?.divided(&scales)?;
        let found = drifted.drift_sums().unwrap_or_default();
        let at = |i: usize, j: usize| drift[i * columns + j] / (scales[i] * scales[j]) as f32;
        assert_eq!(found[columns + 3], at(1, 3));
        assert_eq!(found[3 * columns], at(3, 0));
        assert!(inputs.divided(&scales[1..]).is_err());
        assert!(inputs.divided(&[0.0; 13]).is_err());
        Ok(())
    }

    #[test]
    fn statistics_are_those_of_turned_inputs() -> Result<()> {
        let columns = 44;
        let mut x = samples::correlated(60, columns, 3);
        let inputs = Inputs::of_samples("x", &x, columns)?;
        for block in [None, Some(8)] {
            let rotation = Rotation::new(columns, block, Some(4))?;
            let turned = inputs.turned(&rotation)?;
            x.chunks_mut(columns).for_each(|row| rotation.apply(row));
            let expected = Inputs::of_samples("x", &x, columns)?;
            let greatest = (0..columns)
                .map(|i| expected.hessian(i, i))
                .fold(0.0, f64::max);
            for i in 0..columns {
                for j in 0..=i {
                    let off = turned.hessian(i, j) - expected.hessian(i, j);
                    assert!(off.abs() < 1e-5 * greatest, "{i} {j}");
                }
                assert!(turned.mean_abs()[i] >= expected.mean_abs()[i] * 0.9999);
                assert!(turned.max_abs()[i] >= expected.max_abs()[i]);
            }
            x.chunks_mut(columns).for_each(|row| rotation.invert(row));
        }
        Ok(())
    }
}
