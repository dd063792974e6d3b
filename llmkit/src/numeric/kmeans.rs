//! The best k points for weighted numbers on a line: exactly, and by Lloyd's algorithm.
//!
//! Minimises Σ wᵢ·(xᵢ − nearest point)². On a line the clusters of an optimum are intervals of the sorted numbers, so
//! dynamic programming over the cuts is exact: D(j, m) = minᵢ D(i, m − 1) + cost(i … j), and the best i never moves left
//! as j moves right.
//!
//! Source: S. P. Lloyd, *Least Squares Quantization in PCM*, IEEE Transactions on Information Theory 28 (1982); H. Wang
//! and M. Song, *Ckmeans.1d.dp*, The R Journal 3/2 (2011) for the exact algorithm; weights as in S. Kim et al.,
//! *SqueezeLLM* (arXiv 2306.07629).
//!
//! Cost: sorting, then O(k·n·log n) for the exact one (divide and conquer on the monotone cuts), O(k·log n) a round for
//! Lloyd's.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Sorted numbers with sums of prefixes, so that an interval's cost is a subtraction.
#[derive(Debug, Clone)]
struct Line {
    x: Vec<f64>,
    /// Σw, Σwx, Σwx² of the numbers before each.
    sums: Vec<[f64; 3]>,
    /// What was taken off every number, so that the sums do not cancel.
    origin: f64,
}

impl Line {
    fn new(x: &[f32], weights: Option<&[f32]>) -> Line {
        let weight = |i: usize| weights.map_or(1.0, |weights| f64::from(weights[i]));
        let mut points: Vec<(f64, f64)> =
            (0..x.len()).map(|i| (f64::from(x[i]), weight(i))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let total: f64 = points.iter().map(|point| point.1).sum();
        let origin = points.iter().map(|(x, w)| x * w).sum::<f64>() / total.max(f64::MIN_POSITIVE);
        let mut sums = vec![[0.0; 3]];
        let mut sum = [0.0; 3];
        for point in &mut points {
            point.0 -= origin;
            let (x, w) = *point;
            sum = [sum[0] + w, sum[1] + w * x, sum[2] + w * x * x];
            sums.push(sum);
        }
        Line {
            x: points.into_iter().map(|point| point.0).collect(),
            sums,
            origin,
        }
    }

    fn between(&self, from: usize, to: usize) -> [f64; 3] {
        std::array::from_fn(|i| self.sums[to][i] - self.sums[from][i])
    }

    /// Squared error of numbers `from` … `to` − 1 under their own mean.
    fn cost(&self, from: usize, to: usize) -> f64 {
        let [w, x, x2] = self.between(from, to);
        if w > 0.0 {
            (x2 - x * x / w).max(0.0)
        } else {
            0.0
        }
    }

    /// The mean of numbers `from` … `to` − 1; without weight, the middle of them.
    fn mean(&self, from: usize, to: usize) -> f64 {
        let [w, x, _] = self.between(from, to);
        self.origin
            + if w > 0.0 {
                x / w
            } else {
                (self.x[from] + self.x[to - 1]) / 2.0
            }
    }
}

/// The k points of least weighted squared error, ascending; fewer if there are fewer different numbers. `weights` are not
/// negative, one a number; all 1 if there are none.
pub fn optimal(x: &[f32], weights: Option<&[f32]>, k: usize) -> Vec<f64> {
    if let Some(different) = few(x, k) {
        return different;
    }
    let line = Line::new(x, weights);
    let n = x.len();
    let mut best: Vec<f64> = (0..=n).map(|to| line.cost(0, to)).collect();
    let mut cuts = Vec::new();
    for _ in 1..k {
        let mut next = vec![f64::INFINITY; n + 1];
        let mut cut = vec![0; n + 1];
        next[0] = 0.0;
        divide(&line, &best, (1, n), (0, n - 1), &mut next, &mut cut);
        best = next;
        cuts.push(cut);
    }
    let mut points = Vec::new();
    let mut to = n;
    for cut in cuts.iter().rev() {
        let from = cut[to];
        if from < to {
            points.push(line.mean(from, to));
        }
        to = from;
    }
    if to > 0 {
        points.push(line.mean(0, to));
    }
    points.reverse();
    points
}

/// Fills `next` and `cut` for ends `ends.0` … `ends.1`, whose best cuts lie in `range`.
fn divide(
    line: &Line,
    best: &[f64],
    ends: (usize, usize),
    range: (usize, usize),
    next: &mut [f64],
    cut: &mut [usize],
) {
    if ends.0 > ends.1 {
        return;
    }
    let to = (ends.0 + ends.1) / 2;
    for from in range.0..=range.1.min(to - 1) {
        let cost = best[from] + line.cost(from, to);
        if cost < next[to] {
            (next[to], cut[to]) = (cost, from);
        }
    }
    let at = cut[to];
    divide(line, best, (ends.0, to - 1), (range.0, at), next, cut);
    divide(line, best, (to + 1, ends.1), (at, range.1), next, cut);
}

/// Lloyd's algorithm from a seeded start (k-means++): at most k points, ascending. Never better than [`optimal`].
pub fn lloyd(x: &[f32], weights: Option<&[f32]>, k: usize, seed: u64) -> Vec<f64> {
    if let Some(different) = few(x, k) {
        return different;
    }
    let line = Line::new(x, weights);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut points = vec![line.x[rng.random_range(0..line.x.len())]];
    while points.len() < k {
        let distance = |(i, x): (usize, &f64)| {
            let nearest = points
                .iter()
                .map(|p| (p - x).powi(2))
                .fold(f64::MAX, f64::min);
            nearest * line.between(i, i + 1)[0]
        };
        let distances: Vec<f64> = line.x.iter().enumerate().map(distance).collect();
        let mut left = rng.random::<f64>() * distances.iter().sum::<f64>();
        let chosen = distances.iter().position(|distance| {
            left -= distance;
            left < 0.0
        });
        points.push(line.x[chosen.unwrap_or(line.x.len() - 1)]);
    }
    points.sort_by(f64::total_cmp);
    for _ in 0..200 {
        // Each number belongs to the nearest point: intervals, cut half way between points.
        let mut cuts = vec![0];
        for pair in points.windows(2) {
            let middle = (pair[0] + pair[1]) / 2.0;
            cuts.push(line.x.partition_point(|&x| x < middle));
        }
        cuts.push(line.x.len());
        let moved: Vec<f64> = cuts
            .windows(2)
            .zip(&points)
            .map(|(cut, &point)| {
                if cut[0] < cut[1] {
                    line.mean(cut[0], cut[1]) - line.origin
                } else {
                    point
                }
            })
            .collect();
        if moved == points {
            break;
        }
        points = moved;
    }
    points.iter().map(|point| point + line.origin).collect()
}

/// All different numbers, ascending, if they are at most k.
fn few(x: &[f32], k: usize) -> Option<Vec<f64>> {
    let mut different: Vec<f64> = Vec::new();
    for &x in x {
        let x = f64::from(x) + 0.0;
        if let Err(at) = different.binary_search_by(|old| old.total_cmp(&x)) {
            if different.len() == k {
                return None;
            }
            different.insert(at, x);
        }
    }
    Some(different)
}

/// Σ w·(x − nearest of `points`)².
pub fn error(x: &[f32], weights: Option<&[f32]>, points: &[f64]) -> f64 {
    let nearest = |x: f64| {
        points
            .iter()
            .map(|p| (p - x).powi(2))
            .fold(f64::MAX, f64::min)
    };
    let weight = |i: usize| weights.map_or(1.0, |weights| f64::from(weights[i]));
    (0..x.len())
        .map(|i| weight(i) * nearest(f64::from(x[i])))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let x = (0..count)
            .map(|_| (0..3).map(|_| rng.random_range(-1f32..1.0)).sum())
            .collect();
        let w = (0..count).map(|_| rng.random_range(0f32..2.0)).collect();
        (x, w)
    }

