//! The largest eigenvalues of a symmetric matrix A (N, N), and their vectors.
//!
//! ```text
//! tridiagonal:   T = Hₙ₋₃ … H₀·A·H₀ … Hₙ₋₃         Householder reflections H = I − 2·v·vᵀ
//! values:        implicit QL steps on T, all of them
//! vectors:       (T − λ)·y ← y, a few times, made orthogonal to those before; x = H₀ … Hₙ₋₃·y
//! ```
//! Made for a few vectors out of many: what a full decomposition spends on the others is left out.
//!
//! Source: G. Golub and C. Van Loan, *Matrix Computations*, 4th edition, sections 8.3.1, 8.3.3 and 8.4.2.
//!
//! Cost: 2·N³ flops for T, N² for the values, 2·N² + R·N for each of R vectors. In f64 on one thread.

/// Eigenvalues and the vectors of the largest.
#[derive(Debug, Clone, PartialEq)]
pub struct Largest {
    /// All N, descending.
    pub values: Vec<f64>,
    /// (R, N), of length one and orthogonal.
    pub vectors: Vec<f64>,
}

/// QL steps before a value is given up: 30 is the usual limit, and none is known to need ten.
const STEPS: usize = 60;
/// Solutions of (T − λ)·y for a vector.
const SOLUTIONS: usize = 3;

/// The eigenvalues of `a` (N, N), row-major and symmetric, and the vectors of the `count` largest (by value, not by magnitude). `a` is
/// spoilt. [`None`] if a number is not finite, or the values are not found.
///
/// # Panics
/// If `a` is not (N, N).
pub fn largest(a: &mut [f64], n: usize, count: usize) -> Option<Largest> {
    assert_eq!(a.len(), n * n, "N by N");
    if a.iter().any(|it| !it.is_finite()) {
        return None;
    }
    // Of size one, so that squares neither vanish nor overflow.
    let size = a.iter().fold(0f64, |most, it| most.max(it.abs()));
    let size = if size > 0.0 { size } else { 1.0 };
    a.iter_mut().for_each(|it| *it /= size);
    let (diagonal, beside) = tridiagonal(a, n);
    let mut values = values(&diagonal, &beside)?;
    values.sort_by(|a, b| b.total_cmp(a));
    let mut vectors: Vec<f64> = Vec::with_capacity(count.min(n) * n);
    for (index, &value) in values.iter().take(count).enumerate() {
        let mut y = start(n, index);
        for _ in 0..SOLUTIONS {
            solve(&diagonal, &beside, value, &mut y);
            orthogonalize(&mut y, &vectors);
        }
        vectors.extend(y);
    }
    for x in vectors.chunks_exact_mut(n.max(1)) {
        // The reflections lie in the rows of what was A.
        for k in (0..n.saturating_sub(2)).rev() {
            let v = &a[k * n + k + 1..(k + 1) * n];
            reflect(&mut x[k + 1..], v);
        }
    }
    values.iter_mut().for_each(|it| *it *= size);
    Some(Largest { values, vectors })
}

/// x ← x − 2·v·(v·x).
fn reflect(x: &mut [f64], v: &[f64]) {
    let dot: f64 = x.iter().zip(v).map(|(x, v)| x * v).sum();
    x.iter_mut().zip(v).for_each(|(x, v)| *x -= 2.0 * dot * v);
}

