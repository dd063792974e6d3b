//! A model as a Hugging Face folder: `model.safetensors`, `config.json`, tokenizer. What packed layouts add is in their own files.
//!
//! Names and the order of the rows of queries and keys are Hugging Face's: there, features i and i + D/2 of a head turn together, so
//! for the architectures whose GGUF files pair neighbours, row s·D/2 + i is our row 2i + s.

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;

use super::packed::{Common, Integers};
use super::safetensors::{self, Entry};
use super::{Matrices, Tensor};
use crate::kernels::rope::Pairs;
use crate::model::blocks::BlockType;
use crate::model::checkpoint::hugging_face_name;
use crate::model::{Config, Model};
use crate::{Error, Result, atomic};

/// How quantized matrices lie in a folder.
pub(super) trait Packing {
    /// For messages: `GPTQ`.
    fn name(&self) -> &'static str;

    /// Bits a code can have; none if matrices are decoded.
    fn widths(&self) -> &'static [u32];

    /// The tensors of a matrix; `name` is the module's: `model.layers.3.mlp.up_proj`.
    ///
    /// # Errors
    /// [`Error::Argument`] if its sizes do not fit the words.
    fn tensors<'a>(&self, name: &str, matrix: &Integers, common: Common) -> Result<Vec<Entry<'a>>>;

    /// `quantization_config` of `config.json`; `left` names the modules that are not quantized.
    ///
    /// # Errors
    /// [`Error::Argument`] if the layout has no way to leave them.
    fn config(&self, common: Common, left: &[String]) -> Result<Value>;
}

/// No packing: everything is decoded.
pub(super) struct Plain;

impl Packing for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn widths(&self) -> &'static [u32] {
        &[]
    }

    fn tensors<'a>(&self, _: &str, _: &Integers, _: Common) -> Result<Vec<Entry<'a>>> {
        Ok(Vec::new())
    }

    fn config(&self, _: Common, _: &[String]) -> Result<Value> {
        Ok(Value::Null)
    }
}

/// Our row of each of the rows that Hugging Face has; none if they are the same.
pub(super) fn row_order(config: &Config, name: &str, rows: usize) -> Option<Vec<usize>> {
    let is_turned = name.contains("attn_q.") || name.contains("attn_k.");
    let d = config.head_dim;
    (is_turned && config.pairs == Pairs::Neighbours).then(|| {
        let ours = |row: usize| row / d * d + row % d % (d / 2) * 2 + row % d / (d / 2);
        (0..rows).map(ours).collect()
    })
}

/// Writes the folder.
pub(super) fn write(
    model: &Model,
    quantized: &Matrices,
    path: &Path,
    rest: BlockType,
    packing: &dyn Packing,
) -> Result<Vec<Tensor>> {
    if !matches!(rest, BlockType::F32 | BlockType::F16 | BlockType::BF16) {
        return Err(Error::argument(
            "type of weights in a folder",
            "F32, F16 or BF16",
            rest.name(),
        ));
    }
    let network = model.network();
    let is_packed = !packing.widths().is_empty();
    let integers = match is_packed {
        true => integers(model, quantized, packing)?,
        false => Vec::new(),
    };
    let common = integers.first().map(|(_, first)| Common {
        scheme: first.scheme(),
        least_zero: integers
            .iter()
            .flat_map(|(_, it)| &it.zeros)
            .copied()
            .min()
            .unwrap_or(0),
    });
    let mut entries = Vec::new();
    let mut report = Vec::new();
    for name in network
        .matrix_names()
        .into_iter()
        .chain(network.vector_names())
    {
        let theirs = hugging_face_name(&name).ok_or_else(|| Error::NotFound {
            what: format!("a name of {name} in a Hugging Face folder"),
            tried: vec![],
        })?;
        let packed = integers.iter().find(|(it, _)| *it == name);
        let of_matrix = match (packed, common) {
            (Some((_, matrix)), Some(common)) => {
                let module = theirs.trim_end_matches(".weight");
                packing.tensors(module, matrix, common)?
            }
            _ => vec![plain(model, quantized, &name, &theirs, rest)?],
        };
        report.push(Tensor {
            name: theirs,
            requested: match quantized.get(&name) {
                Some(matrix) => matrix.format().name(),
                None => rest.name().to_owned(),
            },
            applied: match packed {
                Some(_) => packing.name().to_owned(),
                None => rest.name().to_owned(),
            },
            why: (packed.is_none() && quantized.contains_key(&name))
                .then(|| "a plain folder has no codes: decoded".to_owned()),
            bytes: of_matrix.iter().map(|it| it.bytes).sum(),
        });
        entries.extend(of_matrix);
    }
    let quantization = common.map(|common| {
        let left = network.matrix_names().into_iter();
        let left = left.filter(|name| name.starts_with("blk.") && !quantized.contains_key(name));
        let left = left.filter_map(|name| hugging_face_name(&name));
        let left = left.map(|name| name.trim_end_matches(".weight").to_owned());
        packing.config(common, &left.collect::<Vec<String>>())
    });
    let quantization = quantization.transpose()?;
    atomic::folder(path, |inside| {
        safetensors::write(&inside.join("model.safetensors"), &entries)?;
        model.write_companions(inside, quantization.clone())
    })?;
    Ok(report)
}

