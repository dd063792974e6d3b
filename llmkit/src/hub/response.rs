//! The head of an HTTP response: what it says about the file, and whether it is an error.

use ureq::http::HeaderMap;

use super::exchange::{Failure, failed};
use super::registry::Pinned;
use crate::Result;

/// The head of the final response, with what Hugging Face says on the redirect before it.
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) url: String,
    pub(super) headers: HeaderMap,
    pub(super) linked_etag: Option<String>,
    pub(super) linked_size: Option<u64>,
    pub(super) commit: Option<String>,
    pub(super) message: Option<String>,
}

pub(super) fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    header(headers, "content-length")?.parse().ok()
}

/// A strong ETag: a weak one does not promise the same bytes.
pub(super) fn validator(headers: &HeaderMap) -> Option<String> {
    header(headers, "etag").filter(|etag| !etag.starts_with("W/"))
}

pub(super) fn as_sha256(etag: &str) -> Option<String> {
    let digits = etag.trim_start_matches("W/").trim_matches('"');
    (digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| digits.to_ascii_lowercase())
}

pub(super) fn check_status(head: &Head) -> std::result::Result<(), Failure> {
    let advice = match head.status {
        200 | 206 => return Ok(()),
        401 | 403 => ": access needs a token (HF_TOKEN) or the one given was refused",
        404 | 410 => ": there is no such file",
        429 => ": too many requests",
        _ => "",
    };
    let said = head
        .message
        .as_ref()
        .map(|text| format!(" ({text})"))
        .unwrap_or_default();
    let error = failed(
        &head.url,
        format!("HTTP status {}{advice}{said}", head.status),
    );
    Err(match head.status {
        408 | 429 | 500.. => Failure::Passing(error),
        _ => Failure::Final(error),
    })
}

/// A size that is already known to be wrong is not worth downloading.
pub(super) fn check_size(head: &Head, total: Option<u64>, expected: &Pinned) -> Result<()> {
    for stated in [total, head.linked_size].into_iter().flatten() {
        if expected.bytes > 0 && stated != expected.bytes {
            let reason = format!(
                "the server's file has {stated} bytes, expected {}",
                expected.bytes
            );
            return Err(failed(&head.url, reason));
        }
    }
    Ok(())
}

pub(super) fn range_start(head: &Head) -> Result<u64> {
    header(&head.headers, "content-range")
        .and_then(|range| {
            range
                .strip_prefix("bytes ")?
                .split('-')
                .next()?
                .trim()
                .parse()
                .ok()
        })
        .ok_or_else(|| failed(&head.url, "a partial answer without a Content-Range"))
}
