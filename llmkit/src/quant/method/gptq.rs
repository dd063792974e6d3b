//! GPTQ: columns are rounded one after the other, and what each loses is made up for by those that come later.
//!
//! ```text
//! ŵᵢ = nearest(wᵢ),   δ = wᵢ − ŵᵢ,   wⱼ ← wⱼ − δ·Tᵢⱼ for j > i,   Tᵢⱼ = Rᵢⱼ/Rᵢᵢ,   RᵀR = (H + λ·I)⁻¹,   H = 2/n·Σ x·xᵀ,   λ = 0.01·mean(diag H)
//! ```
//!
//! Source: E. Frantar et al., *GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers* (arXiv 2210.17323),
//! algorithm 1; act-order and static groups are options of its code (github.com/IST-DASLab/gptq, 2023).
//!
//! Cost: N·K² flops for the sweep and 2·K³/3 for T of a layer; (K, K) twice in f64.
//!
//! **Where we differ.** R comes from a factor of H and not of its inverse, which is never taken. Damping starts as asked and grows
//! tenfold until the factorization succeeds; the result says what it took. Inputs that were never active keep their weights, rounded
//! to nearest; the authors' code sets them to zero. Groups are runs of columns as they are stored, so act-order fits their grids
//! before. A grid that is fitted when its group begins sees all errors made so far; in the authors' code those of the block of
//! 128 columns it is in are missing. All arithmetic is in f64.

use super::{Method, known, one_by_one};
use crate::Result;
use crate::quant::calibration::Inputs;
use crate::quant::feedback::{Factor, Sweep};
use crate::quant::{Applied, Format, Matrix, Quantized};

pub use crate::quant::feedback::Grids;

/// Which column is rounded first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The first.
    #[default]
    Natural,
    /// That of the largest inputs, the greatest diagonal element of H ("act-order").
    Activation,
}

/// GPTQ with its options.
///
/// ```
/// use llmkit::quant::{Granularity, Inputs, Matrix, Method, format::IntSymmetric, method::{Gptq, Rtn}};
/// // Three inputs that are always equal: what the first weight loses, the others can make up for.
/// let inputs = Inputs::of_samples("x", &[1.0, 1.0, 1.0, -2.0, -2.0, -2.0], 3)?;
/// let weights = Matrix::new(1, 3, vec![2.4, 3.4, 7.0])?;
/// let format = IntSymmetric::new(4, Granularity::Channel)?;
/// assert_eq!(Rtn.quantize(&weights, &format)?.decode()?.data(), [2.0, 3.0, 7.0]);
/// let gptq = Gptq::default().choose(&weights, &format, Some(&inputs))?;
/// assert_eq!(gptq.decode()?.data(), [2.0, 4.0, 7.0]);
/// # Ok::<(), llmkit::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gptq {
    /// Which column is rounded first.
    pub order: Order,
    /// When grids are fitted; with act-order, before in any case.
    pub grids: Grids,
    /// λ over the mean of H's diagonal, to begin with.
    pub damping: f64,
}

impl Default for Gptq {
    fn default() -> Gptq {
        Gptq {
            order: Order::Natural,
            grids: Grids::Reached,
            damping: 0.01,
        }
    }
}

impl Gptq {
    /// Largest inputs first.
    pub const ACT_ORDER: Gptq = Gptq {
        order: Order::Activation,
        grids: Grids::Before,
        damping: 0.01,
    };
}

/// Columns in the order that `order` asks for.
pub(super) fn columns(order: Order, inputs: &Inputs) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..inputs.columns()).collect();
    if order == Order::Activation {
        // Stable: equals stay in their order.
        columns.sort_by(|&a, &b| inputs.hessian(b, b).total_cmp(&inputs.hessian(a, a)));
    }
    columns
}

impl Method for Gptq {
    fn name(&self) -> String {
        let mut name = "gptq".to_owned();
        match (self.order, self.grids) {
            (Order::Activation, _) => name += "-act-order",
            (Order::Natural, Grids::Before) => name += "-static",
            (Order::Natural, Grids::Reached | Grids::Searched) => {}
        }
        if self.grids == Grids::Searched {
            name += "-mse";
        }
        if self.damping != Gptq::default().damping {
            name += &format!("-damp{}", self.damping);
        }
        name
    }

