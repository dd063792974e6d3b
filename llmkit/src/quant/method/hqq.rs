//! HQQ: the zero-point of each block is moved to where few weights are far off, by half-quadratic splitting; no calibration.
//!
//! ```text
//! minimise over z:   Σ |e|ᵖ,   e = (w − ŵ)/s,   ŵ = s·(q − z),   p = 0.7
//! repeat:   u ← shrink(e) = sign(e)·max(0, |e| − |e|ᵖ⁻¹/β),   z ← mean(q − w/s + u),   q ← nearest,   β ← 1.01·β
//! ```
//! u takes the large errors, so that the mean is over the others: with p < 1 a few weights may be far off, if many are near.
//!
//! Source: H. Badri and A. Shaji, *Half-Quadratic Quantization of Large Machine Learning Models* (2023, mobiusml.github.io/hqq_blog) and
//! its code (github.com/mobiusml/hqq, `hqq/core/optimize.py`): p = 0.7, β = 10, κ = 1.01, 20 rounds.
//!
//! Cost: at most 20 rounds of one power and one rounding a weight, mostly three or four.
//!
//! **Where we differ.** Errors are in steps of the block. In the authors' code they are in the weights' own units, where an error of 0.005
//! with β = 10 is shrunk to nothing whatever p is, and the update is that of least squares; [`Errors::AsTheyAre`] does that. Each block
//! stops where its own objective would grow; the authors stop all blocks where the mean |w − ŵ| grows. Groups are runs along the
//! inputs (their axis 1), the layout of all formats here; they find runs along the outputs (axis 0) better.

use super::Method;
use crate::quant::calibration::Inputs;
use crate::quant::{Applied, Format, Grid, Matrix, Quantized};
use crate::{Error, Result, interrupt};

/// Most rounds, by the authors' code.
const ROUNDS: usize = 20;
/// β of the first round, and by how much it grows in each.
const BETA: f64 = 10.0;
const GROWTH: f64 = 1.01;

/// In which unit errors are shrunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Errors {
    /// In steps of their block.
    #[default]
    InSteps,
    /// In the weights' own, as the authors' code does.
    AsTheyAre,
}

/// Half-quadratic quantization.
///
/// ```
/// use llmkit::quant::{Granularity, Matrix, Method, format::IntFloatZero, method::{Hqq, Rtn}};
/// // Five weights of the same fraction: the grid moves to them, and leaves the two ends.
/// let weights = Matrix::new(1, 7, vec![-3.0, -1.7, -0.7, 0.3, 1.3, 2.3, 4.0])?;
/// let format = IntFloatZero::new(3, Granularity::Channel)?;
/// let off = |method: &dyn Method| -> llmkit::Result<usize> {
///     let found = method.quantize(&weights, &format)?.decode()?;
///     Ok(found.data().iter().zip(weights.data()).filter(|(a, b)| (*a - *b).abs() > 0.1).count())
/// };
/// assert_eq!((off(&Rtn)?, off(&Hqq::default())?), (5, 2));
/// # Ok::<(), llmkit::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hqq {
    /// p of the objective Σ|e|ᵖ, 0 < p ≤ 1.
    pub power: f64,
    /// In which unit errors are shrunk.
    pub errors: Errors,
}

impl Default for Hqq {
    fn default() -> Hqq {
        Hqq {
            power: 0.7,
            errors: Errors::InSteps,
        }
    }
}

/// A block on its way: its grid, codes, values and Σ|e|ᵖ.
#[derive(Debug, Clone, PartialEq)]
struct State {
    grid: Grid,
    codes: Vec<u8>,
    values: Vec<f32>,
    objective: f64,
}

impl Hqq {
    /// The block under a grid.
    fn state(&self, format: &dyn Format, grid: Grid, codes: Vec<u8>, block: &[f32]) -> State {
        let mut values = vec![0.0; block.len()];
        format.values(&grid, 0, &codes, &mut values);
        let (step, power) = (grid.0[0], self.power as f32);
        let errors = block.iter().zip(&values).map(|(w, v)| (w - v).abs() / step);
        let terms = errors.map(|error| match error {
            0.0 => 0.0,
            error => f64::from(error.powf(power)),
        });
        let objective = terms.sum();
        State {
            grid,
            codes,
            values,
            objective,
        }
    }

    /// The zero-point of least Σ(e − u)² for the codes as they are, u being the errors shrunk at `beta`.
    fn zero(&self, state: &State, block: &[f32], beta: f64) -> f64 {
        let step = f64::from(state.grid.0[0]);
        let unit = match self.errors {
            Errors::InSteps => 1.0,
            Errors::AsTheyAre => step,
        };
        let mut sum = 0.0;
        for ((&weight, &value), &code) in block.iter().zip(&state.values).zip(&state.codes) {
            let error = f64::from(weight - value) / step * unit;
            let size = error.abs();
            // Most errors are small; those that are shrunk to nothing need no sign.
            let left = match size {
                0.0 => 0.0,
                size => size - f64::from((size as f32).powf(self.power as f32 - 1.0)) / beta,
            };
            let shrunk = left.max(0.0).copysign(error) / unit;
            sum += f64::from(code) - f64::from(weight) / step + shrunk;
        }
        sum / block.len() as f64
    }

