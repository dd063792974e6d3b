//! How far two rows of logits are apart: KL divergence, in f64 from end to end.
//!
//! ```text
//! Σ p·ln(p/q) = Σ p·φ(δ),   δ = ln q − ln p,   φ(δ) = e^δ − 1 − δ ≥ 0
//! ```
//!
//! The two sums are equal because p and q both sum to one. The terms of the first have both signs and nearly cancel when the laws are
//! alike, which is when the answer matters; of the second no term is negative, and all are exactly 0 for equal rows. An error ε of a
//! log-normaliser moves the first sum by ε and the second by ε times the answer, plus ε²/2: divergences of 10⁻¹⁰ are real.
//!
//! Cost: two exponentials and some thirty multiply-adds for each of V tokens.

use super::isa::{Isa, vectorizable, vectorized};
use super::panel::LANES;

/// Σ p·ln(p/q) in nats, p and q the laws of two rows of logits; their log-normalisers are `of_p` and `of_q`. Infinite if p chooses a
/// token that q never does.
///
/// # Panics
/// If the rows differ in length.
pub fn divergence(isa: Isa, p: &[f32], of_p: f64, q: &[f32], of_q: f64) -> f64 {
    assert_eq!(p.len(), q.len(), "logits of one vocabulary");
    vectorized(isa, SumOfTerms, (p, of_p, q, of_q))
}

