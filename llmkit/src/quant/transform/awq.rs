//! AWQ: scales up the weights that meet large activations before they are rounded, as far as a search says it helps.
//!
//! ```text
//! s = mean|X|^r, r ∈ {0, 1/20, …, 19/20}      argmin over r of ‖X·Wᵀ − (X·diag(s)⁻¹)·Q(W·diag(s))ᵀ‖²
//! ```
//! and then, group by group of a row, argmin over m ∈ {1, 0.95, …, 0.5} of the error of the group's part of the output when
//! weights are cut at m·max|w|. Q is rounding to nearest in the format that is asked for. r = 0 is s = 1: plain rounding, bit for
//! bit; so the searched error is never above that of RTN.
//!
//! With E = W − Q(W·diag(s))·diag(s)⁻¹ the error is tr(E·G·Eᵀ), G = Σ x·xᵀ: one product with a K × K matrix for each candidate
//! however many tokens were seen. A group's part needs only G's block on the diagonal. What is cut counts as rounded: statistics stay
//! those of a network that is scaled and not cut.
//!
//! Scales move as in [`smooth`](super::smooth), at the same sites. **attn_v → attn_output** under grouped queries: query heads of a
//! group share their scales (mean over them). The original skips the pair unless both matrices have one shape.
//!
//! Source: J. Lin et al., *AWQ* (arXiv 2306.00978), section 3.2, and its repository, `auto_scale.py` and `auto_clip.py` (2023): grid of
//! 20, s normalised by √(max s · min s), clipping of all but queries and keys down to half.
//!
//! Cost: 10·N·K² multiplications a site (G is symmetric), 10·N·K·g for the clipping (`quant/cut.rs`) in groups of g.
//!
//! **Where we differ.** There, the error of attn_q, attn_k and attn_v is that of the attention's output; here, as for the other sites,
//! the sum of the errors of the three. There, X is a sample of tokens; here all of them.

use super::{Report, Transform};
use crate::quant::cut::cut;
use crate::quant::format::{AnyFormat, IntAffine};
use crate::quant::outputs::{Gram, change};
use crate::quant::parts::{Parts, Plain};
use crate::quant::site::{Site, mean, obstacle, scale, spread};
use crate::quant::{Channels, Format, Granularity, Measure, Statistics};
use crate::{Error, Result, interrupt};

/// Exponents tried: the original's.
const GRID: usize = 20;

/// AWQ.
#[derive(Debug, Clone)]
pub struct Awq {
    format: AnyFormat,
    clips: bool,
}

impl Awq {
    /// Scales and clipping, for weights that will be stored in `format`.
    pub fn new(format: &dyn Format) -> Awq {
        Awq {
            format: format.shared(),
            clips: true,
        }
    }

    /// Scales alone.
    pub fn scales(format: &dyn Format) -> Awq {
        Awq {
            clips: false,
            ..Awq::new(format)
        }
    }
}

impl Transform for Awq {
    fn name(&self) -> String {
        let clips = if self.clips { "" } else { "-scales" };
        format!("awq{clips}-for-{}", self.format.name())
    }

    fn is_exact(&self) -> bool {
        !self.clips
    }

    fn apply(&self, parts: &mut dyn Parts, statistics: &Statistics) -> Result<Report> {
        let mut report = Report::of_scales();
        for n in 0..parts.config().layers {
            for site in Site::ALL {
                interrupt::check("AWQ")?;
                let readers: Vec<String> = site
                    .readers()
                    .iter()
                    .map(|it| format!("blk.{n}.{it}.weight"))
                    .collect();
                let shared = site.shared(parts);
                let seen = statistics.of(
                    &site.activation(n),
                    shared.len(),
                    &[Measure::MeanAbs, Measure::Gram],
                )?;
                let mut gram = Gram::of(&seen.gram, shared.len());
                let scales = match obstacle(parts, site, n) {
                    Some(why) => {
                        report.skipped(site.place(n), why);
                        None
                    }
                    None => {
                        let found = self.search(parts, &readers, &shared, seen, &gram)?;
                        match found.at {
                            0 => report.skipped(site.place(n), "no scale does better than none"),
                            at => report.done(
                                site.place(n),
                                format!(
                                    "r = {:.2}, error {:.3} of plain rounding's",
                                    at as f64 / GRID as f64,
                                    found.error
                                ),
                            ),
                        }
                        (found.at > 0).then_some(found.scales)
                    }
                };
                if let Some(scales) = scales {
                    scale(parts, site, n, &shared, &scales)?;
                    // What the readers see from here on.
                    let wide = spread(&scales, &shared);
                    gram = gram.divided(&wide);
                    report.divides(site.activation(n), wide);
                }
                if self.clips {
                    for name in &readers {
                        cut(self.format.as_ref(), parts, name, &gram, &mut report)?;
                    }
                }
            }
        }
        Ok(report)
    }

    /// `awq`, `awq-scales`, for the format at hand or for another: `awq-for-int3-affine-g64`.
    fn named(&self, name: &str, format: &dyn Format) -> Result<Option<Box<dyn Transform>>> {
        let (options, other) = match name.split_once("-for-") {
            Some((options, other)) => (options, Some(other)),
            None => (name, None),
        };
        let made = match options {
            "awq" => Awq::new,
            "awq-scales" => Awq::scales,
            _ => return Ok(None),
        };
        Ok(Some(Box::new(match other {
            Some(other) => made(crate::quant::format::named(other)?.as_ref()),
            None => made(format),
        })))
    }
}

/// The best of the scales.
struct Found {
    /// Place in the grid.
    at: usize,
    scales: Vec<f64>,
    /// Error over that of plain rounding.
    error: f64,
}

