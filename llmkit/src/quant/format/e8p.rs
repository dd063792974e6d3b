//! QuIP#'s lattice codebook: eight weights in 16 bits, w ≈ s·p, p one of 65,536 points of E8 + ¼.
//!
//! s = c·√mean w² with the c that suits a normal law. Stored: 16 bits a vector, two with each weight, lowest first; an f16
//! scale a block.
//!
//! Source: A. Tseng et al., *QuIP#* (arXiv 2402.04396), section 4; the points are [`numeric::e8p`](crate::numeric::e8p).
//!
//! Cost: 512 candidates a vector; 2 + 16/g bits a weight for blocks of g.
//!
//! **Error.** At most that of the point nearest to zero, whose norm is √½: |w − ŵ| ≤ ‖vector‖ + s·√½. (Inside the ball the
//! lattice covers, no vector is farther than s from a point.)
//!
//! **Where we differ.** Meant for weights made normal by a random rotation, which is a transform's business and not done
//! here. Rows must be whole vectors.

use half::f16;

use super::{AnyFormat, Format, Granularity, Grid, Load, Store, Whole};
use crate::numeric::e8p::{DIMENSION, decode, encode};
use crate::quant::step::storable;
use crate::{Error, Result};

/// Scale over root mean square of least distortion on a normal source, found by search over a hundredth.
const SCALE: f64 = 0.97;

/// Eight weights a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct E8p {
    granularity: Granularity,
}

impl E8p {
    /// One scale for each block of `granularity`.
    ///
    /// # Errors
    /// [`Error::Argument`] for a group that is not a multiple of eight weights.
    pub fn new(granularity: Granularity) -> Result<E8p> {
        match granularity.check()? {
            Granularity::Group(group) if !group.is_multiple_of(DIMENSION) => {
                Err(Error::argument("group", "a multiple of 8 weights", group))
            }
            granularity => Ok(E8p { granularity }),
        }
    }
}

impl Format for E8p {
    fn name(&self) -> String {
        format!("e8p-{}", self.granularity)
    }

    fn granularity(&self) -> Granularity {
        self.granularity
    }

    fn code_bits(&self) -> u32 {
        2
    }

    fn vector(&self) -> usize {
        DIMENSION
    }

    fn is_projection(&self) -> bool {
        false
    }

    fn check(&self, _rows: usize, cols: usize) -> Result<()> {
        if cols.is_multiple_of(DIMENSION) {
            return Ok(());
        }
        let name = format!("row length of {}", self.name());
        Err(Error::argument(name, "a multiple of 8 weights", cols))
    }

    fn fit(&self, _whole: &Whole, _index: usize, block: &[f32]) -> Result<Grid> {
        let power: f64 = block.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
        let scale = SCALE * (power / block.len() as f64).sqrt();
        Ok(Grid(vec![storable(scale, || self.name())?]))
    }

    fn round(&self, grid: &Grid, _at: usize, weights: &[f32], codes: &mut [u8]) {
        let scale = grid.0[0];
        for (weights, codes) in weights
            .chunks_exact(DIMENSION)
            .zip(codes.chunks_exact_mut(DIMENSION))
        {
            let code = match scale {
                0.0 => 0,
                scale => encode(&std::array::from_fn(|i| weights[i] / scale)),
            };
            for (i, part) in codes.iter_mut().enumerate() {
                *part = (code >> (2 * i) & 3) as u8;
            }
        }
    }

    fn values(&self, grid: &Grid, _at: usize, codes: &[u8], weights: &mut [f32]) {
        for (codes, weights) in codes
            .chunks_exact(DIMENSION)
            .zip(weights.chunks_exact_mut(DIMENSION))
        {
            let parts = codes.iter().enumerate();
            let code = parts.fold(0, |code, (i, &part)| code | u16::from(part) << (2 * i));
            for (weight, x) in weights.iter_mut().zip(decode(code)) {
                // Exact: points are multiples of a quarter.
                *weight = grid.0[0] * x;
            }
        }
    }

    fn max_error(&self, grid: &Grid, block: &[f32]) -> f64 {
        let norm = |vector: &[f32]| {
            vector
                .iter()
                .map(|&w| f64::from(w) * f64::from(w))
                .sum::<f64>()
                .sqrt()
        };
        let greatest = block.chunks(DIMENSION).map(norm).fold(0.0, f64::max);
        greatest + f64::from(grid.0[0]) * 0.5f64.sqrt()
    }

    fn grid_bits(&self) -> usize {
        16
    }

    fn store(&self, grid: &Grid, codes: &[u8], to: &mut Store) {
        let bits = f16::from_f32(grid.0[0]).to_bits();
        to.grids.push(u32::from(bits), 16);
        to.put(codes, 2);
    }

    fn load(&self, _whole: &Whole, _index: usize, from: &mut Load<'_>, codes: &mut [u8]) -> Grid {
        from.take(codes, 2);
        Grid(vec![f16::from_bits(from.grids.pull(16) as u16).to_f32()])
    }

    fn named(&self, name: &str) -> Result<Option<AnyFormat>> {
        let granularity = name.strip_prefix("e8p-").and_then(Granularity::named);
        granularity.map(|it| Ok(E8p::new(it)?.shared())).transpose()
    }

    fn shared(&self) -> AnyFormat {
        AnyFormat::new(*self)
    }
}

/// A scale a row, a tensor, and a group.
pub(super) fn members() -> Vec<AnyFormat> {
    let granularities = [
        Granularity::Channel,
        Granularity::Tensor,
        Granularity::Group(64),
    ];
    let formats = granularities.into_iter().map(E8p::new);
    formats.flatten().map(|format| format.shared()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::law;

    #[test]
    fn whole_vectors_only() {
        assert!(E8p::new(Granularity::Group(12)).is_err());
        let format = E8p::new(Granularity::Channel).unwrap();
        let error = format.check(1, 70).unwrap_err().to_string();
        assert!(
            error.contains("e8p") && error.contains("multiple of 8"),
            "{error}"
        );
        assert_eq!(format.bytes(3, 576), 3 * (144 + 2));
    }

    /// 0.0915 at the best scale; the authors' list, searched by brute force over its 65,280 different points, gives 0.092.
    /// The best scalar quantizer gives 0.1175, and no code of two bits is below 4⁻² = 0.0625.
    #[test]
    fn a_normal_source() -> Result<()> {
        let distortion = law::normal_distortion(&E8p::new(Granularity::Channel)?, 40, 1024, 8)?;
        assert!((0.090..0.093).contains(&distortion), "{distortion}");
        Ok(())
    }
}
