//! Steps along the manifold of orthogonal matrices.
//!
//! ```text
//! W = ½·(G·Xᵀ − X·Gᵀ)                     the part of a gradient G that turns X, skew-symmetric
//! Y = (I + α/2·W)⁻¹·(I − α/2·W)·X         Cayley's transform: Y is as orthogonal as X
//! ```
//! Y is the fixed point of Y = X − α/2·W·(X + Y), reached by iteration, which contracts because α is cut to 0.1/‖W‖.
//!
//! Source: J. Li, L. Fuxin, S. Todorovic, *Efficient Riemannian Optimization on the Stiefel Manifold via the Cayley Transform*
//! (arXiv 2002.01113), algorithm 1, for square matrices and without momentum.
//!
//! **Where we differ.** The iteration goes on until nothing changes any more, where the paper stops after two rounds: in f64 the result is orthogonal
//! to 1e-12 after hundreds of steps, and nothing has to be repaired.

use candle_core::{DType, Result, Tensor};

/// α·‖W‖ is at most this: turns of a few degrees. The iteration then gains a factor of twenty a round, and a step does not jump over what rounding makes
/// of a loss, which is rugged from near.
const MOST: f64 = 0.1;
/// Rounds; 20⁻¹² is below the last bit.
const ROUNDS: usize = 20;

/// X (n, n), orthogonal and in f64, after a step of `rate` against the gradient G (n, n) of a loss: less if the step is too long to be made.
///
/// # Errors
/// candle's, for shapes that do not fit.
pub fn step(x: &Tensor, gradient: &Tensor, rate: f64) -> Result<Tensor> {
    let gradient = gradient.to_dtype(DType::F64)?;
    let half = (gradient.matmul(&x.t()?)? * 0.5)?;
    let w = (&half - half.t()?)?.contiguous()?;
    // The greatest sum of magnitudes in a column is no less than the spectral norm.
    let norm = w.abs()?.sum(0)?.max(0)?.to_scalar::<f64>()?;
    if norm == 0.0 {
        return Ok(x.clone());
    }
    let w = (w * (rate.min(MOST / norm) / 2.0))?;
    let mut y = x.clone();
    for _ in 0..ROUNDS {
        let next = (x - w.matmul(&(x + &y)?)?)?;
        let change = (&next - &y)?.abs()?.flatten_all()?.max(0)?;
        y = next;
        if change.to_scalar::<f64>()? < 1e-15 {
            break;
        }
    }
    Ok(y)
}

/// max |X·Xᵀ − I| of X (n, n).
///
/// # Errors
/// candle's, for a matrix that is not square.
pub fn deviation(x: &Tensor) -> Result<f64> {
    let n = x.dim(0)?;
    let identity = Tensor::eye(n, DType::F64, x.device())?;
    let product = x.matmul(&x.t()?.contiguous()?)?;
    (product - identity)?
        .abs()?
        .flatten_all()?
        .max(0)?
        .to_scalar()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn noise(n: usize, seed: f64) -> Tensor {
        let values: Vec<f64> = (0..n * n)
            .map(|i| ((i as f64 + seed) * 12.9898).sin() * 0.7)
            .collect();
        Tensor::from_vec(values, (n, n), &Device::Cpu).unwrap()
    }

    /// The loss ‖X − T‖² has its least value on the manifold at X = T: steps reach a target that turns the same way as the start.
    #[test]
    fn steps_stay_orthogonal_and_reach_a_rotation() -> Result<()> {
        let n = 12;
        let start = Tensor::eye(n, DType::F64, &Device::Cpu)?;
        let mut target = start.clone();
        for _ in 0..15 {
            target = step(&target, &noise(n, 3.0), 0.6)?;
        }
        let mut x = start.clone();
        let loss = |x: &Tensor| (x - &target)?.sqr()?.sum_all()?.to_scalar::<f64>();
        let before = loss(&x)?;
        for _ in 0..400 {
            x = step(&x, &((&x - &target)? * 2.0)?, 0.5)?;
        }
        assert!(before > 0.1 && loss(&x)? < 1e-12 * before, "{}", loss(&x)?);
        assert!(deviation(&x)? < 1e-12, "{}", deviation(&x)?);
        Ok(())
    }

    #[test]
    fn a_small_step_is_the_projected_gradient_and_lowers_the_loss_by_it() -> Result<()> {
        let n = 8;
        let x = step(
            &Tensor::eye(n, DType::F64, &Device::Cpu)?,
            &noise(n, 5.0),
            0.4,
        )?;
        let (g, rate) = (noise(n, 9.0), 1e-6);
        let moved = (step(&x, &g, rate)? - &x)?;
        // −rate · W·X, and the loss ⟨G, X⟩ falls by rate·‖W‖².
        let half = (g.matmul(&x.t()?)? * 0.5)?;
        let w = (&half - half.t()?)?;
        let expected = (w.matmul(&x)? * -rate)?;
        let off = (&moved - &expected)?.abs()?.flatten_all()?.max(0)?;
        assert!(off.to_scalar::<f64>()? < 1e-11);
        let fall = (&g * &moved)?.sum_all()?.to_scalar::<f64>()?;
        let promised = -rate * w.sqr()?.sum_all()?.to_scalar::<f64>()?;
        assert!((fall / promised - 1.0).abs() < 1e-4, "{fall} {promised}");
        Ok(())
    }

    /// Planted: a gradient that is followed as it is leaves the manifold at once; and steps that are too long are cut.
    #[test]
    fn what_is_not_skew_leaves_the_manifold_and_long_steps_do_not() -> Result<()> {
        let x = Tensor::eye(8, DType::F64, &Device::Cpu)?;
        let g = noise(8, 1.0);
        assert!(deviation(&(&x - (&g * 0.1)?)?)? > 1e-2);
        assert!(deviation(&step(&x, &g, 1e9)?)? < 1e-13);
        Ok(())
    }
}
