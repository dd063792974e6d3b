//! From logits to the next token.
//!
//! The law, in this order (Hugging Face's): divide by the temperature; keep the `top_k` likeliest tokens; of those keep the
//! fewest likeliest whose probability reaches `top_p`; renormalise. Temperature 0 puts everything on the likeliest token.
//! Ties go to the lower id, so that every step is a function of its input.
//!
//! Source: Fan et al. 2018 (top-k); Holtzman et al. 2020, *The Curious Case of Neural Text Degeneration* (top-p).
//! Probabilities are computed in f64.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 = always the likeliest token.
    pub temperature: f64,
    /// Keep this many tokens; 0 = all.
    pub top_k: usize,
    /// Keep the fewest tokens that reach this probability; 1 = all.
    pub top_p: f64,
    /// Seed of the generator (ChaCha with 8 rounds: the same tokens on every machine and version).
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Sampling {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            seed: 0,
        }
    }
}

/// A token id and its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chance {
    /// Token id.
    pub token: u32,
    /// Its probability, above 0.
    pub probability: f64,
}

impl Sampling {
    /// The exact distribution the next token is drawn from, likeliest first; it sums to 1.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are no logits, one is NaN or +∞, all are −∞, or a setting is out of range.
    pub fn law(&self, logits: &[f32]) -> Result<Vec<Chance>> {
        let in_range = self.temperature >= 0.0
            && self.temperature.is_finite()
            && self.top_p > 0.0
            && self.top_p <= 1.0;
        if !in_range {
            let expected = "a finite temperature of at least 0 and top_p in (0, 1]";
            return Err(Error::argument("sampling", expected, format!("{self:?}")));
        }
        if let Some(at) = logits
            .iter()
            .position(|it| it.is_nan() || *it == f32::INFINITY)
        {
            return Err(Error::argument(
                "logits",
                "finite numbers or -inf",
                format!("{} at {at}", logits[at]),
            ));
        }
        let mut order: Vec<u32> = (0..logits.len() as u32)
            .filter(|&id| logits[id as usize] > f32::NEG_INFINITY)
            .collect();
        let likelier = |a: &u32, b: &u32| {
            logits[*b as usize]
                .total_cmp(&logits[*a as usize])
                .then(a.cmp(b))
        };
        let keep = match self.top_k {
            _ if self.temperature == 0.0 => 1,
            0 => order.len(),
            k => k.min(order.len()),
        };
        if keep > 0 && keep < order.len() {
            order.select_nth_unstable_by(keep - 1, likelier);
            order.truncate(keep);
        }
        order.sort_unstable_by(likelier);
        let Some(&best) = order.first() else {
            return Err(Error::argument(
                "logits",
                "at least one above -inf",
                logits.len(),
            ));
        };
        if self.temperature == 0.0 {
            return Ok(vec![Chance {
                token: best,
                probability: 1.0,
            }]);
        }
        let top = f64::from(logits[best as usize]);
        let weight = |id: u32| ((f64::from(logits[id as usize]) - top) / self.temperature).exp();
        let weights: Vec<f64> = order.iter().map(|&id| weight(id)).collect();
        // What counts is the mass of what top_k left. A weight that underflowed to 0 can never be drawn.
        let total: f64 = weights.iter().sum();
        let (mut kept, mut mass) = (0, 0.0);
        while kept < weights.len()
            && weights[kept] > 0.0
            && (self.top_p == 1.0 || mass < self.top_p * total)
        {
            mass += weights[kept];
            kept += 1;
        }
        let chance = |(&token, &weight): (&u32, &f64)| Chance {
            token,
            probability: weight / mass,
        };
        Ok(order[..kept].iter().zip(&weights).map(chance).collect())
    }

    /// The generator that [`draw`] takes.
    pub fn generator(&self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.seed)
    }
}

