//! `fetch`: every way a transfer can go wrong, and that what remains on disk is right.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::server::{Reply, Server};
use super::{files_below, noise, pinned, sha256};
use crate::hub::exchange::Request;
use crate::hub::fetch::{Client, Received};
use crate::hub::registry::Pinned;
use crate::{Error, Result};

struct Bench {
    folder: tempfile::TempDir,
    part: PathBuf,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("f.part");
        Bench { folder, part }
    }

    fn download(&self, url: &str, expected: &Pinned) -> Result<Received> {
        let request = Request {
            url: url.to_owned(),
            ..Request::default()
        };
        Client::impatient().download(&request, &self.part, expected, "test")
    }

    fn is_clean(&self) -> bool {
        files_below(self.folder.path()).is_empty()
    }
}

fn reason(result: Result<Received>) -> String {
    result.expect_err("should have failed").to_string()
}

#[test]
fn a_plain_download_is_whole_and_leaves_no_sidecar() {
    let content = noise(700_001);
    let served = content.clone();
    let server = Server::start(move |asked| Reply::file(asked, &served, "\"v1\""));
    let bench = Bench::new();
    let received = bench
        .download(&format!("{}/f", server.url), &pinned("f", &content))
        .unwrap();
    assert_eq!(received.sha256, sha256(&content));
    assert_eq!(std::fs::read(&bench.part).unwrap(), content);
    assert_eq!(files_below(bench.folder.path()), ["f.part"]);
    let headers = &server.asked()[0].headers;
    assert_eq!(headers["accept-encoding"], "identity");
    assert!(!headers.contains_key("range"));
}

#[test]
fn an_empty_file_is_a_file() {
    let server = Server::start(|_| Reply::status(200));
    let bench = Bench::new();
    bench.download(&server.url, &pinned("f", b"")).unwrap();
    assert_eq!(std::fs::read(&bench.part).unwrap(), b"");
}

#[test]
fn a_cut_connection_is_resumed_with_a_range() {
    let content = noise(900_000);
    let served = content.clone();
    let server = Server::start(move |asked| Reply {
        cut_after: (asked.count == 0).then_some(400_000),
        ..Reply::file(asked, &served, "\"v1\"")
    });
    let bench = Bench::new();
    bench.download(&server.url, &pinned("f", &content)).unwrap();
    assert_eq!(std::fs::read(&bench.part).unwrap(), content);
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].headers["if-range"], "\"v1\"");
    let range = &asked[1].headers["range"];
    let start: usize = range["bytes=".len()..range.len() - 1].parse().unwrap();
    assert!(start > 0 && start <= 400_000, "{range}");
}

#[test]
fn a_killed_process_leaves_a_part_that_the_next_one_continues() {
    let content = noise(500_000);
    let served = content.clone();
    let server = Server::start(move |asked| Reply::file(asked, &served, "\"v1\""));
    let bench = Bench::new();
    std::fs::write(&bench.part, &content[..123_456]).unwrap();
    let sidecar = format!(
        "{{\"url\": \"{}/f\", \"validator\": \"\\\"v1\\\"\"}}",
        server.url
    );
    std::fs::write(bench.folder.path().join("f.part.json"), sidecar).unwrap();
    bench
        .download(&format!("{}/f", server.url), &pinned("f", &content))
        .unwrap();
    assert_eq!(std::fs::read(&bench.part).unwrap(), content);
    assert_eq!(server.asked()[0].headers["range"], "bytes=123456-");
}

#[test]
fn a_stale_part_of_another_version_is_dropped() {
    let content = noise(300_000);
    let served = content.clone();
    let server = Server::start(move |asked| Reply::file(asked, &served, "\"v2\""));
    let bench = Bench::new();
    // With the validator of an older version; then longer than the file; then with no sidecar; then a broken one.
    for (part, sidecar) in [
        (noise(1000), Some("\\\"v1\\\"")),
        (noise(999_999), Some("\\\"v2\\\"")),
        (noise(2000), None),
        (noise(10), Some("\"not json")),
    ] {
        std::fs::write(&bench.part, part).unwrap();
        if let Some(validator) = sidecar {
            let json = format!(
                "{{\"url\": \"{}/\", \"validator\": \"{validator}\"}}",
                server.url
            );
            std::fs::write(bench.folder.path().join("f.part.json"), json).unwrap();
        }
        bench
            .download(&format!("{}/", server.url), &pinned("f", &content))
            .unwrap();
        assert_eq!(std::fs::read(&bench.part).unwrap(), content);
    }
}

