//! Rotary frequencies, and the ways to stretch them over longer contexts than a model was trained on.

use std::f64::consts::TAU;
use std::sync::Arc;

use super::config::Config;

/// How frequencies are stretched.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All positions divided by `factor` (Chen et al. 2023, *Positional Interpolation*, 2306.15595, eq. 4).
    Linear {
        /// Context over trained context.
        factor: f64,
    },
    /// The base grows so that the lowest frequency is divided by `factor` and the highest stays ("NTK-aware", bloc97 2023).
    Ntk {
        /// As for `Linear`.
        factor: f64,
    },
    /// Frequencies that turn less than `slow` times over the trained context are divided, those that turn more than `fast` times stay,
    /// a ramp between; cosines and sines grow by 0.1·ln(factor) + 1 (Peng et al. 2023, *YaRN*, 2309.00071, eqs. 23 and 15).
    Yarn {
        /// As for `Linear`.
        factor: f64,
        /// Tokens the model was trained on.
        trained_tokens: f64,
        /// β in the paper: 32.
        fast: f64,
        /// α in the paper: 1.
        slow: f64,
    },
    /// As YaRN, but the ramp is linear in the number of turns, and magnitudes stay (Llama 3.1's `rope_type: llama3`).
    Llama3 {
        /// As for `Linear`.
        factor: f64,
        /// Turns below which a frequency is divided: 1.
        slow: f64,
        /// Turns above which it stays: 4.
        fast: f64,
        /// Tokens the model was trained on.
        trained_tokens: f64,
    },
    /// Each frequency divided by its own factor (D/2 of them): what GGUF files of Llama 3.1 have in place of its numbers, as the
    /// tensor `rope_freqs.weight`.
    Factors(Arc<[f32]>),
}

impl RopeScaling {
    /// Whether its numbers give frequencies that are numbers.
    pub(super) fn makes_sense(&self) -> bool {
        let is_factor = |it: f64| it.is_finite() && it >= 1.0;
        let is_ramp = |slow: f64, fast: f64| slow > 0.0 && slow < fast && fast.is_finite();
        match *self {
            // Factors are checked where they are read.
            RopeScaling::None | RopeScaling::Factors(_) => true,
            RopeScaling::Linear { factor } | RopeScaling::Ntk { factor } => is_factor(factor),
            RopeScaling::Yarn {
                factor,
                trained_tokens,
                fast,
                slow,
            }
            | RopeScaling::Llama3 {
                factor,
                slow,
                fast,
                trained_tokens,
            } => is_factor(factor) && is_factor(trained_tokens) && is_ramp(slow, fast),
        }
    }
}

/// Frequencies (D/2) in radians a position, and the magnitude of cosines and sines.
pub fn frequencies(config: &Config) -> (Vec<f64>, f64) {
    let d = config.head_dim as f64;
    let base = match config.scaling {
        RopeScaling::Ntk { factor } => config.rope_base * factor.powf(d / (d - 2.0)),
        _ => config.rope_base,
    };
    let plain = (0..config.head_dim / 2).map(|i| base.powf(-2.0 * i as f64 / d));
    match config.scaling.clone() {
        RopeScaling::None | RopeScaling::Ntk { .. } => (plain.collect(), 1.0),
        RopeScaling::Linear { factor } => (plain.map(|w| w / factor).collect(), 1.0),
        RopeScaling::Factors(factors) => {
            let divided = plain.zip(factors.iter());
            (divided.map(|(w, &f)| w / f64::from(f)).collect(), 1.0)
        }
        RopeScaling::Llama3 {
            factor,
            slow,
            fast,
            trained_tokens,
        } => {
            let stretch = |w: f64| {
                let turns = trained_tokens * w / TAU;
                let kept = ((turns - slow) / (fast - slow)).clamp(0.0, 1.0);
                w * (kept + (1.0 - kept) / factor)
            };
            (plain.map(stretch).collect(), 1.0)
        }
        RopeScaling::Yarn {
            factor,
            trained_tokens,
            fast,
            slow,
        } => {
            // The pair whose frequency turns `turns` times over the trained context.
            let pair = |turns: f64| d * (trained_tokens / (turns * TAU)).ln() / (2.0 * base.ln());
            let low = pair(fast).floor().max(0.0);
            let high = pair(slow).ceil().min(d - 1.0).max(low + 0.001);
            let stretch = |(i, w): (usize, f64)| {
                let divided = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                w * (1.0 - divided + divided / factor)
            };
            let stretched = plain.enumerate().map(stretch).collect();
            (
                stretched,
                if factor > 1.0 {
                    0.1 * factor.ln() + 1.0
                } else {
                    1.0
                },
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(scaling: RopeScaling) -> (Vec<f64>, f64) {
        frequencies(&Config {
            head_dim: 64,
            rope_base: 1e4,
            scaling,
            ..Config::example()
        })
    }

    #[test]
    fn ends_of_the_spectrum_are_where_the_papers_say() {
        let (plain, one) = of(RopeScaling::None);
        assert_eq!((plain[0], one), (1.0, 1.0));
        assert!((plain[31] - 1e4f64.powf(-62.0 / 64.0)).abs() < 1e-15);
        let (linear, _) = of(RopeScaling::Linear { factor: 4.0 });
        assert!(
            linear
                .iter()
                .zip(&plain)
                .all(|(a, b)| (a * 4.0 - b).abs() < 1e-15)
        );
        let (ntk, _) = of(RopeScaling::Ntk { factor: 4.0 });
        assert_eq!(ntk[0], 1.0);
        assert!((ntk[31] * 4.0 / plain[31] - 1.0).abs() < 1e-12);
        let trained_tokens = 2048.0;
        for scaling in [
            RopeScaling::Yarn {
                factor: 4.0,
                trained_tokens,
                fast: 32.0,
                slow: 1.0,
            },
            RopeScaling::Llama3 {
                factor: 4.0,
                slow: 1.0,
                fast: 4.0,
                trained_tokens,
            },
        ] {
            let (stretched, _) = of(scaling.clone());
            assert_eq!(stretched[0], 1.0, "{scaling:?}");
            assert!(
                (stretched[31] * 4.0 / plain[31] - 1.0).abs() < 1e-12,
                "{scaling:?}"
            );
            let ratios: Vec<f64> = stretched.iter().zip(&plain).map(|(a, b)| a / b).collect();
            assert!(ratios.is_sorted_by(|a, b| a >= b), "{scaling:?}");
        }
        let (_, magnitude) = of(RopeScaling::Yarn {
            factor: 4.0,
            trained_tokens,
            fast: 32.0,
            slow: 1.0,
        });
        assert!((magnitude - 1.138_629_436_111_989).abs() < 1e-12);
    }

    #[test]
    fn factors_of_a_file_stretch_as_the_numbers_they_were_made_from() {
        let (stretched, _) = of(RopeScaling::Llama3 {
            factor: 8.0,
            slow: 1.0,
            fast: 4.0,
            trained_tokens: 8192.0,
        });
        let (plain, _) = of(RopeScaling::None);
        let factors = plain.iter().zip(&stretched).map(|(w, s)| (w / s) as f32);
        let (divided, magnitude) = of(RopeScaling::Factors(factors.collect()));
        assert_eq!(magnitude, 1.0);
        assert!(divided[31] < plain[31] / 7.0);
        for (a, b) in divided.iter().zip(&stretched) {
            assert!((a / b - 1.0).abs() < 1e-6);
        }
    }
}
