//! The fields of a GGUF file, read one after the other; nothing is allocated for what the file does not hold.

use super::{TensorInfo, Value};
use crate::model::blocks::BlockType;
use crate::{Error, Result};

pub(super) fn format(file: &str, field: &str, expected: &str, got: impl ToString) -> Error {
    Error::Format {
        file: format!("{file}: {field}"),
        expected: expected.to_owned(),
        got: got.to_string(),
    }
}

/// A position in the file that never leaves it.
pub(super) struct Reader<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a str, bytes: &'a [u8]) -> Reader<'a> {
        Reader { file, bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn wrong(&self, expected: &str, got: impl ToString) -> Error {
        format(self.file, &format!("byte {}", self.at), expected, got)
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
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

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of things of which each takes at least `least` bytes of what is left.
    pub(super) fn count(&mut self, what: &str, least: usize) -> Result<usize> {
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

    pub(super) fn text(&mut self) -> Result<String> {
        let count = self.count("bytes of text", 1)?;
        let bytes = self.take(count)?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|error| self.wrong("UTF-8 text", error))
    }

    pub(super) fn value(&mut self, kind: u32, key: &str) -> Result<Value> {
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

    pub(super) fn tensor(&mut self) -> Result<TensorInfo> {
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
            let names = BlockType::ALL.map(BlockType::name);
            format(
                self.file,
                &name,
                &format!("an element type among {}", names.join(", ")),
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
