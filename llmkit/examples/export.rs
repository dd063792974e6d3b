//! A model as a file or folder that others read: `cargo run -p llmkit --example export -- MODEL OUT --layout gguf --matrices Q4_K`.
//!
//! For checks against other programs (`lab/check_export.py`): matrices are rounded to nearest where the layout holds codes, and
//! `--rotate` rotates the network first.

use std::path::PathBuf;

use clap::Parser;
use llmkit::model::Model;
use llmkit::model::blocks::BlockType;
use llmkit::quant::export::{Layout, Matrices, Types, export, import};
use llmkit::quant::format::{IntAffine, IntSymmetric};
use llmkit::quant::method::Rtn;
use llmkit::quant::transform::{Rotate, Transform};
use llmkit::quant::{Format, Granularity, Matrix, Method, Statistics};
use llmkit::{Error, Result};

/// Seven tokens: "The capital of France is" under SmolLM2's tokenizer, and two more.
const TOKENS: [u32; 7] = [504, 3575, 282, 4649, 314, 7042, 28];

/// Writes a model for other programs.
#[derive(Parser)]
struct Options {
    /// Name of a model, or path of a GGUF file or a Hugging Face folder
    model: String,
    /// What is written: a file for gguf, else a folder
    out: PathBuf,
    /// gguf, plain, gptq, awq or compressed-tensors
    #[arg(long, default_value = "gguf")]
    layout: String,
    /// ggml's type of the layers' matrices in a GGUF file; as in the source if not given
    #[arg(long, value_parser = block)]
    matrices: Option<BlockType>,
    /// … of embedding and head
    #[arg(long, value_parser = block)]
    embedding: Option<BlockType>,
    /// Type of what is not quantized in a folder
    #[arg(long, value_parser = block, default_value = "F32")]
    rest: BlockType,
    /// Bits of codes in a folder
    #[arg(long, default_value_t = 4)]
    bits: u32,
    /// Weights in a group
    #[arg(long, default_value_t = 64)]
    group: usize,
    /// Symmetric codes instead of affine ones
    #[arg(long)]
    symmetric: bool,
    /// Read the folder back and write the logits (T, V) of seven tokens, f32, to this file
    #[arg(long, value_name = "FILE")]
    logits: Option<PathBuf>,
    /// Rotate the network first (without what has to be done online)
    #[arg(long)]
    rotate: bool,
}

fn block(name: &str) -> Result<BlockType> {
    let found = BlockType::ALL
        .into_iter()
        .find(|it| it.name().eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        Error::argument("type", BlockType::ALL.map(BlockType::name).join(", "), name)
    })
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut model = Model::load(&options.model)?;
    println!("{}", model.provenance);
    if options.rotate {
        let (network, report) = Rotate::offline(0).run(model.network(), &Statistics::default())?;
        println!("{report}");
        model = model.with_network(network)?;
    }
    let layout = match options.layout.as_str() {
        "gguf" => Layout::Gguf(Types {
            matrices: options.matrices,
            embedding: options.embedding,
        }),
        "plain" => Layout::Plain(options.rest),
        "gptq" => Layout::Gptq(options.rest),
        "awq" => Layout::Awq(options.rest),
        "compressed-tensors" => Layout::CompressedTensors(options.rest),
        other => {
            return Err(Error::argument(
                "layout",
                "gguf, plain, gptq, awq or compressed-tensors",
                other,
            ));
        }
    };
    let mut quantized = Matrices::new();
    if matches!(
        options.layout.as_str(),
        "gptq" | "awq" | "compressed-tensors"
    ) {
        let granularity = Granularity::Group(options.group);
        let format: Box<dyn Format> = match options.symmetric {
            true => Box::new(IntSymmetric::new(options.bits, granularity)?),
            false => Box::new(IntAffine::new(options.bits, granularity)?),
        };
        for name in model.network().matrix_names() {
            if name.starts_with("blk.") {
                let layer = model.network().linear(&name)?;
                let (rows, columns) = layer.shape();
                let mut values = vec![0.0; rows * columns];
                values
                    .chunks_exact_mut(columns)
                    .enumerate()
                    .for_each(|(n, row)| layer.row(n, row));
                let weights = Matrix::new(rows, columns, values)?;
                quantized.insert(name, Rtn.quantize(&weights, format.as_ref())?);
            }
        }
    }
    println!("{}", export(&model, &quantized, &options.out, layout)?);
    if let Some(path) = &options.logits {
        let back = match quantized.is_empty() {
            true => Model::load(&options.out.display().to_string())?,
            false => import(&options.out)?.model,
        };
        let logits = back.logits(&TOKENS)?.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = logits.iter().flat_map(|it| it.to_le_bytes()).collect();
        std::fs::write(path, bytes).map_err(Error::io("write", path))?;
    }
    Ok(())
}
