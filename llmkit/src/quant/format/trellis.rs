//! QTIP's trellis codes: k bits a weight, each weight's value hanging on the last L bits of the block's stream.
//!
//! w ≈ s·g(state), s = √mean w² times a constant that suits a normal law. Stored: k bits a weight; an f16 scale a block.
//! The trellis, its values and its search are [`numeric::trellis`](crate::numeric::trellis).
//!
//! Source: A. Tseng et al., *QTIP* (arXiv 2406.11235).
//!
//! Cost: 4·2ᴸ operations a weight to encode (where what is left changes after every eight weights, up to 1 + L/k times as many), a
//! multiplication and a few bit operations to decode; k + 16/g bits a weight for blocks of g.
//!
//! **Error.** Rounded at once, a block is never worse than under the codes of zero, whose value is s·g(0): |w − ŵ| ≤ √Σ(w − s·g(0))².
//!
//! **Where we differ.** Blocks lie in rows, not in tiles of 16 × 16; L is a parameter. Meant for weights made normal by a
//! random rotation, which is a transform's business and not done here.

use std::sync::Arc;

use half::f16;

use super::{AnyFormat, Format, Granularity, Grid, Load, Store, Whole};
use crate::numeric::trellis::{self, Hash};
use crate::quant::step::storable;
use crate::{Error, Result};

/// Scale over root mean square of least distortion on a normal source, for k = 1 … 4, found by search in steps of 0.05 or
/// less. L hardly matters.
const SCALES: [f64; 4] = [0.88, 1.02, 1.08, 1.1];

/// Weights that are decided at a time where what is left of a ring changes: as many as a vector of E8P has.
const STRIDE: usize = 8;

/// A ring through a trellis for each block.
#[derive(Debug, Clone)]
pub struct Trellis {
    code_bits: u32,
    state_bits: u32,
    hash: Hash,
    granularity: Granularity,
    trellis: Arc<trellis::Trellis>,
}

impl Trellis {
    /// k = `code_bits` of 1 … 4, L = `state_bits` of k + 1 … 16 (the paper's is 16), a ring for each block.
    ///
    /// # Errors
    /// [`Error::Argument`] for other widths and for a group of no weights.
    pub fn new(
        code_bits: u32,
        state_bits: u32,
        hash: Hash,
        granularity: Granularity,
    ) -> Result<Trellis> {
        if !(1..=4).contains(&code_bits) {
            return Err(Error::argument("code bits", "1 … 4", code_bits));
        }
        if !(code_bits + 1..=16).contains(&state_bits) {
            let expected = format!("{} … 16", code_bits + 1);
            return Err(Error::argument("state bits", expected, state_bits));
        }
        Ok(Trellis {
            code_bits,
            state_bits,
            hash,
            granularity: granularity.check()?,
            trellis: Arc::new(trellis::Trellis::new(state_bits, code_bits, hash)),
        })
    }

    fn of_zero(&self) -> f32 {
        let mut value = [0.0];
        self.trellis.decode(&[0], &mut value);
        value[0]
    }
}

impl Format for Trellis {
    fn name(&self) -> String {
        let hash = match self.hash {
            Hash::OneMac => "1mac",
            Hash::ThreeInst => "3inst",
        };
        format!(
            "trellis{}-{hash}-l{}-{}",
            self.code_bits, self.state_bits, self.granularity
        )
    }

    fn granularity(&self) -> Granularity {
        self.granularity
    }

    fn code_bits(&self) -> u32 {
        self.code_bits
    }

    fn vector(&self) -> usize {
        usize::MAX
    }

    fn is_projection(&self) -> bool {
        false
    }

    fn fit(&self, _whole: &Whole, _index: usize, block: &[f32]) -> Result<Grid> {
        let power: f64 = block.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
        let factor = SCALES[self.code_bits as usize - 1];
        let scale = factor * (power / block.len() as f64).sqrt();
        Ok(Grid(vec![storable(scale, || self.name())?]))
    }

    fn round(&self, grid: &Grid, _at: usize, weights: &[f32], codes: &mut [u8]) {
        let scale = grid.0[0];
        if scale == 0.0 {
            return codes.fill(0);
        }
        let scaled: Vec<f32> = weights.iter().map(|weight| weight / scale).collect();
        self.trellis.encode(&scaled, codes);
    }

