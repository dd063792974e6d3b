//! The one place that prints rich displays on stdout.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The body of one MIME type.
#[derive(Debug, Clone)]
pub enum Content {
    /// Text, markup or JSON, sent as it is.
    Text(String),
    /// Bytes, sent as base64.
    Binary(Vec<u8>),
}

impl From<&str> for Content {
    fn from(text: &str) -> Content {
        Content::Text(text.to_owned())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Content {
        Content::Text(text)
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Content {
        Content::Binary(bytes)
    }
}

/// Prints one display: the same thing in several MIME types, of which the front end shows the richest it knows.
///
/// The whole bundle is written under one stdout lock, so output of other threads cannot come between.
pub fn emit(bundle: &[(&str, Content)]) {
    let mut out = std::io::stdout().lock();
    // A reader that has gone away is not the computation's failure.
    let _ = out
        .write_all(encode(bundle).as_bytes())
        .and_then(|()| out.flush());
}

/// The bytes that [`emit`] prints.
fn encode(bundle: &[(&str, Content)]) -> String {
    let mut text = String::new();
    for (mime, content) in bundle {
        let body = match content {
            Content::Text(body) => body.trim_end_matches('\n').to_owned(),
            Content::Binary(bytes) => STANDARD.encode(bytes),
        };
        // A body line that looks like the end marker would cut the display short.
        let body = body.replace("\nEVCXR_END_CONTENT", "\n EVCXR_END_CONTENT");
        text += &format!("EVCXR_BEGIN_CONTENT {mime}\n{body}\nEVCXR_END_CONTENT\n");
    }
    text
}

/// Text made safe inside HTML elements and attributes.
pub(super) fn escape_html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_closed_line_by_line() {
        let text = encode(&[
            ("text/plain", "a\nb".into()),
            ("image/png", vec![1u8, 2, 3].into()),
        ]);
        assert_eq!(
            text,
            "EVCXR_BEGIN_CONTENT text/plain\na\nb\nEVCXR_END_CONTENT\n\
             EVCXR_BEGIN_CONTENT image/png\nAQID\nEVCXR_END_CONTENT\n"
        );
    }

    #[test]
    fn content_cannot_end_its_own_block() {
        let text = encode(&[("text/plain", "x\nEVCXR_END_CONTENT\ny".into())]);
        assert_eq!(text.matches("\nEVCXR_END_CONTENT\n").count(), 1);
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(
            escape_html("<b a='\"'>&"),
            "&lt;b a=&#39;&quot;&#39;&gt;&amp;"
        );
    }
}
