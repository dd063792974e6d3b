//! How far activations are from a normal distribution: the numbers that say whether a rotation has done its work.
//!
//! For each token, over the K channels of an activation:
//!
//! ```text
//! kurtosis = mean((x − x̄)⁴) / mean((x − x̄)²)²      3 for normal values, up to K for one channel that has it all
//! peak     = max|x| / median|x|                    about 4.8 for 576 normal values
//! ```
//! and of these the median over tokens, so that a few odd tokens (the first one, as a rule) do not decide.
//!
//! Source: kurtosis as in Y. Li et al., *KurTail* (arXiv 2503.01483) and the figures of QuaRot (arXiv 2404.00456); max/median is the
//! outlier measure of *LLM.int8()*'s successors.

use std::collections::BTreeMap;

use crate::model::Hook;
use crate::{Error, Result};

/// The two measures of one activation, medians over tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// Kurtosis.
    pub kurtosis: f64,
    /// max |x| / median |x|.
    pub peak: f64,
}

/// A hook that measures every activation it sees. Changes nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outliers {
    /// Kurtosis and peak of each token, by name.
    found: BTreeMap<String, Vec<[f64; 2]>>,
}

impl Outliers {
    /// Names seen, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.found.keys().map(String::as_str)
    }

    /// The measures of an activation.
    ///
    /// # Errors
    /// [`Error::NotFound`] if none of that name was seen.
    pub fn get(&self, name: &str) -> Result<Peaks> {
        let found = self.found.get(name).ok_or_else(|| Error::NotFound {
            what: format!("activation {name:?}"),
            tried: vec![format!(
                "{} activations that were measured",
                self.found.len()
            )],
        })?;
        let [kurtosis, peak] = [0, 1].map(|of| median(found.iter().map(|it| it[of]).collect()));
        Ok(Peaks { kurtosis, peak })
    }

    /// Medians over all layers of the activation `part` (`attn_q.in`).
    ///
    /// # Errors
    /// [`Error::NotFound`] if none was seen.
    pub fn of_all_layers(&self, part: &str) -> Result<Peaks> {
        let names = self
            .names()
            .filter(|name| name.starts_with("blk.") && name.ends_with(part));
        let each = names
            .map(|name| self.get(name))
            .collect::<Result<Vec<Peaks>>>()?;
        if each.is_empty() {
            return self.get(part);
        }
        Ok(Peaks {
            kurtosis: median(each.iter().map(|it| it.kurtosis).collect()),
            peak: median(each.iter().map(|it| it.peak).collect()),
        })
    }
}

impl Hook for Outliers {
    fn visit(&mut self, name: &str, columns: usize, values: &mut [f32]) -> Result<()> {
        let found = self.found.entry(name.to_owned()).or_default();
        found.extend(values.chunks_exact(columns).map(measures));
        Ok(())
    }
}

fn measures(row: &[f32]) -> [f64; 2] {
    let count = row.len() as f64;
    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let moment = |power: i32| {
        row.iter()
            .map(|&x| (f64::from(x) - mean).powi(power))
            .sum::<f64>()
            / count
    };
    let variance = moment(2);
    let magnitudes: Vec<f64> = row.iter().map(|x| f64::from(x.abs())).collect();
    let max = magnitudes.iter().copied().fold(0.0, f64::max);
    let middle = median(magnitudes);
    // A constant row has no shape; zero says so better than a division by zero.
    [
        if variance > 0.0 {
            moment(4) / (variance * variance)
        } else {
            0.0
        },
        if middle > 0.0 { max / middle } else { 0.0 },
    ]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[half],
        _ => (values[half - 1] + values[half]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_shapes() -> Result<()> {
        let mut outliers = Outliers::default();
        // ±1: kurtosis 1, the least there is. One channel alone: 1/p − 3 + ... = (K² − 3K + 3)/(K − 1) for K channels.
        let mut flat: Vec<f32> = (0..64)
            .map(|i| if i % 2 == 0 { 1.0 } else { -1.0 })
            .collect();
        outliers.visit("blk.0.mid", 64, &mut flat)?;
        assert_eq!(
            outliers.get("blk.0.mid")?,
            Peaks {
                kurtosis: 1.0,
                peak: 1.0
            }
        );
        let mut spike = vec![0.0; 64];
        spike[5] = 3.0;
        outliers.visit("blk.1.mid", 64, &mut spike)?;
        let expected = (64.0 * 64.0 - 3.0 * 64.0 + 3.0) / 63.0;
        assert!((outliers.get("blk.1.mid")?.kurtosis - expected).abs() < 1e-9);
        // Sums of many uniform numbers are as good as normal.
        let mut state = 1u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        let mut normal: Vec<f32> = (0..576 * 40)
            .map(|_| (0..24).map(|_| uniform()).sum())
            .collect();
        outliers.visit("output.in", 576, &mut normal)?;
        let normal = outliers.of_all_layers("output.in")?;
        assert!((normal.kurtosis - 3.0).abs() < 0.25, "{normal:?}");
        assert!((4.0..5.6).contains(&normal.peak), "{normal:?}");
        assert!((outliers.of_all_layers("mid")?.kurtosis - (1.0 + expected) / 2.0).abs() < 1e-9);
        assert!(outliers.get("blk.2.mid").is_err());
        Ok(())
    }

    #[test]
    fn rows_without_a_shape_are_zero() -> Result<()> {
        let mut outliers = Outliers::default();
        outliers.visit("x", 3, &mut [2.0, 2.0, 2.0, 0.0, 0.0, 0.0])?;
        assert_eq!(outliers.get("x")?.kurtosis, 0.0);
        Ok(())
    }
}
