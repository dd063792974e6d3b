//! Matrices that have broken quantizers before: what every contract test runs on.

use std::collections::BTreeMap;
use std::sync::Mutex;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Matrix;
use super::calibration::Inputs;

/// Inputs (T, `columns`) as a layer has them: neighbouring channels correlated, magnitudes that differ from channel to channel, one
/// channel forty times as large as the others, and one that is always zero (where there are channels enough).
pub(crate) fn correlated(tokens: usize, columns: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut x = Vec::with_capacity(tokens * columns);
    for _ in 0..tokens {
        let mut last = 0.0;
        for i in 0..columns {
            last = 0.7 * last + rng.random_range(-1f32..1.0);
            let scale = 1.0 + 0.5 * ((i * 7 % 11) as f32 - 5.0) / 5.0;
            x.push(match i {
                5 => 40.0 * last,
                11 => 0.0,
                _ => scale * last,
            });
        }
    }
    x
}

/// Weights (N, `columns`) that are [`correlated`] without the channel that is forty times as large.
pub(crate) fn smooth(rows: usize, columns: usize, seed: u64) -> Vec<f32> {
    let mut w = correlated(rows, columns, seed);
    for row in w.chunks_mut(columns) {
        if let Some(weight) = row.get_mut(5) {
            *weight /= 40.0;
        }
    }
    w
}

/// Statistics of the inputs of a made-up layer of `columns` channels.
pub(crate) fn inputs(columns: usize) -> Inputs {
    static KNOWN: Mutex<BTreeMap<usize, Inputs>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().expect("no test panics while it holds this");
    let made = || {
        let x = correlated(64, columns, columns as u64);
        Inputs::of_samples("made up", &x, columns).expect("samples are sound")
    };
    known.entry(columns).or_insert_with(made).clone()
}

/// Named matrices: ordinary, ragged, degenerate, extreme.
pub(crate) fn all() -> Vec<(&'static str, Matrix)> {
    let mut rng = ChaCha8Rng::seed_from_u64(20_261_123);
    // A sum of three uniforms: bell-shaped, and every draw is a different float.
    let mut bell = |count: usize, scale: f32| -> Vec<f32> {
        let mut draw = || (0..3).map(|_| rng.random_range(-1f32..1.0)).sum::<f32>();
        (0..count).map(|_| scale * draw()).collect()
    };
    let mut outlier = bell(3 * 70, 0.01);
    outlier[75] = 1e4;
    let mut one_sign = bell(2 * 33, 1.0);
    for (i, w) in one_sign.iter_mut().enumerate() {
        *w = (w.abs() + 0.5) * if i < 33 { 1.0 } else { -1.0 };
    }
    let mut super_blocks = bell(3 * 256, 0.05);
    super_blocks[300] = 2.5;
    super_blocks[512..640].fill(0.0);
    super_blocks[640..768].iter_mut().for_each(|w| *w = w.abs());
    let constants = [[0.1; 256], [-3.3; 256]].concat();
    let halves = (-4..5).map(|i| i as f32 / 2.0).collect();
    [
        ("ordinary weights", 4, bell(4 * 64, 0.05)),
        ("a ragged last group", 3, bell(3 * 67, 0.3)),
        ("rows shorter than a group", 5, bell(5 * 3, 2.0)),
        ("one outlier among small weights", 3, outlier),
        ("rows of one sign", 2, one_sign),
        ("one positive element", 1, vec![0.3]),
        ("one negative element", 1, vec![-7.1]),
        ("zeros", 2, vec![0.0; 18]),
        ("minus zeros", 1, vec![-0.0; 5]),
        ("constant rows", 2, [[0.1; 6], [-3.3; 6]].concat()),
        ("below the normal range of f16", 2, bell(40, 1e-5)),
        ("below every f16 step", 2, bell(40, 1e-9)),
        ("f32 subnormals", 1, vec![1e-40, -1e-42, 3e-45]),
        ("huge but storable", 2, bell(40, 2e4)),
        ("exact halves", 1, halves),
        ("whole super-blocks", 3, super_blocks),
        ("a small super-block", 1, bell(256, 1e-6)),
        ("constant super-blocks", 2, constants),
        ("super-blocks of zeros", 1, vec![0.0; 256]),
        ("huge super-blocks", 1, bell(256, 2e4)),
    ]
    .into_iter()
    .map(|(name, rows, data): (_, usize, Vec<f32>)| {
        let cols = data.len() / rows;
        (
            name,
            Matrix::new(rows, cols, data).expect("samples are sound"),
        )
    })
    .collect()
}
