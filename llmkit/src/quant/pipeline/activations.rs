//! Activations in few bits: the inputs of layers are rounded when the model runs.
//!
//! ```text
//! x̂ = s·clamp(round(x/s), −m, m),   m = 2ᵇ⁻¹ − 1,   s = max|x|/m of a token, of a group of a token's channels, or fixed for a layer
//! ```
//! | text | scales |
//! |---|---|
//! | `a8-token` | of each token, as it comes (dynamic) |
//! | `a8-g64` | of each 64 channels of a token: what [`packed`](super::packed()) layers with groups of 64 do |
//! | `a8-tensor` | one for a layer, from the greatest that calibration saw (static) |
//! | `a8-tensor-p99.9` | … from that percentile of magnitudes; what is greater is cut |
//! | `a8-outliers6` | of each token; channels in which any token is 6 or more stay in 16 bits: LLM.int8()'s decomposition |
//!
//! Any width from 2 to 8 bits. Layers on codes run the integer kernels on these very bytes; layers on values multiply with x̂ in f32: the two
//! differ by the order of f32 sums alone.
//!
//! Source: T. Dettmers et al., *LLM.int8()* (arXiv 2208.07339), section 3; G. Xiao et al., *SmoothQuant* (arXiv 2211.10438), section 3, for
//! the granularities; percentiles: H. Wu et al., *Integer Quantization for Deep Learning Inference* (arXiv 2004.09602), section 4.3.
//!
//! **Where we differ.** The outlier channels' weights are those that are stored, decoded, not a second copy in 16 bits: the file is no larger.
//! Which channels they are depends, as in the paper, on all tokens that are computed together.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use half::f16;

use crate::kernels::dense::{Element, Into};
use crate::kernels::integer::{Bytes, CHUNK, IntPanels, Scale, multiply_at};
use crate::model::Engine;
use crate::model::linear::{Dense, Input, Integer, Linear};
use crate::{Error, Result};

/// Which values share a scale, and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scales {
    /// Each token has its own.
    Token,
    /// Each group of so many channels of a token has its own; a multiple of 32.
    Group(usize),
    /// One for a layer, from the greatest magnitude of the calibration.
    Tensor,
    /// One for a layer, from a percentile of magnitudes, 50 … 100.
    Percentile(f64),
    /// Each token has its own; channels with a magnitude from this on stay in 16 bits.
    Outliers(f32),
}

/// How inputs of layers are rounded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Activations {
    bits: u32,
    scales: Scales,
}

impl Activations {
    /// Of `bits` bits, 2 … 8.
    ///
    /// # Errors
    /// [`Error::Argument`] for other widths, groups that are no multiple of 32, percentiles outside 50 … 100, thresholds that are not
    /// positive.
    pub fn new(bits: u32, scales: Scales) -> Result<Activations> {
        if !(2..=8).contains(&bits) {
            return Err(Error::argument("bits of activations", "2 … 8", bits));
        }
        match scales {
            Scales::Group(group) if group == 0 || !group.is_multiple_of(CHUNK) => {
                let expected = format!("a multiple of {CHUNK} channels");
                Err(Error::argument("group of activations", expected, group))
            }
            Scales::Percentile(p) if !(50.0..=100.0).contains(&p) => {
                Err(Error::argument("percentile of activations", "50 … 100", p))
            }
            Scales::Outliers(from) if !(from > 0.0 && from.is_finite()) => Err(Error::argument(
                "magnitude of outliers",
                "a positive number",
                from,
            )),
            _ => Ok(Activations { bits, scales }),
        }
    }

    /// Bits of a code.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Which values share a scale.
    pub fn scales(&self) -> Scales {
        self.scales
    }

    /// Whether scales come from a calibration.
    pub fn is_static(&self) -> bool {
        matches!(self.scales, Scales::Tensor | Scales::Percentile(_))
    }

    /// The greatest code.
    fn most(&self) -> u8 {
        (1u8 << (self.bits - 1)) - 1
    }

