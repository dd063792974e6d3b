//! GGUF, the model file of llama.cpp: metadata, a directory of tensors, their blocks. Versions 2 and 3, little-endian.
//!
//! Files are not trusted: every count, length and offset is checked against the bytes that are there before anything
//! is allocated or read, so a hostile file costs at most a small multiple of its own size. Tensors are not read but mapped
//! (see [`mapped`](crate::kernels::mapped) for what that asks of the file).
//!
//! Source: the GGUF specification (ggml, `docs/gguf.md`). We differ in that arrays of arrays and integers beyond
//! `i64` are refused (no known file has them), and that element types whose blocks we cannot decode are refused when
//! the file is opened, not when the tensor is asked for.

mod reader;
pub mod write;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::blocks::BlockType;
use crate::kernels::mapped::Mapped;
use crate::{Error, Result};
use reader::{Reader, format};

/// A metadata value. Integers of all widths are `i64`, floats are `f64`.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any integer type.
    Integer(i64),
    /// f32 or f64.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// UTF-8 text.
    Text(String),
    /// An array of integers or of truth values.
    Integers(Vec<i64>),
    /// An array of floats.
    Floats(Vec<f64>),
    /// An array of texts.
    Texts(Vec<String>),
}

/// Where a tensor lies and how it is stored.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Name, as llama.cpp writes it: `blk.3.ffn_up.weight`.
    pub name: String,
    /// Shape, outermost first (the file has it innermost first): a matrix is (N outputs, K inputs).
    pub shape: Vec<usize>,
    /// How the elements are stored.
    pub block: BlockType,
    /// First byte in the file.
    offset: usize,
    /// Size in the file, in bytes.
    pub bytes: usize,
}

/// An opened file. Cloning shares the bytes of its tensors.
#[derive(Debug, Clone)]
pub struct Gguf {
    file: String,
    /// Version of the format.
    pub version: u32,
    /// Metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// Tensors, in file order.
    pub tensors: Vec<TensorInfo>,
    /// Where each pair of the metadata lies, in file order.
    pairs: Vec<(String, Range<usize>)>,
    /// What offsets of tensors are multiples of, in bytes.
    alignment: usize,
    /// Place of each tensor in `tensors`.
    places: HashMap<String, usize>,
    content: Arc<Mapped>,
}

const MAGIC: &[u8; 4] = b"GGUF";

impl Gguf {
    /// Maps a file and reads what precedes its tensors.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is not a GGUF file we understand.
    pub fn open(path: &std::path::Path) -> Result<Gguf> {
        Gguf::of(path.display().to_string(), Mapped::open(path)?)
    }

    /// Understands the bytes of a file; `file` is its name in messages.
    ///
    /// # Errors
    /// [`Error::Format`] with what was expected and what came.
    pub fn parse(file: impl Into<String>, content: Vec<u8>) -> Result<Gguf> {
        Gguf::of(file.into(), Mapped::Memory(content))
    }

