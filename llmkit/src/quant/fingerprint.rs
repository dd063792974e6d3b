//! What a network is, in one number: the key under which things computed with it are kept.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::Result;
use crate::model::Llama;

/// sha256 of configuration, all matrices as they run, all vectors, and what is rotated on its way. Half a second for 135 million weights.
pub(crate) fn fingerprint(network: &Llama) -> Result<[u8; 32]> {
    let names = network.matrix_names();
    let matrices = names.par_iter().map(|name| {
        let linear = network.linear(name)?;
        let (rows, columns) = linear.shape();
        let mut hash = Sha256::new();
        hash.update(format!("{name} {} {rows} {columns}", linear.kind()));
        let mut row = vec![0f32; columns];
        let mut bytes = Vec::with_capacity(4 * columns);
        for n in 0..rows {
            linear.row(n, &mut row);
            bytes.clear();
            row.iter().for_each(|it| bytes.extend(it.to_le_bytes()));
            hash.update(&bytes);
        }
        Ok(hash.finalize())
    });
    let matrices = matrices.collect::<Result<Vec<_>>>()?;
    let mut hash = Sha256::new();
    let config = network.config();
    hash.update(format!("{config:?} {}", network.is_tied()));
    matrices.iter().for_each(|it| hash.update(it));
    for name in network.vector_names() {
        hash.update(&name);
        for value in network.vector(&name)? {
            hash.update(value.to_le_bytes());
        }
    }
    for n in 0..config.layers {
        if let Some(rotation) = network.ffn_rotation(n) {
            // What it makes of one vector without symmetry tells rotations apart.
            let mut probe: Vec<f64> = (0..rotation.order()).map(|i| (i as f64).sin()).collect();
            rotation.apply(&mut probe);
            hash.update(format!("rotation {n}"));
            probe.iter().for_each(|it| hash.update(it.to_le_bytes()));
        }
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::linalg::Hadamard;
    use crate::quant::equivalence::networks;
    use crate::quant::parts::{Parts, edit};

    #[test]
    fn whatever_changes_a_network_changes_its_fingerprint() -> Result<()> {
        let network = networks().remove(0);
        let own = fingerprint(&network)?;
        assert_eq!(own, fingerprint(&network.clone())?);
        let mut seen = vec![own];
        // The last weight of the last matrix by the last bit; a norm; a head of its own with the same numbers; two rotations.
        let mut last = network.clone();
        let name = last.matrix_names().pop().unwrap();
        edit(&mut last, &name, |w| {
            let end = w.values.len() - 1;
            let value = w.values[end] as f32;
            w.values[end] = f64::from(f32::from_bits(value.to_bits() + 1));
        })?;
        let mut norm = network.clone();
        let mut gains = norm.vector("output_norm.weight")?.to_vec();
        gains[0] += 1e-6;
        norm.set_vector(
            "output_norm.weight",
            &gains.iter().map(|&it| it.into()).collect::<Vec<f64>>(),
        )?;
        let mut head = network.clone();
        let own = Parts::matrix(&head, "output.weight")?;
        head.set_matrix("output.weight", &own)?;
        let rotated = |seed: u64| {
            let rotation = Hadamard::random(network.config().ffn_width, seed)?;
            network.with_ffn_rotation(1, Some(Arc::new(rotation)))
        };
        for other in [last, norm, head, rotated(0)?, rotated(1)?] {
            seen.push(fingerprint(&other)?);
        }
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count);
        Ok(())
    }
}
