//! Writes safetensors files, one tensor after the other, and reads them.
//!
//! Layout: 8 bytes with the length of the header, the header as JSON filled up with blanks to a multiple of 8, the tensors' bytes.
//!
//! Source: the safetensors format (Hugging Face, 2022).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use ::safetensors::{Dtype, SafeTensors};
use serde_json::json;

use crate::hub::folder;
use crate::kernels::mapped::Mapped;
use crate::{Error, Result, atomic, interrupt};

/// A tensor to be written.
pub(super) struct Entry<'a> {
    pub name: String,
    /// As the format calls it: `F32`, `I32`.
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: usize,
    /// Makes its bytes when they are written.
    #[allow(clippy::type_complexity)]
    pub data: Box<dyn Fn() -> Result<Cow<'a, [u8]>> + 'a>,
}

impl<'a> Entry<'a> {
    /// Of bytes that are there.
    pub fn of(name: String, dtype: &'static str, shape: Vec<usize>, data: Vec<u8>) -> Entry<'a> {
        Entry {
            name,
            dtype,
            shape,
            bytes: data.len(),
            data: Box::new(move || Ok(Cow::Owned(data.clone()))),
        }
    }
}

/// Writes the file.
pub(super) fn write(path: &Path, tensors: &[Entry<'_>]) -> Result<()> {
    // transformers refuses files that do not say what they are for.
    let mut header = json!({ "__metadata__": { "format": "pt" } });
    let mut offset = 0;
    for tensor in tensors {
        header[&tensor.name] = json!({
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [offset, offset + tensor.bytes],
        });
        offset += tensor.bytes;
    }
    let mut header = header.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    atomic::file(path, |file| {
        let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io("write", path));
        put(&(header.len() as u64).to_le_bytes())?;
        put(&header)?;
        for tensor in tensors {
            interrupt::check("write a safetensors file")?;
            let data = (tensor.data)()?;
            if data.len() != tensor.bytes {
                return Err(Error::Shape {
                    operation: format!("write {}", tensor.name),
                    expected: format!("{} bytes", tensor.bytes),
                    got: data.len().to_string(),
                });
            }
            put(&data)?;
        }
        Ok(())
    })
}

/// A tensor as it is stored.
pub(super) struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

/// All tensors of a safetensors file, or of those that an index names.
pub(super) fn read(main: &Path) -> Result<BTreeMap<String, Stored>> {
    let mut found = BTreeMap::new();
    let files: Vec<PathBuf> = match folder::is_index(main) {
        false => vec![main.to_owned()],
        true => {
            let shards: BTreeSet<String> = folder::shards(main)?.into_values().collect();
            shards
                .iter()
                .map(|shard| main.with_file_name(shard))
                .collect()
        }
    };
    for file in files {
        let content = Mapped::open(&file)?;
        let parsed = SafeTensors::deserialize(&content)
            .map_err(|error| wrong(&file.display().to_string(), "a safetensors file", error))?;
        for (name, view) in parsed.tensors() {
            let stored = Stored {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                data: view.data().to_vec(),
            };
            if found.insert(name.clone(), stored).is_some() {
                return Err(wrong(&name, "each tensor once", "it twice"));
            }
        }
    }
    Ok(found)
}

/// Takes a tensor of a shape and type.
pub(super) fn take(
    stored: &mut BTreeMap<String, Stored>,
    name: &str,
    dtype: Dtype,
    shape: &[usize],
) -> Result<Vec<u8>> {
    let found = stored
        .remove(name)
        .ok_or_else(|| wrong(name, "it beside its codes", "none"))?;
    match found.dtype == dtype && found.shape == shape {
        true => Ok(found.data),
        false => {
            let got = format!("{:?} {:?}", found.dtype, found.shape);
            Err(wrong(name, &format!("{dtype:?} {shape:?}"), got))
        }
    }
}

/// An error of a tensor, or of a file.
pub(super) fn wrong(name: &str, expected: &str, got: impl ToString) -> Error {
    Error::Format {
        file: name.to_owned(),
        expected: expected.to_owned(),
        got: got.to_string(),
    }
}
