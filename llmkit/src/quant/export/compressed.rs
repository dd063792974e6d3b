//! The layout of compressed-tensors, "pack-quantized": weights as they stand, (N, K), in 32-bit words along K.
//!
//! | | |
//! |---|---|
//! | `weight_packed` | I32 (N, K·b/32): words along K, the first code lowest, codes moved up by 2ᵇ⁻¹ to be unsigned |
//! | `weight_scale` | F16 (N, K/g) |
//! | `weight_zero_point` | I32 (N·b/32, K/g): words along N; only if not symmetric |
//! | `weight_shape` | I64 (2): N and K |
//!
//! Signed codes q and zeros z of the library are ours less 2ᵇ⁻¹, so moved up again they are ours.
//!
//! Source: compressed-tensors, `compressors/quantized_compressors/pack_quantized.py`.

use serde_json::{Value, json};

use super::folder::Packing;
use super::packed::{Common, Integers, Order, along_columns, transposed};
use super::safetensors::Entry;
use crate::Result;

/// compressed-tensors'.
pub(super) struct CompressedTensors;

impl Packing for CompressedTensors {
    fn name(&self) -> &'static str {
        "compressed-tensors"
    }

    fn widths(&self) -> &'static [u32] {
        &[4, 8]
    }

    fn tensors<'a>(&self, name: &str, matrix: &Integers, _: Common) -> Result<Vec<Entry<'a>>> {
        let Integers {
            rows,
            columns,
            bits,
            group,
            ..
        } = *matrix;
        let groups = columns / group;
        let per_word = 32 / bits as usize;
        let words = along_columns(&matrix.codes, columns, bits, Order::InTurn);
        let scales = matrix
            .scales
            .iter()
            .flat_map(|it| it.to_le_bytes())
            .collect();
        let shape = [rows, columns]
            .iter()
            .flat_map(|&it| (it as i64).to_le_bytes())
            .collect();
        let mut tensors = vec![
            Entry::of(
                format!("{name}.weight_packed"),
                "I32",
                vec![rows, columns.div_ceil(per_word)],
                words,
            ),
            Entry::of(
                format!("{name}.weight_scale"),
                "F16",
                vec![rows, groups],
                scales,
            ),
            Entry::of(format!("{name}.weight_shape"), "I64", vec![2], shape),
        ];
        if !matrix.is_symmetric {
            // Words along N: those of the transposed matrix, transposed.
            let words = along_columns(
                &transposed(&matrix.zeros, groups),
                rows,
                bits,
                Order::InTurn,
            );
            let words: Vec<[u8; 4]> = words
                .chunks_exact(4)
                .map(|it| [it[0], it[1], it[2], it[3]])
                .collect();
            let in_column = rows.div_ceil(per_word);
            let words = transposed(&words, in_column).concat();
            tensors.push(Entry::of(
                format!("{name}.weight_zero_point"),
                "I32",
                vec![in_column, groups],
                words,
            ));
        }
        Ok(tensors)
    }

    fn config(&self, common: Common, left: &[String]) -> Result<Value> {
        let scheme = common.scheme;
        let left: Vec<&str> = left.iter().map(String::as_str).chain(["lm_head"]).collect();
        Ok(json!({
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "kv_cache_scheme": null,
            "ignore": left,
            "config_groups": { "group_0": {
                "targets": ["Linear"],
                "input_activations": null,
                "output_activations": null,
                "weights": {
                    "num_bits": scheme.bits,
                    "type": "int",
                    "symmetric": scheme.is_symmetric,
                    "strategy": if scheme.group.is_some() { "group" } else { "channel" },
                    "group_size": scheme.group,
                    "dynamic": false,
                },
            } },
        }))
    }
}
