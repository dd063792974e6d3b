//! A model as a GGUF file that llama.cpp loads.
//!
//! Matrices in formats that are ggml's own are written with the bytes they have. Symmetric integers of 4, 5 and 8 bits in groups of
//! 32 weights, or a multiple, are the same numbers as Q4_0, Q5_0 and Q8_0 (codes moved by one, scales repeated), so they
//! lose nothing. Everything else has no type there and is refused.
//!
//! Types whose blocks have 256 weights need rows of as many. Where rows are others, llama.cpp's quantizer takes another type
//! (`tensor_type_fallback` in `llama-quant.cpp`); so do we, and say so.

use std::borrow::Cow;
use std::path::Path;

use rayon::prelude::*;

use super::{Matrices, Tensor};
use crate::model::blocks::BlockType;
use crate::model::gguf::Gguf;
use crate::model::gguf::write::{self, Entry, Pairs};
use crate::model::{Linear, Llama, Model};
use crate::numeric::ggml::{GgmlType, Parts};
use crate::quant::Quantized;
use crate::quant::format::{Format, Ggml, Granularity, IntSymmetric};
use crate::{Error, Result};

/// Types of matrices that are not quantized already; [`None`] for what the file has from which the model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Types {
    /// Of the layers.
    pub matrices: Option<BlockType>,
    /// Of the embedding and the head.
    pub embedding: Option<BlockType>,
}

/// Writes the file.
pub(super) fn write(
    model: &Model,
    quantized: &Matrices,
    path: &Path,
    types: Types,
) -> Result<Vec<Tensor>> {
    let source = model.gguf().ok_or_else(|| {
        let expected = "a model from a GGUF file, whose metadata and tokenizer are kept";
        Error::argument(
            format!("export of {}", model.provenance.name),
            expected,
            "one from a folder",
        )
    })?;
    let network = model.network();
    let mut names: Vec<String> = source.tensors.iter().map(|it| it.name.clone()).collect();
    // What the network has and the file has not: the head of a network whose embedding is no longer both.
    names.extend(
        network
            .matrix_names()
            .into_iter()
            .filter(|name| source.tensor(name).is_none()),
    );
    let mut report = Vec::new();
    let entries: Vec<Entry<'_>> = names
        .iter()
        .map(|name| {
            let (entry, tensor) = entry(network, source, quantized, name, types)?;
            report.push(tensor);
            Ok(entry)
        })
        .collect::<Result<_>>()?;
    let mut pairs = Pairs::of(source);
    let is_as_it_was = types == Types::default() && quantized.is_empty();
    if !is_as_it_was {
        pairs.set_u32("general.file_type", file_type(&report));
        pairs.set_u32("general.quantization_version", 2);
    }
    write::write(path, &pairs, source.alignment(), &entries)?;
    Ok(report)
}

/// One tensor, and what is to be said of it.
fn entry<'a>(
    network: &'a Llama,
    source: &'a Gguf,
    quantized: &'a Matrices,
    name: &str,
    types: Types,
) -> Result<(Entry<'a>, Tensor)> {
    let stored = source.tensor(name);
    if let Some(matrix) = quantized.get(name) {
        return of_quantized(name, matrix);
    }
    let Ok(layer) = network.linear(name) else {
        return of_vector(network, source, name);
    };
    let (rows, columns) = layer.shape();
    let asked = match name {
        "token_embd.weight" | "output.weight" => types.embedding,
        _ => types.matrices,
    };
    let requested = asked
        .or(stored.map(|it| it.block))
        .unwrap_or(BlockType::F32);
    let (applied, why) = applicable(requested, columns);
    let entry = Entry {
        name: name.to_owned(),
        shape: vec![rows, columns],
        kind: applied.number(),
        bytes: rows * columns / applied.elements() * applied.bytes(),
        data: {
            let name = name.to_owned();
            Box::new(move || {
                let values = values(layer.as_ref());
                match stored.filter(|it| it.block == applied && it.shape == [rows, columns]) {
                    // What was not touched keeps its bytes: searched scales would move if they were searched again.
                    Some(info) if source.dequantize(info) == values => {
                        Ok(Cow::Borrowed(source.data(info)))
                    }
                    _ => encode(&name, applied, &values).map(Cow::Owned),
                }
            })
        },
    };
    let tensor = Tensor {
        name: name.to_owned(),
        requested: requested.name().to_owned(),
        applied: applied.name().to_owned(),
        why,
        bytes: entry.bytes,
    };
    Ok((entry, tensor))
}

/// A vector of the network, or what is neither and stays as the file has it.
fn of_vector<'a>(network: &'a Llama, source: &'a Gguf, name: &str) -> Result<(Entry<'a>, Tensor)> {
    let vector = network.vector(name).ok();
    let stored = source.tensor(name);
    let (shape, block) = match (vector, stored) {
        // llama.cpp computes with vectors in F32 alone.
        (Some(values), _) => (vec![values.len()], BlockType::F32),
        (None, Some(info)) => (info.shape.clone(), info.block),
        (None, None) => {
            return Err(Error::NotFound {
                what: format!("tensor {name}"),
                tried: vec![],
            });
        }
    };
    let bytes = match (vector, stored) {
        (None, Some(info)) => info.bytes,
        (values, _) => 4 * values.map_or(0, <[f32]>::len),
    };
    let entry = Entry {
        name: name.to_owned(),
        shape,
        kind: block.number(),
        bytes,
        data: Box::new(move || match (vector, stored) {
            (None, Some(info)) => Ok(Cow::Borrowed(source.data(info))),
            (values, _) => Ok(Cow::Owned(
                BlockType::F32.encode(values.unwrap_or_default()),
            )),
        }),
    };
    let tensor = Tensor {
        name: name.to_owned(),
        requested: block.name().to_owned(),
        applied: block.name().to_owned(),
        why: None,
        bytes,
    };
    Ok((entry, tensor))
}

