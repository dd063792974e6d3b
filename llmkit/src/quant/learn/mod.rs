//! Rounding and ranges that are learned by gradient descent on the error of a layer's outputs, tr(E·H·Eᵀ).
//!
//! ```text
//! ŵ = round(w/s + z + v) on the grid of the block cut to [β·min, α·max]
//! ∂L/∂ŵ = E·H        ∂ŵ/∂v = s        ∂ŵ/∂α = (ŵ − w)·max/range,  or max where w is beyond the last point          (β alike)
//! ```
//! The gradient goes through rounding as if it were not there ("straight through"), so it costs one product with H a round. Rows have
//! losses of their own, and each keeps the best round it saw: rounding to nearest is the first, so that no row is worse.
//!
//! Works with every format that rounds weights one by one: a format is asked for grids of cut blocks and for its points, and v is in units
//! of the gap that a weight lies in.
//!
//! Source: W. Cheng et al., *SignRound* (arXiv 2309.05516), section 3; W. Shao et al., *OmniQuant* (arXiv 2308.13137), section 3.2.
//!
//! Cost of a round: 2·N·K² flops, a fit and a rounding; seven numbers a weight.

mod loss;
mod points;

pub(in crate::quant) use loss::Loss;

use points::{Place, Points};

use super::calibration::Inputs;
use super::format::{Format, Granularity, Grid, Whole};
use super::method::{known, one_by_one};
use super::{Applied, Matrix, Method, Quantized};
use crate::kernels::dense::Element;
use crate::{Error, Result, interrupt};

/// How parameters move.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Rule {
    /// By the sign of the gradient times a rate that falls from `rate` to nothing; ranges are α, β themselves.
    Sign { rate: f32 },
    /// By Adam; ranges are sigmoids of what is learned, which starts at 4.
    Adam { rate: f32 },
}

/// What is learned, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Learn {
    pub rounds: usize,
    pub rule: Rule,
    /// Whether offsets of rounding are learned beside ranges.
    pub has_offsets: bool,
}

/// A block's range: the ends of its weights, both ends' shares with what Adam remembers.
#[derive(Debug, Clone)]
struct Range {
    ends: [f32; 2],
    learned: [f32; 2],
    moments: [[f32; 2]; 2],
    grid: Grid,
}

/// Decay of Adam's two means.
const DECAY: [f32; 2] = [0.9, 0.999];
/// Where OmniQuant's sigmoids start: at 0.98.
const START: f32 = 4.0;

impl Rule {
    fn start(self) -> f32 {
        match self {
            Rule::Sign { .. } => 1.0,
            Rule::Adam { .. } => START,
        }
    }

    /// The share of a range that a learned number stands for, and its derivative.
    fn share(self, learned: f32) -> (f32, f32) {
        match self {
            Rule::Sign { .. } => (learned, 1.0),
            Rule::Adam { .. } => {
                let share = 1.0 / (1.0 + (-learned).exp());
                (share, share * (1.0 - share))
            }
        }
    }
}

/// A matrix whose rounding is being learned.
struct Learner<'a> {
    learn: Learn,
    weights: &'a Matrix,
    format: &'a dyn Format,
    whole: Whole,
    blocks: Vec<std::ops::Range<usize>>,
    ranges: Vec<Range>,
    offsets: Vec<f32>,
    codes: Vec<u8>,
    errors: Vec<f32>,
    places: Vec<Place>,
}

