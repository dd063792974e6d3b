//! Writes GGUF files: metadata byte for byte as another file has them, tensors one after the other, whole or not at all.
//!
//! Layout, version 3: `GGUF`, version, counts; pairs; for each tensor its name, dimensions (innermost first), type and offset; zeros up
//! to the alignment; each tensor's bytes, filled up with zeros to the alignment. That is what llama.cpp's `gguf_write_to_file` writes, so a
//! file of its making that is read and written again comes out byte for byte.
//!
//! Source: the GGUF specification (ggml, `docs/gguf.md`).

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use super::{Gguf, MAGIC};
use crate::{Error, Result, atomic, interrupt};

/// A tensor to be written.
pub struct Entry<'a> {
    /// Name, as llama.cpp writes it.
    pub name: String,
    /// Shape, outermost first.
    pub shape: Vec<usize>,
    /// ggml's number of its type.
    pub kind: u32,
    /// Its size in the file, in bytes.
    pub bytes: usize,
    /// Makes its bytes when they are written.
    #[allow(clippy::type_complexity)]
    pub data: Box<dyn Fn() -> Result<Cow<'a, [u8]>> + 'a>,
}

/// Metadata as bytes: pairs of a file, in its order, some of them replaced.
#[derive(Debug, Clone, Default)]
pub struct Pairs {
    pairs: Vec<(String, Vec<u8>)>,
}

impl Pairs {
    /// Those of a file.
    pub fn of(gguf: &Gguf) -> Pairs {
        let pairs = gguf.pairs.iter().map(|(key, range)| {
            // In bounds: this is where the pair was read.
            (
                key.clone(),
                gguf.content.get(range.clone()).unwrap_or_default().to_vec(),
            )
        });
        Pairs {
            pairs: pairs.collect(),
        }
    }

    /// Sets a pair to the bytes of a value of GGUF's type `kind`, in its place if the key is there already, else at the end.
    pub fn set(&mut self, key: &str, kind: u32, value: &[u8]) {
        let mut bytes = Vec::new();
        text(key, &mut bytes);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
        match self.pairs.iter_mut().find(|(it, _)| it == key) {
            Some((_, old)) => *old = bytes,
            None => self.pairs.push((key.to_owned(), bytes)),
        }
    }

    /// Sets an unsigned integer of 32 bits.
    pub fn set_u32(&mut self, key: &str, value: u32) {
        self.set(key, 4, &value.to_le_bytes());
    }

    /// Sets a text.
    pub fn set_text(&mut self, key: &str, value: &str) {
        let mut bytes = Vec::new();
        text(value, &mut bytes);
        self.set(key, 8, &bytes);
    }
}

fn text(text: &str, to: &mut Vec<u8>) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.as_bytes());
}

/// Writes a file of `pairs` and `tensors`, these in order, on multiples of `alignment` bytes.
///
/// # Errors
/// [`Error::Io`] if the disk is full, say, [`Error::Interrupted`] between tensors, what a tensor's data say, [`Error::Shape`] if they are
/// not as long as promised. Nothing is left behind then, and an older file of that name stays.
pub fn write(path: &Path, pairs: &Pairs, alignment: usize, tensors: &[Entry<'_>]) -> Result<()> {
    const VERSION: u32 = 3;
    let alignment = alignment.max(1);
    let mut head = MAGIC.to_vec();
    head.extend(VERSION.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((pairs.pairs.len() as u64).to_le_bytes());
    pairs.pairs.iter().for_each(|(_, bytes)| head.extend(bytes));
    let mut offset = 0;
    for tensor in tensors {
        text(&tensor.name, &mut head);
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        let dimensions = tensor.shape.iter().rev();
        dimensions.for_each(|&size| head.extend((size as u64).to_le_bytes()));
        head.extend(tensor.kind.to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes.next_multiple_of(alignment);
    }
    head.resize(head.len().next_multiple_of(alignment), 0);
    atomic::file(path, |file| {
        let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io("write", path));
        put(&head)?;
        for tensor in tensors {
            interrupt::check("write a GGUF file")?;
            let data = (tensor.data)()?;
            if data.len() != tensor.bytes {
                return Err(Error::Shape {
                    operation: format!("write {}", tensor.name),
                    expected: format!("{} bytes", tensor.bytes),
                    got: format!("{}", data.len()),
                });
            }
            put(&data)?;
            put(&vec![
                0;
                data.len().next_multiple_of(alignment) - data.len()
            ])?;
        }
        Ok(())
    })
}
