//! Reads the packed folders that [`export`](super::export) writes, and those of GPTQ's tools, AutoAWQ and compressed-tensors in the same
//! layouts: codes and scales come back as [`Quantized`], bit for bit.
//!
//! Files are not trusted: shapes are checked against each other before anything is unpacked. GPTQ's act-order with groups that are
//! no runs of inputs (`g_idx`) is refused: no format here says that.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use half::f16;
use safetensors::Dtype;
use serde_json::Value;

use super::Matrices;
use super::folder::row_order;
use super::packed::{Integers, Order, from_columns, transposed};
use super::safetensors::{Stored, read, take, wrong};
use crate::hub;
use crate::model::blocks::BlockType;
use crate::model::checkpoint::gguf_name;
use crate::model::weights::Weights;
use crate::model::{Config, Model, WeightType};
use crate::{Error, Result};

/// A model and its quantized matrices.
#[derive(Debug, Clone)]
pub struct Imported {
    /// Runs with the decoded weights, in f32.
    pub model: Model,
    /// The codes that they come from.
    pub quantized: Matrices,
}

/// Which layout a folder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// With what is added to stored zeros.
    Gptq(u8),
    Awq,
    CompressedTensors,
}

/// What `quantization_config` says.
#[derive(Debug, Clone, Copy)]
struct Scheme {
    kind: Kind,
    bits: u32,
    /// None for one group a row.
    group: Option<usize>,
    is_symmetric: bool,
}

/// Reads a folder with `quantization_config` in its `config.json`.
///
/// # Errors
/// [`Error::Format`] naming file and tensor if it is none of the three layouts or something does not fit; [`Error::Io`],
/// [`Error::Json`]; those of [`Model::load`].
pub fn import(path: &Path) -> Result<Imported> {
    let asset = hub::model(&path.display().to_string())?;
    let config_path = path.join("config.json");
    let json = std::fs::read_to_string(&config_path).map_err(Error::io("read", &config_path))?;
    let config = Config::from_hugging_face(&config_path.display().to_string(), &json)?;
    let json: Value = serde_json::from_str(&json).map_err(|source| Error::Json {
        context: config_path.display().to_string(),
        source,
    })?;
    let scheme = scheme(&json["quantization_config"]).map_err(|(expected, got)| Error::Format {
        file: format!("{}: quantization_config", config_path.display()),
        expected: expected.to_owned(),
        got,
    })?;
    let mut stored = read(asset.path())?;
    let modules: Vec<String> = stored
        .keys()
        .filter_map(|name| name.strip_suffix(scheme.kind.words()))
        .map(str::to_owned)
        .collect();
    let mut quantized = Matrices::new();
    let mut tensors = BTreeMap::new();
    for module in modules {
        let ours = gguf_name(&format!("{module}.weight"))
            .ok_or_else(|| wrong(&module, "a matrix of a Llama model", "another"))?;
        let mut matrix = unpack(&module, &mut stored, scheme)?;
        if let Some(order) = row_order(&config, &ours, matrix.rows) {
            matrix.permute_rows(&inverse(&order));
        }
        let matrix = matrix.quantized(&module)?;
        tensors.insert(ours.clone(), matrix.to_tensor()?);
        quantized.insert(ours, matrix);
    }
    for (name, tensor) in stored {
        let ours =
            gguf_name(&name).ok_or_else(|| wrong(&name, "a tensor of a Llama model", "another"))?;
        tensors.insert(ours.clone(), plain(&config, &name, &ours, &tensor)?);
    }
    let weights = Weights::of_tensors(&path.display().to_string(), tensors);
    let model = Model::from_folder(&asset, config, weights, WeightType::F32)?;
    Ok(Imported { model, quantized })
}

impl Kind {
    /// The suffix of the tensor that holds codes.
    fn words(self) -> &'static str {
        match self {
            Kind::Gptq(_) | Kind::Awq => ".qweight",
            Kind::CompressedTensors => ".weight_packed",
        }
    }
}