    /// A layer of `base` whose inputs are rounded; `greatest` is the magnitude that the greatest code stands for, where scales are static.
    ///
    /// # Errors
    /// [`Error::Argument`] if that is missing or not finite.
    pub fn on(&self, base: Base, greatest: Option<f32>) -> Result<RoundedInputs> {
        let rule = match (self.scales, greatest) {
            (Scales::Token | Scales::Outliers(_), _) => Scale::OfRow,
            (Scales::Group(_), _) => Scale::OfGroup,
            (_, Some(greatest)) if greatest.is_finite() => {
                Scale::Fixed(greatest / f32::from(self.most()))
            }
            (_, other) => {
                let got = other.map_or("none".to_owned(), |it| it.to_string());
                let expected = "the greatest magnitude of a calibration";
                return Err(Error::argument(format!("scale of {self}"), expected, got));
            }
        };
        let columns = match self.scales {
            Scales::Outliers(_) => by_columns(base.linear()),
            _ => Vec::new(),
        };
        Ok(RoundedInputs {
            activations: *self,
            rule,
            base,
            columns,
        })
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a{}-", self.bits)?;
        match self.scales {
            Scales::Token => f.write_str("token"),
            Scales::Group(group) => write!(f, "g{group}"),
            Scales::Tensor => f.write_str("tensor"),
            Scales::Percentile(p) => write!(f, "tensor-p{p}"),
            Scales::Outliers(from) => write!(f, "outliers{from}"),
        }
    }
}

impl FromStr for Activations {
    type Err = Error;

    fn from_str(text: &str) -> Result<Activations> {
        let wrong = || {
            let expected =
                "a8-token, a8-g64, a8-tensor, a8-tensor-p99.9 or a8-outliers6, of 2 to 8 bits";
            Error::argument("activations", expected, text)
        };
        let (bits, scales) = (text.strip_prefix('a'))
            .and_then(|it| it.split_once('-'))
            .ok_or_else(wrong)?;
        let bits = bits.parse().map_err(|_| wrong())?;
        let scales = if scales == "token" {
            Scales::Token
        } else if scales == "tensor" {
            Scales::Tensor
        } else if let Some(p) = scales.strip_prefix("tensor-p") {
            Scales::Percentile(p.parse().map_err(|_| wrong())?)
        } else if let Some(from) = scales.strip_prefix("outliers") {
            Scales::Outliers(from.parse().map_err(|_| wrong())?)
        } else if let Some(group) = scales.strip_prefix('g') {
            Scales::Group(group.parse().map_err(|_| wrong())?)
        } else {
            return Err(wrong());
        };
        Activations::new(bits, scales)
    }
}

/// What multiplies the rounded inputs.
#[derive(Debug)]
pub enum Base {
    /// Decoded weights, in f32.
    Values(Dense),
    /// The codes of the weights, by the integer kernels.
    Codes(Integer),
}

impl Base {
    fn linear(&self) -> &dyn Linear {
        match self {
            Base::Values(it) => it,
            Base::Codes(it) => it,
        }
    }
}

/// A layer that rounds its inputs.
#[derive(Debug)]
pub struct RoundedInputs {
    activations: Activations,
    rule: Scale,
    base: Base,
    /// Wᵀ (K, N), where some channels are multiplied apart.
    columns: Vec<f32>,
}

impl RoundedInputs {
    /// Whether this runs on codes: groups of inputs are then groups of weights.
    pub(super) fn can_run_on(activations: &Activations, panels: &IntPanels) -> bool {
        match activations.scales {
            Scales::Group(group) => {
                group == panels.group() || group.min(panels.group()) >= panels.columns()
            }
            _ => true,
        }
    }

    fn bytes_of(&self, x: &[f32], columns: usize, engine: &Engine) -> Bytes {
        let group = match (&self.base, self.activations.scales) {
            (Base::Codes(codes), _) => codes.panels().group(),
            (Base::Values(_), Scales::Group(group)) => group,
            (Base::Values(_), _) => columns,
        };
        let rule = (self.activations.most(), self.rule);
        Bytes::round_by(engine.isa, (x, columns), group, rule, &engine.team)
    }

