//! Resumable HTTP downloads.
//!
//! A download writes `FILE.part` and beside it `FILE.part.json`, the address and the validator (ETag) of what the part
//! is a part of. The next attempt — after a cut connection, or by another process after this one was killed — asks for
//! the rest with `Range` and `If-Range`, and starts anew when the server no longer has the same bytes (some mirrors give
//! no ETag: there the pinned checksum decides afterwards). The whole is hashed before anyone sees it under its final name.
//!
//! Network reads happen on a thread of their own, so that the stop button answers even when a server does not.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use super::partial::{Partial, discard, remove, sidecar_path};
use super::registry::Pinned;
use super::response::{
    Head, as_sha256, check_size, check_status, header, length, range_start, validator,
};
use super::url;
use crate::progress::Progress;
use crate::{Error, Result, interrupt};

/// No file of ours is larger; a server that sends more is refused.
const MAX_BYTES: u64 = 16 << 30;
const MAX_REDIRECTS: usize = 10;
pub(super) const CHUNK: usize = 1 << 18;

/// An HTTP client with its patience.
#[derive(Debug, Clone)]
pub(super) struct Client {
    agent: ureq::Agent,
    /// Failures in a row (without a megabyte of progress between them) after which a download gives up.
    attempts: u32,
    /// Pause before the second attempt; doubled before each further one.
    pause: Duration,
}

/// What to ask for.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub url: String,
    /// Value of the Authorization header; sent to this URL's own origin only.
    pub authorization: Option<String>,
    pub accept: Option<&'static str>,
    /// First byte wanted, with the validator the server must still agree to, if it gave one.
    pub resume: Option<(u64, Option<String>)>,
}

enum Event {
    Head(Box<Head>),
    Chunk(Vec<u8>),
    End,
}

/// Whether trying again can help.
pub(super) enum Failure {
    Passing(Error),
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Final(error)
    }
}

/// What a finished download was.
#[derive(Debug)]
pub(super) struct Received {
    pub sha256: String,
    /// The commit the server resolved a branch to.
    pub commit: Option<String>,
}

pub(super) fn failed(url: &str, reason: impl ToString) -> Error {
    Error::Network {
        url: url::shown(url),
        reason: reason.to_string(),
    }
}

