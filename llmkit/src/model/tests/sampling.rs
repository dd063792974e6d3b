//! Laws of the next token against an obvious reference, draws against laws, and mistakes that must be caught.

use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::sample::{
    Candidates, Chance, MinP, Past, Presence, Processor, Repetition, Sampling, Temperature, TopK,
    TopP, Typical, all, draw,
};
use super::law::{SOFT, Settings, case, reference, sampling};
use crate::Result;

/// The first of many cases in which `build` does not give the reference's law, if there is one.
fn disagreement(build: &dyn Fn(Settings) -> Sampling) -> Option<String> {
    let mut generator = ChaCha8Rng::seed_from_u64(11);
    (0..4000).find_map(|_| {
        let (settings, logits, text, prompt) = case(&mut generator);
        let past = Past {
            prompt: &text[..prompt],
            generated: &text[prompt..],
        };
        let expected = reference(settings, &logits, past);
        let law = build(settings).law(&logits, past).unwrap();
        let mut got = vec![0.0; logits.len()];
        law.iter()
            .for_each(|it| got[it.token as usize] = it.probability);
        let is_close = got
            .iter()
            .zip(&expected)
            .all(|(a, b)| (a - b).abs() < 1e-12);
        let is_sorted = law
            .windows(2)
            .all(|it| it[0].probability >= it[1].probability);
        let sums = (law.iter().map(|it| it.probability).sum::<f64>() - 1.0).abs() < 1e-12;
        (!is_close || !is_sorted || !sums)
            .then(|| format!("{settings:?}\n{logits:?} after {past:?}\n{got:?}\n{expected:?}"))
    })
}

#[test]
fn laws_are_those_of_the_reference() {
    if let Some(disagreement) = disagreement(&sampling) {
        panic!("{disagreement}");
    }
}

/// Processors with a mistake each.
#[derive(Debug, Clone, Copy)]
enum Planted {
    /// Divides negative logits too, as the formula in the paper does.
    Repetition(Repetition),
    /// Counts a token once for each time it came.
    RepetitionEach(Repetition),
    /// Takes the prompt into account.
    Presence(Presence),
    /// Drops the token that crosses the line.
    TopP(f64),
    /// Relative to 1 instead of the likeliest.
    MinP(f64),
    /// Keeps everything as likely as the k-th.
    TopK(usize),
    /// Keeps the likeliest rather than the most typical.
    Typical(f64),
}

impl Processor for Planted {
    fn name(&self) -> String {
        format!("{self:?}")
    }

    fn family(&self) -> &'static str {
        match self {
            Planted::Repetition(_) | Planted::RepetitionEach(_) => "repetition",
            Planted::Presence(_) => "presence",
            Planted::TopP(_) => "top_p",
            Planted::MinP(_) => "min_p",
            Planted::TopK(_) => "top_k",
            Planted::Typical(_) => "typical",
        }
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn apply(&self, past: Past<'_>, candidates: &mut Candidates) {
        match *self {
            Planted::Repetition(it) => {
                let seen: Vec<u32> = past.last(it.last).collect();
                candidates.map(|c| match seen.contains(&c.token) {
                    true => c.logit / it.penalty,
                    false => c.logit,
                });
            }
            Planted::RepetitionEach(it) => {
                for token in past.last(it.last) {
                    candidates.map(|c| match (c.token == token, c.logit > 0.0) {
                        (false, _) => c.logit,
                        (true, true) => c.logit / it.penalty,
                        (true, false) => c.logit * it.penalty,
                    });
                }
            }
            Planted::Presence(it) => {
                let text = [past.prompt, past.generated].concat();
                let past = Past {
                    prompt: &[],
                    generated: &text,
                };
                it.apply(past, candidates);
            }
            Planted::TopP(p) => {
                let mut mass = 0.0;
                let within = |it: &&f64| {
                    mass += **it;
                    mass < p
                };
                let count = candidates.probabilities().iter().take_while(within).count();
                candidates.keep(if p < 1.0 { count } else { usize::MAX });
            }
            Planted::MinP(share) => {
                let count = candidates
                    .probabilities()
                    .iter()
                    .filter(|&&p| p >= share)
                    .count();
                candidates.keep(count);
            }
            Planted::TopK(k) => {
                let sorted = candidates.sorted();
                if k > 0 && k < sorted.len() {
                    let least = sorted[k - 1].logit;
                    let count = sorted.iter().filter(|it| it.logit >= least).count();
                    candidates.keep(count);
                }
            }
            Planted::Typical(mass) => TopP(mass).apply(past, candidates),
        }
    }
}