    fn multiply(&self, x: &[f32], columns: usize, into: Into, out: &mut [f32], engine: &Engine) {
        let bytes = self.bytes_of(x, columns, engine);
        match &self.base {
            Base::Values(dense) => {
                let values = bytes.values();
                dense.forward(&Input::new(&values, columns, engine), into, out, engine);
            }
            Base::Codes(codes) => {
                multiply_at(engine.isa, &bytes, codes.panels(), into, out, &engine.team);
            }
        }
    }
}

impl Linear for RoundedInputs {
    fn shape(&self) -> (usize, usize) {
        self.base.linear().shape()
    }

    fn kind(&self) -> String {
        format!("{} × {}", self.base.linear().kind(), self.activations)
    }

    fn bytes(&self) -> usize {
        self.base.linear().bytes() + size_of_val(self.columns.as_slice())
    }

    fn row(&self, n: usize, out: &mut [f32]) {
        self.base.linear().row(n, out);
    }

    fn forward(&self, x: &Input<'_>, into: Into, out: &mut [f32], engine: &Engine) {
        let Scales::Outliers(from) = self.activations.scales else {
            return self.multiply(x.values(), x.columns, into, out, engine);
        };
        let apart = outliers(x.values(), x.columns, from);
        if apart.is_empty() {
            return self.multiply(x.values(), x.columns, into, out, engine);
        }
        let mut rest = x.values().to_vec();
        for row in rest.chunks_exact_mut(x.columns) {
            apart.iter().for_each(|&k| row[k] = 0.0);
        }
        self.multiply(&rest, x.columns, into, out, engine);
        let outputs = self.shape().0;
        let rows = x.values().chunks_exact(x.columns);
        engine
            .team
            .each(out.chunks_exact_mut(outputs).zip(rows), &|_, (out, x)| {
                for &k in &apart {
                    // In 16 bits, as the paper keeps them; what f16 cannot hold is infinite, and seen to be.
                    let value = f16::from_f32(x[k]).to_f32();
                    let weights = &self.columns[k * outputs..][..outputs];
                    out.iter_mut()
                        .zip(weights)
                        .for_each(|(y, w)| *y += value * w);
                }
            });
    }
}

/// Channels of `x` (T, `columns`) in which any magnitude is `from` or more, ascending. One that is no number is none of them.
pub fn outliers(x: &[f32], columns: usize, from: f32) -> Vec<usize> {
    let mut is_one = vec![false; columns];
    for row in x.chunks_exact(columns.max(1)) {
        for (is_one, x) in is_one.iter_mut().zip(row) {
            *is_one |= x.abs() >= from;
        }
    }
    (0..columns).filter(|&k| is_one[k]).collect()
}

/// Wᵀ (K, N).
fn by_columns(layer: &dyn Linear) -> Vec<f32> {
    let (rows, columns) = layer.shape();
    let mut out = vec![0.0; rows * columns];
    let mut row = vec![0.0; columns];
    for n in 0..rows {
        layer.row(n, &mut row);
        row.iter()
            .enumerate()
            .for_each(|(k, w)| out[k * rows + n] = *w);
    }
    out
}

/// The layer on values or codes, with rounded inputs if asked for.
pub(super) fn layer(
    base: Base,
    activations: Option<&Activations>,
    greatest: Option<f32>,
) -> Result<Arc<dyn Linear>> {
    Ok(match (activations, base) {
        (Some(activations), base) => Arc::new(activations.on(base, greatest)?),
        (None, Base::Values(dense)) => Arc::new(dense),
        (None, Base::Codes(codes)) => Arc::new(codes),
    })
}

/// Decoded weights as they run.
pub(super) fn values(weights: &crate::quant::Matrix) -> Base {
    Base::Values(Dense::new(Element::F32, weights.data(), weights.cols()))
}
