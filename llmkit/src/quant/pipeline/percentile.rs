//! Percentiles of the magnitudes of activations: where static scales are cut.
//!
//! Magnitudes are counted by their highest bits, 128 bins to a factor of two, so that memory does not grow with the samples; a percentile is
//! right to one part in 128.

use std::collections::BTreeMap;

use crate::Result;
use crate::model::{Hook, Model};
use crate::progress::Progress;
use crate::quant::Samples;
use crate::quant::calibration::{batches, fast_element, in_element, kept, pieces};

/// Bits of an f32 below those that are counted by: 7 of its 23 are kept.
const SHIFT: u32 = 16;

/// How often magnitudes occur.
#[derive(Debug, Clone)]
struct Magnitudes {
    bins: Vec<u64>,
    count: u64,
}

impl Default for Magnitudes {
    fn default() -> Magnitudes {
        Magnitudes {
            bins: vec![0; 1 << (31 - SHIFT)],
            count: 0,
        }
    }
}

impl Magnitudes {
    fn add(&mut self, values: &[f32]) {
        for x in values {
            self.bins[((x.to_bits() & 0x7fff_ffff) >> SHIFT) as usize] += 1;
        }
        self.count += values.len() as u64;
    }

    /// The magnitude that a share of `p` percent does not exceed: the end of its bin.
    fn percentile(&self, p: f64) -> f32 {
        let wanted = (p / 100.0 * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bin, count) in self.bins.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return f32::from_bits(((bin as u32 + 1) << SHIFT) - 1);
            }
        }
        0.0
    }
}

/// A hook that counts the inputs of matrices.
struct Count {
    found: BTreeMap<String, Magnitudes>,
    /// Tokens of a window, and how many of its first are left out.
    window: (usize, usize),
}

impl Hook for Count {
    fn visit(&mut self, name: &str, columns: usize, values: &mut [f32]) -> Result<()> {
        if name.ends_with(".in") {
            let values = kept(values, columns, self.window);
            self.found.entry(name.to_owned()).or_default().add(&values);
        }
        Ok(())
    }
}

/// The `p`-th percentile of |x| of each input of a matrix, over all tokens of `samples` but those that they leave out, by the name of the
/// activation.
pub(super) fn percentiles(
    model: &Model,
    samples: &Samples,
    p: f64,
) -> Result<BTreeMap<String, f32>> {
    let network = in_element(model.network(), fast_element(model), |name| {
        name.starts_with("blk.")
    })?;
    let mut count = Count {
        found: BTreeMap::new(),
        window: samples.window(),
    };
    let mut progress = Progress::new("percentiles", samples.tokens() as u64, "tokens");
    for windows in batches(samples) {
        let mut stores: Vec<_> = windows.iter().map(|_| network.store()).collect();
        network.hidden(&mut pieces(windows, &mut stores), Some(&mut count))?;
        progress.advance(windows.iter().map(Vec::len).sum::<usize>() as u64)?;
    }
    let of = |(name, it): (String, Magnitudes)| (name, it.percentile(p));
    Ok(count.found.into_iter().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_samples_leave_out_do_not_count() -> Result<()> {
        let model = crate::model::tests::tiny::model(crate::model::WeightType::F32);
        let tokens: Vec<u32> = (0..64).map(|i| i * 7 % 30).collect();
        let samples = Samples::of_tokens("made up", &tokens, 4, 16)?;
        let without = samples.clone().without_first(15)?;
        let name = "blk.0.attn_q.in";
        let greatest =
            |samples: &Samples| -> Result<f32> { Ok(percentiles(&model, samples, 100.0)?[name]) };
        // What a calibration, which leaves them out, saw as the greatest.
        let calibration = crate::quant::Calibration::run(&model, &without)?;
        let seen = calibration.inputs("blk.0.attn_q.weight")?.max_abs();
        let seen = seen.iter().fold(0f32, |most, it| most.max(*it));
        let (all, kept) = (greatest(&samples)?, greatest(&without)?);
        assert!(
            kept >= seen && kept <= seen * (1.0 + 1.0 / 128.0),
            "{kept} {seen}"
        );
        // So that a count of all tokens would have been noticed above.
        assert!(all > kept * 1.02, "{all} {kept}");
        Ok(())
    }

    #[test]
    fn percentiles_are_those_of_sorted_magnitudes() {
        let values: Vec<f32> = (0..10_000)
            .map(|i| (i as f32 * 0.7).sin().powi(9) * if i == 77 { 1000.0 } else { 1.0 })
            .collect();
        let mut count = Magnitudes::default();
        values.chunks(300).for_each(|part| count.add(part));
        let mut sorted: Vec<f32> = values.iter().map(|x| x.abs()).collect();
        sorted.sort_by(f32::total_cmp);
        for p in [50.0, 90.0, 99.0, 99.9, 100.0] {
            let exact = sorted[(p / 100.0 * 10_000f64).ceil() as usize - 1];
            let got = count.percentile(p);
            assert!(
                got >= exact && got <= exact * (1.0 + 1.0 / 128.0),
                "{p}: {got} for {exact}"
            );
        }
        assert_eq!(Magnitudes::default().percentile(99.0), 0.0);
    }
}