    fn needs_inputs(&self) -> bool {
        true
    }

    fn check(&self, format: &dyn Format) -> Result<()> {
        one_by_one(self, format)
    }

    fn choose(
        &self,
        weights: &Matrix,
        format: &dyn Format,
        inputs: Option<&Inputs>,
    ) -> Result<Quantized> {
        self.check(format)?;
        let inputs = known(self, weights, inputs)?;
        let factor = Factor::new(inputs, columns(self.order, inputs), self.damping)?;
        let grids = match self.order {
            Order::Natural => self.grids,
            Order::Activation if self.grids == Grids::Reached => Grids::Before,
            Order::Activation => self.grids,
        };
        Sweep::new(weights, format, &factor, grids).run(Applied::by(self.name()))
    }

    fn named(&self, name: &str) -> Option<Box<dyn Method>> {
        let mut parts = name.split('-');
        let mut found = (parts.next()? == "gptq").then(Gptq::default)?;
        let rest = name.strip_prefix("gptq").unwrap_or_default();
        let (options, damping) = match rest.split_once("-damp") {
            Some((options, damping)) => (options, damping.parse().ok()?),
            None => (rest, found.damping),
        };
        found = match options {
            "" => found,
            "-static" => Gptq {
                grids: Grids::Before,
                ..found
            },
            "-act-order" => Gptq::ACT_ORDER,
            "-mse" => Gptq {
                grids: Grids::Searched,
                ..found
            },
            "-act-order-mse" => Gptq {
                grids: Grids::Searched,
                ..Gptq::ACT_ORDER
            },
            _ => return None,
        };
        found.damping = damping;
        Some(Box::new(found))
    }
}