/// What was expected, and what came, if it cannot be read.
fn scheme(json: &Value) -> Result<Scheme, (&'static str, String)> {
    let kind = match (
        json["quant_method"].as_str(),
        json["checkpoint_format"].as_str(),
    ) {
        (Some("gptq"), None | Some("gptq")) => Kind::Gptq(1),
        (Some("gptq"), Some("gptq_v2")) => Kind::Gptq(0),
        (Some("awq"), _)
            if json["version"]
                .as_str()
                .is_none_or(|it| it.eq_ignore_ascii_case("gemm")) =>
        {
            Kind::Awq
        }
        (Some("compressed-tensors"), _) if json["format"] == "pack-quantized" => {
            Kind::CompressedTensors
        }
        _ => {
            return Err((
                "GPTQ, AWQ (gemm) or compressed-tensors (pack-quantized)",
                json.to_string(),
            ));
        }
    };
    let (bits, group, symmetric) = match kind {
        Kind::CompressedTensors => {
            let groups = json["config_groups"].as_object();
            let Some(only) = groups
                .filter(|it| it.len() == 1)
                .and_then(|it| it.values().next())
            else {
                return Err(("one group of modules", json["config_groups"].to_string()));
            };
            let weights = &only["weights"];
            (
                weights["num_bits"].as_u64(),
                weights["group_size"].as_u64(),
                weights["symmetric"].as_bool(),
            )
        }
        _ => {
            let symmetric = json["sym"].as_bool().or(Some(false));
            (
                json["bits"].as_u64(),
                json["group_size"].as_u64(),
                symmetric,
            )
        }
    };
    let bits = match (kind, bits) {
        (_, Some(4)) => 4,
        (Kind::Gptq(_), Some(bits @ (2 | 8))) => bits as u32,
        (Kind::CompressedTensors, Some(8)) => 8,
        (_, other) => {
            return Err((
                "2, 4 or 8 bits, as the layout has them",
                format!("{other:?}"),
            ));
        }
    };
    Ok(Scheme {
        kind,
        bits,
        group: group.map(|it| it as usize).filter(|&it| it > 0),
        is_symmetric: symmetric.unwrap_or(true),
    })
}

/// Scales in f16, whatever float they are stored in, if f16 has them.
fn scales(stored: &mut BTreeMap<String, Stored>, name: &str, shape: &[usize]) -> Result<Vec<f16>> {
    let dtype = stored.get(name).map_or(Dtype::F16, |it| it.dtype);
    let block = block(name, dtype)?;
    let values = block.dequantize(&take(stored, name, dtype, shape)?);
    let halves: Vec<f16> = values.iter().map(|&it| f16::from_f32(it)).collect();
    match values
        .iter()
        .zip(&halves)
        .find(|(value, half)| half.to_f32() != **value)
    {
        None => Ok(halves),
        Some((value, _)) => Err(wrong(name, "scales that an f16 holds exactly", value)),
    }
}

fn block(name: &str, dtype: Dtype) -> Result<BlockType> {
    match dtype {
        Dtype::F32 => Ok(BlockType::F32),
        Dtype::F16 => Ok(BlockType::F16),
        Dtype::BF16 => Ok(BlockType::BF16),
        other => Err(wrong(name, "F32, F16 or BF16", format!("{other:?}"))),
    }
}

/// Words (rows, columns) turned into (columns, rows).
fn turned(words: &[u8], columns: usize) -> Vec<u8> {
    let words: Vec<[u8; 4]> = words
        .chunks_exact(4)
        .map(|it| [it[0], it[1], it[2], it[3]])
        .collect();
    transposed(&words, columns).concat()
}

