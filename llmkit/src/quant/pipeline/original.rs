//! The original network beside the one that is being quantized, for methods that compare their inputs.

use std::collections::BTreeMap;

use crate::Result;
use crate::model::Llama;
use crate::quant::calibration::{Recorder, Samples, batches, pieces};

/// The original network and its residual streams before the layer at hand, batch by batch of windows.
pub(super) struct Original {
    network: Llama,
    states: Vec<Vec<f32>>,
}

impl Original {
    /// At the embeddings.
    pub fn new(network: &Llama, states: &[Vec<f32>]) -> Original {
        Original {
            network: network.clone(),
            states: states.to_vec(),
        }
    }

    /// The activations of layer `n` that `wants` says yes to, for batch number `at`, which are these `windows`.
    ///
    /// # Errors
    /// Those of the forward pass.
    pub fn record(
        &self,
        n: usize,
        (at, windows): (usize, &[Vec<u32>]),
        wants: &dyn Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, Vec<f32>>> {
        let mut recorder = Recorder::new(wants);
        let mut stores: Vec<_> = windows.iter().map(|_| self.network.store()).collect();
        let mut x = self.states[at].clone();
        let mut pieces = pieces(windows, &mut stores);
        self.network
            .through(n..n + 1, &mut x, &mut pieces, Some(&mut recorder))?;
        Ok(recorder.found)
    }

    /// The same after layer `n`.
    ///
    /// # Errors
    /// Those of the forward pass.
    pub fn after(&self, n: usize, samples: &Samples) -> Result<Original> {
        let mut states = Vec::with_capacity(self.states.len());
        for (windows, state) in batches(samples).zip(&self.states) {
            let mut stores: Vec<_> = windows.iter().map(|_| self.network.store()).collect();
            let mut x = state.clone();
            let mut pieces = pieces(windows, &mut stores);
            self.network.through(n..n + 1, &mut x, &mut pieces, None)?;
            states.push(x);
        }
        Ok(Original {
            network: self.network.clone(),
            states,
        })
    }
}