    fn of(file: String, content: Mapped) -> Result<Gguf> {
        let mut reader = Reader::new(&file, &content);
        if reader.take(4)? != MAGIC {
            return Err(reader.wrong("the magic bytes GGUF", "other bytes"));
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            return Err(reader.wrong("GGUF version 2 or 3, little-endian", version));
        }
        // Smallest tensor entry: name length, dimension count, one dimension, type, offset. Smallest pair: key length, type, one byte.
        let tensor_count = reader.count("tensors", 32)?;
        let pair_count = reader.count("metadata pairs", 13)?;
        let mut metadata = BTreeMap::new();
        let mut pairs = Vec::new();
        for _ in 0..pair_count {
            let start = reader.at();
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = reader.value(kind, &key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(reader.wrong("each metadata key once", format!("{key} twice")));
            }
            pairs.push((key, start..reader.at()));
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(&Value::Integer(bytes))
                if bytes > 0 && bytes < 1 << 20 && (bytes as u64).is_power_of_two() =>
            {
                bytes as usize
            }
            Some(other) => {
                return Err(reader.wrong(
                    "general.alignment to be a small power of two",
                    format!("{other:?}"),
                ));
            }
        };
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(reader.tensor()?);
        }
        let data = reader.at().next_multiple_of(alignment);
        let mut places = HashMap::new();
        for (place, tensor) in tensors.iter_mut().enumerate() {
            let wrong = |expected: &str, got: String| format(&file, &tensor.name, expected, got);
            if tensor.offset % alignment != 0 {
                return Err(wrong("an aligned offset", tensor.offset.to_string()));
            }
            let end = data
                .checked_add(tensor.offset)
                .and_then(|start| start.checked_add(tensor.bytes));
            if end.is_none_or(|end| end > content.len()) {
                let got = format!(
                    "{} bytes at {} of {}",
                    tensor.bytes,
                    tensor.offset,
                    content.len()
                );
                return Err(wrong("its bytes inside the file", got));
            }
            if places.insert(tensor.name.clone(), place).is_some() {
                return Err(wrong("each tensor once", "it twice".to_owned()));
            }
            tensor.offset += data;
        }
        let mut order: Vec<&TensorInfo> = tensors.iter().collect();
        order.sort_by_key(|tensor| tensor.offset);
        for pair in order.windows(2) {
            if pair[0].offset + pair[0].bytes > pair[1].offset {
                let got = format!("{} overlaps it", pair[1].name);
                return Err(format(&file, &pair[0].name, "tensors side by side", got));
            }
        }
        Ok(Gguf {
            file,
            version,
            metadata,
            tensors,
            pairs,
            alignment,
            places,
            content: Arc::new(content),
        })
    }

    /// The file's name.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// What offsets of tensors are multiples of, in bytes.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(*self.places.get(name)?)
    }

    /// The stored bytes of a tensor.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        // In bounds: checked when the file was opened; an info of another file gives nothing.
        self.content
            .get(tensor.offset..tensor.offset + tensor.bytes)
            .unwrap_or_default()
    }

    /// Gives the memory of a tensor's data back, until it is read again; see [`Mapped::release`].
    pub(super) fn release(&self, data: &[u8]) {
        self.content.release(data);
    }

    /// The elements of a tensor as f32, row-major.
    pub fn dequantize(&self, tensor: &TensorInfo) -> Vec<f32> {
        tensor.block.dequantize(self.data(tensor))
    }

    /// The integer under `key`.
    ///
    /// # Errors
    /// [`Error::Format`] if there is none, it is no integer, or it does not fit a `usize`.
    pub fn integer(&self, key: &str) -> Result<usize> {
        match self.metadata.get(key) {
            Some(&Value::Integer(value)) => {
                usize::try_from(value).map_err(|_| self.wrong(key, "a count", value))
            }
            other => Err(self.wrong(key, "an integer", shown(other))),
        }
    }

    /// The float under `key`.
    ///
    /// # Errors
    /// [`Error::Format`] if there is none or it is no float.
    pub fn float(&self, key: &str) -> Result<f64> {
        match self.metadata.get(key) {
            Some(&Value::Float(value)) => Ok(value),
            other => Err(self.wrong(key, "a float", shown(other))),
        }
    }

    /// The text under `key`.
    ///
    /// # Errors
    /// [`Error::Format`] if there is none or it is no text.
    pub fn text(&self, key: &str) -> Result<&str> {
        match self.metadata.get(key) {
            Some(Value::Text(value)) => Ok(value),
            other => Err(self.wrong(key, "a text", shown(other))),
        }
    }

    /// The texts under `key`.
    ///
    /// # Errors
    /// [`Error::Format`] if there are none or they are no texts.
    pub fn texts(&self, key: &str) -> Result<&[String]> {
        match self.metadata.get(key) {
            Some(Value::Texts(values)) => Ok(values),
            other => Err(self.wrong(key, "an array of texts", shown(other))),
        }
    }

    pub(super) fn wrong(&self, field: &str, expected: &str, got: impl ToString) -> Error {
        format(&self.file, field, expected, got)
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(Value::Integers(_) | Value::Floats(_) | Value::Texts(_)) => "another array".to_owned(),
        Some(value) => format!("{value:?}"),
    }
}
