//! Linear layers: what an experiment swaps on a loaded model.
//!
//! [`Linear`] is out = x · Wᵀ however W is kept. Three ways are here: [`Dense`] (f32 or bf16) and [`Integer`] (codes in groups with
//! inputs rounded to 8 bits), both running on [`kernels`](crate::kernels); anything else may implement the trait.

use std::fmt;

use half::f16;
use rayon::prelude::*;

use super::blocks::BlockType;
pub use super::engine::{Engine, Input};
use crate::kernels::dense::{Element, Into, f32_words};
use crate::kernels::integer::{self, Bytes, CHUNK, IntPanels, OfGroup};
use crate::kernels::isa::Isa;
use crate::kernels::panel::Panels;
use crate::kernels::product::{Matrix, Product, multiply_all};
use crate::kernels::tiled::Weights;
use crate::kernels::windowed::Windowed;
use crate::quant::format::IntSymmetric;
use crate::quant::{Format, Granularity, Grid, Whole};
use crate::{Error, Result};

/// out = x · Wᵀ.
pub trait Linear: fmt::Debug + Send + Sync {
    /// Outputs N and inputs K.
    fn shape(&self) -> (usize, usize);

    /// How W is kept, in a word: `bf16`, `int4-g32`.
    fn kind(&self) -> String;

    /// Bytes in memory.
    fn bytes(&self) -> usize;

    /// The weights of output `n`, into `out` (K). What [`forward`](Self::forward) multiplies with.
    ///
    /// # Panics
    /// If there is no such output or `out` is not K long.
    fn row(&self, n: usize, out: &mut [f32]);

    /// out (T, N) = x · Wᵀ, or that added to it.
    ///
    /// # Panics
    /// If the sizes do not fit.
    fn forward(&self, x: &Input<'_>, into: Into, out: &mut [f32], engine: &Engine);

    /// Whether its inputs are rounded to 8 places or bits, and it looks at them in no other form.
    fn rounds_inputs(&self) -> bool {
        self.halves().is_some() || self.codes().is_some()
    }

    /// The weights, if they are bf16 and so is what they are multiplied with.
    fn halves(&self) -> Option<Weights<'_>> {
        None
    }

    /// The weights, if they are codes and what they are multiplied with is rounded to 8 bits in their groups.
    fn codes(&self) -> Option<&IntPanels> {
        None
    }

    /// The input in the form of the matrix, and the matrix, for [`forward_all`]; none if the layer has a way of its own.
    fn matrix<'a>(&'a self, _x: &'a Input<'_>) -> Option<Matrix<'a>> {
        None
    }
}

/// out = x · Wᵀ for several layers with the same input, in one parallel region if all of them have a [`matrix`](Linear::matrix).
///
/// # Panics
/// If the sizes do not fit.
pub fn forward_all(x: &Input<'_>, layers: &mut [(&dyn Linear, &mut [f32])], engine: &Engine) {
    let products: Option<Vec<Product<'_>>> = (layers.iter_mut())
        .map(|(layer, out)| {
            Some(Product {
                matrix: layer.matrix(x)?,
                into: Into::Replace,
                out,
            })
        })
        .collect();
    match products {
        Some(mut products) => multiply_all(engine.isa, &mut products, &engine.team),
        None => {
            for (layer, out) in layers {
                layer.forward(x, Into::Replace, out, engine);
            }
        }
    }
}

/// f32 or bf16 weights.
#[derive(Debug)]
pub struct Dense {
    columns: usize,
    kept: Kept,
}

/// How the weights of a [`Dense`] lie in memory.
#[derive(Debug)]
enum Kept {
    Panels(Element, Panels),
    /// bf16, as nearly all that were trained.
    Windowed(Windowed),
}

impl Dense {
    /// Of values (N, K).
    pub fn new(element: Element, values: &[f32], columns: usize) -> Dense {
        let kept = match element {
            Element::F32 => Kept::Panels(element, Panels::of_f32(values, columns)),
            Element::Bf16 => match Windowed::of_f32(values, columns) {
                Some(windowed) => Kept::Windowed(windowed),
                None => Kept::Panels(element, Panels::of_bf16(values, columns)),
            },
        };
        Dense { columns, kept }
    }
}

