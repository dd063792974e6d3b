//! Statistics on disk: one safetensors file, written beside and renamed.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::View;
use safetensors::{Dtype, SafeTensors};

use super::Inputs;
use crate::kernels::mapped::Mapped;
use crate::{Error, Result};

/// What the file keeps of an input, in this order.
const PARTS: [&str; 3] = ["gram", "mean_abs", "max_abs"];

/// f32 values whose bytes are made when they are written.
struct Values<'a> {
    shape: [usize; 1],
    values: &'a [f32],
}

impl View for Values<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = self.values.iter().flat_map(|it| it.to_le_bytes());
        Cow::Owned(bytes.collect())
    }

    fn data_len(&self) -> usize {
        4 * self.values.len()
    }
}

/// Writes all of `inputs`, or nothing.
pub(super) fn save(path: &Path, inputs: &BTreeMap<String, Inputs>) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).map_err(Error::io("create directory", directory))?;
    let mut tensors = Vec::new();
    let mut tokens = HashMap::new();
    for (name, of) in inputs {
        let values = [of.triangle(), of.mean_abs(), of.max_abs()];
        for (part, values) in PARTS.into_iter().zip(values) {
            let shape = [values.len()];
            tensors.push((format!("{name}/{part}"), Values { shape, values }));
        }
        tokens.insert(name.clone(), of.tokens().to_string());
    }
    let file = tempfile::NamedTempFile::new_in(directory)
        .map_err(Error::io("create a file in", directory))?;
    safetensors::serialize_to_file(tensors, Some(tokens), file.path()).map_err(|error| {
        Error::Io {
            operation: "write",
            path: path.to_owned(),
            source: std::io::Error::other(error),
        }
    })?;
    file.persist(path)
        .map_err(|error| Error::io("write", path)(error.error))?;
    Ok(())
}

/// What [`save`] wrote; [`None`] if there is no such file, or it is not whole.
pub(super) fn load(path: &Path) -> Result<Option<BTreeMap<String, Inputs>>> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = Mapped::open(path)?;
    let found = read(&bytes);
    if found.is_some() {
        // The time of the last use; a cache that cannot say it forgets a little too early.
        let used = std::fs::File::options().append(true).open(path);
        let _ = used.and_then(|file| file.set_modified(std::time::SystemTime::now()));
    }
    Ok(found)
}

/// Removes all but the `most` files that were used last. What cannot be removed stays.
pub(super) fn forget(directory: &Path, most: usize) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    let is_one = |path: &Path| path.extension().is_some_and(|it| it == "safetensors");
    let mut files: Vec<_> = entries
        .flatten()
        .filter(|it| is_one(&it.path()))
        .filter_map(|it| Some((it.metadata().ok()?.modified().ok()?, it.path())))
        .collect();
    files.sort_by(|a, b| b.cmp(a));
    for (_, path) in files.into_iter().skip(most) {
        let _ = std::fs::remove_file(path);
    }
}

fn read(bytes: &[u8]) -> Option<BTreeMap<String, Inputs>> {
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    let tensors = SafeTensors::deserialize(bytes).ok()?;
    let tokens = header.metadata().as_ref()?;
    let one = |(name, tokens): (&String, &String)| {
        let part = |part: &str| -> Option<Vec<f32>> {
            let tensor = tensors.tensor(&format!("{name}/{part}")).ok()?;
            let (words, []) = tensor.data().as_chunks::<4>() else {
                return None;
            };
            (tensor.dtype() == Dtype::F32)
                .then(|| words.iter().map(|it| f32::from_le_bytes(*it)).collect())
        };
        let [gram, mean, most] = PARTS.map(part);
        let inputs = Inputs::new(name, tokens.parse().ok()?, gram?, mean?, most?).ok()?;
        Some((name.clone(), inputs))
    };
    tokens.iter().map(one).collect()
}