/// All quantized matrices as integers with Hugging Face's rows; one scheme for all of them.
fn integers(
    model: &Model,
    quantized: &Matrices,
    packing: &dyn Packing,
) -> Result<Vec<(String, Integers)>> {
    let argument = |name: &str, expected: &str, got: String| {
        Err(Error::argument(
            format!("{name} in {}'s layout", packing.name()),
            expected,
            got,
        ))
    };
    if quantized.is_empty() {
        return argument(
            "matrices",
            "at least one that is quantized",
            "none".to_owned(),
        );
    }
    let mut found: Vec<(String, Integers)> = Vec::new();
    for (name, matrix) in quantized {
        if !name.starts_with("blk.") {
            return argument(
                name,
                "embedding and head in full precision",
                matrix.format().name(),
            );
        }
        let mut matrix = Integers::of(name, matrix, packing.widths())?;
        if let Some(order) = row_order(&model.config, name, matrix.rows) {
            matrix.permute_rows(&order);
        }
        if let Some((first, other)) = found.first()
            && other.scheme() != matrix.scheme()
        {
            let expected = format!("what {first} has, {:?}", other.scheme());
            return argument(name, &expected, format!("{:?}", matrix.scheme()));
        }
        found.push((name.clone(), matrix));
    }
    Ok(found)
}

/// A tensor in full precision.
fn plain<'a>(
    model: &'a Model,
    quantized: &'a Matrices,
    name: &str,
    theirs: &str,
    rest: BlockType,
) -> Result<Entry<'a>> {
    let network = model.network();
    let shape = match network.vector(name) {
        Ok(vector) => vec![vector.len()],
        Err(_) => {
            let (rows, columns) = network.linear(name)?.shape();
            vec![rows, columns]
        }
    };
    let count: usize = shape.iter().product();
    let order = row_order(&model.config, name, shape[0]);
    let name = name.to_owned();
    let data = move || -> Result<Cow<'a, [u8]>> {
        let values = match (quantized.get(&name), network.vector(&name)) {
            (Some(matrix), _) => matrix.decode()?.data().to_vec(),
            (None, Ok(vector)) => vector.to_vec(),
            (None, Err(_)) => super::gguf::values(network.linear(&name)?.as_ref()),
        };
        let values = match &order {
            None => values,
            Some(order) => {
                let width = values.len() / order.len();
                let row = |&from: &usize| &values[from * width..(from + 1) * width];
                order.iter().flat_map(row).copied().collect()
            }
        };
        let bytes = rest.encode(&values);
        match rest
            .dequantize(&bytes)
            .iter()
            .position(|it| !it.is_finite())
        {
            None => Ok(Cow::Owned(bytes)),
            Some(at) => {
                let expected = format!("a weight that {} can store", rest.name());
                Err(Error::argument(
                    format!("{name}[{at}]"),
                    expected,
                    values[at],
                ))
            }
        }
    };
    Ok(Entry {
        name: theirs.to_owned(),
        dtype: rest.name(),
        shape,
        bytes: count * rest.bytes(),
        data: Box::new(data),
    })
}