impl Linear for Dense {
    fn shape(&self) -> (usize, usize) {
        let rows = match &self.kept {
            Kept::Panels(_, panels) => panels.rows(),
            Kept::Windowed(windowed) => windowed.rows(),
        };
        (rows, self.columns)
    }

    fn kind(&self) -> String {
        let element = match self.kept {
            Kept::Panels(element, _) => element,
            Kept::Windowed(_) => Element::Bf16,
        };
        element.name().to_owned()
    }

    fn halves(&self) -> Option<Weights<'_>> {
        match &self.kept {
            Kept::Panels(Element::F32, _) => None,
            Kept::Panels(Element::Bf16, panels) => Some(Weights::Panels(panels)),
            Kept::Windowed(windowed) => Some(Weights::Windowed(windowed)),
        }
    }

    fn bytes(&self) -> usize {
        match &self.kept {
            Kept::Panels(_, panels) => panels.bytes(),
            Kept::Windowed(windowed) => windowed.bytes(),
        }
    }

    fn row(&self, n: usize, out: &mut [f32]) {
        match &self.kept {
            Kept::Panels(element, panels) => {
                for (k, out) in out.iter_mut().enumerate() {
                    let (word, index) = (k / element.per_word(), k % element.per_word());
                    *out = element.of_word(panels.word(n, word), index);
                }
            }
            Kept::Windowed(windowed) => windowed.row(n, out),
        }
    }

    fn forward(&self, x: &Input<'_>, into: Into, out: &mut [f32], engine: &Engine) {
        if x.is_tiled() && engine.isa != Isa::Amx {
            // Made for other instructions than these.
            let x = Input::new(x.values(), x.columns, engine);
            return multiply(self.matrix(&x), into, out, engine);
        }
        multiply(self.matrix(x), into, out, engine);
    }

    fn matrix<'a>(&'a self, x: &'a Input<'_>) -> Option<Matrix<'a>> {
        Some(match (&self.kept, self.halves()) {
            (_, Some(matrix)) if x.is_tiled() => Matrix::Tiled {
                x: x.halves(),
                matrix,
            },
            (Kept::Windowed(matrix), _) => Matrix::Windowed {
                x: x.halves(),
                matrix,
            },
            (Kept::Panels(element, matrix), _) => Matrix::Dense {
                element: *element,
                x: match element {
                    Element::F32 => f32_words(x.values()),
                    Element::Bf16 => x.halves(),
                },
                matrix,
            },
        })
    }
}

/// silu(x · gateᵀ) ⊙ (x · upᵀ) as the input of `next`, if kernels make it without writing down gate and up; none otherwise.
pub(super) fn forward_gated<'a>(
    x: &Input<'_>,
    [gate, up]: [&dyn Linear; 2],
    next: &dyn Linear,
    engine: &'a Engine,
) -> Option<Input<'a>> {
    if let (Some(gate), Some(up), Some(next)) = (gate.codes(), up.codes(), next.codes()) {
        return x.gated_bytes([gate, up], next.group(), engine);
    }
    next.halves()?;
    x.gated([gate.halves()?, up.halves()?], engine)
}

/// One product, if there is one.
fn multiply(matrix: Option<Matrix<'_>>, into: Into, out: &mut [f32], engine: &Engine) {
    if let Some(matrix) = matrix {
        multiply_all(
            engine.isa,
            &mut [Product { matrix, into, out }],
            &engine.team,
        );
    }
}

/// Codes in groups; inputs are rounded to 8 bits in the same groups.
#[derive(Debug)]
pub struct Integer {
    panels: IntPanels,
}

