//! The end of the network: the last norm and the logits.

use super::hook::Hook;
use super::linear::Input;
use super::llama::Llama;
use crate::Result;
use crate::kernels::activation::rms_norm;
use crate::kernels::aligned::Aligned;
use crate::kernels::dense::Into;
use crate::kernels::isa::Isa;
use crate::kernels::product::multiply_columns;

/// Columns of logits at a time: of 256 rows 2 MiB.
pub(crate) const SOME_LOGITS: usize = 2048;

impl Llama {
    /// What the head sees of the residual stream `x` after the last layer.
    pub(super) fn final_norm(&self, x: &[f32], hook: Option<&mut dyn Hook>) -> Result<Vec<f32>> {
        let c = &self.config;
        let (isa, team) = (self.engine.isa, self.engine.team.as_ref());
        let mut normed = vec![0.0; x.len()];
        rms_norm(isa, x, &self.norm, c.norm_epsilon as f32, &mut normed, team);
        if let Some(hook) = hook {
            hook.visit("output.in", c.width, &mut normed)?;
        }
        self.check_finite(format_args!("output.in"), c.width, &normed)?;
        Ok(normed)
    }

    /// Logits (T, V) of [`hidden`](Self::hidden) states (T, K).
    pub fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        let mut out = Vec::new();
        self.logits_into(hidden, &mut out);
        out
    }

    /// [`logits`](Self::logits) in place of what was in `out`.
    pub fn logits_into(&self, hidden: &[f32], out: &mut Vec<f32>) {
        let input = Input::new(hidden, self.config.width, &self.engine);
        out.resize(
            hidden.len() / self.config.width * self.config.vocabulary,
            0.0,
        );
        self.head.forward(&input, Into::Replace, out, &self.engine);
    }

    /// Logits of [`hidden`](Self::hidden) states (T, K) for some tokens of the vocabulary at a time (T, some), to `see` with the first of these:
    /// all at once would not stay in caches. A head that has a way of its own to multiply hands out all at once.
    ///
    /// # Errors
    /// What `see` says.
    pub fn logits_by_columns(
        &self,
        hidden: &[f32],
        see: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let (width, all) = (self.config.width, self.config.vocabulary);
        let input = Input::new(hidden, width, &self.engine);
        let (isa, team) = (self.engine.isa, self.engine.team.as_ref());
        // The reference computes whole products: once, not for each part.
        let parted = self.head.matrix(&input).filter(|_| isa != Isa::Reference);
        let Some(matrix) = parted else {
            return see(0, &self.logits(hidden));
        };
        let mut buffer = Aligned::new();
        for first in (0..all).step_by(SOME_LOGITS) {
            let columns = first..all.min(first + SOME_LOGITS);
            let out = buffer.floats_mut(hidden.len() / width * columns.len());
            multiply_columns(isa, matrix, columns, out, team);
            see(first, out)?;
        }
        Ok(())
    }
}
