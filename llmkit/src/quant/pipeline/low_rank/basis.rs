//! The directions in which most of an error lies.

use crate::kernels::update::{Rows, update_at};
use crate::kernels::{Isa, Team};
use crate::linalg::{cholesky, eigen};
use crate::quant::Inputs;

/// Where the error lies.
pub(super) struct Basis {
    /// (R, N), orthonormal.
    pub vectors: Vec<f64>,
    /// Share of the error that lies elsewhere.
    pub left: f64,
}

/// The left singular vectors of E (N, K), or of E·L with G = L·Lᵀ; [`None`] if they are not found.
pub(super) fn basis(
    error: &[f64],
    (n, k): (usize, usize),
    gram: Option<&Inputs>,
    rank: usize,
) -> Option<Basis> {
    let other = transposed(error, k);
    // E·G or E, (N, K); then times Eᵀ.
    if n <= k {
        let mut square = vec![0.0; n * n];
        match gram {
            None => add_product((error, k), (&other, n), (n, k, n), &mut square),
            Some(gram) => {
                let mut weighed = vec![0.0; n * k];
                add_product((error, k), (&full(gram), k), (n, k, k), &mut weighed);
                add_product((&weighed, k), (&other, n), (n, k, n), &mut square);
                symmetrize(&mut square, n);
            }
        }
        let found = eigen::largest(&mut square, n, rank)?;
        let left = left(&found.values, rank);
        return Some(Basis {
            vectors: found.vectors,
            left,
        });
    }
    // The smaller side: Lᵀ·EᵀE·L (K, K), whose vectors V give U = E·L·V.
    let mut square = vec![0.0; k * k];
    add_product((&other, n), (error, k), (k, n, k), &mut square);
    let mut right = None;
    if let Some(gram) = gram {
        let lower = triangle(gram);
        let mut half = vec![0.0; k * k];
        add_product((&square, k), (&lower, k), (k, k, k), &mut half);
        square.fill(0.0);
        add_product(
            (&transposed(&lower, k), k),
            (&half, k),
            (k, k, k),
            &mut square,
        );
        symmetrize(&mut square, k);
        right = Some(lower);
    }
    let found = eigen::largest(&mut square, k, rank)?;
    let left = left(&found.values, rank);
    let rank = found.vectors.len() / k;
    // E·L·V, as rows: Vᵀ·Lᵀ·Eᵀ.
    let turned = match right {
        None => found.vectors,
        Some(lower) => {
            let mut turned = vec![0.0; rank * k];
            add_product(
                (&found.vectors, k),
                (&transposed(&lower, k), k),
                (rank, k, k),
                &mut turned,
            );
            turned
        }
    };
    let mut vectors = vec![0.0; rank * n];
    add_product((&turned, k), (&other, n), (rank, k, n), &mut vectors);
    // Their lengths are the singular values; what has none is no direction.
    let most = found.values.first().map_or(0.0, |it| it.max(0.0).sqrt());
    let mut kept: Vec<f64> = Vec::with_capacity(vectors.len());
    for vector in vectors.chunks_exact_mut(n) {
        let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length > most * 1e-7 {
            eigen::orthogonalize(vector, &kept);
            kept.extend_from_slice(vector);
        }
    }
    Some(Basis {
        vectors: kept,
        left,
    })
}

/// Share of the eigenvalues beyond the first `rank`.
fn left(values: &[f64], rank: usize) -> f64 {
    let sum = |values: &[f64]| values.iter().map(|it| it.max(0.0)).sum::<f64>();
    let all = sum(values);
    if all > 0.0 {
        sum(values.get(rank..).unwrap_or_default()) / all
    } else {
        0.0
    }
}

/// G/n (K, K).
fn full(inputs: &Inputs) -> Vec<f64> {
    let k = inputs.columns();
    (0..k * k)
        .map(|at| inputs.hessian(at / k, at % k) / 2.0)
        .collect()
}

/// L (K, K) with L·Lᵀ = G/n and what it takes on the diagonal; zeros above.
fn triangle(inputs: &Inputs) -> Vec<f64> {
    let k = inputs.columns();
    let gram = full(inputs);
    let mean = (0..k).map(|i| gram[i * k + i]).sum::<f64>() / k as f64;
    let mut added = 0.0;
    loop {
        let mut lower = gram.clone();
        (0..k).for_each(|i| lower[i * k + i] += added * mean);
        if cholesky::factor(&mut lower, k, Isa::best(), Team::global()).is_ok() {
            for i in 0..k {
                lower[i * k + i + 1..(i + 1) * k].fill(0.0);
            }
            return lower;
        }
        if mean <= 0.0 || added > 1.0 {
            // Inputs that were never active: every direction counts the same.
            let one = |at: usize| f64::from(u8::from(at / k == at % k));
            return (0..k * k).map(one).collect();
        }
        added = (added * 10.0).max(1e-8);
    }
}

/// C (M, N) += A (M, P)·B (P, N); each with its stride.
pub(super) fn add_product(
    (a, a_stride): (&[f64], usize),
    (b, b_stride): (&[f64], usize),
    sizes: (usize, usize, usize),
    c: &mut [f64],
) {
    let rows = |values, stride| Rows { values, stride };
    update_at(
        Isa::best(),
        rows(a, a_stride),
        rows(b, b_stride),
        sizes,
        c,
        sizes.2,
    );
}

fn transposed(values: &[f64], columns: usize) -> Vec<f64> {
    let rows = values.len() / columns.max(1);
    let at = |at: usize| values[at % rows * columns + at / rows];
    (0..values.len()).map(at).collect()
}

/// (A + Aᵀ)/2, for what is symmetric but for rounding.
fn symmetrize(a: &mut [f64], n: usize) {
    for i in 0..n {
        for j in 0..i {
            let mean = (a[i * n + j] + a[j * n + i]) / 2.0;
            (a[i * n + j], a[j * n + i]) = (mean, mean);
        }
    }
}