#[test]
fn mistakes_in_processors_and_in_their_order_are_caught() {
    type Build = fn(Settings) -> Planted;
    let planted: [(&str, Build); 7] = [
        ("negative logits", |s| Planted::Repetition(s.repetition)),
        ("each time", |s| Planted::RepetitionEach(s.repetition)),
        ("prompt counts", |s| Planted::Presence(s.presence)),
        ("crossing token", |s| Planted::TopP(s.top_p)),
        ("wrong maximum", |s| Planted::MinP(s.min_p)),
        ("ties", |s| Planted::TopK(s.top_k)),
        ("likeliest", |s| Planted::Typical(s.typical)),
    ];
    for (mistake, build) in planted {
        let found = disagreement(&|s| sampling(s).with(build(s)));
        assert!(found.is_some(), "{mistake} is not noticed");
    }
    // Every exchange of two neighbours matters but one: the k likeliest are the same at any temperature.
    for first in 0..6 {
        let exchanged = |s| {
            let mut order = sampling(s).processors().to_vec();
            order.swap(first, first + 1);
            Sampling::in_order(order)
        };
        let matters = disagreement(&exchanged).is_some();
        assert_eq!(matters, first != 2, "places {first} and {}", first + 1);
    }
    // llama.cpp's order is not Hugging Face's.
    let llama_cpp = |s: Settings| {
        let order: [Arc<dyn Processor>; 7] = [
            Arc::new(s.repetition),
            Arc::new(s.presence),
            Arc::new(TopK(s.top_k)),
            Arc::new(Typical(s.typical)),
            Arc::new(TopP(s.top_p)),
            Arc::new(MinP(s.min_p)),
            Arc::new(Temperature(s.temperature)),
        ];
        Sampling::in_order(order.to_vec())
    };
    assert!(disagreement(&llama_cpp).is_some());
}

#[test]
fn processors_take_their_place_and_replace_their_like() {
    let order: Vec<&str> = all().iter().map(|it| it.name).collect();
    let families = |it: &Sampling| {
        it.processors()
            .iter()
            .map(|it| it.family())
            .collect::<Vec<_>>()
    };
    assert_eq!(families(&sampling(SOFT)), order);
    let other = Sampling::plain()
        .with(TopK(3))
        .with(Temperature(0.5))
        .with(TopK(4))
        .seeded(9);
    assert_eq!(other.to_string(), "temperature=0.5, top_k=4, seed 9");
    assert_eq!(Sampling::default().to_string(), "temperature=0, seed 0");
    for family in all() {
        for member in (family.members)() {
            assert_eq!(member.family(), family.name);
            assert!(member.check().is_ok());
        }
    }
}

#[test]
fn greedy_takes_the_likeliest_and_the_lower_of_equals() {
    let greedy = |logits: &[f32]| Sampling::greedy().law(logits, Past::default()).unwrap();
    let only = |token| {
        [Chance {
            token,
            probability: 1.0,
        }]
    };
    assert_eq!(greedy(&[1.0, 3.0, 3.0, f32::NEG_INFINITY]), only(1));
    assert_eq!(greedy(&[-5.0]), only(0));
}

#[test]
fn extremes_do_not_overflow() {
    let law = |sampling: Sampling, logits: &[f32], past: &[u32]| {
        let past = Past {
            prompt: past,
            generated: past,
        };
        let law = sampling.law(logits, past).unwrap();
        assert!(
            law.iter()
                .all(|it| it.probability > 0.0 && it.probability <= 1.0),
            "{law:?}"
        );
        law
    };
    let wild = [-3e38, 3e38, 0.0];
    let only = |token| {
        [Chance {
            token,
            probability: 1.0,
        }]
    };
    let plain = Sampling::plain;
    assert_eq!(law(plain().with(Temperature(1e-300)), &wild, &[]), only(1));
    assert_eq!(
        law(plain().with(Temperature(1e-280)), &[1.0, -3e38], &[]),
        only(0)
    );
    let flat = law(plain().with(Temperature(1e300)), &wild, &[]);
    assert!(
        flat.iter()
            .all(|it| (it.probability - 1.0 / 3.0).abs() < 1e-9)
    );
    for penalty in [1e-300, 1e300] {
        law(plain().with(Repetition::new(penalty)), &wild, &[0, 1, 2]);
    }
    let huge = Presence {
        presence: f64::MAX,
        frequency: f64::MAX,
    };
    law(plain().with(huge), &wild, &[0, 1]);
    law(plain().with(huge), &[5.0], &[0]);
    for family in all() {
        for member in (family.members)() {
            law(Sampling::in_order(vec![member]), &wild, &[1, 1]);
        }
    }
}

