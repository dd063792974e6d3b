//! The Python package index, or a mirror of it: from a pinned file name to its address.
//!
//! The "simple" API (PEP 503 and PEP 691): one page a package lists its files with their addresses and sha256. Mirrors
//! that only speak HTML are understood too. Nothing of a package is ever run.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::exchange::Request;
use super::fetch::Client;
use super::registry::Pinned;
use super::url;
use crate::{Error, Result};

const JSON: &str = "application/vnd.pypi.simple.v1+json";
const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";
/// Pages of packages with thousands of files reach a few megabytes.
const MAX_PAGE_BYTES: usize = 64 << 20;

/// The index to ask: `LLMKIT_PYPI`, `PIP_INDEX_URL`, `UV_DEFAULT_INDEX`, `UV_INDEX_URL`, pip's configuration files, else the public one.
pub(super) fn url_from_env() -> String {
    let named = [
        "LLMKIT_PYPI",
        "PIP_INDEX_URL",
        "UV_DEFAULT_INDEX",
        "UV_INDEX_URL",
    ]
    .iter()
    .filter_map(|name| std::env::var(name).ok())
    .map(|value| value.trim().to_owned())
    .find(|value| !value.is_empty());
    named
        .or_else(|| {
            pip_configurations()
                .iter()
                .filter_map(|path| index_url(&std::fs::read_to_string(path).ok()?))
                .next()
        })
        .unwrap_or_else(|| "https://pypi.org/simple".to_owned())
}

/// pip's configuration files, the one that wins first.
fn pip_configurations() -> Vec<PathBuf> {
    let home = dirs::home_dir().unwrap_or_default();
    let mut paths: Vec<PathBuf> = std::env::var_os("PIP_CONFIG_FILE")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    paths.extend(dirs::config_dir().map(|dir| dir.join("pip/pip.conf")));
    paths.push(home.join(".pip/pip.conf"));
    paths.push(Path::new("/etc/pip.conf").to_owned());
    paths
}

/// The `index-url` of the `[global]` section (or `[install]`, `[download]`) of a pip.conf.
fn index_url(text: &str) -> Option<String> {
    let mut is_ours = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            is_ours = matches!(line, "[global]" | "[install]" | "[download]");
        } else if let Some((key, value)) = line.split_once(['=', ':'])
            && is_ours
            && matches!(key.trim(), "index-url" | "index_url")
        {
            return Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        }
    }
    None
}

/// One file of a package page.
#[derive(Debug, Deserialize)]
struct Listed {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Page {
    files: Vec<Listed>,
}

/// Asks the index for the address of `file` of `package`. An index that lists it with another sha256 is refused before
/// anything is downloaded.
pub(super) fn request(
    client: &Client,
    index: &str,
    package: &str,
    file: &Pinned,
) -> Result<Request> {
    let page_url = format!("{}/{package}/", index.trim_end_matches('/'));
    // Credentials in the index's address are for the index; mirrors want them for the file too, if it is theirs.
    let (bare, authorization) = url::without_credentials(&page_url);
    let page = Request {
        url: bare.clone(),
        authorization: authorization.clone(),
        accept: Some(ACCEPT),
        resume: None,
    };
    let (final_url, kind, text) = client.text(&page, MAX_PAGE_BYTES)?;
    let files = if kind.starts_with(JSON) || kind.starts_with("application/json") {
        let page: Page = serde_json::from_str(&text).map_err(|source| Error::Json {
            context: url::shown(&final_url),
            source,
        })?;
        page.files
    } else {
        from_html(&text)
    };
    let name = file.file_name();
    let listed = files
        .into_iter()
        .find(|listed| listed.filename == name)
        .ok_or_else(|| Error::Network {
            url: url::shown(&final_url),
            reason: format!("the index does not list {name}"),
        })?;
    let stated = listed
        .hashes
        .get("sha256")
        .map(|it| it.to_ascii_lowercase());
    if let (Some(got), Some(expected)) = (stated, &file.sha256)
        && got != *expected
    {
        return Err(Error::Checksum {
            file: format!("{name}, as listed by {}", url::shown(&final_url)),
            expected: expected.clone(),
            got,
        });
    }
    let address = url::join(&final_url, &listed.url);
    let is_same_origin = url::origin(&address) == url::origin(&bare);
    Ok(Request {
        url: address,
        authorization: authorization.filter(|_| is_same_origin),
        ..Request::default()
    })
}

/// The anchors of a PEP 503 page: the text is the file name, the fragment the sha256.
fn from_html(text: &str) -> Vec<Listed> {
    let mut files = Vec::new();
    for anchor in text.split("<a ").skip(1) {
        let Some((attributes, rest)) = anchor.split_once('>') else {
            continue;
        };
        let Some(quoted) = attributes.split("href=").nth(1) else {
            continue;
        };
        let quote = if quoted.starts_with('\'') { '\'' } else { '"' };
        let (Some(href), Some(name)) = (quoted.split(quote).nth(1), rest.split('<').next()) else {
            continue;
        };
        let (address, fragment) = href.split_once('#').unwrap_or((href, ""));
        files.push(Listed {
            filename: name.trim().to_owned(),
            url: address.replace("&amp;", "&"),
            hashes: fragment
                .strip_prefix("sha256=")
                .map(|digits| ("sha256".to_owned(), digits.to_owned()))
                .into_iter()
                .collect(),
        });
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_configuration_is_read() {
        assert_eq!(
            index_url("[list]\nindex-url = wrong\n[global]\ntimeout = 3\nindex-url = https://m.example/simple\n").as_deref(),
            Some("https://m.example/simple")
        );
        assert_eq!(
            index_url("[global]\nextra-index-url = https://m.example\n"),
            None
        );
        assert_eq!(index_url("index-url = x"), None);
        assert_eq!(index_url(""), None);
    }

    #[test]
    fn html_pages_are_understood() {
        let page = "<!DOCTYPE html><a data-requires-python=\"&gt;=3\" href=\"../../p/a-1.whl?x=1&amp;y=2#sha256=ab\" rel=x>a-1.whl</a>\n<a href='b.tar.gz'> b.tar.gz </a><a name=q>c</a><a href=";
        let files = from_html(page);
        assert_eq!(files.len(), 2);
        assert_eq!(files[0].filename, "a-1.whl");
        assert_eq!(files[0].url, "../../p/a-1.whl?x=1&y=2");
        assert_eq!(files[0].hashes["sha256"], "ab");
        assert_eq!(files[1].filename, "b.tar.gz");
        assert!(files[1].hashes.is_empty());
    }
}
