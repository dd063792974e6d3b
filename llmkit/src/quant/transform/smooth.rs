//! SmoothQuant: moves the scale of activation channels that stand out into the weights that meet them.
//!
//! ```text
//! sⱼ = max|Xⱼ|^α / max|Wⱼ|^(1 − α)        X·Wᵀ = (X·diag(s)⁻¹)·(W·diag(s))ᵀ
//! ```
//! over all matrices W that see X. What makes X is divided by s, so nothing is left to do when the network runs;
//! [`Site`] says where that can be, and what query heads of a group must share. max is then over all of them.
//!
//! Source: G. Xiao et al., *SmoothQuant* (arXiv 2211.10438), eq. 3 and 4; α = 0.5 there.
//!
//! Cost: a pass over the weights; nothing when the network runs.
//!
//! **Where we differ.** The paper smooths what follows a norm; the other two sites are from its successors (AWQ, OmniQuant) and can be left
//! out. Channels that are never anything but zero, and those with no weights, keep scale 1.

use super::{Report, Transform};
use crate::quant::parts::Parts;
use crate::quant::site::{Site, largest, obstacle, scale, spread};
use crate::quant::{Format, Measure, Statistics};
use crate::{Error, Result, interrupt};

/// SmoothQuant.
#[derive(Debug, Clone, PartialEq)]
pub struct Smooth {
    alpha: f64,
    sites: Vec<Site>,
}

impl Smooth {
    /// With migration strength α, 0 … 1 (1: all of the difficulty goes to the weights), at every site.
    ///
    /// # Errors
    /// [`Error::Argument`] for other α.
    pub fn new(alpha: f64) -> Result<Smooth> {
        Smooth::at(alpha, &Site::ALL)
    }

    /// At some sites; the paper's are [`Site::Attention`] and [`Site::FeedForward`].
    ///
    /// # Errors
    /// As [`Smooth::new`].
    pub fn at(alpha: f64, sites: &[Site]) -> Result<Smooth> {
        match (0.0..=1.0).contains(&alpha) {
            true => Ok(Smooth {
                alpha,
                sites: sites.to_vec(),
            }),
            false => Err(Error::argument("alpha", "0 … 1", alpha)),
        }
    }

    /// The scale of channels with these maxima.
    fn scale(&self, activation: f64, weight: f64) -> f64 {
        let scale = activation.powf(self.alpha) / weight.powf(1.0 - self.alpha);
        // Nothing is gained, and much is lost to rounding, beyond a millionth and a million.
        match activation > 0.0 && weight > 0.0 && scale.is_finite() {
            true => scale.clamp(1e-6, 1e6),
            false => 1.0,
        }
    }
}

impl Transform for Smooth {
    fn name(&self) -> String {
        let names: Vec<String> = self.sites.iter().map(|site| site.name()).collect();
        let sites = match self.sites == Site::ALL {
            true => String::new(),
            false => format!("-{}", names.join("+")),
        };
        format!("smooth-a{}{sites}", self.alpha)
    }

    fn apply(&self, parts: &mut dyn Parts, statistics: &Statistics) -> Result<Report> {
        let mut report = Report::of_scales();
        for n in 0..parts.config().layers {
            for site in Site::ALL {
                interrupt::check("smooth")?;
                if !self.sites.contains(&site) {
                    report.skipped(site.place(n), "not asked for");
                    continue;
                }
                if let Some(why) = obstacle(parts, site, n) {
                    report.skipped(site.place(n), why);
                    continue;
                }
                let shared = site.shared(parts);
                let seen = statistics.of(&site.activation(n), shared.len(), &[Measure::MaxAbs])?;
                let activations = largest(&shared, seen.max_abs.iter().map(|&it| f64::from(it)));
                let mut weights = vec![0f64; activations.len()];
                for reader in site.readers() {
                    let matrix = parts.matrix(&format!("blk.{n}.{reader}.weight"))?;
                    for (most, of) in weights
                        .iter_mut()
                        .zip(largest(&shared, matrix.column_maxima()))
                    {
                        *most = most.max(of);
                    }
                }
                let pairs = activations.iter().zip(&weights);
                let scales: Vec<f64> = pairs.map(|(&x, &w)| self.scale(x, w)).collect();
                scale(parts, site, n, &shared, &scales)?;
                report.divides(site.activation(n), spread(&scales, &shared));
                let range = scales
                    .iter()
                    .fold((f64::MAX, 0f64), |(lo, hi), &s| (lo.min(s), hi.max(s)));
                report.done(
                    site.place(n),
                    format!("scales {:.3} … {:.3}", range.0, range.1),
                );
            }
        }
        Ok(report)
    }

