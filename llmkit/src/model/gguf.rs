//! GGUF, the model file of llama.cpp: metadata, a directory of tensors, their blocks. Versions 2 and 3, little-endian.
//!
//! Files are not trusted: every count, length and offset is checked against the bytes that are there before anything
//! is allocated or read, so a hostile file costs at most a small multiple of its own size.
//!
//! Source: the GGUF specification (ggml, `docs/gguf.md`). We differ in that arrays of arrays and integers beyond
//! `i64` are refused (no known file has them), and that element types whose blocks we cannot decode are refused when
//! the file is opened, not when the tensor is asked for.

use std::collections::{BTreeMap, HashSet};

use super::blocks::BlockType;
use crate::{Error, Result};

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

/// An opened file.
#[derive(Debug, Clone)]
pub struct Gguf {
    file: String,
    /// Version of the format.
    pub version: u32,
    /// Metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// Tensors, in file order.
    pub tensors: Vec<TensorInfo>,
    content: Vec<u8>,
}

const MAGIC: &[u8; 4] = b"GGUF";

impl Gguf {
    /// Reads a file whole.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is not a GGUF file we understand.
    pub fn open(path: &std::path::Path) -> Result<Gguf> {
        let content = std::fs::read(path).map_err(Error::io("read", path))?;
        Gguf::parse(path.display().to_string(), content)
    }

    /// Understands the bytes of a file; `file` is its name in messages.
    ///
    /// # Errors
    /// [`Error::Format`] with what was expected and what came.
    pub fn parse(file: impl Into<String>, content: Vec<u8>) -> Result<Gguf> {
        let file = file.into();
        let mut reader = Reader {
            file: &file,
            bytes: &content,
            at: 0,
        };
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
        for _ in 0..pair_count {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = reader.value(kind, &key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(reader.wrong("each metadata key once", format!("{key} twice")));
            }
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
        let data = reader.at.next_multiple_of(alignment);
        let mut names = HashSet::new();
        for tensor in &mut tensors {
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
            if !names.insert(tensor.name.clone()) {
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
            content,
        })
    }

    /// The file's name.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|it| it.name == name)
    }

    /// The stored bytes of a tensor.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        // In bounds: checked when the file was opened; an info of another file gives nothing.
        self.content
            .get(tensor.offset..tensor.offset + tensor.bytes)
            .unwrap_or_default()
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

fn format(file: &str, field: &str, expected: &str, got: impl ToString) -> Error {
    Error::Format {
        file: format!("{file}: {field}"),
        expected: expected.to_owned(),
        got: got.to_string(),
    }
}

/// A position in the file that never leaves it.
struct Reader<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self, expected: &str, got: impl ToString) -> Error {
        format(self.file, &format!("byte {}", self.at), expected, got)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..count).ok_or_else(|| {
            self.wrong(
                &format!("{count} more bytes"),
                format!("the end of the file after {}", rest.len()),
            )
        })?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of things of which each takes at least `least` bytes of what is left.
    fn count(&mut self, what: &str, least: usize) -> Result<usize> {
        let count = self.u64()?;
        let most = (self.bytes.len() - self.at) / least;
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => Err(self.wrong(
                &format!("at most {most} {what} in what is left of the file"),
                count,
            )),
        }
    }

    fn text(&mut self) -> Result<String> {
        let count = self.count("bytes of text", 1)?;
        let bytes = self.take(count)?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|error| self.wrong("UTF-8 text", error))
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value> {
        Ok(match kind {
            0..=5 | 10 | 11 => Value::Integer(self.integer(kind)?),
            6 | 12 => Value::Float(self.float(kind)?),
            7 => Value::Bool(self.integer(kind)? != 0),
            8 => Value::Text(self.text()?),
            9 => {
                let kind = self.u32()?;
                let least = match kind {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    8 | 10..=12 => 8,
                    _ => {
                        return Err(self.wrong(
                            &format!("an array of numbers or texts under {key}"),
                            format!("type {kind}"),
                        ));
                    }
                };
                let count = self.count("array elements", least)?;
                match kind {
                    6 | 12 => Value::Floats(
                        (0..count)
                            .map(|_| self.float(kind))
                            .collect::<Result<_>>()?,
                    ),
                    8 => Value::Texts((0..count).map(|_| self.text()).collect::<Result<_>>()?),
                    _ => Value::Integers(
                        (0..count)
                            .map(|_| self.integer(kind))
                            .collect::<Result<_>>()?,
                    ),
                }
            }
            _ => return Err(self.wrong(&format!("a known value type under {key}"), kind)),
        })
    }

    fn integer(&mut self, kind: u32) -> Result<i64> {
        Ok(match kind {
            0 | 7 => i64::from(self.array::<1>()?[0]),
            1 => i64::from(i8::from_le_bytes(self.array()?)),
            2 => i64::from(u16::from_le_bytes(self.array()?)),
            3 => i64::from(i16::from_le_bytes(self.array()?)),
            4 => i64::from(self.u32()?),
            5 => i64::from(i32::from_le_bytes(self.array()?)),
            10 => {
                let value = self.u64()?;
                i64::try_from(value).map_err(|_| self.wrong("an integer below 2^63", value))?
            }
            _ => i64::from_le_bytes(self.array()?),
        })
    }

    fn float(&mut self, kind: u32) -> Result<f64> {
        Ok(if kind == 6 {
            f64::from(f32::from_le_bytes(self.array()?))
        } else {
            f64::from_le_bytes(self.array()?)
        })
    }

    fn tensor(&mut self) -> Result<TensorInfo> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        if !(1..=4).contains(&dimensions) {
            return Err(format(self.file, &name, "1 to 4 dimensions", dimensions));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(self.u64()?);
        }
        let kind = self.u32()?;
        let offset = self.u64()?;
        let block = BlockType::from_ggml(kind).ok_or_else(|| {
            format(
                self.file,
                &name,
                "element type F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0",
                BlockType::ggml_name(kind),
            )
        })?;
        let too_large = || {
            format(
                self.file,
                &name,
                "a size that fits the file",
                format!("{shape:?}"),
            )
        };
        let elements = shape
            .iter()
            .try_fold(1usize, |product, &size| {
                product.checked_mul(usize::try_from(size).ok()?)
            })
            .filter(|&elements| elements > 0)
            .ok_or_else(too_large)?;
        let (per_block, block_bytes) = (block.elements(), block.bytes());
        if shape[0] % per_block as u64 != 0 {
            let expected = format!("rows of whole blocks of {per_block}");
            return Err(format(
                self.file,
                &name,
                &expected,
                format!("rows of {}", shape[0]),
            ));
        }
        let bytes = (elements / per_block)
            .checked_mul(block_bytes)
            .ok_or_else(too_large)?;
        if bytes > self.bytes.len() {
            return Err(too_large());
        }
        let offset = usize::try_from(offset).map_err(|_| too_large())?;
        Ok(TensorInfo {
            name,
            shape: shape.iter().rev().map(|&size| size as usize).collect(),
            block,
            offset,
            bytes,
        })
    }
}
