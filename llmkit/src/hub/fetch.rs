//! Resumable HTTP downloads.
//!
//! A download writes `FILE.part` and beside it `FILE.part.json`, the address and the validator (ETag) of what the part
//! is a part of. The next attempt — after a cut connection, or by another process after this one was killed — asks for
//! the rest with `Range` and `If-Range`, and starts anew when the server no longer has the same bytes (some mirrors give
//! no ETag: there the pinned checksum decides afterwards). The whole is hashed before anyone sees it under its final name.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::exchange::{self, Event, Failure, MAX_BYTES, Request, exchange, failed};
use super::partial::{Partial, discard, remove, sidecar_path};
use super::registry::Pinned;
use super::response::{
    as_sha256, check_size, check_status, header, length, range_start, validator,
};
use crate::progress::Progress;
use crate::{Error, Result, interrupt};

/// An HTTP client with its patience.
#[derive(Debug, Clone)]
pub(super) struct Client {
    agent: ureq::Agent,
    /// Failures in a row (without a megabyte of progress between them) after which a download gives up.
    attempts: u32,
    /// Pause before the second attempt; doubled before each further one.
    pause: Duration,
}

/// What a finished download was.
#[derive(Debug)]
pub(super) struct Received {
    pub sha256: String,
    /// The commit the server resolved a branch to.
    pub commit: Option<String>,
}

impl Client {
    /// A client with the proxies (`ALL_PROXY`, `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`) and the certificate bundle
    /// (`SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE`, `PIP_CERT`, `CURL_CA_BUNDLE`; else Mozilla's) of the environment.
    pub(super) fn from_env() -> Client {
        let mut config = exchange::config(Duration::from_secs(10), Duration::from_secs(30));
        if let Some(certificates) = exchange::certificates_from_env() {
            config = config.tls_config(
                ureq::tls::TlsConfig::builder()
                    .root_certs(ureq::tls::RootCerts::new_with_certs(&certificates))
                    .build(),
            );
        }
        Client {
            agent: config.build().new_agent(),
            attempts: 4,
            pause: Duration::from_millis(500),
        }
    }

    /// A client for tests: no proxy, little patience.
    #[cfg(test)]
    pub(super) fn impatient() -> Client {
        let config = exchange::config(Duration::from_secs(2), Duration::from_millis(300));
        Client {
            agent: config.proxy(None).build().new_agent(),
            attempts: 3,
            pause: Duration::from_millis(1),
        }
    }

    /// A small text (an index page): its final URL, content type and body.
    pub(super) fn text(
        &self,
        request: &Request,
        max_bytes: usize,
    ) -> Result<(String, String, String)> {
        self.persistently(|| {
            let mut body = Vec::new();
            let mut head = None;
            exchange(&self.agent, request, |event| {
                match event {
                    Event::Head(it) => {
                        check_status(&it)?;
                        head = Some(it);
                    }
                    Event::Chunk(bytes) if body.len() + bytes.len() > max_bytes => {
                        let reason = format!("the page is larger than {max_bytes} bytes");
                        return Err(failed(&request.url, reason).into());
                    }
                    Event::Chunk(bytes) => body.extend(bytes),
                    Event::End => {}
                }
                Ok(())
            })?;
            let head = head.ok_or_else(|| failed(&request.url, "no answer"))?;
            let kind = header(&head.headers, "content-type").unwrap_or_default();
            let text = String::from_utf8(std::mem::take(&mut body))
                .map_err(|_| failed(&request.url, "the page is not UTF-8"))?;
            Ok((head.url.clone(), kind, text))
        })
        .map(|(result, _)| result)
    }

