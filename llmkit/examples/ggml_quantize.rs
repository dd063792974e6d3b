//! Weights to a block type of ggml: `cargo run -p llmkit --example ggml_quantize -- Q4_K < weights.f32 > blocks`.
//!
//! Standard input is little-endian f32, whole blocks of the type; standard output the blocks. With `--decode` the other
//! way round. `lab/check_ggml.py` compares it with llama.cpp.

use std::io::{Read, Write};

use llmkit::Error;
use llmkit::numeric::ggml::GgmlType;

fn main() -> llmkit::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_decode = arguments.iter().any(|argument| argument == "--decode");
    let name = arguments
        .iter()
        .find(|argument| !argument.starts_with("--"));
    let of = GgmlType::ALL
        .into_iter()
        .find(|of| Some(of.name()) == name.cloned());
    let of = of.ok_or_else(|| {
        let names = GgmlType::ALL.map(GgmlType::name).join(", ");
        Error::argument("type", names, name.map_or("nothing", |name| name))
    })?;
    let mut input = Vec::new();
    std::io::stdin()
        .read_to_end(&mut input)
        .map_err(Error::io("read", "standard input"))?;
    let unit = if is_decode {
        of.bytes()
    } else {
        4 * of.elements()
    };
    if !input.len().is_multiple_of(unit) {
        let expected = format!("a multiple of {unit} bytes");
        return Err(Error::argument("standard input", expected, input.len()));
    }
    let output: Vec<u8> = if is_decode {
        let weights = of.decode(&input);
        weights
            .iter()
            .flat_map(|weight| weight.to_le_bytes())
            .collect()
    } else {
        let weights = input.chunks_exact(4);
        let weights: Vec<f32> = weights
            .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        of.encode(&weights)
    };
    std::io::stdout()
        .write_all(&output)
        .map_err(Error::io("write", "standard output"))
}