    /// `smooth`, `smooth-a0.7`, `smooth-a0.7-attention+feedforward`.
    fn named(&self, name: &str, _: &dyn Format) -> Result<Option<Box<dyn Transform>>> {
        if name == "smooth" {
            return Ok(Some(Box::new(Smooth::new(0.5)?)));
        }
        let Some(rest) = name.strip_prefix("smooth-a") else {
            return Ok(None);
        };
        let (alpha, sites) = match rest.split_once('-') {
            Some((alpha, sites)) => (alpha, Some(sites)),
            None => (rest, None),
        };
        let Ok(alpha) = alpha.parse() else {
            return Ok(None);
        };
        let of = |name: &str| Site::ALL.into_iter().find(|site| site.name() == name);
        let sites: Option<Vec<Site>> = match sites {
            Some(sites) => sites.split('+').map(of).collect(),
            None => Some(Site::ALL.to_vec()),
        };
        match sites {
            Some(sites) => Ok(Some(Box::new(Smooth::at(alpha, &sites)?))),
            None => Ok(None),
        }
    }
}

/// The ends of α and the paper's.
pub(super) fn members() -> Vec<Box<dyn Transform>> {
    let of = |alpha, sites: &[Site]| Smooth {
        alpha,
        sites: sites.to_vec(),
    };
    vec![
        Box::new(of(0.5, &Site::ALL)),
        Box::new(of(0.5, &[Site::Attention, Site::FeedForward])),
        Box::new(of(0.0, &Site::ALL)),
        Box::new(of(1.0, &Site::ALL)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::equivalence::{Exact, collected, difference, networks};
    use crate::quant::parts::edit;

    #[test]
    fn a_scale_for_each_query_head_of_a_group_is_caught() {
        // Planted: the share of the group is forgotten; each query head's channels have scales of their own, and attn_v's rows
        // get those of the first head.
        for network in networks() {
            let c = network.config().clone();
            let before = Exact::of(&network);
            let mut after = before.clone();
            let channels: Vec<usize> = (0..c.heads * c.head_dim).collect();
            let scales: Vec<f64> = channels
                .iter()
                .map(|&j| 1.0 + (j % 7) as f64 / 4.0)
                .collect();
            edit(&mut after, "blk.0.attn_output.weight", |w| {
                w.scale_columns(&scales)
            })
            .unwrap();
            let kept: Vec<f64> = (0..c.kv_heads * c.head_dim)
                .map(|row| {
                    1.0 / scales
                        [row / c.head_dim * (c.heads / c.kv_heads) * c.head_dim + row % c.head_dim]
                })
                .collect();
            edit(&mut after, "blk.0.attn_v.weight", |w| w.scale_rows(&kept)).unwrap();
            assert!(difference(&before, &after) > 1e-3);
            // With the share, the same scales change nothing.
            let mut after = before.clone();
            let shared = Site::Values.shared(&after);
            let scales = largest(&shared, scales);
            assert_eq!(scales.len(), c.kv_heads * c.head_dim);
            scale(&mut after, Site::Values, 0, &shared, &scales).unwrap();
            assert!(difference(&before, &after) < 1e-12);
        }
    }

    #[test]
    fn activations_and_weights_meet_halfway() -> Result<()> {
        // At α = 0.5 each channel's largest activation and largest weight become the same number: √(max|X|·max|W|).
        let network = networks().remove(0);
        let (mut parts, statistics) = (Exact::of(&network), collected(&network));
        Smooth::new(0.5)?.apply(&mut parts, &statistics)?;
        let (after, _) = Smooth::new(0.5)?.run(&network, &statistics)?;
        let smoothed = collected(&after);
        for site in Site::ALL {
            let shared = site.shared(&parts);
            let seen = smoothed.get(&site.activation(1))?;
            let x = largest(&shared, seen.max_abs.iter().map(|&it| f64::from(it)));
            let mut w = vec![0f64; x.len()];
            for reader in site.readers() {
                let maxima = parts
                    .matrix(&format!("blk.1.{reader}.weight"))?
                    .column_maxima();
                w.iter_mut()
                    .zip(largest(&shared, maxima))
                    .for_each(|(w, of)| *w = w.max(of));
            }
            // A later site scales the rows of a matrix that this one looked at: only those whose rows stay are compared.
            if site != Site::Attention && site != Site::FeedForward {
                for (x, w) in x.iter().zip(&w) {
                    assert!((x / w - 1.0).abs() < 1e-4, "{site:?}: {x} and {w}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn alpha_outside_its_range_and_missing_statistics_are_refused() {
        for alpha in [-0.1, 1.1, f64::NAN] {
            assert!(Smooth::new(alpha).is_err());
        }
        let network = networks().remove(0);
        let error = Smooth::new(0.5)
            .unwrap()
            .run(&network, &Statistics::default())
            .unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }

    #[test]
    fn dead_channels_keep_their_scale() -> Result<()> {
        let smooth = Smooth::new(0.5)?;
        for (x, w) in [(0.0, 1.0), (1.0, 0.0), (f64::INFINITY, 1.0), (0.0, 0.0)] {
            assert_eq!(smooth.scale(x, w), 1.0);
        }
        Ok(())
    }
}