    fn stride(&self) -> usize {
        STRIDE
    }

    fn round_rest(&self, grid: &Grid, from: usize, rest: &[f32], codes: &mut [u8]) {
        let scale = grid.0[0];
        if scale == 0.0 {
            return codes.fill(0);
        }
        let scaled: Vec<f32> = rest.iter().map(|weight| weight / scale).collect();
        self.trellis.encode_rest(from, STRIDE, &scaled, codes);
    }

    fn values(&self, grid: &Grid, _at: usize, codes: &[u8], weights: &mut [f32]) {
        self.trellis.decode(codes, weights);
        weights.iter_mut().for_each(|weight| *weight *= grid.0[0]);
    }

    fn max_error(&self, grid: &Grid, block: &[f32]) -> f64 {
        let zero = f64::from(grid.0[0]) * f64::from(self.of_zero());
        let power: f64 = block.iter().map(|&w| (f64::from(w) - zero).powi(2)).sum();
        // Scaling there and back rounds.
        power.sqrt() * (1.0 + 1e-6)
    }

    fn grid_bits(&self) -> usize {
        16
    }

    fn store(&self, grid: &Grid, codes: &[u8], to: &mut Store) {
        let bits = f16::from_f32(grid.0[0]).to_bits();
        to.grids.push(u32::from(bits), 16);
        to.put(codes, self.code_bits);
    }

    fn load(&self, _whole: &Whole, _index: usize, from: &mut Load<'_>, codes: &mut [u8]) -> Grid {
        from.take(codes, self.code_bits);
        Grid(vec![f16::from_bits(from.grids.pull(16) as u16).to_f32()])
    }

    fn named(&self, name: &str) -> Result<Option<AnyFormat>> {
        let parts: Option<[&str; 4]> = (name.strip_prefix("trellis"))
            .and_then(|rest| rest.split('-').collect::<Vec<_>>().try_into().ok());
        let Some([code_bits, hash, state_bits, granularity]) = parts else {
            return Ok(None);
        };
        let hash = match hash {
            "1mac" => Hash::OneMac,
            "3inst" => Hash::ThreeInst,
            _ => return Ok(None),
        };
        let state_bits = state_bits.strip_prefix('l').and_then(|it| it.parse().ok());
        let (Ok(code_bits), Some(state_bits), Some(granularity)) = (
            code_bits.parse(),
            state_bits,
            Granularity::named(granularity),
        ) else {
            return Ok(None);
        };
        Ok(Some(
            Trellis::new(code_bits, state_bits, hash, granularity)?.shared(),
        ))
    }

    fn shared(&self) -> AnyFormat {
        AnyFormat::new(self.clone())
    }
}

/// Small trellises, for speed, with rings long and short.
pub(super) fn members() -> Vec<AnyFormat> {
    [
        Trellis::new(2, 10, Hash::ThreeInst, Granularity::Group(64)),
        Trellis::new(2, 8, Hash::OneMac, Granularity::Channel),
        Trellis::new(3, 9, Hash::ThreeInst, Granularity::Tensor),
    ]
    .into_iter()
    .flatten()
    .map(|format| format.shared())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::law;

    #[test]
    fn arguments_out_of_range_are_named() {
        for (code_bits, state_bits) in [(0, 8), (5, 8), (2, 2), (2, 17)] {
            let format = Trellis::new(code_bits, state_bits, Hash::OneMac, Granularity::Channel);
            assert!(format.unwrap_err().to_string().contains("bits: expected"));
        }
    }

    /// The paper's 0.069 needs L = 16 (0.0686 here, with 1MAC 0.0680, on 2,048 numbers); a smaller one is still far below
    /// the best scalar quantizer's 0.1175, and no code of two bits is below 4⁻² = 0.0625.
    #[test]
    fn a_normal_source() -> Result<()> {
        let format = Trellis::new(2, 12, Hash::ThreeInst, Granularity::Group(256))?;
        let distortion = law::normal_distortion(&format, 6, 1024, 8)?;
        assert!((0.0625..0.080).contains(&distortion), "{distortion}");
        Ok(())
    }
}