#[test]
fn a_resumed_file_whose_first_part_lied_is_fetched_anew() {
    let content = noise(300_000);
    let served = content.clone();
    let server = Server::start(move |asked| Reply::file(asked, &served, "\"v1\""));
    let bench = Bench::new();
    std::fs::write(&bench.part, vec![7; 1000]).unwrap();
    let json = format!(
        "{{\"url\": \"{}/\", \"validator\": \"\\\"v1\\\"\"}}",
        server.url
    );
    std::fs::write(bench.folder.path().join("f.part.json"), json).unwrap();
    bench
        .download(&format!("{}/", server.url), &pinned("f", &content))
        .unwrap();
    assert_eq!(std::fs::read(&bench.part).unwrap(), content);
}

#[test]
fn a_server_without_etag_is_resumed_if_the_bytes_are_pinned() {
    // One that knows ranges, and one that answers with everything again.
    for knows_ranges in [true, false] {
        let content = noise(400_000);
        let served = content.clone();
        let server = Server::start(move |asked| {
            let mut reply = match knows_ranges {
                true => Reply::file(asked, &served, "\"v\""),
                false => Reply::status(200).body(served.clone()),
            };
            reply.headers.retain(|(name, _)| name != "ETag");
            reply.cut_after = (asked.count == 0).then_some(200_000);
            reply
        });
        let bench = Bench::new();
        bench.download(&server.url, &pinned("f", &content)).unwrap();
        assert_eq!(std::fs::read(&bench.part).unwrap(), content);
        let headers = &server.asked()[1].headers;
        assert!(headers.contains_key("range") && !headers.contains_key("if-range"));
    }
}

#[test]
fn a_part_that_is_whole_already_is_not_asked_for() {
    let content = noise(1000);
    let server = Server::start(|_| Reply::status(404));
    let bench = Bench::new();
    std::fs::write(&bench.part, &content).unwrap();
    let json = format!("{{\"url\": \"{}/\", \"validator\": null}}", server.url);
    std::fs::write(bench.folder.path().join("f.part.json"), json).unwrap();
    let url = format!("{}/", server.url);
    bench.download(&url, &pinned("f", &content)).unwrap();
    assert!(server.asked().is_empty());
}

#[test]
fn a_truncated_body_is_an_error_and_keeps_the_part_for_later() {
    let content = noise(100_000);
    let served = content.clone();
    // Honest about the length only in our table: the server states the shorter one.
    let server = Server::start(move |_| {
        Reply::status(200)
            .header("ETag", "\"x\"")
            .body(&served[..60_000])
            .header("Content-Length", 100_000)
    });
    let bench = Bench::new();
    let message = reason(bench.download(&server.url, &pinned("f", &content)));
    assert!(message.contains(&server.url), "{message}");
    assert_eq!(server.asked().len(), 3, "three attempts");
    assert!(bench.part.exists());
}

#[test]
fn wrong_bytes_are_refused_and_removed() {
    let content = noise(50_000);
    let mut served = content.clone();
    served[25_000] ^= 1;
    let server = Server::start(move |asked| Reply::file(asked, &served, "\"v1\""));
    let bench = Bench::new();
    let result = bench.download(&server.url, &pinned("f", &content));
    assert!(matches!(result, Err(Error::Checksum { .. })), "{result:?}");
    assert!(bench.is_clean());
    assert_eq!(
        server.asked().len(),
        1,
        "wrong bytes are not asked for twice"
    );
}

#[test]
fn a_wrong_length_is_refused_before_the_download() {
    let content = noise(5_000);
    let server = Server::start(|_| Reply::status(200).body(noise(1_000_000)));
    let bench = Bench::new();
    let message = reason(bench.download(&server.url, &pinned("f", &content)));
    assert!(
        message.contains("1000000 bytes, expected 5000"),
        "{message}"
    );
}

#[test]
fn a_server_that_never_ends_is_stopped_at_the_expected_size() {
    let content = noise(5_000);
    let server = Server::start(|_| {
        let body = noise(2_000_000);
        let chunked = [
            format!("{:x}\r\n", body.len()).into_bytes(),
            body,
            b"\r\n0\r\n\r\n".to_vec(),
        ]
        .concat();
        // No Content-Length that could be trusted: chunked.
        Reply::status(200)
            .header("Transfer-Encoding", "chunked")
            .header("Content-Length", "")
            .body(chunked)
    });
    let bench = Bench::new();
    assert!(bench.download(&server.url, &pinned("f", &content)).is_err());
    let left: u64 = std::fs::metadata(&bench.part).map_or(0, |meta| meta.len());
    assert!(left <= 5_000, "{left} bytes were kept");
}