    /// A block from rounding to nearest on: every state that was better than the one before it.
    fn rounds(&self, format: &dyn Format, first: State, block: &[f32]) -> Vec<State> {
        let (mut states, mut beta) = (vec![first], BETA);
        for _ in 0..ROUNDS {
            let now = &states[states.len() - 1];
            // Nothing to gain, or a block of zeros.
            if now.objective == 0.0 || now.grid.0[0] == 0.0 {
                break;
            }
            let Some(grid) = format.with_zero(&now.grid, self.zero(now, block, beta)) else {
                break;
            };
            if grid == now.grid {
                break;
            }
            let mut codes = vec![0; block.len()];
            format.round(&grid, 0, block, &mut codes);
            let next = self.state(format, grid, codes, block);
            if next.objective >= now.objective {
                break;
            }
            states.push(next);
            beta *= GROWTH;
        }
        states
    }
}

impl Method for Hqq {
    fn name(&self) -> String {
        let mut name = "hqq".to_owned();
        if self.power != Hqq::default().power {
            name += &format!("-p{}", self.power);
        }
        if self.errors == Errors::AsTheyAre {
            name += "-unscaled";
        }
        name
    }

    fn check(&self, format: &dyn Format) -> Result<()> {
        if !(self.power > 0.0 && self.power <= 1.0) {
            return Err(Error::argument("p of HQQ", "0 < p ≤ 1", self.power));
        }
        match format.with_zero(&Grid(vec![1.0, 0.0]), 0.0) {
            Some(_) => Ok(()),
            None => {
                let what = format!("{} with {}", self.name(), format.name());
                let expected = "a format with a zero-point, such as int4-float-zero-g64";
                Err(Error::argument(what, expected, "one without"))
            }
        }
    }

    fn choose(
        &self,
        weights: &Matrix,
        format: &dyn Format,
        _inputs: Option<&Inputs>,
    ) -> Result<Quantized> {
        self.check(format)?;
        let (rows, cols) = (weights.rows(), weights.cols());
        format.check(rows, cols)?;
        let whole = format.fit_whole(weights)?;
        let mut codes = vec![0; rows * cols];
        let mut grids = Vec::new();
        for (index, range) in format.granularity().blocks(rows, cols).enumerate() {
            interrupt::check("half-quadratic quantization")?;
            let block = &weights.data()[range.clone()];
            let mut first = vec![0; block.len()];
            let grid = format.encode(&whole, index, block, &mut first)?;
            let mut states = self.rounds(format, self.state(format, grid, first, block), block);
            if let Some(best) = states.pop() {
                codes[range].copy_from_slice(&best.codes);
                grids.push(best.grid);
            }
        }
        let quantized = Quantized::pack(format, rows, cols, &whole, &codes, &grids)?;
        Ok(quantized.applying(Applied::by(self.name())))
    }

    fn named(&self, name: &str) -> Option<Box<dyn Method>> {
        let rest = name.strip_prefix("hqq")?;
        let (rest, errors) = match rest.strip_suffix("-unscaled") {
            Some(rest) => (rest, Errors::AsTheyAre),
            None => (rest, Errors::InSteps),
        };
        let power = match rest {
            "" => Hqq::default().power,
            rest => rest.strip_prefix("-p")?.parse().ok()?,
        };
        Some(Box::new(Hqq { power, errors }))
    }
}

