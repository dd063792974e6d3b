//! The law of the next token, slow and obvious: the truth for `sampling.rs`, with cases that go to the corners.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::super::sample::{
    MinP, Past, Presence, Repetition, Sampling, Temperature, TopK, TopP, Typical,
};

/// Everything there is to set; in this order it is used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) repetition: Repetition,
    pub(super) presence: Presence,
    pub(super) temperature: f64,
    pub(super) top_k: usize,
    pub(super) top_p: f64,
    pub(super) min_p: f64,
    pub(super) typical: f64,
}

pub(super) const SOFT: Settings = Settings {
    repetition: Repetition {
        penalty: 1.0,
        last: None,
    },
    presence: Presence {
        presence: 0.0,
        frequency: 0.0,
    },
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    typical: 1.0,
};

/// As a user would ask for it, in no order.
pub(super) fn sampling(s: Settings) -> Sampling {
    Sampling::plain()
        .with(TopP(s.top_p))
        .with(MinP(s.min_p))
        .with(TopK(s.top_k))
        .with(s.presence)
        .with(Typical(s.typical))
        .with(Temperature(s.temperature))
        .with(s.repetition)
}

/// The law as the papers and Hugging Face's `generate` have it: scores of the whole vocabulary, −∞ for what is out, a softmax
/// whenever one is needed. Probabilities by token, 0 for what cannot come.
pub(super) fn reference(s: Settings, logits: &[f32], past: Past<'_>) -> Vec<f64> {
    let softmax = |scores: &[f64]| -> Vec<f64> {
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|it| (it - top).exp()).sum();
        scores.iter().map(|it| (it - top).exp() / total).collect()
    };
    // Tokens by something, smallest first, the lower id of equals first.
    let ranked = |key: &dyn Fn(usize) -> f64| -> Vec<usize> {
        let mut ids: Vec<usize> = (0..logits.len()).collect();
        ids.sort_by(|&a, &b| key(a).total_cmp(&key(b)).then(a.cmp(&b)));
        ids
    };
    let out = f64::NEG_INFINITY;
    let mut scores: Vec<f64> = logits.iter().map(|&it| f64::from(it)).collect();
    let text: Vec<u32> = [past.prompt, past.generated].concat();
    let counted = s.repetition.last.unwrap_or(text.len()).min(text.len());
    for (id, score) in scores.iter_mut().enumerate() {
        if text[text.len() - counted..].contains(&(id as u32)) {
            *score *= match *score > 0.0 {
                true => 1.0 / s.repetition.penalty,
                false => s.repetition.penalty,
            };
        }
        let times = past
            .generated
            .iter()
            .filter(|&&it| it as usize == id)
            .count() as f64;
        *score -= times.min(1.0) * s.presence.presence + times * s.presence.frequency;
    }
    if s.temperature == 0.0 {
        let best = ranked(&|id| -scores[id])[0];
        return (0..logits.len())
            .map(|id| f64::from(u8::from(id == best)))
            .collect();
    }
    scores.iter_mut().for_each(|it| *it /= s.temperature);
    if s.top_k > 0 {
        for &id in ranked(&|id| -scores[id]).iter().skip(s.top_k) {
            scores[id] = out;
        }
    }
    if s.top_p < 1.0 {
        let p = softmax(&scores);
        let order = ranked(&|id| -scores[id]);
        for n in 1..order.len() {
            if order[..n].iter().map(|&id| p[id]).sum::<f64>() >= s.top_p {
                scores[order[n]] = out;
            }
        }
    }
    let p = softmax(&scores);
    let most = p.iter().copied().fold(0.0, f64::max);
    for id in 0..p.len() {
        if p[id] < s.min_p * most {
            scores[id] = out;
        }
    }
    if s.typical < 1.0 {
        let p = softmax(&scores);
        let surprise: Vec<f64> = p.iter().map(|p| -p.ln()).collect();
        let terms = p.iter().zip(&surprise).filter(|(p, _)| **p > 0.0);
        let entropy: f64 = terms.map(|(p, surprise)| p * surprise).sum();
        // Of equally odd ones the likelier first, then the lower id.
        let mut order = ranked(&|id| -scores[id]);
        order.sort_by(|&a, &b| {
            (surprise[a] - entropy)
                .abs()
                .total_cmp(&(surprise[b] - entropy).abs())
        });
        for n in 1..order.len() {
            if order[..n].iter().map(|&id| p[id]).sum::<f64>() >= s.typical {
                scores[order[n]] = out;
            }
        }
    }
    softmax(&scores)
}

/// A text, logits and settings that go to the corners: ties, −∞, one token, all kinds of processors on and off.
pub(super) fn case(generator: &mut ChaCha8Rng) -> (Settings, Vec<f32>, Vec<u32>, usize) {
    let vocabulary = [1, 2, 3, 7, 24, 24, 24][generator.random_range(0..7)];
    let has_ties = generator.random_bool(0.3);
    let mut logits: Vec<f32> = (0..vocabulary)
        .map(|_| {
            let logit = 8.0 * (generator.random::<f32>() - 0.5);
            match generator.random_range(0..8) {
                0 => f32::NEG_INFINITY,
                _ if has_ties => logit.round(),
                _ => logit,
            }
        })
        .collect();
    logits[0] = logits[0].max(-3.0);
    let text: Vec<u32> = (0..generator.random_range(0..12))
        .map(|_| generator.random_range(0..vocabulary as u32))
        .collect();
    let prompt = generator.random_range(0..=text.len());
    let on = |is_on: bool, value, off| if is_on { value } else { off };
    let mut coin = || generator.random_bool(0.5);
    let is_on: [bool; 9] = std::array::from_fn(|_| coin());
    let mut share = || generator.random::<f64>();
    let settings = Settings {
        repetition: Repetition {
            penalty: on(is_on[0], 0.5 + 2.0 * share(), 1.0),
            last: is_on[1].then(|| (share() * 13.0) as usize),
        },
        presence: Presence {
            presence: on(is_on[2], share(), 0.0),
            frequency: on(is_on[3], share() - 0.3, 0.0),
        },
        temperature: on(is_on[4], 0.1 + 2.0 * share(), 1.0),
        top_k: on(is_on[5], 1.0 + 10.0 * share(), 0.0) as usize,
        top_p: on(is_on[6], 0.05 + 0.95 * share(), 1.0),
        min_p: on(is_on[7], 0.5 * share(), 0.0),
        typical: on(is_on[8], 0.05 + 0.95 * share(), 1.0),
    };
    (settings, logits, text, prompt)
}