/// As the paper has it, with static groups, with act-order.
pub(super) fn members() -> Vec<Box<dyn Method>> {
    let fixed = Gptq {
        grids: Grids::Before,
        ..Gptq::default()
    };
    vec![
        Box::new(Gptq::default()),
        Box::new(fixed),
        Box::new(Gptq::ACT_ORDER),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::real::real;
    use crate::quant::format::{IntSymmetric, Mx, Nf4, Nvfp4};
    use crate::quant::method::Rtn;
    use crate::quant::{Calibration, Granularity, Samples, samples};

    #[test]
    fn options_are_in_the_name_and_are_read_back() {
        let all = [
            (Gptq::default(), "gptq"),
            (Gptq::ACT_ORDER, "gptq-act-order"),
            (
                Gptq {
                    damping: 0.1,
                    ..Gptq::ACT_ORDER
                },
                "gptq-act-order-damp0.1",
            ),
            (
                Gptq {
                    grids: Grids::Before,
                    damping: 1e-5,
                    ..Gptq::default()
                },
                "gptq-static-damp0.00001",
            ),
            (
                Gptq {
                    grids: Grids::Searched,
                    ..Gptq::ACT_ORDER
                },
                "gptq-act-order-mse",
            ),
        ];
        for (method, name) in all {
            assert_eq!(method.name(), name);
            let found = method.named(name).unwrap();
            assert_eq!(format!("{found:?}"), format!("{method:?}"));
        }
        for odd in [
            "gptq-",
            "gptqx",
            "gptq-dampx",
            "rtn",
            "",
            "gptq-static-static",
        ] {
            assert!(Gptq::default().named(odd).is_none(), "{odd}");
        }
    }

    #[test]
    fn act_order_is_the_order_of_the_largest_inputs() -> Result<()> {
        // Channel i has the magnitude that is written there.
        let sizes = [2.0f32, 7.0, 0.5, 7.0];
        let x: Vec<f32> = (0..8)
            .flat_map(|t| sizes.map(|it| if t % 2 == 0 { it } else { -it }))
            .collect();
        let inputs = Inputs::of_samples("x", &x, 4)?;
        assert_eq!(columns(Order::Activation, &inputs), [1, 3, 0, 2]);
        assert_eq!(columns(Order::Natural, &inputs), [0, 1, 2, 3]);
        Ok(())
    }

    /// With columns already in the order of their activations, act-order is nothing but static groups.
    #[test]
    fn act_order_of_columns_in_order_is_plain() -> Result<()> {
        let columns = 48;
        let mut x = samples::correlated(300, columns, 4);
        for row in x.chunks_mut(columns) {
            let scales = (0..columns).map(|i| 0.7f32.powi(i as i32));
            row.iter_mut()
                .zip(scales)
                .for_each(|(x, scale)| *x *= scale);
            (row[5], row[11]) = (
                row[4] * 0.5 + row[5] / 100.0,
                row[10] * 0.5 + row[12] / 10.0,
            );
        }
        let inputs = Inputs::of_samples("x", &x, columns)?;
        let order = super::columns(Order::Activation, &inputs);
        // The scales differ by more than what is random about the channels, but for the two that were set.
        let x: Vec<f32> = x
            .chunks(columns)
            .flat_map(|row| order.iter().map(|&i| row[i]))
            .collect();
        let inputs = Inputs::of_samples("x", &x, columns)?;
        assert!(
            super::columns(Order::Activation, &inputs)
                .into_iter()
                .eq(0..columns)
        );
        let weights = Matrix::new(6, columns, samples::correlated(6, columns, 9))?;
        let format = IntSymmetric::new(3, Granularity::Group(16))?;
        let fixed = Gptq {
            grids: Grids::Before,
            ..Gptq::default()
        };
        let plain = fixed.choose(&weights, &format, Some(&inputs))?;
        let ordered = Gptq::ACT_ORDER.choose(&weights, &format, Some(&inputs))?;
        assert_eq!(plain.codes(), ordered.codes());
        Ok(())
    }

    #[test]
    fn formats_that_round_several_weights_at_once_are_refused_with_the_reason() {
        let table = crate::quant::method::undefined();
        let of = |family: &str| {
            table
                .iter()
                .filter(|row| row.0 == "gptq" && row.1.starts_with(family))
                .count()
        };
        assert!(of("e8p") > 0 && of("trellis") + of("qtip") > 0, "{table:?}");
        assert_eq!(
            of("int") + of("nf4") + of("mx") + of("nvfp4") + of("Q4") + of("kmeans"),
            0
        );
    }

    /// On real layers, the error of the outputs is never above that of rounding to nearest.
    #[test]
    fn real_layers_lose_less_output_than_by_rounding() -> Result<()> {
        let Some(model) = real() else { return Ok(()) };
        let text = include_str!("../../../../README.md").repeat(3);
        let samples = Samples::of_text(model, "the read-me file", &text, 8, 256)?;
        let calibration = Calibration::run(model, &samples)?;
        let formats: [crate::quant::format::AnyFormat; 5] = [
            IntSymmetric::new(4, Granularity::Group(64))?.shared(),
            IntSymmetric::new(3, Granularity::Group(128))?.shared(),
            Nf4::new(Granularity::Group(64))?.shared(),
            Mx::FP4.shared(),
            Nvfp4::PLAIN.shared(),
        ];
        for name in [
            "blk.0.attn_v.weight",
            "blk.13.attn_output.weight",
            "blk.29.ffn_up.weight",
        ] {
            let weights = Matrix::from_tensor(name, &model.weight(name)?)?;
            let inputs = calibration.inputs(name)?;
            for format in &formats {
                let lost = |method: &dyn Method| -> Result<f64> {
                    let found = method.choose(&weights, format.as_ref(), Some(inputs))?;
                    inputs.output_error(&weights, &found.decode()?)
                };
                let (rtn, plain) = (lost(&Rtn)?, lost(&Gptq::default())?);
                let ordered = lost(&Gptq::ACT_ORDER)?;
                assert!(
                    plain < rtn && ordered < rtn,
                    "{name} {}: {rtn}, {plain}, {ordered}",
                    format.name()
                );
            }
        }
        Ok(())
    }
}