#[test]
fn statuses_are_explained() {
    for (status, words, attempts) in [
        (404, "no such file", 1),
        (401, "HF_TOKEN", 1),
        (403, "HF_TOKEN", 1),
        (429, "too many requests", 3),
        (503, "HTTP status 503", 3),
    ] {
        let server =
            Server::start(move |_| Reply::status(status).header("X-Error-Message", "because"));
        let bench = Bench::new();
        let message = reason(bench.download(&server.url, &pinned("f", b"x")));
        assert!(
            message.contains(words) && message.contains("because"),
            "{message}"
        );
        assert_eq!(server.asked().len(), attempts, "status {status}");
    }
}

#[test]
fn a_passing_error_is_retried() {
    let content = noise(1000);
    let served = content.clone();
    let server = Server::start(move |asked| match asked.count {
        0 => Reply::status(503),
        1 => Reply::status(500),
        _ => Reply::file(asked, &served, "\"v\""),
    });
    Bench::new()
        .download(&server.url, &pinned("f", &content))
        .unwrap();
}

#[test]
fn a_stalled_server_does_not_hold_us() {
    let content = noise(300_000);
    let served = content.clone();
    let server = Server::start(move |asked| Reply {
        stall_after: Some(1000),
        ..Reply::file(asked, &served, "\"v1\"")
    });
    let bench = Bench::new();
    let start = Instant::now();
    let message = reason(bench.download(&server.url, &pinned("f", &content)));
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    assert!(message.contains(&server.url), "{message}");
    // What came is kept, and each attempt went on from there.
    assert_eq!(std::fs::metadata(&bench.part).unwrap().len(), 3000);
}

#[test]
fn nobody_listening_is_told_at_once() {
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let start = Instant::now();
    let result = Bench::new().download(&format!("http://{address}/f"), &pinned("f", b"x"));
    assert!(matches!(result, Err(Error::Network { .. })), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_token_stays_with_its_own_server() {
    let content = noise(1000);
    let served = content.clone();
    let far = Server::start(move |asked| Reply::file(asked, &served, "\"v\""));
    let target = format!("{}/cdn?signature=1", far.url);
    let near = Server::start(move |asked| match asked.path.as_str() {
        "/a" => Reply::status(307)
            .header("Location", "/b?x=1")
            .header("X-Repo-Commit", "c0ffee"),
        _ => Reply::status(302).header("Location", &target),
    });
    let bench = Bench::new();
    let request = Request {
        url: format!("{}/a", near.url),
        authorization: Some("Bearer secret".to_owned()),
        ..Request::default()
    };
    let received = Client::impatient()
        .download(&request, &bench.part, &pinned("f", &content), "test")
        .unwrap();
    assert_eq!(received.commit.as_deref(), Some("c0ffee"));
    let near = near.asked();
    assert_eq!(near.len(), 2);
    assert!(
        near.iter()
            .all(|asked| asked.headers["authorization"] == "Bearer secret")
    );
    assert_eq!(near[1].path, "/b?x=1");
    assert!(!far.asked()[0].headers.contains_key("authorization"));
}

#[test]
fn endless_redirects_end() {
    let server = Server::start(|_| Reply::status(302).header("Location", "/again"));
    let message = reason(Bench::new().download(&server.url, &pinned("f", b"x")));
    assert!(message.contains("redirects"), "{message}");
}

#[test]
fn an_unpinned_file_is_checked_against_what_the_server_states() {
    let content = noise(4000);
    let unpinned = Pinned {
        sha256: None,
        ..pinned("f", &content)
    };
    let etag = format!("\"{}\"", sha256(&content));
    let wrong = format!("\"{}\"", sha256(b"other"));
    for (stated, is_fine) in [(Some(etag), true), (Some(wrong), false), (None, false)] {
        let served = content.clone();
        let server = Server::start(move |asked| match (asked.path.as_str(), &stated) {
            ("/f", Some(stated)) => Reply::status(302)
                .header("Location", "/cdn")
                .header("X-Linked-Etag", stated),
            ("/f", None) => Reply::status(302).header("Location", "/cdn"),
            _ => Reply::file(asked, &served, "\"v\""),
        });
        let bench = Bench::new();
        let result = bench.download(&format!("{}/f", server.url), &unpinned);
        assert_eq!(result.is_ok(), is_fine, "{result:?}");
        assert!(is_fine || bench.is_clean());
    }
}