impl Awq {
    /// The scales with which rounding the `readers` of an activation makes the least error.
    fn search(
        &self,
        parts: &dyn Parts,
        readers: &[String],
        shared: &[usize],
        seen: &Channels,
        gram: &Gram,
    ) -> Result<Found> {
        let matrices = readers
            .iter()
            .map(|name| parts.matrix(name))
            .collect::<Result<Vec<Plain>>>()?;
        let importance = mean(shared, &seen.mean_abs);
        let mut best: Option<(f64, usize, Vec<f64>)> = None;
        let mut plain = 0.0;
        for at in 0..GRID {
            let scales = scales(&importance, at as f64 / GRID as f64);
            let wide = spread(&scales, shared);
            let mut error = 0.0;
            for (matrix, name) in matrices.iter().zip(readers) {
                error += gram.error(&change(matrix, &wide, self.format.as_ref(), name)?);
            }
            if at == 0 {
                plain = error;
            }
            if best.as_ref().is_none_or(|(least, ..)| error < *least) {
                best = Some((error, at, scales));
            }
        }
        let (error, at, scales) =
            best.ok_or_else(|| Error::argument("grid", "at least one exponent", 0))?;
        let error = if plain > 0.0 { error / plain } else { 1.0 };
        Ok(Found { at, scales, error })
    }
}

/// mean|X|^r, not below 10⁻⁴, over √(max · min).
fn scales(importance: &[f64], exponent: f64) -> Vec<f64> {
    if exponent == 0.0 {
        return vec![1.0; importance.len()];
    }
    let raw: Vec<f64> = importance
        .iter()
        .map(|it| it.powf(exponent).max(1e-4))
        .collect();
    let (low, high) = raw
        .iter()
        .fold((f64::MAX, 0f64), |(lo, hi), &s| (lo.min(s), hi.max(s)));
    let middle = (low * high).sqrt();
    raw.iter().map(|s| s / middle).collect()
}

/// For small networks' sake in groups of 8.
pub(super) fn members() -> Vec<Box<dyn Transform>> {
    let format = IntAffine::new(3, Granularity::Group(8));
    // A format that cannot be is no member.
    let both = format.map(|it| [Awq::new(&it), Awq::scales(&it)]);
    both.into_iter()
        .flatten()
        .map(|it| Box::new(it) as Box<dyn Transform>)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::equivalence::{collected, networks};
    use crate::quant::format::IntSymmetric;
    use crate::quant::method::Rtn;
    use crate::quant::{Matrix, Method};

    /// Error of rounding the readers of all sites of layer 0, as seen by `statistics`.
    fn total_error(network: &crate::model::Llama, format: &dyn Format) -> f64 {
        let statistics = collected(network);
        let of = |site: Site| {
            let ones = vec![1.0; site.shared(network).len()];
            let seen = statistics.get(&site.activation(0)).unwrap();
            let gram = Gram::of(&seen.gram, ones.len());
            let errors = site.readers().iter().map(|reader| {
                let matrix = network.matrix(&format!("blk.0.{reader}.weight")).unwrap();
                gram.error(&change(&matrix, &ones, format, "").unwrap())
            });
            errors.sum::<f64>()
        };
        of(Site::Values) + of(Site::Down)
    }

    #[test]
    fn scaled_weights_round_better_and_never_worse() -> Result<()> {
        let format = IntSymmetric::new(3, Granularity::Group(8))?;
        let mut gains = Vec::new();
        for network in networks() {
            let (after, report) = Awq::scales(&format).run(&network, &collected(&network))?;
            assert_eq!(
                report.steps.len(),
                network.config().layers * Site::ALL.len()
            );
            // The readers of values and of ffn_down are not changed by other sites, so what the search promised must hold.
            let ratio = total_error(&after, &format) / total_error(&network, &format);
            assert!(ratio < 1.0 + 1e-4, "{ratio}\n{report}");
            gains.push(ratio);
        }
        assert!(gains.iter().any(|ratio| *ratio < 0.9), "{gains:?}");
        Ok(())
    }

    #[test]
    fn exponent_zero_is_plain_rounding_bit_for_bit() -> Result<()> {
        assert_eq!(scales(&[0.3, 7.0], 0.0), [1.0, 1.0]);
        let network = networks().remove(0);
        let matrix = network.matrix("blk.0.ffn_up.weight")?;
        let format = IntSymmetric::new(3, Granularity::Group(8))?;
        let weights = Matrix::new(matrix.rows(), matrix.columns, matrix.to_f32())?;
        let plain = Rtn.quantize(&weights, &format)?.decode()?;
        let e = change(&matrix, &vec![1.0; matrix.columns], &format, "")?;
        let pairs = weights.data().iter().zip(plain.data());
        let expected: Vec<f32> = pairs
            .map(|(w, q)| (f64::from(*w) - f64::from(*q)) as f32)
            .collect();
        assert_eq!(e, expected);
        Ok(())
    }

    #[test]
    fn clipping_is_reported_matrix_by_matrix() -> Result<()> {
        let network = networks().remove(0);
        let format = IntAffine::new(3, Granularity::Group(8))?;
        let (_, report) = Awq::new(&format).run(&network, &collected(&network))?;
        // Four sites and seven matrices a layer, of which queries and keys are left.
        assert_eq!(report.steps.len(), network.config().layers * (4 + 7));
        let keys = report.left().filter(|step| {
            step.place.contains("attn_q.weight") || step.place.contains("attn_k.weight")
        });
        assert_eq!(keys.count(), network.config().layers * 2);
        assert!(
            report
                .steps
                .iter()
                .any(|step| step.is_done && step.place.contains("clipped"))
        );
        Ok(())
    }
}