/// The type that llama.cpp takes for rows of `columns` weights, and why if it is another.
fn applicable(requested: BlockType, columns: usize) -> (BlockType, Option<String>) {
    let fits = |block: BlockType| columns.is_multiple_of(block.elements());
    if fits(requested) {
        return (requested, None);
    }
    let instead = requested
        .quantized()
        .and_then(|codec| Ggml(codec).fallback());
    let instead = instead.and_then(|it| BlockType::from_ggml(it.0.number()));
    let applied = instead.filter(|&it| fits(it)).unwrap_or(BlockType::F16);
    let why = format!(
        "rows of {columns} weights are no multiple of {}",
        requested.elements()
    );
    (applied, Some(why))
}

/// All weights of a layer.
pub(super) fn values(layer: &dyn Linear) -> Vec<f32> {
    let (rows, columns) = layer.shape();
    let mut out = vec![0.0; rows * columns];
    let lines = out.par_chunks_exact_mut(columns).enumerate();
    lines.for_each(|(n, line)| layer.row(n, line));
    out
}

fn encode(name: &str, block: BlockType, values: &[f32]) -> Result<Vec<u8>> {
    let bytes = block.encode(values);
    match block
        .dequantize(&bytes)
        .iter()
        .position(|it| !it.is_finite())
    {
        None => Ok(bytes),
        Some(at) => Err(Error::argument(
            format!("{name}[{at}]"),
            format!("a weight that {} can store", block.name()),
            values[at],
        )),
    }
}

/// A quantized matrix in ggml's bytes.
pub(super) fn of_quantized<'a>(name: &str, matrix: &'a Quantized) -> Result<(Entry<'a>, Tensor)> {
    matrix.check_plain(name)?;
    let format = matrix.format();
    let own = GgmlType::ALL
        .into_iter()
        .find(|it| it.name() == format.name());
    let (codec, is_own) = match own {
        Some(codec) => (codec, true),
        None => (same_numbers(format, matrix.cols()).ok_or_else(|| {
            let expected = "a type of ggml, or int4, int5 or int8 symmetric in groups of a multiple of 32 weights";
            Error::argument(format!("format of {name} in a GGUF file"), expected, format.name())
        })?, false),
    };
    let (rows, columns) = (matrix.rows(), matrix.cols());
    let entry = Entry {
        name: name.to_owned(),
        shape: vec![rows, columns],
        kind: codec.number(),
        bytes: rows * columns / codec.elements() * codec.bytes(),
        data: Box::new(move || match is_own {
            true => Ok(Cow::Borrowed(matrix.code_bytes())),
            false => Ok(Cow::Owned(relabelled(matrix, codec))),
        }),
    };
    let tensor = Tensor {
        name: name.to_owned(),
        requested: format.name(),
        applied: codec.name(),
        // The same numbers under another name are what was asked for.
        why: None,
        bytes: entry.bytes,
    };
    Ok((entry, tensor))
}

/// The type of 32 weights that stores the same numbers as `format`, rows being of `columns` weights.
fn same_numbers(format: &dyn Format, columns: usize) -> Option<GgmlType> {
    let codec = match format.code_bits() {
        4 => GgmlType::Q4_0,
        5 => GgmlType::Q5_0,
        8 => GgmlType::Q8_0,
        _ => return None,
    };
    let granularity = format.granularity();
    let is_symmetric = IntSymmetric::new(format.code_bits(), granularity)
        .is_ok_and(|it| it.name() == format.name());
    let group = match granularity {
        Granularity::Group(group) => group,
        Granularity::Channel | Granularity::Tensor => columns,
    };
    let fits = group.is_multiple_of(32) && columns.is_multiple_of(32);
    (is_symmetric && fits).then_some(codec)
}

/// Codes and scales of a symmetric format in the blocks of `codec`.
fn relabelled(matrix: &Quantized, codec: GgmlType) -> Vec<u8> {
    let (_, grids, codes) = matrix.unpack();
    let blocks = matrix
        .format()
        .granularity()
        .blocks(matrix.rows(), matrix.cols());
    let mut bytes = Vec::new();
    for (block, grid) in blocks.zip(&grids) {
        for codes in codes[block].chunks(32) {
            let parts = Parts {
                params: vec![grid.0[0]],
                // Ours start at −m, theirs at −m − 1.
                codes: codes.iter().map(|code| code + 1).collect(),
            };
            codec.pack(&parts, &mut bytes);
        }
    }
    bytes
}

/// llama.cpp's number for what most bytes of the file are (`enum llama_ftype`); it is shown, not relied on.
fn file_type(tensors: &[Tensor]) -> u32 {
    let weight = |name: &str| -> usize {
        tensors
            .iter()
            .filter(|it| it.applied == name)
            .map(|it| it.bytes)
            .sum()
    };
    let most = tensors
        .iter()
        .map(|it| it.applied.as_str())
        .max_by_key(|name| weight(name));
    match most.unwrap_or_default() {
        "F16" => 1,
        "Q4_0" => 2,
        "Q4_1" => 3,
        "Q8_0" => 7,
        "Q5_0" => 8,
        "Q5_1" => 9,
        "Q2_K" => 10,
        "Q3_K" => 12,
        "Q4_K" => 15,
        "Q5_K" => 17,
        "Q6_K" => 18,
        "IQ4_NL" => 25,
        "BF16" => 32,
        "TQ1_0" => 36,
        "TQ2_0" => 37,
        _ => 0,
    }
}
