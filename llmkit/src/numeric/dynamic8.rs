//! The 8-bit dynamic tree data type: 256 numbers in −0.99 … 1, seven decades, more of them near 1.
//!
//! Decade 10^(i−6) · (0.1 … 1), i = 0 … 6, is cut into 2^i equal parts; their midpoints and the negatives of these are
//! the numbers, with 0 and 1.
//!
//! Source: T. Dettmers, *8-Bit Approximations for Parallelism in Deep Learning* (arXiv 1511.04561), section 2.2, as in
//! T. Dettmers et al., *8-bit Optimizers via Block-wise Quantization* (arXiv 2110.02861); QLoRA (arXiv 2305.14314)
//! stores the scales of NF4 in it.

use std::sync::LazyLock;

/// The numbers, least first; code c stands for `VALUES[c]`.
pub static VALUES: LazyLock<[f32; 256]> = LazyLock::new(|| {
    let mut values = vec![0.0, 1.0];
    for i in 0..7 {
        let parts = 1 << i;
        for part in 0..parts {
            let middle = 0.1 + 0.9 * (f64::from(part) + 0.5) / f64::from(parts);
            let value = (10f64.powi(i - 6) * middle) as f32;
            values.extend([value, -value]);
        }
    }
    values.sort_by(f32::total_cmp);
    // 2 + 2 · (1 + 2 + … + 64)
    std::array::from_fn(|i| values[i])
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_different_and_as_described() {
        assert!(VALUES.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(
            (VALUES[0], VALUES[127], VALUES[255]),
            (-0.992_968_75, 0.0, 1.0)
        );
        assert_eq!(VALUES[128], 0.55e-6);
        assert_eq!(VALUES[254], 0.992_968_75);
    }
}