/// As the paper has it, but for the unit of errors.
pub(super) fn members() -> Vec<Box<dyn Method>> {
    vec![Box::new(Hqq::default())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::format::{IntAffine, IntFloatZero};
    use crate::quant::method::named;
    use crate::quant::{Granularity, Whole, samples};

    fn blocks() -> Vec<Vec<f32>> {
        let rows = samples::correlated(40, 64, 5);
        rows.chunks(64)
            .map(|row| row.iter().map(|w| w * 0.05).collect())
            .collect()
    }

    fn first(hqq: Hqq, format: &dyn Format, block: &[f32]) -> State {
        let mut codes = vec![0; block.len()];
        let grid = format
            .encode(&Whole::default(), 0, block, &mut codes)
            .unwrap();
        hqq.state(format, grid, codes, block)
    }

    #[test]
    fn the_objective_never_grows_and_mostly_falls() -> Result<()> {
        for power in [0.5, 0.7, 1.0] {
            let (mut steps, mut fell) = (0, 0);
            for bits in [2, 3, 4, 8] {
                let format = IntFloatZero::new(bits, Granularity::Group(64))?;
                let hqq = Hqq {
                    power,
                    ..Hqq::default()
                };
                for block in blocks() {
                    let states = hqq.rounds(&format, first(hqq, &format, &block), &block);
                    for pair in states.windows(2) {
                        assert!(pair[1].objective < pair[0].objective);
                    }
                    (steps, fell) = (
                        steps + states.len() - 1,
                        fell + usize::from(states.len() > 1),
                    );
                }
            }
            assert!(fell > 100 && steps > 2 * fell, "{power}: {steps}, {fell}");
        }
        Ok(())
    }

    /// No zero-point of a fine scan does better than the search by much; and planted: errors shrunk the wrong way gain next to nothing.
    #[test]
    fn the_search_finds_most_of_what_a_scan_of_all_zero_points_finds() -> Result<()> {
        let format = IntFloatZero::new(3, Granularity::Group(64))?;
        let hqq = Hqq::default();
        let (mut before, mut after, mut scanned) = (0.0, 0.0, 0.0);
        for block in blocks() {
            let start = first(hqq, &format, &block);
            let (grid, plain) = (start.grid.clone(), start.objective);
            let found = hqq.rounds(&format, start, &block);
            let found = found[found.len() - 1].objective;
            let mut least = plain;
            for i in -200..=200 {
                let zero = f64::from(grid.0[1]) + f64::from(i) / 200.0;
                let grid = format.with_zero(&grid, zero).unwrap_or(grid.clone());
                let mut codes = vec![0; block.len()];
                format.round(&grid, 0, &block, &mut codes);
                least = least.min(hqq.state(&format, grid, codes, &block).objective);
            }
            assert!(found >= least - 1e-2 * least, "{found} under {least}");
            (before, after, scanned) = (before + plain, after + found, scanned + least);
        }
        let share = (before - after) / (before - scanned);
        assert!((0.3..=1.01).contains(&share), "{share} of the gain");
        Ok(())
    }

    /// The closed form is the minimum of the quadratic: no other zero-point has a smaller Σ(e − u)². Planted: u with the other sign.
    #[test]
    fn the_zero_point_is_the_minimum_of_the_quadratic() -> Result<()> {
        let format = IntFloatZero::new(3, Granularity::Group(64))?;
        let hqq = Hqq::default();
        let mut caught = 0;
        for block in blocks() {
            let state = first(hqq, &format, &block);
            let step = f64::from(state.grid.0[0]);
            let shrunk: Vec<f64> = (block.iter().zip(&state.values))
                .map(|(w, v)| {
                    let e = f64::from(w - v) / step;
                    (e.abs() - e.abs().powf(-0.3) / BETA).max(0.0) * e.signum()
                })
                .collect();
            let quadratic = |zero: f64| -> f64 {
                let terms = block.iter().zip(&state.codes).zip(&shrunk);
                terms
                    .map(|((&w, &q), u)| (f64::from(w) / step - (f64::from(q) - zero) - u).powi(2))
                    .sum()
            };
            let zero = hqq.zero(&state, &block, BETA);
            let least = quadratic(zero);
            for off in [-0.1, -1e-3, 1e-3, 0.1] {
                assert!(quadratic(zero + off) > least, "{off}");
            }
            let mean = shrunk.iter().sum::<f64>() / block.len() as f64;
            caught += usize::from(quadratic(zero - 2.0 * mean) > least * (1.0 + 1e-6));
        }
        assert!(caught > 30, "{caught}");
        Ok(())
    }

    /// What the authors' code does at the size of real weights: everything is shrunk to nothing, p has no say in the update.
    #[test]
    fn in_the_weights_own_units_the_update_is_least_squares() -> Result<()> {
        let format = IntFloatZero::new(4, Granularity::Group(64))?;
        for block in blocks() {
            let plain = Hqq {
                errors: Errors::AsTheyAre,
                ..Hqq::default()
            };
            let state = first(plain, &format, &block);
            let step = f64::from(state.grid.0[0]);
            let terms = block.iter().zip(&state.codes);
            let mean = terms
                .map(|(&w, &q)| f64::from(q) - f64::from(w) / step)
                .sum::<f64>()
                / block.len() as f64;
            assert!((plain.zero(&state, &block, BETA) - mean).abs() < 1e-9);
        }
        Ok(())
    }

    #[test]
    fn whole_zero_points_are_kept_and_names_are_read_back() -> Result<()> {
        let weights = Matrix::new(2, 64, blocks()[..2].concat())?;
        let format = IntAffine::new(3, Granularity::Group(64))?;
        let found = Hqq::default().quantize(&weights, &format)?;
        assert!(found.grids().iter().all(|grid| grid.0[1].fract() == 0.0));
        for name in ["hqq", "hqq-p0.5", "hqq-unscaled", "hqq-p1-unscaled"] {
            assert_eq!(named(name)?.name(), name);
        }
        assert!(named("hqq-p").is_err() && named("hqq7").is_err());
        let error = named("hqq-p2")?.quantize(&weights, &format).unwrap_err();
        assert!(error.to_string().contains("0 < p"), "{error}");
        Ok(())
    }
}
