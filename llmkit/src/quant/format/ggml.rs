//! The block types of ggml: Q4_0 … Q8_0, Q2_K … Q6_K, IQ4_NL, TQ1_0, TQ2_0.
//!
//! w ≈ (d·sⱼ)·(q − o) − dₘ·mⱼ, with what each type has of it; stored block by block, byte for byte as llama.cpp does. The
//! codecs, their layouts and searches are [`numeric::ggml`](crate::numeric::ggml).
//!
//! Source: llama.cpp, `ggml-quants.c`, the encoders without an importance matrix and, for methods that have one, with; k-quants are of I. Kawrakow
//! (llama.cpp #1684), ternary types of F. Couture-Harpin (llama.cpp #8151).
//!
//! Cost: two passes for the types of 32, about 20 passes of searching for k-quants and IQ4_NL; 4.5 bits a weight for
//! Q4_0, IQ4_NL and Q4_K, 5 for Q4_1, 5.5 for Q5_0 and Q5_K, 6 for Q5_1, 8.5 for Q8_0, 2.625 for Q2_K, 3.4375 for Q3_K,
//! 6.5625 for Q6_K, 1.6875 for TQ1_0, 2.0625 for TQ2_0.
//!
//! **Error.** Scales come from a search that may cut off the ends. With the step h of a weight's sub-block and the range
//! that its codes reach: |w − ŵ| ≤ h/2 inside, the distance to the range outside; and codes of the types of 32 are rounded
//! before d and m are cut to f16, which costs at most 2⁻¹¹ of them (2⁻²⁵ below f16's normal range) times the greatest code.
//!
//! **Where we differ.** Scales that overflow f16 are refused; ggml writes infinities. Rows must be a multiple of 32 or
//! 256 weights: llama.cpp falls back to another type there ([`Ggml::fallback`]), we say so and leave it to the caller.

use super::{AnyFormat, Format, Granularity, Grid, Load, Store, Whole};
use crate::numeric::ggml::{GgmlType, Parts, iq4_nl};
use crate::{Error, Result};

/// A block type of ggml.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ggml(pub GgmlType);

impl Ggml {
    /// What llama.cpp stores instead where rows are not a multiple of 256 weights; [`None`] for types of 32.
    pub fn fallback(self) -> Option<Ggml> {
        match self.0 {
            GgmlType::Q2_K | GgmlType::Q3_K | GgmlType::TQ1_0 | GgmlType::TQ2_0 => {
                Some(Ggml(GgmlType::Q4_0))
            }
            GgmlType::Q4_K => Some(Ggml(GgmlType::Q5_0)),
            GgmlType::Q5_K => Some(Ggml(GgmlType::Q5_1)),
            GgmlType::Q6_K => Some(Ggml(GgmlType::Q8_0)),
            _ => None,
        }
    }

    fn parts(self, block: &[f32]) -> Result<Parts> {
        self.finite(self.0.quantize(block))
    }

    fn finite(self, parts: Parts) -> Result<Parts> {
        match parts.params.iter().find(|param| !param.is_finite()) {
            None => Ok(parts),
            Some(param) => Err(Error::argument(
                format!("scale of {}", self.name()),
                "one that an f16 can hold",
                param,
            )),
        }
    }

    /// Half of the widest gap between points near `at`, and the range that they reach.
    fn reach(self, grid: &Grid, at: usize) -> (f64, f64, f64) {
        let last = (self.levels() - 1) as u8;
        let value = |code| f64::from(self.0.value(&grid.0, at, code));
        let (first, end) = (value(0), value(last));
        let half_gap = match self.0 {
            GgmlType::IQ4_NL => {
                let widest = iq4_nl::VALUES
                    .windows(2)
                    .map(|pair| i32::from(pair[1]) - i32::from(pair[0]));
                f64::from(grid.0[0]).abs() * f64::from(widest.max().unwrap_or(0)) / 2.0
            }
            _ => (end - first).abs() / f64::from(last) / 2.0,
        };
        (half_gap, first.min(end), first.max(end))
    }
}

impl Format for Ggml {
    fn name(&self) -> String {
        self.0.name()
    }

    fn granularity(&self) -> Granularity {
        Granularity::Group(self.0.elements())
    }

    fn code_bits(&self) -> u32 {
        self.levels().next_power_of_two().ilog2()
    }

    fn levels(&self) -> u32 {
        self.0.levels()
    }

    fn is_projection(&self) -> bool {
        // Scales that are searched for, or averaged, move again when searched again.
        !matches!(
            self.0,
            GgmlType::Q2_K
                | GgmlType::Q3_K
                | GgmlType::Q4_K
                | GgmlType::Q5_K
                | GgmlType::Q6_K
                | GgmlType::IQ4_NL
        )
    }

    fn check(&self, _rows: usize, cols: usize) -> Result<()> {
        let block = self.0.elements();
        if cols.is_multiple_of(block) {
            return Ok(());
        }
        let instead = self.fallback().map_or(String::new(), |type_| {
            format!("; llama.cpp falls back to {} here", type_.name())
        });
        Err(Error::argument(
            format!("row length of {}", self.name()),
            format!("a multiple of {block} weights{instead}"),
            cols,
        ))
    }

