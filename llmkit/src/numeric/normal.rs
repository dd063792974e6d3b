//! The standard normal law in f64.

/// Density φ(x).
pub fn density(x: f64) -> f64 {
    (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// Distribution Φ(x): ½ + φ(x) · (x + x³/3 + x⁵/(3·5) + …), to about 1e-15 for |x| < 7; 0 or 1 beyond.
///
/// Source: G. Marsaglia, *Evaluating the Normal Distribution*, Journal of Statistical Software 11 (2004).
pub fn distribution(x: f64) -> f64 {
    if x.abs() > 7.0 {
        return if x < 0.0 { 0.0 } else { 1.0 };
    }
    let (mut sum, mut term, mut k) = (x, x, 1.0);
    while sum + term != sum {
        k += 2.0;
        term *= x * x / k;
        sum += term;
    }
    0.5 + sum * density(x)
}

/// Quantile Φ⁻¹(p) for p in 0.001 … 0.999, by Newton's method from 0.
pub fn quantile(p: f64) -> f64 {
    let mut x = 0.0;
    for _ in 0..60 {
        x -= (distribution(x) - p) / density(x);
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_and_the_way_back() {
        assert!((distribution(1.0) - 0.841_344_746_068_542_9).abs() < 1e-15);
        assert!((distribution(-3.0) - 0.001_349_898_031_630_094_5).abs() < 1e-15);
        assert!((quantile(0.975) - 1.959_963_984_540_054).abs() < 1e-12);
        for i in 1..1000 {
            let p = f64::from(i) / 1000.0;
            assert!((distribution(quantile(p)) - p).abs() < 1e-14, "{p}");
        }
        assert_eq!((distribution(-9.0), distribution(9.0)), (0.0, 1.0));
    }
}