/// Diagonal (N) of T and what stands beside it (N − 1). Row k of `a` then holds v of reflection k, behind the diagonal.
fn tridiagonal(a: &mut [f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut beside = vec![0.0; n.saturating_sub(1)];
    let mut w = vec![0.0; n];
    for k in 0..n.saturating_sub(2) {
        let (above, rest) = a.split_at_mut((k + 1) * n);
        let v = &mut above[k * n + k + 1..];
        let m = v.len();
        let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let alpha = if v[0] > 0.0 { -length } else { length };
        beside[k] = alpha;
        v[0] -= alpha;
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm == 0.0 {
            continue;
        }
        v.iter_mut().for_each(|x| *x /= norm);
        let w = &mut w[..m];
        for (w, row) in w.iter_mut().zip(rest.chunks_exact(n)) {
            *w = dot(&row[k + 1..], v);
        }
        let share = dot(w, v);
        w.iter_mut()
            .zip(&*v)
            .for_each(|(w, v)| *w = 2.0 * (*w - share * v));
        for (i, row) in rest.chunks_exact_mut(n).enumerate() {
            let (vi, wi) = (v[i], w[i]);
            let columns = row[k + 1..].iter_mut().zip(v.iter().zip(&*w));
            columns.for_each(|(x, (v, w))| *x -= vi * w + wi * v);
        }
    }
    if n > 1 {
        beside[n - 2] = a[(n - 2) * n + n - 1];
    }
    ((0..n).map(|i| a[i * n + i]).collect(), beside)
}

/// Four sums, so that additions need not wait for each other.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (fours, others) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = fours.remainder().iter().zip(others.remainder());
    let rest: f64 = rest.map(|(a, b)| a * b).sum();
    for (a, b) in fours.zip(others) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Eigenvalues of T, in no order.
fn values(diagonal: &[f64], beside: &[f64]) -> Option<Vec<f64>> {
    let n = diagonal.len();
    let mut d = diagonal.to_vec();
    let mut e = [beside, &[0.0]].concat();
    let size = d.iter().chain(&e).fold(0f64, |m, it| m.max(it.abs()));
    for l in 0..n {
        for step in 0.. {
            // Below either, it changes no value by more than rounding does.
            let small = |m: &usize| {
                let beside = (d[*m].abs() + d[*m + 1].abs()).max(size / 8.0);
                e[*m].abs() <= f64::EPSILON * beside
            };
            let m = (l..n - 1).find(small).unwrap_or(n - 1);
            if m == l {
                break;
            }
            if step == STEPS {
                return None;
            }
            let mut g = (d[l + 1] - d[l]) / (2.0 * e[l]);
            g = d[m] - d[l] + e[l] / (g + g.hypot(1.0).copysign(g));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut is_done = true;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    is_done = false;
                    break;
                }
                (s, c) = (f / r, g / r);
                g = d[i + 1] - p;
                let r = (d[i] - g) * s + 2.0 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
            }
            if is_done {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
    Some(d)
}

/// y ← (T − λ)⁻¹·y, of length one: elimination with rows exchanged where the one below is larger.
fn solve(diagonal: &[f64], beside: &[f64], value: f64, y: &mut [f64]) {
    let n = diagonal.len();
    // The matrix is of size one, or zero.
    let least = f64::EPSILON;
    // Rows of the triangle: the pivot and the two to its right.
    let mut rows: Vec<[f64; 3]> = Vec::with_capacity(n);
    let right = |i: usize| beside.get(i).copied().unwrap_or(0.0);
    let mut row = [diagonal.first().map_or(0.0, |it| it - value), right(0), 0.0];
    for i in 0..n.saturating_sub(1) {
        let mut below = [beside[i], diagonal[i + 1] - value, right(i + 1)];
        if below[0].abs() > row[0].abs() {
            std::mem::swap(&mut row, &mut below);
            y.swap(i, i + 1);
        }
        if row[0].abs() < least {
            row[0] = least;
        }
        let factor = below[0] / row[0];
        y[i + 1] -= factor * y[i];
        rows.push(row);
        row = [below[1] - factor * row[1], below[2] - factor * row[2], 0.0];
    }
    if row[0].abs() < least {
        row[0] = least;
    }
    rows.push(row);
    for i in (0..n).rev() {
        let next = |step: usize| y.get(i + step).copied().unwrap_or(0.0);
        let known = rows[i][1] * next(1) + rows[i][2] * next(2);
        y[i] = (y[i] - known) / rows[i][0];
        // Solutions grow towards the top: kept within range.
        if y[i].abs() > 1e100 {
            y[i..].iter_mut().for_each(|it| *it *= 1e-100);
            y[..i].iter_mut().for_each(|it| *it *= 1e-100);
        }
    }
    normalize(y);
}

fn normalize(y: &mut [f64]) {
    let most = y.iter().fold(0f64, |most, it| most.max(it.abs()));
    if most > 0.0 && most.is_finite() {
        y.iter_mut().for_each(|it| *it /= most);
        let length = y.iter().map(|it| it * it).sum::<f64>().sqrt();
        y.iter_mut().for_each(|it| *it /= length);
    }
}

/// Takes from `y` what it has of `others` (of its length each), twice, and makes it of length one.
pub(crate) fn orthogonalize(y: &mut [f64], others: &[f64]) {
    for _ in 0..2 {
        for other in others.chunks_exact(y.len().max(1)) {
            let share = dot(y, other);
            y.iter_mut().zip(other).for_each(|(y, it)| *y -= share * it);
        }
        normalize(y);
    }
}

/// Where the search for a vector begins: no direction is preferred.
fn start(n: usize, index: usize) -> Vec<f64> {
    let noise = |i: usize| {
        let mixed =
            ((i + 1) as u64 ^ ((index as u64 + 1) << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    (0..n).map(noise).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B·Bᵀ of a B with `rank` columns.
    fn gram(n: usize, rank: usize) -> Vec<f64> {
        let b = |i: usize, k: usize| ((i * 37 + k * 101 + i * k * 7) % 211) as f64 / 100.0 - 1.0;
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                a[i * n + j] = (0..rank).map(|k| b(i, k) * b(j, k)).sum();
            }
        }
        a
    }

    /// ‖A·x − λ·x‖, ‖xᵀx − I‖ and the difference of traces, over the largest value.
    fn check(a: &[f64], n: usize, count: usize) {
        let found = largest(&mut a.to_vec(), n, count).unwrap();
        let size = found
            .values
            .iter()
            .fold(1e-300, |m: f64, it| m.max(it.abs()));
        let trace: f64 = (0..n).map(|i| a[i * n + i]).sum();
        let sum: f64 = found.values.iter().sum();
        assert!(
            (trace - sum).abs() < 1e-12 * size * n as f64,
            "{trace} {sum}"
        );
        assert!(found.values.is_sorted_by(|a, b| a >= b));
        let rows: Vec<&[f64]> = found.vectors.chunks_exact(n.max(1)).collect();
        assert_eq!(rows.len(), count.min(n));
        for (i, x) in rows.iter().enumerate() {
            for k in 0..n {
                let ax = dot(&a[k * n..(k + 1) * n], x);
                let error = (ax - found.values[i] * x[k]).abs();
                assert!(error < 1e-11 * size, "n {n}, vector {i}: {error:e}");
            }
            for (j, other) in rows.iter().enumerate() {
                let expected = f64::from(u8::from(i == j));
                assert!((dot(x, other) - expected).abs() < 1e-12, "{i} {j}");
            }
        }
    }

    #[test]
    fn vectors_are_eigenvectors_whatever_the_spectrum() {
        for n in [1, 2, 3, 4, 7, 33, 80] {
            check(&gram(n, n + 3), n, n);
            // Many zeros, all zeros, one value many times.
            check(&gram(n, 1 + n / 4), n, n);
            check(&vec![0.0; n * n], n, n.min(5));
            let tiny: Vec<f64> = gram(n, n).iter().map(|it| it * 1e-200).collect();
            check(&tiny, n, n);
            let mut same = vec![0.0; n * n];
            (0..n).for_each(|i| same[i * n + i] = if i % 2 == 0 { 3.0 } else { -1.0 });
            check(&same, n, n);
        }
        check(&gram(200, 220), 200, 16);
    }

    #[test]
    fn what_is_not_finite_is_refused_and_nothing_has_none() {
        assert!(largest(&mut [1.0, f64::NAN, f64::NAN, 1.0], 2, 1).is_none());
        let none = largest(&mut [], 0, 3).unwrap();
        assert!(none.values.is_empty() && none.vectors.is_empty());
    }

    #[test]
    fn a_matrix_by_hand() {
        // Eigenvalues of [[2, 1], [1, 2]]: 3 along (1, 1), 1 along (1, −1).
        let found = largest(&mut [2.0, 1.0, 1.0, 2.0], 2, 1).unwrap();
        assert!((found.values[0] - 3.0).abs() < 1e-14 && (found.values[1] - 1.0).abs() < 1e-14);
        assert!((found.vectors[0] - found.vectors[1]).abs() < 1e-14);
        assert!((found.vectors[0].abs() - 0.5f64.sqrt()).abs() < 1e-14);
    }
}
