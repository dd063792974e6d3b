//! candle's logits, from a GGUF file as it is or with all weights decoded.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{Device, IndexOp, Result, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use llmkit::numeric::ggml::GgmlType;

/// Logits at every position. candle gives the last position's only, so token by token with its cache.
///
/// # Errors
/// What candle says of the file or of the tokens.
pub fn logits(file: &mut (impl Read + Seek), tokens: &[u32]) -> Result<Vec<Vec<f64>>> {
    let content = gguf_file::Content::read(file)?;
    let mut model = ModelWeights::from_gguf(content, file, &Device::Cpu)?;
    let mut at = |(position, &token): (usize, &u32)| {
        let input = Tensor::new(&[[token]], &Device::Cpu)?;
        let row: Vec<f32> = model.forward(&input, position)?.i(0)?.to_vec1()?;
        Ok(super::plain::wide(&row))
    };
    tokens.iter().enumerate().map(&mut at).collect()
}

/// The file once more in memory, all its weights in F32: candle multiplies those in f32.
///
/// # Errors
/// What candle says of the file.
pub fn decoded(path: &Path) -> Result<Cursor<Vec<u8>>> {
    let mut file = File::open(path)?;
    let content = gguf_file::Content::read(&mut file)?;
    let mut tensors = Vec::new();
    for name in content.tensor_infos.keys() {
        let tensor = content.tensor(&mut file, name, &Device::Cpu)?;
        let tensor = tensor.dequantize(&Device::Cpu)?;
        tensors.push((name.as_str(), QTensor::quantize(&tensor, GgmlDType::F32)?));
    }
    let metadata: Vec<_> = content
        .metadata
        .iter()
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, it)| (*name, it)).collect();
    let mut out = Cursor::new(Vec::new());
    gguf_file::write(&mut out, &metadata, &tensors)?;
    out.set_position(0);
    Ok(out)
}

/// Minima of the blocks of each tensor in Q4_1, row by row: what candle multiplies by a sum in f16.
///
/// # Errors
/// What candle says of the file.
pub fn minima(path: &Path) -> Result<HashMap<String, Vec<f32>>> {
    let mut file = File::open(path)?;
    let content = gguf_file::Content::read(&mut file)?;
    let mut minima = HashMap::new();
    for (name, info) in &content.tensor_infos {
        if info.ggml_dtype != GgmlDType::Q4_1 {
            continue;
        }
        let tensor = content.tensor(&mut file, name, &Device::Cpu)?;
        let bytes = tensor.data()?;
        let blocks = bytes.chunks_exact(GgmlType::Q4_1.bytes());
        let minimum = |block| GgmlType::Q4_1.unpack(block).params[1];
        minima.insert(name.clone(), blocks.map(minimum).collect());
    }
    Ok(minima)
}