    /// Least error of all kⁿ assignments.
    fn brute(x: &[f32], w: &[f32], k: usize) -> f64 {
        let cost = |assignment: usize| {
            let group = |i: usize| assignment / k.pow(i as u32) % k;
            (0..k)
                .map(|g| {
                    let of = |f: &dyn Fn(usize) -> f64| {
                        (0..x.len()).filter(|&i| group(i) == g).map(f).sum::<f64>()
                    };
                    let weight = of(&|i| f64::from(w[i]));
                    let mean = of(&|i| f64::from(w[i]) * f64::from(x[i])) / weight;
                    of(&|i| f64::from(w[i]) * (f64::from(x[i]) - mean).powi(2))
                })
                .sum::<f64>()
        };
        (0..k.pow(x.len() as u32))
            .map(cost)
            .fold(f64::MAX, f64::min)
    }

    #[test]
    fn exact_is_exact_on_small_cases() {
        for seed in 0..20 {
            for k in [2, 3] {
                let (x, w) = numbers(8, seed);
                let ours = error(&x, Some(&w), &optimal(&x, Some(&w), k));
                let least = brute(&x, &w, k);
                assert!((ours - least).abs() <= 1e-12 * least, "{ours} {least}");
            }
        }
    }

    #[test]
    fn lloyd_is_never_better_and_sometimes_worse() {
        let mut worse = 0;
        for seed in 0..40 {
            let (x, w) = numbers(300, seed);
            for k in [2, 4, 8, 16] {
                let exact = error(&x, Some(&w), &optimal(&x, Some(&w), k));
                let local = error(&x, Some(&w), &lloyd(&x, Some(&w), k, seed));
                assert!(exact <= local * (1.0 + 1e-12), "{exact} {local}");
                worse += usize::from(exact < local * 0.999);
            }
        }
        assert!(worse > 20, "{worse} of 160 stuck in a local optimum");
    }

    #[test]
    fn few_different_numbers_are_all_kept() {
        let x = [0.5, -1.0, 0.5, -0.0, 0.0];
        assert_eq!(optimal(&x, None, 4), [-1.0, 0.0, 0.5]);
        assert_eq!(lloyd(&x, None, 3, 0), [-1.0, 0.0, 0.5]);
        assert_eq!(optimal(&x, None, 1), [0.0]);
    }
}