#[test]
fn nonsense_is_refused() {
    let law = |sampling: Sampling, logits: &[f32]| sampling.law(logits, Past::default());
    let nothing = f32::NEG_INFINITY;
    for logits in [&[][..], &[f32::NAN, 1.0], &[f32::INFINITY], &[nothing; 3]] {
        assert!(law(sampling(SOFT), logits).is_err(), "{logits:?}");
        assert!(law(Sampling::greedy(), logits).is_err(), "{logits:?}");
    }
    let plain = Sampling::plain;
    let nan = f64::NAN;
    for sampling in [
        plain().with(Temperature(-1.0)),
        plain().with(Temperature(nan)),
        plain().with(Temperature(f64::INFINITY)),
        plain().with(TopP(0.0)),
        plain().with(TopP(1.5)),
        plain().with(TopP(nan)),
        plain().with(MinP(-0.1)),
        plain().with(MinP(1.1)),
        plain().with(MinP(nan)),
        plain().with(Typical(0.0)),
        plain().with(Typical(nan)),
        plain().with(Repetition::new(0.0)),
        plain().with(Repetition::new(nan)),
        plain().with(Presence {
            presence: nan,
            frequency: 0.0,
        }),
    ] {
        assert!(law(sampling.clone(), &[0.0]).is_err(), "{sampling}");
    }
}

/// Pearson's statistic of draws against a law, and the value it exceeds once in 10,000 times (Wilson & Hilferty 1931).
fn chi_square(law: &[Chance], drawn: &[u32]) -> (f64, f64) {
    let term = |it: &Chance| {
        let count = drawn.iter().filter(|&&token| token == it.token).count() as f64;
        let expected = it.probability * drawn.len() as f64;
        (count - expected).powi(2) / expected
    };
    let freedom = law.len() as f64 - 1.0;
    let spread = 2.0 / (9.0 * freedom);
    (
        law.iter().map(term).sum(),
        freedom * (1.0 - spread + 3.719 * spread.sqrt()).powi(3),
    )
}

#[test]
fn draws_follow_the_law_and_the_seed() {
    let logits: Vec<f32> = (0..12).map(|i| (i as f32 * 1.7).sin() * 1.5).collect();
    let past = Past {
        prompt: &[1, 2],
        generated: &[3, 3],
    };
    let soft = Settings {
        repetition: Repetition::new(1.3),
        temperature: 0.8,
        top_k: 10,
        top_p: 0.95,
        min_p: 0.02,
        ..SOFT
    };
    let law = sampling(soft).law(&logits, past).unwrap();
    assert!(law.len() > 4);
    let run = |seed: u64| -> Vec<u32> {
        let mut generator = Sampling::plain().seeded(seed).generator();
        (0..50_000)
            .map(|_| draw(&law, &mut generator).unwrap())
            .collect()
    };
    let drawn = run(7);
    assert_eq!(drawn, run(7));
    assert_ne!(drawn, run(8));
    let (statistic, most) = chi_square(&law, &drawn);
    assert!(statistic < most, "{statistic} > {most}");
    assert!(
        drawn
            .iter()
            .all(|token| law.iter().any(|it| it.token == *token))
    );
    // The test would notice a law that is a little different: the same at temperature 0.85.
    let other = sampling(Settings {
        temperature: 0.85,
        ..soft
    });
    let (statistic, most) = chi_square(&other.law(&logits, past).unwrap(), &drawn);
    assert!(statistic > most, "{statistic} < {most}");
    assert_eq!(draw(&[], &mut Sampling::plain().generator()), None);
}