impl Integer {
    /// Values (N, K) rounded to nearest in a symmetric format of `bits` bits, groups of `group` along K.
    ///
    /// # Errors
    /// [`Error::Argument`] if the format cannot store the values' range.
    pub fn round(values: &[f32], columns: usize, bits: u32, group: usize) -> Result<Integer> {
        let format = IntSymmetric::new(bits, Granularity::Group(group))?;
        let in_row = columns.div_ceil(group);
        let mut scales = vec![f16::ZERO; values.len() / columns * in_row];
        (values.par_chunks_exact(columns))
            .zip(scales.par_chunks_exact_mut(in_row))
            .try_for_each(|(row, scales)| {
                for (block, scale) in row.chunks(group).zip(scales) {
                    *scale = f16::from_f32(format.fit(&Whole::default(), 0, block)?.0[0]);
                }
                Ok::<(), Error>(())
            })?;
        let zero = ((1u32 << (bits - 1)) - 1) as u8;
        let shape = (values.len() / columns, columns);
        // Codes are made where they are packed: they would take a quarter of what the values take.
        let codes = |n: usize, chunk: usize, out: &mut [u8; CHUNK]| {
            let columns = chunk * CHUNK..columns.min((chunk + 1) * CHUNK);
            let grid = Grid(vec![scales[n * in_row + columns.start / group].to_f32()]);
            let row = &values[n * shape.1..(n + 1) * shape.1];
            format.round(&grid, 0, &row[columns], out);
        };
        let scale = |n: usize, g: usize| scales[n * in_row + g];
        Ok(Integer {
            panels: IntPanels::pack_chunks(shape, bits as usize, group, codes, &scale, Ok(zero)),
        })
    }

    /// The codes as the kernels have them.
    pub fn panels(&self) -> &IntPanels {
        &self.panels
    }

    /// Whether all scales and mins are numbers; `name` is the layer's in messages.
    ///
    /// # Errors
    /// [`Error::Format`] if not.
    pub(super) fn check_finite(&self, name: &str) -> Result<()> {
        match self.panels.bad_scale() {
            None => Ok(()),
            Some(row) => Err(Error::Format {
                file: name.to_owned(),
                expected: "finite scales".to_owned(),
                got: format!("one in row {row} that is not"),
            }),
        }
    }

    /// The blocks of a GGUF tensor (N, K) as they are; [`None`] for types that are no codes with one scale (and min) for 32.
    pub fn of_blocks(block: BlockType, data: &[u8], columns: usize) -> Option<Integer> {
        let bits = match block {
            BlockType::Q4_0 | BlockType::Q4_1 => 4,
            BlockType::Q5_0 | BlockType::Q5_1 => 5,
            BlockType::Q8_0 => 8,
            _ => return None,
        };
        let in_row = columns / 32;
        let at = |n: usize, g: usize| &data[(n * in_row + g) * block.bytes()..][..block.bytes()];
        let half = |bytes: &[u8]| f16::from_le_bytes([bytes[0], bytes[1]]);
        let scale = |n: usize, g: usize| half(at(n, g));
        let min = |n: usize, g: usize| half(&at(n, g)[2..]);
        let codes = |n: usize, g: usize, out: &mut [u8; CHUNK]| block.codes(at(n, g), out);
        let zero_or_min: Result<u8, OfGroup<'_>> = match block {
            BlockType::Q4_1 | BlockType::Q5_1 => Err(&min),
            _ => Ok(1 << (bits - 1)),
        };
        let shape = (data.len() / block.bytes() / in_row.max(1), columns);
        Some(Integer {
            panels: IntPanels::pack_chunks(shape, bits, 32, codes, &scale, zero_or_min),
        })
    }
}

impl From<IntPanels> for Integer {
    fn from(panels: IntPanels) -> Integer {
        Integer { panels }
    }
}

impl Linear for Integer {
    fn shape(&self) -> (usize, usize) {
        (self.panels.rows(), self.panels.columns())
    }

    fn kind(&self) -> String {
        format!("int{}-g{}", self.panels.bits(), self.panels.group())
    }

    fn codes(&self) -> Option<&IntPanels> {
        Some(&self.panels)
    }

    fn bytes(&self) -> usize {
        self.panels.bytes()
    }

    fn row(&self, n: usize, out: &mut [f32]) {
        self.panels.row(n, out);
    }

    fn forward(&self, x: &Input<'_>, into: Into, out: &mut [f32], engine: &Engine) {
        if x.cached_bytes(self.panels.group()).is_some() {
            return multiply(self.matrix(x), into, out, engine);
        }
        // Another layer wanted this input in other groups.
        let (isa, team) = (engine.isa, &engine.team);
        let bytes = Bytes::round(isa, x.values(), x.columns, self.panels.group(), team);
        integer::multiply_at(isa, &bytes, &self.panels, into, out, team);
    }

    fn matrix<'a>(&'a self, x: &'a Input<'_>) -> Option<Matrix<'a>> {
        Some(Matrix::Integer {
            x: x.cached_bytes(self.panels.group())?,
            matrix: &self.panels,
        })
    }
}

#[cfg(test)]
mod tests;
