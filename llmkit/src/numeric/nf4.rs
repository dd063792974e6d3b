//! NormalFloat: 16 values in −1 … 1 at quantiles of the normal law, zero among them.
//!
//! Eight quantiles of probabilities spaced evenly from p to ½ (½ itself left out) are the positive values, seven such
//! the negative ones; both divided by the greatest, Φ⁻¹(p). p = 1 − ½(1/32 + 1/30) = 0.9677083….
//!
//! Source: T. Dettmers et al., *QLoRA* (arXiv 2305.14314), section 3 and appendix E, whose list of values is the test.
//!
//! **Where we differ.** Nowhere beyond 5·10⁻⁸: as in the authors' code, the probabilities are spaced in f32; spaced
//! exactly they would move the values by up to 1.9·10⁻⁷.

use std::sync::LazyLock;

use super::normal::quantile;

/// The probability of the greatest value, as the authors' code has it.
const P: f32 = 0.967_708_3;

/// `count` probabilities from [`P`] to ½, ½ left out; stepped from the nearer end, in f32.
fn probabilities(count: usize) -> impl Iterator<Item = f64> {
    let step = (0.5 - P) / count as f32;
    let at = move |i| {
        if i < count.div_ceil(2) {
            P + step * i as f32
        } else {
            0.5 - step * (count - i) as f32
        }
    };
    (0..count).map(move |i| f64::from(at(i)))
}

/// The values, least first; code c stands for `VALUES[c]`.
pub static VALUES: LazyLock<[f32; 16]> = LazyLock::new(|| {
    let mut values = [0.0; 16];
    let greatest = quantile(f64::from(P));
    for (i, p) in probabilities(8).enumerate() {
        values[15 - i] = (quantile(p) / greatest) as f32;
    }
    for (i, p) in probabilities(7).enumerate() {
        values[i] = -(quantile(p) / greatest) as f32;
    }
    values
});

#[cfg(test)]
mod tests {
    use super::*;

    /// Appendix E of the paper.
    const PUBLISHED: [f64; 16] = [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ];

    #[test]
    fn the_definition_gives_the_published_values() {
        for (ours, published) in VALUES.iter().zip(PUBLISHED) {
            assert!(
                (f64::from(*ours) - published).abs() < 1e-7,
                "{ours} {published}"
            );
        }
        assert_eq!((VALUES[0], VALUES[7], VALUES[15]), (-1.0, 0.0, 1.0));
    }
}
