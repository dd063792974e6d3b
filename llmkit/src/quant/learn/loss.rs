//! The error of a layer's outputs, row by row, and its gradient.

use crate::kernels::activation::to_bf16;
use crate::kernels::dense::{Element, Into, f32_words, multiply};
use crate::kernels::limits::fastest_element;
use crate::kernels::panel::{Panels, bf16_bits};
use crate::kernels::{Isa, Team};
use crate::quant::Inputs;

/// Rows that are multiplied at a time: their product is still in the cache when it is looked at.
const ROWS: usize = 96;

/// e·G·eᵀ/n of each row e of an error: the mean of its square over the inputs.
pub(in crate::quant) struct Loss {
    columns: usize,
    element: Element,
    /// G/n, which is symmetric.
    panels: Panels,
}

impl Loss {
    /// With products in `element`. bf16 is twice as fast where the machine has it and right to some 10⁻³: enough for the sign of a gradient.
    pub fn new(inputs: &Inputs, element: Element) -> Loss {
        let columns = inputs.columns();
        let value = |i: usize, j: usize| (inputs.hessian(i, j) / 2.0) as f32;
        let panels = match element {
            Element::F32 => Panels::pack(columns, columns, |i, j| value(i, j).to_bits()),
            Element::Bf16 => Panels::pack(columns, columns.div_ceil(2), |i, at| {
                let bits = |j: usize| match j < columns {
                    true => u32::from(bf16_bits(value(i, j))),
                    false => 0,
                };
                bits(2 * at) | bits(2 * at + 1) << 16
            }),
        };
        Loss {
            columns,
            element,
            panels,
        }
    }

    /// In what the machine multiplies fastest.
    pub fn fast(inputs: &Inputs) -> Loss {
        Loss::new(inputs, fastest_element(Isa::best()))
    }

    /// Half the gradient with respect to `errors` (N, K), E·G/n, into `half`; each row's loss, N, in f64.
    pub fn rows(&self, errors: &[f32], half: &mut [f32]) -> Vec<f64> {
        let (k, team) = (self.columns, Team::global());
        let parts = errors.chunks(ROWS * k).zip(half.chunks_mut(ROWS * k));
        let mut losses = Vec::with_capacity(errors.len() / k.max(1));
        for (errors, half) in parts {
            match self.element {
                Element::F32 => {
                    let x = f32_words(errors);
                    multiply(self.element, x, &self.panels, Into::Replace, half, team);
                }
                Element::Bf16 => {
                    let x = to_bf16(Isa::best(), errors, k, team);
                    multiply(self.element, &x, &self.panels, Into::Replace, half, team);
                }
            }
            let rows = errors.chunks_exact(k).zip(half.chunks_exact(k));
            losses.extend(rows.map(|(errors, half)| {
                let terms = errors.iter().zip(half);
                terms
                    .map(|(&e, &h)| f64::from(e) * f64::from(h))
                    .sum::<f64>()
            }));
        }
        losses
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Matrix, samples};

    #[test]
    fn losses_are_those_of_the_outputs_and_half_is_half_the_gradient() -> crate::Result<()> {
        for columns in [1, 33, 64, 200] {
            let x = samples::correlated(90, columns, 3);
            let inputs = Inputs::of_samples("x", &x, columns)?;
            let w = samples::correlated(7, columns, 4);
            let zeros = vec![0.0; w.len()];
            let exact = Loss::new(&inputs, Element::F32);
            let mut half = vec![0.0; w.len()];
            let losses = exact.rows(&w, &mut half);
            for (row, loss) in losses.iter().enumerate() {
                let w = &w[row * columns..][..columns];
                let outputs = x.chunks(columns).map(|x| {
                    let terms = x.iter().zip(w);
                    terms.map(|(a, b)| f64::from(a * b)).sum::<f64>()
                });
                let mean = outputs.map(|y| y * y).sum::<f64>() / 90.0;
                assert!((loss - mean).abs() <= 1e-4 * mean, "{loss} {mean}");
            }
            let all: f64 = losses.iter().sum();
            let mut rough = vec![0.0; w.len()];
            let fast: f64 = Loss::fast(&inputs).rows(&w, &mut rough).iter().sum();
            assert!((fast / all - 1.0).abs() < 0.02, "{fast} {all}");
            // The derivative by differences, in a direction.
            let (at, by) = (columns / 2, 1e-2);
            let mut moved = w.clone();
            moved[at] += by;
            let mut other = zeros.clone();
            let change = exact.rows(&moved, &mut other)[0] - losses[0];
            let curve = inputs.hessian(at, at) / 2.0 * f64::from(by) * f64::from(by);
            let slope = (change - curve) / f64::from(by) / 2.0;
            let expected = f64::from(half[at]);
            assert!(
                (slope - expected).abs() <= 1e-2 * (expected.abs() + losses[0]),
                "{slope} {expected}"
            );
            assert!(inputs.check_fits(&Matrix::new(7, columns, w)?).is_ok());
        }
        Ok(())
    }
}