    /// Downloads a file to `part`, resuming what is there, and verifies it. On success `part` holds the whole file;
    /// on a failure that time may mend it holds what has come; otherwise it is gone.
    ///
    /// # Errors
    /// [`Error::Network`], [`Error::Checksum`], [`Error::Io`], [`Error::Interrupted`].
    pub(super) fn download(
        &self,
        request: &Request,
        part: &Path,
        expected: &Pinned,
        label: &str,
    ) -> Result<Received> {
        let mut progress = Progress::new(label, expected.bytes, "B");
        let outcome = self
            .persistently(|| self.attempt(request, part, expected, &mut progress))
            .map(|(received, _)| received);
        match &outcome {
            Ok(_) => remove(&sidecar_path(part)),
            Err(Error::Network { .. } | Error::Interrupted(_) | Error::Io { .. })
                if fs::metadata(part).is_ok_and(|meta| meta.len() > 0) => {}
            Err(_) => discard(part),
        }
        outcome
    }

    /// Runs `attempt` until it succeeds, fails for good, or has failed too often in a row.
    fn persistently<T>(
        &self,
        mut attempt: impl FnMut() -> std::result::Result<T, Failure>,
    ) -> Result<(T, u32)> {
        let mut failures = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok((value, failures)),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error)) => {
                    failures += 1;
                    if failures >= self.attempts {
                        return Err(error);
                    }
                }
            }
            let mut left = self.pause * 2u32.saturating_pow(failures - 1);
            while !left.is_zero() {
                interrupt::check("download")?;
                let nap = left.min(Duration::from_millis(100));
                std::thread::sleep(nap);
                left -= nap;
            }
        }
    }

    fn attempt(
        &self,
        request: &Request,
        part: &Path,
        expected: &Pinned,
        progress: &mut Progress,
    ) -> std::result::Result<Received, Failure> {
        let mut partial = Partial::open(part, &request.url)?;
        let request = Request {
            // Without an ETag only a pinned checksum can tell whether the two halves belong together.
            resume: (partial.bytes > 0
                && (partial.validator.is_some() || expected.sha256.is_some()))
            .then(|| (partial.bytes, partial.validator.clone())),
            ..request.clone()
        };
        let mut stated = expected.sha256.clone();
        if stated.is_some() && expected.bytes > 0 && partial.bytes == expected.bytes {
            // Killed between the last byte and the rename.
            return partial
                .finish(&request.url, stated, true)
                .map(|sha256| Received {
                    sha256,
                    commit: None,
                });
        }
        let mut commit = None;
        let mut total = None;
        exchange(&self.agent, &request, |event| {
            match event {
                Event::Head(head) => {
                    if head.status == 416 {
                        // The server has fewer bytes than we do: ours are of something else.
                        discard(part);
                        let error = failed(&head.url, "the partial file does not belong to it");
                        return Err(Failure::Passing(error));
                    }
                    check_status(&head)?;
                    let start = if head.status == 206 {
                        range_start(&head)?
                    } else {
                        0
                    };
                    if start != partial.bytes {
                        if start != 0 {
                            discard(part);
                            let error =
                                failed(&head.url, "the server sent another range than asked");
                            return Err(Failure::Passing(error));
                        }
                        partial.restart()?;
                    }
                    partial.remember(validator(&head.headers))?;
                    stated = stated
                        .take()
                        .or(head.linked_etag.as_deref().and_then(as_sha256));
                    commit = head.commit.clone();
                    total = length(&head.headers).map(|rest| start + rest);
                    check_size(&head, total, expected)?;
                }
                Event::Chunk(bytes) => {
                    let limit = if expected.bytes > 0 {
                        expected.bytes
                    } else {
                        MAX_BYTES
                    };
                    if partial.bytes + bytes.len() as u64 > limit {
                        discard(part);
                        let reason =
                            format!("the server sends more than the expected {limit} bytes");
                        return Err(failed(&request.url, reason).into());
                    }
                    partial.append(&bytes)?;
                    progress.set(partial.bytes)?;
                }
                Event::End => {}
            }
            Ok(())
        })?;
        let wanted = if expected.bytes > 0 {
            Some(expected.bytes)
        } else {
            total
        };
        if let Some(wanted) = wanted.filter(|&wanted| partial.bytes < wanted) {
            let reason = format!(
                "the connection ended after {} of {wanted} bytes",
                partial.bytes
            );
            return Err(Failure::Passing(failed(&request.url, reason)));
        }
        partial
            .finish(&request.url, stated, request.resume.is_some())
            .map(|sha256| Received { sha256, commit })
    }
}
