//! Hadamard matrices whose orders are no powers of two, from the quadratic residues of primes.
//!
//! Source: R. E. A. C. Paley, *On orthogonal matrices*, Journal of Mathematics and Physics 12 (1933).

/// The largest order of a factor that is not a power of two.
pub const LARGEST: usize = 256;

/// A Hadamard matrix whose order is no power of two: its signs, row-major.
#[derive(Clone, PartialEq)]
pub(super) struct Factor {
    pub order: usize,
    pub is_plus: Vec<bool>,
}

/// The cheapest product of orders of Paley's with a power of two that is `order`, its factors at most `largest`, descending.
pub(super) fn factorization(order: usize, largest: usize) -> Option<Vec<usize>> {
    if order.is_power_of_two() {
        return Some(Vec::new());
    }
    let candidates = (12..=largest.min(order)).step_by(4);
    let products = candidates
        .filter(|&m| order.is_multiple_of(m) && !m.is_power_of_two() && residue_prime(m).is_some());
    let products = products.filter_map(|m| {
        let rest = factorization(order / m, m)?;
        Some([vec![m], rest].concat())
    });
    let cost = |orders: &[usize]| {
        let product: usize = orders.iter().product();
        orders.iter().sum::<usize>() + 2 * (order / product).ilog2() as usize
    };
    products.min_by_key(|orders| cost(orders))
}

/// The prime p with which Paley's construction gives the order `m`, and whether it is the first one (p ≡ 3 mod 4).
fn residue_prime(m: usize) -> Option<(usize, bool)> {
    let is_prime = |p: usize| {
        p > 1
            && (2..)
                .take_while(|d| d * d <= p)
                .all(|d| !p.is_multiple_of(d))
    };
    let (first, second) = (m - 1, m / 2 - 1);
    if is_prime(first) && first % 4 == 3 {
        Some((first, true))
    } else {
        (is_prime(second) && second % 4 == 1).then_some((second, false))
    }
}

/// Paley's matrix of order `m`.
pub(super) fn paley(m: usize) -> Option<Factor> {
    let (p, is_first) = residue_prime(m)?;
    let mut residues = vec![false; p];
    (1..p).for_each(|i| residues[i * i % p] = true);
    // χ(i − j), −1, 0 or 1, with a first row of ones in front; the first column has the sign that keeps it (skew-)symmetric.
    let bordered = |i: usize, j: usize| match (i, j) {
        (0, 0) => 0,
        (0, _) => 1,
        (_, 0) => {
            if is_first {
                -1
            } else {
                1
            }
        }
        _ if i == j => 0,
        _ => {
            if residues[(i + p - j) % p] {
                1
            } else {
                -1
            }
        }
    };
    let is_plus = |at: usize| {
        let (i, j) = (at / m, at % m);
        match is_first {
            // I + C, C skew-symmetric.
            true => i == j || bordered(i, j) > 0,
            // C ⊗ [[1, 1], [1, −1]] + I ⊗ [[1, −1], [−1, −1]], C symmetric.
            false => match bordered(i / 2, j / 2) {
                0 => i % 2 == 0 && j % 2 == 0,
                value => (value > 0) == (i % 2 == 0 || j % 2 == 0),
            },
        }
    };
    Some(Factor {
        order: m,
        is_plus: (0..m * m).map(is_plus).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_paley_matrix_is_a_hadamard_matrix() {
        let mut count = 0;
        for m in (12..=LARGEST).step_by(4) {
            let Some(factor) = paley(m) else { continue };
            count += 1;
            let sign = |at: usize| if factor.is_plus[at] { 1i32 } else { -1 };
            for i in 0..m {
                for j in 0..i {
                    let dot: i32 = (0..m).map(|k| sign(i * m + k) * sign(j * m + k)).sum();
                    assert_eq!(dot, 0, "order {m}, rows {i} and {j}");
                }
            }
        }
        assert!(count > 30, "{count} orders");
    }
}
