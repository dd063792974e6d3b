//! What the proxy tells the kernel, and its form on the wire.

use std::io::Read;

/// What the kernel learns from the cell process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Text printed on stdout.
    Stdout(String),
    /// Text printed on stderr.
    Stderr(String),
    /// One MIME block.
    Block(String, String),
    /// A cell's code panicked and the panic was caught around the cell.
    Panicked,
    /// A `?` at the top level of a cell returned early.
    ReturnedError,
    /// The cell's code has run and all its output has been sent.
    Complete,
    /// The cell process ended.
    Exited(String),
    /// Answer to [`PING`](crate::child::PING): everything the cell process had printed has been sent.
    Pong,
}

impl Frame {
    /// Its bytes: kind, length of the payload (8, little endian), payload.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, payload) = match self {
            Frame::Stdout(text) => (b'o', text.clone()),
            Frame::Stderr(text) => (b'e', text.clone()),
            Frame::Block(mime, content) => (b'd', format!("{mime}\n{content}")),
            Frame::Panicked => (b'p', String::new()),
            Frame::ReturnedError => (b'q', String::new()),
            Frame::Complete => (b'c', String::new()),
            Frame::Exited(how) => (b'x', how.clone()),
            Frame::Pong => (b'g', String::new()),
        };
        let mut bytes = vec![kind];
        bytes.extend((payload.len() as u64).to_le_bytes());
        bytes.extend(payload.as_bytes());
        bytes
    }

    /// Reads the next frame; `None` at the end of the stream.
    pub fn read(from: &mut impl Read) -> Option<Frame> {
        let mut head = [0; 9];
        from.read_exact(&mut head).ok()?;
        let length = u64::from_le_bytes(head[1..].try_into().ok()?);
        let mut payload = Vec::new();
        // Grows with what really arrives, not with what the header claims.
        from.take(length).read_to_end(&mut payload).ok()?;
        let text = String::from_utf8_lossy(&payload).into_owned();
        Some(match head[0] {
            b'o' => Frame::Stdout(text),
            b'e' => Frame::Stderr(text),
            b'd' => {
                let (mime, content) = text.split_once('\n')?;
                Frame::Block(mime.to_owned(), content.to_owned())
            }
            b'p' => Frame::Panicked,
            b'q' => Frame::ReturnedError,
            b'c' => Frame::Complete,
            b'x' => Frame::Exited(text),
            b'g' => Frame::Pong,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire() {
        let frames = [
            Frame::Stdout("a\nb".into()),
            Frame::Block("text/plain".into(), "x\ny".into()),
            Frame::Exited("exit code 3".into()),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let mut bytes = bytes.as_slice();
        for frame in frames {
            assert_eq!(Frame::read(&mut bytes), Some(frame));
        }
        assert_eq!(Frame::read(&mut bytes), None);
    }
}