impl Learner<'_> {
    /// Ends of a block as they are now: its least and its greatest weight, each with its share.
    fn ends(&self, at: usize) -> [f32; 2] {
        let range = &self.ranges[at];
        [0, 1].map(|side| range.ends[side] * self.learn.rule.share(range.learned[side]).0)
    }

    /// Fits the grid of each block and rounds to it.
    fn round(&mut self) -> Result<()> {
        let (mut cut, mut points) = (Vec::new(), Points::default());
        for (index, block) in self.blocks.iter().enumerate() {
            let [low, high] = self.ends(index);
            let weights = &self.weights.data()[block.clone()];
            cut.clear();
            cut.extend(weights.iter().map(|w| w.clamp(low.min(high), high)));
            let grid = self.format.fit(&self.whole, index, &cut)?;
            let run = Points::run(self.format, &grid, weights.len());
            for first in (0..weights.len()).step_by(run) {
                points.read(self.format, &grid, first);
                let end = weights.len().min(first + run);
                for (at, &weight) in weights[first..end].iter().enumerate() {
                    let here = block.start + first + at;
                    let offset = self.offsets.get(here).copied().unwrap_or(0.0);
                    let (code, value, place) = points.round(weight, offset);
                    self.codes[here] = code;
                    self.errors[here] = value - weight;
                    self.places[here] = place;
                }
            }
            self.ranges[index].grid = grid;
        }
        Ok(())
    }

    /// Moves everything learned against the gradient, of which `half` is half; `round` counts from 1.
    fn step(&mut self, half: &[f32], round: usize) {
        let left = 1.0 - (round - 1) as f32 / self.learn.rounds as f32;
        for (index, block) in self.blocks.iter().enumerate() {
            let [low, high] = self.ends(index);
            let [min, max] = self.ranges[index].ends;
            let span = (high - low).max(f32::MIN_POSITIVE);
            let mut slopes = [0f64; 2];
            let each = (half[block.clone()].iter())
                .zip(&self.errors[block.clone()])
                .zip(&self.places[block.clone()]);
            for ((&half, &error), place) in each {
                let (half, share) = (f64::from(half), f64::from(error / span));
                match place {
                    Place::Inside => {
                        slopes[0] -= half * share * f64::from(min);
                        slopes[1] += half * share * f64::from(max);
                    }
                    Place::Below => slopes[0] += half * f64::from(min),
                    Place::Above => slopes[1] += half * f64::from(max),
                }
            }
            let range = &mut self.ranges[index];
            for (side, slope) in slopes.into_iter().enumerate() {
                let learned = range.learned[side];
                let slope = slope as f32 * self.learn.rule.share(learned).1;
                range.learned[side] = match self.learn.rule {
                    Rule::Sign { rate } => (learned - rate * left * sign(slope)).clamp(0.0, 1.0),
                    Rule::Adam { rate } => {
                        let powers = [slope, slope * slope];
                        let mut means = [0f32; 2];
                        for (i, moment) in range.moments[side].iter_mut().enumerate() {
                            *moment = DECAY[i] * *moment + (1.0 - DECAY[i]) * powers[i];
                            means[i] = *moment / (1.0 - DECAY[i].powi(round as i32));
                        }
                        let scale = means[1].sqrt();
                        let by = if scale > 0.0 { means[0] / scale } else { 0.0 };
                        learned - rate * by
                    }
                };
            }
        }
        if let Rule::Sign { rate } = self.learn.rule {
            let by = rate * left;
            let each = self.offsets.iter_mut().zip(half).zip(&self.places);
            for ((offset, &half), place) in each {
                if *place == Place::Inside {
                    *offset = (*offset - by * sign(half)).clamp(-0.5, 0.5);
                }
            }
        }
    }
}

/// −1, 0 or 1.
fn sign(x: f32) -> f32 {
    f32::from(i8::from(x > 0.0) - i8::from(x < 0.0))
}

/// The best that was seen of some rows.
struct Best {
    losses: Vec<f64>,
    codes: Vec<u8>,
    grids: Vec<Grid>,
}

impl Best {
    /// Takes from `codes` and `grids` what is better.
    fn take(&mut self, losses: &[f64], codes: &[u8], grids: &[&Grid]) {
        let units = self.losses.len();
        if units == 0 {
            return;
        }
        let (per_codes, per_grids) = (codes.len() / units, grids.len() / units);
        for (unit, &loss) in losses.iter().enumerate() {
            if loss < self.losses[unit] {
                self.losses[unit] = loss;
                let part = unit * per_codes..(unit + 1) * per_codes;
                self.codes[part.clone()].copy_from_slice(&codes[part]);
                let part = unit * per_grids..(unit + 1) * per_grids;
                let pairs = self.grids[part.clone()].iter_mut().zip(&grids[part]);
                pairs.for_each(|(own, new)| own.clone_from(new));
            }
        }
    }
}

