//! One HTTP request and what comes back, redirects followed.
//!
//! Network reads happen on a thread of their own, so that the stop button answers even when a server does not.

use std::fs;
use std::io::Read;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use super::response::{Head, header};
use super::url;
use crate::{Error, interrupt};

/// No file of ours is larger; a server that sends more is refused.
pub(super) const MAX_BYTES: u64 = 16 << 30;
const MAX_REDIRECTS: usize = 10;
pub(super) const CHUNK: usize = 1 << 18;

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

/// What an exchange hands over, in this order: one head, chunks, one end.
pub(super) enum Event {
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

pub(super) fn failed(url: &str, reason: impl ToString) -> Error {
    Error::Network {
        url: url::shown(url),
        reason: reason.to_string(),
    }
}

/// The settings of an agent with this patience: to connect, and between two reads.
pub(super) fn config(
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

/// One request, redirects followed: its head, its chunks and its end are handed to `on`, on this thread.
pub(super) fn exchange(
    agent: &ureq::Agent,
    request: &Request,
    mut on: impl FnMut(Event) -> std::result::Result<(), Failure>,
) -> std::result::Result<(), Failure> {
    let (sender, events): (_, Receiver<std::result::Result<Event, Failure>>) = sync_channel(8);
    let (agent, asked) = (agent.clone(), request.clone());
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
pub(super) fn certificates_from_env() -> Option<Vec<ureq::tls::Certificate<'static>>> {
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
