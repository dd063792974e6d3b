//! What can be said before a model is quantized, and what is done with what was there.

use std::path::Path;

use super::folder::Packing;
use super::packed::Integers;
use super::{Layout, Matrices, Written, compressed, export, gguf, gptq};
use crate::model::Model;
use crate::quant::method::{Method, Rtn};
use crate::quant::{Matrix, Recipe};
use crate::{Error, Result};

/// Refuses a recipe whose result `layout` cannot hold, before any of the work is done: a format without a type there, a method that stores
/// more than codes and grids, a network that rotates activations on its way, a correction of low rank in a layout of codes.
///
/// # Errors
/// [`Error::Argument`] with the reason.
pub fn check_recipe(model: &Model, recipe: &Recipe, layout: Layout) -> Result<()> {
    if let Some(transform) = recipe.transforms.iter().find(|it| !it.is_in_weights()) {
        let expected = "one that is all in the weights (rotate-offline): no file can say what is done on the way";
        return Err(Error::argument("transform", expected, transform.name()));
    }
    if let Some(correction) = recipe.correction
        && !matches!(layout, Layout::Plain(_))
    {
        let expected = "none, or a plain folder (safetensors), which holds the sum: no other layout has a place for it";
        return Err(Error::argument("correction", expected, correction));
    }
    if matches!(layout, Layout::Gguf(_)) && model.gguf().is_none() {
        let name = format!("export of {}", model.provenance.name);
        let expected = "a model from a GGUF file, whose metadata and tokenizer are kept";
        return Err(Error::argument(name, expected, "one from a folder"));
    }
    let packing: Option<&dyn Packing> = match layout {
        Layout::Plain(_) | Layout::Gguf(_) => None,
        Layout::Gptq(_) => Some(&gptq::Gptq),
        Layout::Awq(_) => Some(&gptq::Awq),
        Layout::CompressedTensors(_) => Some(&compressed::CompressedTensors),
    };
    let mut seen = Vec::new();
    let mut first = None;
    let network = model.network();
    for name in network
        .matrix_names()
        .iter()
        .filter(|it| it.starts_with("blk."))
    {
        let scheme = recipe.scheme_of(name);
        if !scheme.method.is_plain() && !matches!(layout, Layout::Plain(_)) {
            let expected = "one whose codes and grids say all there is, or a plain folder (safetensors), which holds the weights as they are meant";
            let what = format!("method of {name}");
            return Err(Error::argument(what, expected, scheme.method.name()));
        }
        let format = scheme.format;
        let columns = network.linear(name)?.shape().1;
        let case = (format.name(), columns);
        if seen.contains(&case) {
            continue;
        }
        seen.push(case);
        // A row that any format can store shows what its codes are.
        let row: Vec<f32> = (0..columns).map(|k| (k as f32).sin()).collect();
        let quantized = Rtn.quantize(&Matrix::new(1, columns, row)?, format.as_ref());
        let quantized = quantized.map_err(|error| error.in_layer(name))?;
        match (layout, packing) {
            (Layout::Gguf(_), _) => drop(gguf::of_quantized(name, &quantized)?),
            (_, Some(packing)) => {
                let scheme = Integers::of(name, &quantized, packing.widths())?.scheme();
                let common = *first.get_or_insert(scheme);
                if common != scheme {
                    let what = format!("format of {name} in {}'s layout", packing.name());
                    let expected = format!("one for all matrices, {common:?}");
                    return Err(Error::argument(what, expected, format!("{scheme:?}")));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// [`export`], over a file or a folder of that name if there is one: it stays until the new one is whole. A folder is replaced only if it holds a
/// model (`config.json`) or nothing.
///
/// # Errors
/// As [`export`]; [`Error::Argument`] for a folder that is something else.
pub fn replace(
    model: &Model,
    quantized: &Matrices,
    path: &Path,
    layout: Layout,
) -> Result<Written> {
    if !path.is_dir() || matches!(layout, Layout::Gguf(_)) {
        return export(model, quantized, path, layout);
    }
    let mut entries = std::fs::read_dir(path).map_err(Error::io("read", path))?;
    if !path.join("config.json").is_file() && entries.next().is_some() {
        let name = format!("folder {}", path.display());
        return Err(Error::argument(
            name,
            "a model (with config.json) or nothing in it",
            "other files",
        ));
    }
    let parent = path.canonicalize().map_err(Error::io("read", path))?;
    let parent = parent.parent().unwrap_or(Path::new("/")).to_owned();
    let aside = tempfile::Builder::new()
        .prefix(".replaced-")
        .tempdir_in(&parent)
        .map_err(Error::io("create a folder in", &parent))?;
    let (new, old) = (aside.path().join("new"), aside.path().join("old"));
    let mut written = export(model, quantized, &new, layout)?;
    std::fs::rename(path, &old).map_err(Error::io("move", path))?;
    if let Err(error) = std::fs::rename(&new, path) {
        // Back to what was there.
        std::fs::rename(&old, path).map_err(Error::io("move back to", path))?;
        return Err(Error::io("write", path)(error));
    }
    written.path = path.to_owned();
    Ok(written)
}