    fn fit(&self, _whole: &Whole, _index: usize, block: &[f32]) -> Result<Grid> {
        Ok(Grid(self.parts(block)?.params))
    }

    fn round(&self, grid: &Grid, at: usize, weights: &[f32], codes: &mut [u8]) {
        for (i, (&weight, code)) in weights.iter().zip(codes).enumerate() {
            *code = self.0.nearest(&grid.0, at + i, weight);
        }
    }

    fn values(&self, grid: &Grid, at: usize, codes: &[u8], weights: &mut [f32]) {
        for (i, (&code, weight)) in codes.iter().zip(weights).enumerate() {
            *weight = self.0.value(&grid.0, at + i, code);
        }
    }

    fn encode(
        &self,
        _whole: &Whole,
        _index: usize,
        block: &[f32],
        codes: &mut [u8],
    ) -> Result<Grid> {
        let parts = self.parts(block)?;
        codes.copy_from_slice(&parts.codes);
        Ok(Grid(parts.params))
    }

    fn encode_weighted(
        &self,
        block: &[f32],
        importance: &[f32],
        power: f32,
        codes: &mut [u8],
    ) -> Option<Result<Grid>> {
        let parts = self.finite(self.0.quantize_weighted(block, importance, power));
        Some(parts.map(|parts| {
            codes.copy_from_slice(&parts.codes);
            Grid(parts.params)
        }))
    }

    fn max_error(&self, grid: &Grid, block: &[f32]) -> f64 {
        let last = f64::from(self.levels() - 1);
        let cut = |x: f64| (x.abs() * 2f64.powi(-11)).max(2f64.powi(-25));
        let bounds = block.iter().enumerate().map(|(at, &weight)| {
            let (half_gap, low, high) = self.reach(grid, at);
            let weight = f64::from(weight);
            let outside = (weight - high).max(low - weight);
            half_gap.max(outside) + last * cut(2.0 * half_gap) + cut(low)
        });
        bounds.fold(0.0, f64::max)
    }

    fn grid_bits(&self) -> usize {
        let codes = match self.0 {
            GgmlType::TQ1_0 => 8 * 52,
            _ => self.0.elements() * self.code_bits() as usize,
        };
        8 * self.0.bytes() - codes
    }

    fn bytes(&self, rows: usize, cols: usize) -> usize {
        rows * (cols / self.0.elements()) * self.0.bytes()
    }

    fn store(&self, grid: &Grid, codes: &[u8], to: &mut Store) {
        let parts = Parts {
            params: grid.0.clone(),
            codes: codes.to_vec(),
        };
        let mut bytes = Vec::with_capacity(self.0.bytes());
        self.0.pack(&parts, &mut bytes);
        to.put(&bytes, 8);
    }

    fn load(&self, _whole: &Whole, _index: usize, from: &mut Load<'_>, codes: &mut [u8]) -> Grid {
        let mut bytes = vec![0; self.0.bytes()];
        from.take(&mut bytes, 8);
        let parts = self.0.unpack(&bytes);
        codes.copy_from_slice(&parts.codes);
        Grid(parts.params)
    }

    fn shared(&self) -> AnyFormat {
        AnyFormat::new(*self)
    }
}

/// All of them.
pub(super) fn members() -> Vec<AnyFormat> {
    GgmlType::ALL.iter().map(|&of| Ggml(of).shared()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::method::Rtn;
    use crate::quant::{Matrix, Method, samples};

    #[test]
    fn what_is_stored_is_what_llama_cpp_would_store() -> Result<()> {
        for format in GgmlType::ALL.map(Ggml) {
            for (sample, weights) in samples::all() {
                if format.check(weights.rows(), weights.cols()).is_err() {
                    continue;
                }
                let quantized = Rtn.quantize(&weights, &format)?;
                let bytes = format.0.encode(weights.data());
                assert!(
                    quantized.code_bytes() == bytes,
                    "{} on {sample}",
                    format.name()
                );
                assert!(quantized.grid_bytes().is_empty());
                let decoded = Matrix::new(weights.rows(), weights.cols(), format.0.decode(&bytes))?;
                assert_eq!(quantized.decode()?, decoded);
            }
        }
        Ok(())
    }

    #[test]
    fn rows_that_do_not_divide_are_refused_with_the_fallback() {
        let weights = Matrix::new(1, 576, vec![0.5; 576]).unwrap();
        let error = Rtn
            .quantize(&weights, &Ggml(GgmlType::Q4_K))
            .unwrap_err()
            .to_string();
        for says in [
            "row length of Q4_K",
            "multiple of 256",
            "falls back to Q5_0",
            "576",
        ] {
            assert!(error.contains(says), "{error}");
        }
        assert!(Rtn.quantize(&weights, &Ggml(GgmlType::Q8_0)).is_ok());
    }

    #[test]
    fn bits_a_weight_are_the_published_ones() {
        let bits = |of: GgmlType| 8.0 * Ggml(of).bytes(3, 512) as f64 / (3.0 * 512.0);
        let published = [
            4.5, 5.0, 5.5, 6.0, 8.5, 2.625, 3.4375, 4.5, 5.5, 6.5625, 4.5, 1.6875, 2.0625,
        ];
        assert_eq!(GgmlType::ALL.map(bits), published);
    }
}
