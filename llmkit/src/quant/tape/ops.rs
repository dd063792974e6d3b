//! Steps of the tape that candle would take at several times the cost.
//!
//! | | candle's own | here |
//! |---|---|---|
//! | product with a matrix that is not learned | gradients of the matrix too | of the input alone, on our kernels |
//! | a fixed Hadamard rotation | n² products | n·log n additions |
//! | mean −ln p of the next tokens | ten passes over (T, V) numbers | two |

use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::Result;
use crate::kernels::dense::Into;
use crate::linalg::{Hadamard, hadamard};
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

/// The step back: its gradient, times what comes from behind.
struct Gradient<'a>(&'a Unlikeliness, f64);

/// Where contiguous logits lie, and how many there are in a row.
fn rows(name: &str, layout: &Layout) -> candle_core::Result<(Range<usize>, usize)> {
    let (_, vocabulary) = layout.shape().dims2()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok((start..end, vocabulary)),
        None => candle_core::bail!("{name}: expected contiguous rows"),
    }
}

/// f32 and f64, to be summed in f64.
trait Real: hadamard::Real + std::convert::Into<f64> {}

impl<T: hadamard::Real + std::convert::Into<f64>> Real for T {}

/// ln Σ exp of a row.
fn log_sum<T: Real>(row: &[T]) -> f64 {
    let wide = || row.iter().map(|it| (*it).into());
    let top = wide().fold(f64::MIN, f64::max);
    top + wide().map(|it: f64| (it - top).exp()).sum::<f64>().ln()
}

impl Unlikeliness {
    /// Over rows of `vocabulary` logits.
    fn mean<T: Real>(&self, logits: &[T], vocabulary: usize) -> f64 {
        let pairs = logits.par_chunks_exact(vocabulary).zip(&self.next);
        let of = |(row, next): (&[T], &Option<u32>)| match next {
            Some(next) => log_sum(row) - row[*next as usize].into(),
            None => 0.0,
        };
        // In order, so that the sum has the same bits whoever computed its terms.
        let terms: Vec<f64> = pairs.map(of).collect();
        terms.iter().sum::<f64>() / self.counted()
    }

    /// The gradient of `factor` times the mean.
    fn gradient<T: Real>(&self, factor: f64, logits: &[T], vocabulary: usize) -> Vec<T> {
        let scale = factor / self.counted();
        let mut out = vec![T::of(0.0); logits.len()];
        let pairs = (logits.par_chunks_exact(vocabulary)).zip(out.par_chunks_exact_mut(vocabulary));
        pairs.zip(&self.next).for_each(|((row, out), next)| {
            let Some(next) = next else { return };
            let total = log_sum(row);
            for (at, (out, &logit)) in out.iter_mut().zip(row).enumerate() {
                let wanted = f64::from(at == *next as usize);
                *out = T::of(scale * ((logit.into() - total).exp() - wanted));
            }
        });
        out
    }
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
        let (at, vocabulary) = rows(self.name(), layout)?;
        let out = match storage {
            CpuStorage::F32(all) => CpuStorage::F32(vec![self.mean(&all[at], vocabulary) as f32]),
            CpuStorage::F64(all) => CpuStorage::F64(vec![self.mean(&all[at], vocabulary)]),
            _ => candle_core::bail!("{}: expected f32 or f64", self.name()),
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
        Ok(Some(logits.apply_op1_no_bwd(&Gradient(self, factor))?))
    }
}

impl CustomOp1 for Gradient<'_> {
    fn name(&self) -> &'static str {
        "gradient of the mean unlikeliness"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (at, vocabulary) = rows(self.name(), layout)?;
        let Gradient(of, factor) = self;
        let out = match storage {
            CpuStorage::F32(all) => CpuStorage::F32(of.gradient(*factor, &all[at], vocabulary)),
            CpuStorage::F64(all) => CpuStorage::F64(of.gradient(*factor, &all[at], vocabulary)),
            _ => candle_core::bail!("{}: expected f32 or f64", self.name()),
        };
        Ok((out, layout.shape().clone()))
    }
}