impl Learn {
    /// Refuses no rounds, and formats that round several weights at once.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub fn check(method: &dyn Method, format: &dyn Format, rounds: usize) -> Result<()> {
        if rounds == 0 {
            let what = format!("rounds of {}", method.name());
            return Err(Error::argument(what, "at least one", 0));
        }
        one_by_one(method, format)
    }

    /// What `method` chooses, for it is this.
    ///
    /// # Errors
    /// Those of [`Method::choose`].
    pub fn choose(
        self,
        method: &dyn Method,
        weights: &Matrix,
        format: &dyn Format,
        inputs: Option<&Inputs>,
    ) -> Result<Quantized> {
        method.check(format)?;
        let inputs = known(method, weights, inputs)?;
        self.run(weights, format, inputs, Applied::by(method.name()))
    }

    /// The codes and grids of least error of outputs that were seen, for each row, or for all where they share a grid.
    ///
    /// # Errors
    /// [`Error::Argument`] if the format cannot store a shape or a range; [`Error::Interrupted`].
    fn run(
        self,
        weights: &Matrix,
        format: &dyn Format,
        inputs: &Inputs,
        applied: Applied,
    ) -> Result<Quantized> {
        let (rows, cols) = (weights.rows(), weights.cols());
        format.check(rows, cols)?;
        let whole = format.fit_whole(weights)?;
        let blocks: Vec<_> = format.granularity().blocks(rows, cols).collect();
        let mut codes = vec![0; rows * cols];
        let (mut ranges, mut errors) = (Vec::new(), vec![0.0; rows * cols]);
        for (index, block) in blocks.iter().enumerate() {
            let own = &weights.data()[block.clone()];
            let grid = format.encode(&whole, index, own, &mut codes[block.clone()])?;
            let ends = (own.iter()).fold([0f32; 2], |[lo, hi], &w| [lo.min(w), hi.max(w)]);
            format.values(&grid, 0, &codes[block.clone()], &mut errors[block.clone()]);
            ranges.push(Range {
                ends,
                learned: [self.rule.start(); 2],
                moments: [[0.0; 2]; 2],
                grid,
            });
        }
        let each = errors.iter_mut().zip(weights.data());
        each.for_each(|(error, weight)| *error -= weight);
        // Rows that share a grid are judged together.
        let is_tensor = format.granularity() == Granularity::Tensor;
        let judge = |losses: Vec<f64>| match is_tensor {
            true => vec![losses.iter().sum()],
            false => losses,
        };
        let (fast, exact) = (Loss::fast(inputs), Loss::new(inputs, Element::F32));
        let mut half = vec![0.0; rows * cols];
        let first = Best {
            losses: judge(exact.rows(&errors, &mut half)),
            codes: codes.clone(),
            grids: ranges.iter().map(|range| range.grid.clone()).collect(),
        };
        let mut best = Best {
            losses: judge(fast.rows(&errors, &mut half)),
            codes: codes.clone(),
            grids: first.grids.clone(),
        };
        let offsets = if self.has_offsets { rows * cols } else { 0 };
        let mut learner = Learner {
            learn: self,
            weights,
            format,
            whole,
            blocks,
            ranges,
            offsets: vec![0.0; offsets],
            codes,
            errors,
            places: vec![Place::Inside; rows * cols],
        };
        for round in 1..=self.rounds {
            interrupt::check("learned rounding")?;
            if best.losses.iter().all(|&loss| loss <= 0.0) {
                break;
            }
            learner.step(&half, round);
            learner.round()?;
            let losses = judge(fast.rows(&learner.errors, &mut half));
            let grids: Vec<&Grid> = learner.ranges.iter().map(|range| &range.grid).collect();
            best.take(&losses, &learner.codes, &grids);
        }
        // In the precision that counts: what was learned against what it began with.
        let mut errors = learner.errors;
        for (at, block) in learner.blocks.iter().enumerate() {
            let block = block.clone();
            format.values(
                &best.grids[at],
                0,
                &best.codes[block.clone()],
                &mut errors[block],
            );
        }
        let each = errors.iter_mut().zip(weights.data());
        each.for_each(|(error, weight)| *error -= weight);
        let losses = judge(exact.rows(&errors, &mut half));
        let mut chosen = first;
        let grids: Vec<&Grid> = best.grids.iter().collect();
        chosen.take(&losses, &best.codes, &grids);
        let (codes, grids) = (chosen.codes, chosen.grids);
        let quantized = Quantized::pack(format, rows, cols, &learner.whole, &codes, &grids)?;
        Ok(quantized.applying(applied))
    }
}
