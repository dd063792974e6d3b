//! Rotary positions: each pair of features of a head turned by an angle proportional to the position.
//!
//! (a, b) → (a·cos θ − b·sin θ, a·sin θ + b·cos θ), θ = position · frequency\[i\] for pair i. Which features make a pair is a
//! convention of the checkpoint ([`Pairs`]).
//!
//! Source: Su et al. 2021, *RoFormer*, 2104.09864, eq. 34.

use super::activation::each_row;
use super::isa::{Isa, vectorizable, vectorized};
use super::team::Team;

/// Which two features turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// 2i and 2i + 1 (GGUF files of Llama).
    Neighbours,
    /// i and i + D/2 (Hugging Face; GGUF files of Qwen).
    Halves,
}

/// Cosines and sines of positions 0, 1, …: computed once, in f64, rounded once.
#[derive(Debug, Clone)]
pub struct Angles {
    pairs: usize,
    /// (positions, pairs): cosine.
    cos: Vec<f32>,
    /// As `cos`: sine.
    sin: Vec<f32>,
}

impl Angles {
    /// For `positions` positions and these frequencies in radians a position; cosines and sines times `magnitude` (1 but for YaRN).
    pub fn new(frequencies: &[f64], magnitude: f64, positions: usize) -> Angles {
        let of = |f: fn(f64) -> f64| {
            let at = |position: usize| {
                let row = move |w: &f64| (f(position as f64 * w) * magnitude) as f32;
                frequencies.iter().map(row)
            };
            (0..positions).flat_map(at).collect()
        };
        Angles {
            pairs: frequencies.len(),
            cos: of(f64::cos),
            sin: of(f64::sin),
        }
    }

    /// Positions there are angles for.
    pub fn positions(&self) -> usize {
        self.cos.len().checked_div(self.pairs).unwrap_or(0)
    }

    /// Turns each row of `heads` (T, `columns`) to its position, in place.
    ///
    /// # Panics
    /// If there are fewer positions than rows, or one is not among [`positions`](Self::positions).
    pub fn turn_rows(
        &self,
        isa: Isa,
        pairs: Pairs,
        positions: &[usize],
        heads: &mut [f32],
        columns: usize,
        team: &Team,
    ) {
        each_row(heads, columns, team, |i, row| {
            self.turn(isa, pairs, positions[i], row);
        });
    }

    /// Turns the heads of one token (H · D) to `position`, in place.
    ///
    /// # Panics
    /// If the position is not among [`positions`](Self::positions).
    pub fn turn(&self, isa: Isa, pairs: Pairs, position: usize, heads: &mut [f32]) {
        let row = position * self.pairs..(position + 1) * self.pairs;
        let (cos, sin) = (&self.cos[row.clone()], &self.sin[row]);
        vectorized(isa, TurnHeads, (heads, cos, sin, pairs));
    }
}

vectorizable!(TurnHeads<'a>: turn_heads, (&'a mut [f32], &'a [f32], &'a [f32], Pairs) => ());

/// Each of `heads` (H, D) by the angles of its D/2 pairs.
#[inline(always)]
fn turn_heads((heads, cos, sin, pairs): (&mut [f32], &[f32], &[f32], Pairs)) {
    for head in heads.chunks_exact_mut(2 * cos.len()) {
        match pairs {
            Pairs::Neighbours => {
                for (pair, (c, s)) in head.chunks_exact_mut(2).zip(cos.iter().zip(sin)) {
                    let (a, b) = (pair[0], pair[1]);
                    pair[0] = a * c - b * s;
                    pair[1] = a * s + b * c;
                }
            }
            Pairs::Halves => {
                let (low, high) = head.split_at_mut(cos.len());
                let angles = cos.iter().zip(sin);
                for ((a, b), (c, s)) in low.iter_mut().zip(high).zip(angles) {
                    (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_turn_by_their_angle_and_keep_their_length() {
        let frequencies = [1.0, 0.25];
        let angles = Angles::new(&frequencies, 1.0, 10);
        assert_eq!(angles.positions(), 10);
        for isa in Isa::here() {
            // Two heads of four features.
            let x = [1.0, 2.0, 3.0, 4.0, -1.0, 0.5, 0.0, 2.0];
            let mut neighbours = x;
            angles.turn(isa, Pairs::Neighbours, 7, &mut neighbours);
            let mut halves = x;
            angles.turn(isa, Pairs::Halves, 7, &mut halves);
            for head in 0..2 {
                for (i, frequency) in frequencies.iter().enumerate() {
                    let (sin, cos) = (7.0 * frequency).sin_cos();
                    for (out, (at, to)) in [
                        (&neighbours, (4 * head + 2 * i, 4 * head + 2 * i + 1)),
                        (&halves, (4 * head + i, 4 * head + i + 2)),
                    ] {
                        let (a, b) = (f64::from(x[at]), f64::from(x[to]));
                        assert!((f64::from(out[at]) - (a * cos - b * sin)).abs() < 1e-6);
                        assert!((f64::from(out[to]) - (a * sin + b * cos)).abs() < 1e-6);
                    }
                }
            }
            let mut still = x;
            angles.turn(isa, Pairs::Halves, 0, &mut still);
            assert_eq!(still, x);
        }
    }
}
