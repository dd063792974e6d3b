//! Rotary positions.

use super::{Numbers, UNIT};
use crate::kernels::isa::Isa;
use crate::kernels::rope::{Angles, Pairs};
use crate::kernels::team::Team;

const BOTH: [Pairs; 2] = [Pairs::Neighbours, Pairs::Halves];

/// (T, H, D/2): one of each, tails of registers, few rows and enough of them for threads.
const SIZES: [(usize, usize, usize); 8] = [
    (0, 1, 4),
    (1, 1, 1),
    (3, 2, 3),
    (7, 3, 8),
    (8, 1, 9),
    (9, 2, 17),
    (20, 3, 32),
    (17, 1, 40),
];

const MAGNITUDE: f64 = 1.138;

fn frequencies(pairs: usize) -> Vec<f64> {
    (0..pairs)
        .map(|i| 50f64.powf(-(i as f64) / pairs as f64))
        .collect()
}

/// Of frequencies, positions, and heads (T, H·D) that it turns in place.
type Turn<'a> = dyn Fn(&Angles, Pairs, &[usize], &mut [f32], usize) + 'a;

/// Whether `kernel` turns each pair of each head by its angle: one rounding of the sine or cosine, one of each product, one of the sum.
fn turn_is_right(kernel: &Turn<'_>) -> Result<(), String> {
    let mut numbers = Numbers(8);
    for (tokens, heads, pairs) in SIZES {
        let frequencies = frequencies(pairs);
        let angles = Angles::new(&frequencies, MAGNITUDE, 64);
        // Positions in no order, one of them twice, the first of all and the last of all among them.
        let positions: Vec<usize> = (0..tokens).map(|t| (63 + t / 2 * 29) % 64).collect();
        for convention in BOTH {
            let x = numbers.take(tokens * heads * 2 * pairs);
            let mut got = x.clone();
            kernel(&angles, convention, &positions, &mut got, heads * 2 * pairs);
            for (at, &got) in got.iter().enumerate() {
                let (head, feature) = (at / (2 * pairs) * 2 * pairs, at % (2 * pairs));
                let (pair, is_second) = match convention {
                    Pairs::Neighbours => (feature / 2, feature % 2 == 1),
                    Pairs::Halves => (feature % pairs, feature >= pairs),
                };
                let (low, high) = match convention {
                    Pairs::Neighbours => (2 * pair, 2 * pair + 1),
                    Pairs::Halves => (pair, pair + pairs),
                };
                let (a, b) = (f64::from(x[head + low]), f64::from(x[head + high]));
                let position = positions[at / (heads * 2 * pairs)];
                let (sin, cos) = (position as f64 * frequencies[pair]).sin_cos();
                let expected = MAGNITUDE
                    * match is_second {
                        false => a * cos - b * sin,
                        true => a * sin + b * cos,
                    };
                let bound = 3.0 * UNIT * MAGNITUDE * (a.abs() + b.abs());
                if got.is_nan() || (f64::from(got) - expected).abs() > bound {
                    return Err(format!(
                        "{convention:?} {tokens}×{heads}×{pairs} [{at}]: {got} for {expected}"
                    ));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn heads_turn_by_their_angles() {
    for isa in Isa::here() {
        for threads in [1, 2, 3] {
            let team = Team::new(threads);
            turn_is_right(&|angles, pairs, positions, heads, columns| {
                angles.turn_rows(isa, pairs, positions, heads, columns, &team);
            })
            .unwrap_or_else(|wrong| panic!("{isa} {threads}: {wrong}"));
        }
        turn_is_right(&|angles, pairs, positions, heads, columns| {
            for (row, &position) in heads.chunks_mut(columns).zip(positions) {
                angles.turn(isa, pairs, position, row);
            }
        })
        .unwrap_or_else(|wrong| panic!("{isa} one by one: {wrong}"));
    }
}

#[test]
fn planted_bugs_in_rope_are_caught() {
    let team = Team::new(2);
    for isa in Isa::here() {
        let honest = |angles: &Angles, pairs, positions: &[usize], x: &mut [f32], columns| {
            angles.turn_rows(isa, pairs, positions, x, columns, &team);
        };
        // The other convention.
        let other: &Turn<'_> = &|angles, pairs, positions, x, columns| {
            let other = match pairs {
                Pairs::Neighbours => Pairs::Halves,
                Pairs::Halves => Pairs::Neighbours,
            };
            honest(angles, other, positions, x, columns);
        };
        // Positions count from one.
        let late: &Turn<'_> = &|angles, pairs, positions, x, columns| {
            let late: Vec<usize> = positions.iter().map(|it| (it + 1) % 64).collect();
            honest(angles, pairs, &late, x, columns);
        };
        // Positions are those of rows from 0, whatever the caller says (a cache that is not empty).
        let fresh: &Turn<'_> = &|angles, pairs, positions, x, columns| {
            let fresh: Vec<usize> = (0..positions.len()).collect();
            honest(angles, pairs, &fresh, x, columns);
        };
        // Only the first head of a row turns.
        let first: &Turn<'_> = &|angles, pairs, positions, x, columns| {
            let before = x.to_vec();
            honest(angles, pairs, positions, x, columns);
            for (row, before) in x.chunks_mut(columns).zip(before.chunks(columns)) {
                row[columns / 2..].copy_from_slice(&before[columns / 2..]);
            }
        };
        for (name, bug) in [
            ("other", other),
            ("late", late),
            ("fresh", fresh),
            ("first", first),
        ] {
            assert!(turn_is_right(bug).is_err(), "{isa} {name}");
        }
    }
}

#[test]
fn a_position_without_angles_is_a_panic_not_a_wrong_number() {
    let angles = Angles::new(&frequencies(4), 1.0, 8);
    for isa in Isa::here() {
        let run = std::panic::catch_unwind(|| {
            angles.turn(isa, Pairs::Halves, 8, &mut [1.0; 8]);
        });
        assert!(run.is_err(), "{isa}");
    }
}