/// One token of a law. Uses one f64 of the generator, whatever the law.
pub fn draw(law: &[Chance], generator: &mut ChaCha8Rng) -> Option<u32> {
    let mut left: f64 = generator.random();
    for chance in law {
        left -= chance.probability;
        if left < 0.0 {
            return Some(chance.token);
        }
    }
    law.last().map(|chance| chance.token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn law(sampling: Sampling, logits: &[f32]) -> Vec<(u32, f64)> {
        let law = sampling.law(logits).unwrap();
        let total: f64 = law.iter().map(|chance| chance.probability).sum();
        assert!((total - 1.0).abs() < 1e-12, "{total}");
        law.iter()
            .map(|chance| (chance.token, chance.probability))
            .collect()
    }

    const SOFT: Sampling = Sampling {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        seed: 7,
    };

    /// Logits of the probabilities 1/2, 1/4, 1/8, 1/8, out of order.
    fn halves() -> Vec<f32> {
        [0.125f32, 0.5, 0.125, 0.25]
            .iter()
            .map(|p| p.ln())
            .collect()
    }

    #[test]
    fn greedy_takes_the_likeliest_and_the_lower_of_equals() {
        assert_eq!(
            law(Sampling::default(), &[1.0, 3.0, 3.0, f32::NEG_INFINITY]),
            [(1, 1.0)]
        );
        assert_eq!(law(Sampling::default(), &[-5.0]), [(0, 1.0)]);
    }

    #[test]
    fn the_law_is_softmax_cut_and_renormalised() {
        let close = |got: Vec<(u32, f64)>, expected: &[(u32, f64)]| {
            assert_eq!(got.len(), expected.len(), "{got:?}");
            for (a, b) in got.iter().zip(expected) {
                assert!(
                    a.0 == b.0 && (a.1 - b.1).abs() < 1e-7,
                    "{got:?} {expected:?}"
                );
            }
        };
        close(
            law(SOFT, &halves()),
            &[(1, 0.5), (3, 0.25), (0, 0.125), (2, 0.125)],
        );
        close(
            law(Sampling { top_k: 2, ..SOFT }, &halves()),
            &[(1, 2.0 / 3.0), (3, 1.0 / 3.0)],
        );
        close(
            law(Sampling { top_k: 3, ..SOFT }, &halves())[2..].to_vec(),
            &[(0, 1.0 / 7.0)],
        );
        close(
            law(Sampling { top_k: 99, ..SOFT }, &halves()),
            &law(SOFT, &halves()),
        );
        // 0.5 does not reach 0.6: the token that crosses the line belongs to the set.
        close(
            law(Sampling { top_p: 0.6, ..SOFT }, &halves()),
            &[(1, 2.0 / 3.0), (3, 1.0 / 3.0)],
        );
        // top_p counts what top_k left: of {1/2, 1/4}, 0.6 is reached by the first alone (2/3).
        close(
            law(
                Sampling {
                    top_k: 2,
                    top_p: 0.6,
                    ..SOFT
                },
                &halves(),
            ),
            &[(1, 1.0)],
        );
        close(
            law(
                Sampling {
                    top_p: 1e-300,
                    ..SOFT
                },
                &halves(),
            ),
            &[(1, 1.0)],
        );
        // Temperature 1/2 squares the probabilities: 16 : 4 : 1 : 1.
        close(
            law(
                Sampling {
                    temperature: 0.5,
                    ..SOFT
                },
                &halves(),
            )[..2]
                .to_vec(),
            &[(1, 16.0 / 22.0), (3, 4.0 / 22.0)],
        );
    }

    #[test]
    fn extremes_do_not_overflow() {
        let got = law(
            Sampling {
                temperature: 1e-300,
                ..SOFT
            },
            &[-3e38, 3e38, 0.0],
        );
        assert_eq!(got, [(1, 1.0)]);
        let got = law(
            Sampling {
                temperature: 1e300,
                ..SOFT
            },
            &[-3e38, 3e38, 0.0],
        );
        assert!(got.iter().all(|(_, p)| (p - 1.0 / 3.0).abs() < 1e-9));
    }

    #[test]
    fn nonsense_is_refused() {
        for logits in [
            &[][..],
            &[f32::NAN, 1.0],
            &[f32::INFINITY],
            &[f32::NEG_INFINITY; 3],
        ] {
            assert!(SOFT.law(logits).is_err(), "{logits:?}");
        }
        for sampling in [
            Sampling {
                temperature: -1.0,
                ..SOFT
            },
            Sampling {
                temperature: f64::NAN,
                ..SOFT
            },
            Sampling { top_p: 0.0, ..SOFT },
            Sampling { top_p: 1.5, ..SOFT },
            Sampling {
                top_p: f64::NAN,
                ..SOFT
            },
        ] {
            assert!(sampling.law(&[0.0]).is_err(), "{sampling:?}");
        }
    }

    #[test]
    fn draws_follow_the_law_and_the_seed() {
        let law = SOFT.law(&halves()).unwrap();
        let run = |sampling: Sampling| {
            let mut generator = sampling.generator();
            (0..20_000)
                .map(|_| draw(&law, &mut generator).unwrap())
                .collect::<Vec<_>>()
        };
        let drawn = run(SOFT);
        assert_eq!(drawn, run(SOFT));
        assert_ne!(drawn, run(Sampling { seed: 8, ..SOFT }));
        for chance in &law {
            let share =
                drawn.iter().filter(|&&token| token == chance.token).count() as f64 / 20_000.0;
            // Four standard deviations of a binomial share.
            let bound = 4.0 * (chance.probability * (1.0 - chance.probability) / 20_000.0).sqrt();
            assert!(
                (share - chance.probability).abs() < bound,
                "{share} {chance:?}"
            );
        }
        assert_eq!(draw(&[], &mut SOFT.generator()), None);
    }
}