impl Client {
    /// A client with the proxies (`ALL_PROXY`, `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`) and the certificate bundle
    /// (`SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE`, `PIP_CERT`, `CURL_CA_BUNDLE`; else Mozilla's) of the environment.
    pub(super) fn from_env() -> Client {
        let mut config = Client::config(Duration::from_secs(10), Duration::from_secs(30));
        if let Some(certificates) = certificates_from_env() {
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
        let config = Client::config(Duration::from_secs(2), Duration::from_millis(300));
        Client {
            agent: config.proxy(None).build().new_agent(),
            attempts: 3,
            pause: Duration::from_millis(1),
        }
    }

    fn config(
        connect: Duration,
        stall: Duration,
    ) -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
        ureq::Agent::config_builder()
            .user_agent(concat!("llmkit/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(connect))
            .timeout_connect(Some(connect))
            .timeout_recv_response(Some(stall))
            .timeout_per_read(Some(stall))
            // Redirects are followed by hand: the first answer carries headers we need.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
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
            self.exchange(request, |event| {
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
        self.exchange(&request, |event| {
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

    /// One request, redirects followed: its head, its chunks and its end are handed to `on`, on this thread.
    fn exchange(
        &self,
        request: &Request,
        mut on: impl FnMut(Event) -> std::result::Result<(), Failure>,
    ) -> std::result::Result<(), Failure> {
        let (sender, events): (_, Receiver<std::result::Result<Event, Failure>>) = sync_channel(8);
        let (agent, asked) = (self.agent.clone(), request.clone());
        // Ends by itself: on the first event that nobody takes, or when the server's time is up.
        std::thread::spawn(move || {
            let result = transfer(&agent, &asked, |event| sender.send(Ok(event)).is_ok());
            let _ = sender.send(result.map(|()| Event::End));
        });
        loop {
            match events.recv_timeout(Duration::from_millis(100)) {
                Ok(Ok(Event::End)) => return on(Event::End),
                Ok(event) => on(event?)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed(&request.url, "the download thread ended").into());
                }
            }
            interrupt::check(&format!("download of {}", url::shown(&request.url)))?;
        }
    }
}

/// The network's side of an exchange. Stops silently once `send` says that nobody listens.
fn transfer(
    agent: &ureq::Agent,
    request: &Request,
    send: impl Fn(Event) -> bool,
) -> std::result::Result<(), Failure> {
    let (mut address, basic) = url::without_credentials(&request.url);
    let home = url::origin(&address);
    let authorization = request.authorization.clone().or(basic);
    let (mut linked_etag, mut linked_size, mut commit) = (None, None, None);
    for _ in 0..=MAX_REDIRECTS {
        let mut call = agent.get(&address).header("accept-encoding", "identity");
        if let Some(accept) = request.accept {
            call = call.header("accept", accept);
        }
        if let Some((first, validator)) = &request.resume {
            call = call.header("range", format!("bytes={first}-"));
            if let Some(validator) = validator {
                call = call.header("if-range", validator);
            }
        }
        if let Some(value) = authorization
            .as_ref()
            .filter(|_| url::origin(&address) == home)
        {
            call = call.header("authorization", value);
        }
        let mut response = call.call().map_err(|error| classified(&address, error))?;
        let headers = response.headers().clone();
        linked_etag = linked_etag.or(header(&headers, "x-linked-etag"));
        linked_size =
            linked_size.or(header(&headers, "x-linked-size").and_then(|size| size.parse().ok()));
        commit = commit.or(header(&headers, "x-repo-commit"));
        let status = response.status().as_u16();
        if let (301 | 302 | 303 | 307 | 308, Some(target)) = (status, header(&headers, "location"))
        {
            let next = url::join(&address, &target);
            if address.starts_with("https:") && !next.starts_with("https:") {
                let reason = format!(
                    "redirected to {}, which is not encrypted",
                    url::shown(&next)
                );
                return Err(failed(&address, reason).into());
            }
            address = next;
            continue;
        }
        let head = Head {
            status,
            url: address.clone(),
            message: header(&headers, "x-error-message"),
            headers,
            linked_etag,
            linked_size,
            commit,
        };
        if !send(Event::Head(Box::new(head))) {
            return Ok(());
        }
        let mut body = response.body_mut().with_config().limit(MAX_BYTES).reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    if !send(Event::Chunk(buffer[..count].to_vec())) {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Passing(failed(&address, error))),
            }
        }
    }
    Err(failed(&request.url, format!("more than {MAX_REDIRECTS} redirects")).into())
}

fn classified(address: &str, error: ureq::Error) -> Failure {
    let reason = failed(address, &error);
    match error {
        ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect)
        | ureq::Error::HostNotFound
        | ureq::Error::BadUri(_)
        | ureq::Error::Tls(_)
        | ureq::Error::Rustls(_)
        | ureq::Error::InvalidProxyUrl => Failure::Final(reason),
        ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
            Failure::Final(reason)
        }
        _ => Failure::Passing(reason),
    }
}

/// The certificates of the first bundle that the environment names and that can be read.
fn certificates_from_env() -> Option<Vec<ureq::tls::Certificate<'static>>> {
    [
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "PIP_CERT",
        "CURL_CA_BUNDLE",
    ]
    .iter()
    .filter_map(std::env::var_os)
    .filter_map(|path| fs::read(path).ok())
    .map(|pem| {
        ureq::tls::parse_pem(&pem)
            .filter_map(|item| match item {
                Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect::<Vec<_>>()
    })
    .find(|certificates| !certificates.is_empty())
}
