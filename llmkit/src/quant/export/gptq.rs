//! The layouts of GPTQ's tools and of AutoAWQ: weights transposed, (K, N), in 32-bit words.
//!
//! | | GPTQ | AWQ ("GEMM") |
//! |---|---|---|
//! | `qweight` | I32 (K·b/32, N): words along K, the first code lowest | I32 (K, N/8): words along N, fields 0 2 4 6 1 3 5 7 |
//! | `qzeros` | I32 (K/g, N·b/32): words along N | I32 (K/g, N/8): as above |
//! | `scales` | F16 (K/g, N) | F16 (K/g, N) |
//! | `g_idx` | I32 (K): the group of each input | – |
//!
//! **GPTQ's zeros.** Its first version stores zero − 1 and adds one when it decodes; a zero of 0 then becomes 2ᵇ, for some readers. So
//! version 2 is written, which stores what it means, as soon as one zero is 0, and version 1, which every reader knows,
//! else. `checkpoint_format` in `config.json` says which.
//!
//! Source: GPTQModel, `nn_modules/qlinear` and `utils/model.py` (`convert_gptq_v1_to_v2_format`); AutoAWQ, `modules/linear/gemm.py`.

use serde_json::{Value, json};

use super::folder::Packing;
use super::packed::{Common, Integers, Order, along_columns, transposed};
use super::safetensors::Entry;
use crate::{Error, Result};

/// GPTQ's.
pub(super) struct Gptq;

/// AutoAWQ's.
pub(super) struct Awq;

fn i32s<'a>(name: String, rows: usize, words: Vec<u8>) -> Entry<'a> {
    let columns = words.len() / 4 / rows.max(1);
    Entry::of(name, "I32", vec![rows, columns], words)
}

fn scales<'a>(name: &str, matrix: &Integers) -> Entry<'a> {
    let groups = matrix.columns / matrix.group;
    let values = transposed(&matrix.scales, groups);
    let bytes = values.iter().flat_map(|it| it.to_le_bytes()).collect();
    Entry::of(
        format!("{name}.scales"),
        "F16",
        vec![groups, matrix.rows],
        bytes,
    )
}

fn whole_words(name: &str, what: &str, count: usize, bits: u32) -> Result<()> {
    let per_word = 32 / bits as usize;
    match count.is_multiple_of(per_word) {
        true => Ok(()),
        false => Err(Error::argument(
            format!("{what} of {name}"),
            format!("a multiple of {per_word}"),
            count,
        )),
    }
}

/// Whether version 1 can say the zeros.
fn is_version_1(common: Common) -> bool {
    common.least_zero > 0
}

impl Packing for Gptq {
    fn name(&self) -> &'static str {
        "GPTQ"
    }

    fn widths(&self) -> &'static [u32] {
        &[2, 4, 8]
    }

    fn tensors<'a>(&self, name: &str, matrix: &Integers, common: Common) -> Result<Vec<Entry<'a>>> {
        let Integers {
            rows,
            columns,
            bits,
            group,
            ..
        } = *matrix;
        whole_words(name, "inputs", columns, bits)?;
        whole_words(name, "outputs", rows, bits)?;
        // Words along K, row after row of W, are the columns of what is stored.
        let words = along_columns(&matrix.codes, columns, bits, Order::InTurn);
        let words: Vec<[u8; 4]> = words
            .chunks_exact(4)
            .map(|it| [it[0], it[1], it[2], it[3]])
            .collect();
        let in_row = columns * bits as usize / 32;
        let words = transposed(&words, in_row).concat();
        let groups = columns / group;
        let less = u8::from(is_version_1(common));
        let zeros: Vec<u8> = matrix.zeros.iter().map(|zero| zero - less).collect();
        let zeros = along_columns(&transposed(&zeros, groups), rows, bits, Order::InTurn);
        let index = (0..columns)
            .flat_map(|k| ((k / group) as i32).to_le_bytes())
            .collect();
        Ok(vec![
            i32s(format!("{name}.qweight"), in_row, words),
            i32s(format!("{name}.qzeros"), groups, zeros),
            scales(name, matrix),
            Entry::of(format!("{name}.g_idx"), "I32", vec![columns], index),
        ])
    }

    fn config(&self, common: Common, left: &[String]) -> Result<Value> {
        if let Some(name) = left.first() {
            let expected = "every matrix of the layers quantized: its readers replace them all";
            return Err(Error::argument(
                "matrices in GPTQ's layout",
                expected,
                format!("{name} is not"),
            ));
        }
        let scheme = common.scheme;
        Ok(json!({
            "quant_method": "gptq",
            "checkpoint_format": if is_version_1(common) { "gptq" } else { "gptq_v2" },
            "bits": scheme.bits,
            "group_size": scheme.group.map_or(-1, |it| it as i64),
            "sym": scheme.is_symmetric,
            "desc_act": false,
            "lm_head": false,
            "pack_dtype": "int32",
        }))
    }
}

impl Packing for Awq {
    fn name(&self) -> &'static str {
        "AWQ"
    }

    fn widths(&self) -> &'static [u32] {
        &[4]
    }

    fn tensors<'a>(&self, name: &str, matrix: &Integers, _: Common) -> Result<Vec<Entry<'a>>> {
        let Integers {
            rows,
            columns,
            bits,
            group,
            ..
        } = *matrix;
        whole_words(name, "outputs", rows, bits)?;
        let groups = columns / group;
        let words = |values: &[u8], columns: usize| {
            along_columns(&transposed(values, columns), rows, bits, Order::Interleaved)
        };
        Ok(vec![
            i32s(
                format!("{name}.qweight"),
                columns,
                words(&matrix.codes, columns),
            ),
            i32s(
                format!("{name}.qzeros"),
                groups,
                words(&matrix.zeros, groups),
            ),
            scales(name, matrix),
        ])
    }

    fn config(&self, common: Common, left: &[String]) -> Result<Value> {
        let scheme = common.scheme;
        let left: Vec<&String> = left.iter().collect();
        Ok(json!({
            "quant_method": "awq",
            "version": "gemm",
            "bits": scheme.bits,
            "group_size": scheme.group.map_or(-1, |it| it as i64),
            "zero_point": true,
            "modules_to_not_convert": if left.is_empty() { Value::Null } else { json!(left) },
        }))
    }
}