vectorizable!(SumOfTerms<'a>: sum_of_terms, (&'a [f32], f64, &'a [f32], f64) => f64);

#[inline(always)]
fn sum_of_terms((p, of_p, q, of_q): (&[f32], f64, &[f32], f64)) -> f64 {
    let mut lanes = [0f64; LANES];
    let (p_chunks, p_rest) = p.as_chunks::<LANES>();
    let (q_chunks, q_rest) = q.as_chunks::<LANES>();
    for (p, q) in p_chunks.iter().zip(q_chunks) {
        for (lane, (p, q)) in lanes.iter_mut().zip(p.iter().zip(q)) {
            *lane += term(f64::from(*p) - of_p, f64::from(*q) - of_q);
        }
    }
    for (p, q) in p_rest.iter().zip(q_rest) {
        lanes[0] += term(f64::from(*p) - of_p, f64::from(*q) - of_q);
    }
    lanes.iter().sum()
}

/// p·φ(ln q − ln p).
#[inline(always)]
fn term(ln_p: f64, ln_q: f64) -> f64 {
    let (p, q) = (exp(ln_p), exp(ln_q));
    let step = ln_q - ln_p;
    // φ(δ)/δ² = 1/2! + δ/3! + δ²/4! + …; what is left out is below 2⁻⁵³ of the sum for |δ| ≤ ½.
    let mut series = 0.0;
    for k in (2..=15).rev() {
        series = series * step + INVERSE_FACTORIAL[k];
    }
    let near = p * (step * step) * series;
    let far = q - p - p * step;
    if ln_p < LEAST {
        // p never chooses this token; its part of the sum is what q gives it.
        q
    } else if step.abs() < 0.5 {
        near
    } else {
        far
    }
}

/// Below this, e^x counts as 0.
const LEAST: f64 = -700.0;

const INVERSE_FACTORIAL: [f64; 16] = {
    let mut table = [1.0; 16];
    let mut k = 1;
    while k < 16 {
        table[k] = table[k - 1] / k as f64;
        k += 1;
    }
    table
};

/// e^x for x ≤ 709, within 2 units in the last place: 2ⁿ·e^r with |r| ≤ ln 2 / 2, e^r by its series.
#[inline(always)]
fn exp(x: f64) -> f64 {
    // Added to a number of this size, only the whole part stays, in the low bits.
    const WHOLE: f64 = 6_755_399_441_055_744.0;
    const LN2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let kept = x.clamp(LEAST, 709.0);
    let shifted = kept * std::f64::consts::LOG2_E + WHOLE;
    let n = shifted - WHOLE;
    let r = kept - n * LN2_HIGH - n * LN2_LOW;
    let mut series = 0.0;
    for k in (0..=13).rev() {
        series = series * r + INVERSE_FACTORIAL[k];
    }
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    if x < LEAST { 0.0 } else { series * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(count: usize, seed: f32) -> Vec<f32> {
        (0..count)
            .map(|i| ((i as f32 + seed) * 0.618).sin() * 12.0 + (i % 5) as f32)
            .collect()
    }

    /// A sum within 2 units of roundoff of the sum of magnitudes, however many terms (Neumaier 1974).
    fn sum(terms: impl Iterator<Item = f64>) -> f64 {
        let (mut sum, mut lost) = (0f64, 0f64);
        for term in terms {
            let next = sum + term;
            lost += match sum.abs() >= term.abs() {
                true => (sum - next) + term,
                false => (term - next) + sum,
            };
            sum = next;
        }
        sum + lost
    }

    fn top(row: &[f32]) -> f64 {
        (row.iter()).fold(f64::NEG_INFINITY, |a, &b| a.max(f64::from(b)))
    }

    fn normaliser(row: &[f32]) -> f64 {
        let top = top(row);
        top + sum(row.iter().map(|&it| (f64::from(it) - top).exp())).ln()
    }

    /// The sum that everybody writes, and that of its terms' magnitudes.
    fn textbook(p: &[f32], of_p: f64, q: &[f32], of_q: f64) -> (f64, f64) {
        let both = p.iter().zip(q);
        let terms: Vec<f64> = both
            .map(|(&p, &q)| (f64::from(p) - of_p, f64::from(q) - of_q))
            .map(|(p, q)| p.exp() * (p - q))
            .collect();
        let size = sum(terms.iter().map(|it| it.abs()));
        (sum(terms.into_iter()), size)
    }

    /// How far ours and the textbook's may be apart, in roundoffs u. The two sums differ by Σq − Σp, which is what the normalisers
    /// are off: 4 for e^x and their sum, 2 for the logarithm, 1 for adding the top; and ln V for taking them off. Ours has 12 a
    /// term that is near, 7 of its three parts one that is far, and V/16 additions; the textbook 6 of its terms' magnitudes.
    fn bound(p: &[f32], of_p: f64, q: &[f32], of_q: f64, expected: f64, size: f64) -> f64 {
        let count = p.len() as f64;
        let of = |row: &[f32], of: f64| 4.0 + 2.0 * (of - top(row)).abs() + of.abs() + count.ln();
        let own = (count / 16.0 + 12.0) * expected.abs() + 7.0 * (2.0 + size);
        (of(p, of_p) + of(q, of_q) + own + 6.0 * size) * f64::EPSILON / 2.0
    }

    #[test]
    fn the_exponential_is_exact_to_the_last_places() {
        for i in -69_900..=7_000 {
            let x = f64::from(i) * 0.01 + 0.001_3;
            assert!((exp(x) / x.exp() - 1.0).abs() < 5e-16, "{x}");
        }
        assert_eq!((exp(0.0), exp(f64::NEG_INFINITY)), (1.0, 0.0));
    }

    #[test]
    fn far_and_near_rows_agree_with_the_textbook() {
        for count in [1, 15, 16, 33, 513, 49_152] {
            for shift in [0.0, 1e-3, 0.01, 0.3, 2.0] {
                let (p, q) = (row(count, 0.0), row(count, shift));
                let (of_p, of_q) = (normaliser(&p), normaliser(&q));
                let (expected, size) = textbook(&p, of_p, &q, of_q);
                let bound = bound(&p, of_p, &q, of_q, expected, size);
                for isa in Isa::here() {
                    let got = divergence(isa, &p, of_p, &q, of_q);
                    assert!(
                        (got - expected).abs() < bound,
                        "{isa} {count} {shift}: {got} for {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn equal_rows_are_exactly_nothing_apart_and_no_rows_less() {
        for isa in Isa::here() {
            for count in [1, 16, 49_152] {
                let p = row(count, 0.0);
                // Exactly 0 however wrong the normaliser is.
                for error in [0.0, 1e-6, 0.1] {
                    let of_p = normaliser(&p) + error;
                    assert_eq!(divergence(isa, &p, of_p, &p, of_p), 0.0);
                }
                // Rows that differ in the last bit of one logit.
                let mut q = p.clone();
                q[count / 2] = q[count / 2].next_up();
                assert!(divergence(isa, &p, normaliser(&p), &q, normaliser(&q)) >= 0.0);
            }
        }
    }

    #[test]
    fn normalisers_may_be_off_by_a_millionth() {
        let p = row(49_152, 0.0);
        let q: Vec<f32> = p.iter().map(|&it| it * 1.000_01).collect();
        let (of_p, of_q) = (normaliser(&p), normaliser(&q));
        let exact = divergence(Isa::best(), &p, of_p, &q, of_q);
        assert!((1e-12..1e-8).contains(&exact), "{exact}");
        let off = divergence(Isa::best(), &p, of_p + 1e-6, &q, of_q - 1e-6);
        assert!((off - exact).abs() < 4e-12, "{off} for {exact}");
        // What this guards against: the textbook's sum moves by the whole error, ten thousand times the answer and more.
        let (planted, _) = textbook(&p, of_p + 1e-6, &q, of_q - 1e-6);
        assert!((planted - exact).abs() > 1e-6, "{planted}");
    }

    #[test]
    fn tokens_without_a_chance() {
        let never = f32::NEG_INFINITY;
        for isa in Isa::here() {
            let half = 2f64.ln();
            let got = divergence(isa, &[0.0, never], 0.0, &[0.0, 0.0], half);
            assert!((got - half).abs() < 1e-15);
            let got = divergence(isa, &[0.0, 0.0], half, &[0.0, never], 0.0);
            assert_eq!(got, f64::INFINITY);
            let both = divergence(isa, &[0.0, never], 0.0, &[0.0, never], 0.0);
            assert_eq!(both, 0.0);
            assert_eq!(divergence(isa, &[], 0.0, &[], 0.0), 0.0);
        }
    }
}
