//! Steps of the tape that candle would take at several times the cost.
//!
//! | | candle's own | here |
//! |---|---|---|
//! | product with a matrix that is not learned | gradients of the matrix too | of the input alone, on our kernels |
//! | a fixed Hadamard rotation | n² products | n·log n additions |
//! | mean −ln p of the next tokens | ten passes over (T, V) numbers | two |

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::Result;
use crate::kernels::dense::Into;
use crate::linalg::Hadamard;
use crate::model::Engine;
use crate::model::linear::{Input, Linear};

/// A matrix that is not learned.
#[derive(Debug)]
pub enum Weight {
    /// (K, N), as candle multiplies.
    Plain(Tensor),
    /// In f32, by our kernels.
    Fixed(Fixed),
}

impl Weight {
    /// x (T, K) · Wᵀ.
    pub fn times(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Weight::Plain(weight) => x.matmul(weight)?,
            Weight::Fixed(fixed) => x.contiguous()?.apply_op1(fixed.clone())?,
        })
    }
}

/// x ↦ x·Wᵀ, and for the way back, W. (candle would compute the gradient of W too, at twice the cost of all the rest.)
#[derive(Debug, Clone)]
pub struct Fixed {
    pub forward: Arc<dyn Linear>,
    pub back: Arc<dyn Linear>,
    pub engine: Engine,
}

impl CustomOp1 for Fixed {
    fn name(&self) -> &'static str {
        "product with a matrix that is not learned"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, columns) = layout.shape().dims2()?;
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets())
        else {
            candle_core::bail!("{}: expected contiguous f32", self.name());
        };
        let (outputs, _) = self.forward.shape();
        let mut out = vec![0.0; rows * outputs];
        let x = Input::new(&values[start..end], columns, &self.engine);
        (self.forward).forward(&x, Into::Replace, &mut out, &self.engine);
        Ok((CpuStorage::F32(out), (rows, outputs).into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let back = Fixed {
            forward: Arc::clone(&self.back),
            back: Arc::clone(&self.forward),
            engine: self.engine.clone(),
        };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}

/// x ↦ x·Q, row by row.
#[derive(Debug, Clone)]
pub struct Turned {
    pub rotation: Arc<Hadamard>,
    /// Whether by Qᵀ.
    pub is_back: bool,
}

impl CustomOp1 for Turned {
    fn name(&self) -> &'static str {
        "fixed rotation"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("{}: expected contiguous rows", self.name());
        };
        let order = self.rotation.order();
        macro_rules! turned {
            ($values:expr) => {{
                let mut out = $values[start..end].to_vec();
                out.par_chunks_exact_mut(order)
                    .for_each(|row| match self.is_back {
                        true => self.rotation.invert(row),
                        false => self.rotation.apply(row),
                    });
                out
            }};
        }
        let out = match storage {
            CpuStorage::F32(values) => CpuStorage::F32(turned!(values)),
            CpuStorage::F64(values) => CpuStorage::F64(turned!(values)),
            _ => candle_core::bail!("{}: expected f32 or f64", self.name()),
        };
        Ok((out, layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let back = Turned {
            rotation: Arc::clone(&self.rotation),
            is_back: !self.is_back,
        };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}

/// Logits (T, V) ↦ mean −ln p of the tokens that come next; rows without one do not count.
#[derive(Debug, Clone)]
pub struct Unlikeliness {
    /// Of each row.
    pub next: Vec<Option<u32>>,
}

impl Unlikeliness {
    fn counted(&self) -> f64 {
        self.next.iter().flatten().count() as f64
    }
}

/// Its gradient, for one of the loss.
struct Shares<'a>(&'a Unlikeliness, f64);

/// Contiguous logits as rows, of either precision.
macro_rules! rows {
    ($storage:expr, $layout:expr, $name:expr, $values:ident, $then:expr) => {{
        let (_, vocabulary) = $layout.shape().dims2()?;
        let Some((start, end)) = $layout.contiguous_offsets() else {
            candle_core::bail!("{}: expected contiguous rows", $name);
        };
        match $storage {
            CpuStorage::F32(all) => {
                let $values = all[start..end].par_chunks_exact(vocabulary);
                $then
            }
            CpuStorage::F64(all) => {
                let $values = all[start..end].par_chunks_exact(vocabulary);
                $then
            }
            _ => candle_core::bail!("{}: expected f32 or f64", $name),
        }
    }};
}

/// ln Σ exp of a row.
fn log_sum<T: Copy + std::convert::Into<f64>>(row: &[T]) -> f64 {
    let wide = || row.iter().map(|it| (*it).into());
    let top = wide().fold(f64::MIN, f64::max);
    top + wide().map(|it: f64| (it - top).exp()).sum::<f64>().ln()
}

/// −ln p of the token `next` of a row.
fn unlikeliness<T: Copy + std::convert::Into<f64>>(row: &[T], next: u32) -> f64 {
    log_sum(row) - row[next as usize].into()
}

impl CustomOp1 for Unlikeliness {
    fn name(&self) -> &'static str {
        "mean unlikeliness"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let sums: Vec<f64> = rows!(storage, layout, self.name(), values, {
            let pairs = values.zip(&self.next);
            pairs
                .map(|(row, next)| match next {
                    Some(next) => unlikeliness(row, *next),
                    None => 0.0,
                })
                .collect()
        });
        let mean = sums.iter().sum::<f64>() / self.counted();
        let out = match storage {
            CpuStorage::F64(_) => CpuStorage::F64(vec![mean]),
            _ => CpuStorage::F32(vec![mean as f32]),
        };
        Ok((out, Shape::from(())))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        let factor = grad.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?;
        Ok(Some(logits.apply_op1_no_bwd(&Shares(self, factor))?))
    }
}

impl CustomOp1 for Shares<'_> {
    fn name(&self) -> &'static str {
        "gradient of the mean unlikeliness"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let scale = self.1 / self.0.counted();
        let (_, vocabulary) = layout.shape().dims2()?;
        macro_rules! shares {
            ($values:expr, $kind:ty) => {{
                let (start, end) = layout.contiguous_offsets().unwrap_or_default();
                let mut out = vec![0.0; end - start];
                let pairs = $values[start..end].par_chunks_exact(vocabulary);
                let pairs = pairs.zip(out.par_chunks_exact_mut(vocabulary));
                pairs.zip(&self.0.next).for_each(|((row, out), next)| {
                    if let Some(next) = next {
                        let total = log_sum(row);
                        for (out, logit) in out.iter_mut().zip(row) {
                            *out = (scale * (f64::from(*logit) - total).exp()) as $kind;
                        }
                        out[*next as usize] -= scale as $kind;
                    }
                });
                out
            }};
        }
        let out = match storage {
            CpuStorage::F32(values) => CpuStorage::F32(shares!(values, f32)),
            CpuStorage::F64(values) => CpuStorage::F64(shares!(values, f64)),
            _ => candle_core::bail!("{}: expected f32 or f64", self.name()),
        };
        Ok((out, layout.shape().clone()))
    }
}