/// The matrix of a module, its tensors taken out of `stored`.
fn unpack(module: &str, stored: &mut BTreeMap<String, Stored>, scheme: Scheme) -> Result<Integers> {
    let Scheme { kind, bits, .. } = scheme;
    let per_word = 32 / bits as usize;
    let words_name = format!("{module}{}", kind.words());
    let words_shape = stored
        .get(&words_name)
        .map(|it| it.shape.clone())
        .unwrap_or_default();
    let &[first, second] = words_shape.as_slice() else {
        return Err(wrong(
            &words_name,
            "a matrix of words",
            format!("{words_shape:?}"),
        ));
    };
    let part = |suffix: &str| format!("{module}.{suffix}");
    let (rows, columns) = match kind {
        Kind::Gptq(_) => (second, first * per_word),
        Kind::Awq => (second * per_word, first),
        Kind::CompressedTensors => {
            let shape = take(stored, &part("weight_shape"), Dtype::I64, &[2])?;
            let size = |at: usize| {
                let bytes = shape[8 * at..][..8].try_into().unwrap_or_default();
                usize::try_from(i64::from_le_bytes(bytes)).unwrap_or(0)
            };
            (size(0), size(1))
        }
    };
    let group = scheme.group.unwrap_or(columns);
    if rows == 0 || columns == 0 || !columns.is_multiple_of(group) {
        let got = format!("[{rows}, {columns}]");
        return Err(wrong(
            &words_name,
            &format!("rows of whole groups of {group}"),
            got,
        ));
    }
    let groups = columns / group;
    let take_words =
        |stored: &mut _, name: &str, shape: [usize; 2]| take(stored, name, Dtype::I32, &shape);
    let (codes, scales, zeros) = match kind {
        Kind::Gptq(more) => {
            let words = take_words(stored, &words_name, [first, second])?;
            let codes = from_columns(&turned(&words, second), columns, bits, Order::InTurn);
            let words = take_words(stored, &part("qzeros"), [groups, rows.div_ceil(per_word)])?;
            let zeros = from_columns(&words, rows, bits, Order::InTurn);
            let mask = ((1u32 << bits) - 1) as u8;
            let zeros: Vec<u8> = zeros
                .iter()
                .map(|zero| zero.wrapping_add(more) & mask)
                .collect();
            let index = take(stored, &part("g_idx"), Dtype::I32, &[columns])?;
            let is_in_turn = index
                .chunks_exact(4)
                .enumerate()
                .all(|(k, it)| it == ((k / group) as i32).to_le_bytes());
            if !is_in_turn {
                return Err(wrong(
                    &part("g_idx"),
                    "groups that are runs of inputs",
                    "another order (desc_act)",
                ));
            }
            let scales = scales(stored, &part("scales"), &[groups, rows])?;
            (codes, transposed(&scales, rows), transposed(&zeros, rows))
        }
        Kind::Awq => {
            let words = take_words(stored, &words_name, [first, second])?;
            let codes = transposed(&from_columns(&words, rows, bits, Order::Interleaved), rows);
            let words = take_words(stored, &part("qzeros"), [groups, second])?;
            let zeros = from_columns(&words, rows, bits, Order::Interleaved);
            let scales = scales(stored, &part("scales"), &[groups, rows])?;
            (codes, transposed(&scales, rows), transposed(&zeros, rows))
        }
        Kind::CompressedTensors => {
            let words = take_words(stored, &words_name, [rows, columns.div_ceil(per_word)])?;
            let codes = from_columns(&words, columns, bits, Order::InTurn);
            let scales = scales(stored, &part("weight_scale"), &[rows, groups])?;
            let zeros = match scheme.is_symmetric {
                true => vec![1 << (bits - 1); rows * groups],
                false => {
                    let shape = [rows.div_ceil(per_word), groups];
                    let words = take_words(stored, &part("weight_zero_point"), shape)?;
                    let zeros = from_columns(&turned(&words, groups), rows, bits, Order::InTurn);
                    transposed(&zeros, rows)
                }
            };
            (codes, scales, zeros)
        }
    };
    let middle = 1u8 << (bits - 1);
    Ok(Integers {
        rows,
        columns,
        bits,
        group,
        is_symmetric: scheme.is_symmetric && zeros.iter().all(|&it| it == middle),
        codes,
        scales,
        zeros,
    })
}

/// The order that undoes `order`.
fn inverse(order: &[usize]) -> Vec<usize> {
    let mut back = vec![0; order.len()];
    order
        .iter()
        .enumerate()
        .for_each(|(at, &from)| back[from] = at);
    back
}

/// A tensor in full precision, its rows in our order.
fn plain(config: &Config, name: &str, ours: &str, stored: &Stored) -> Result<Tensor> {
    let values = block(name, stored.dtype)?.dequantize(&stored.data);
    let rows = stored.shape.first().copied().unwrap_or(0);
    let values = match row_order(config, ours, rows) {
        Some(order) if rows > 0 && rows.is_multiple_of(config.head_dim) => {
            let width = values.len() / rows;
            let order = inverse(&order);
            let row = |&from: &usize| &values[from * width..(from + 1) * width];
            order.iter().flat_map(row).copied().collect()
        }
        // Another size is reported when the network is built.
        _ => values,
    };
    Ok(Tensor::from_vec(
        values,
        stored.shape.as_slice(),
        &Device::Cpu,
    )?)
}
