//! The little of URLs that downloads need: joining a reference to its page, and showing one without its secrets.

/// `(scheme, authority, path and query)` of an absolute http(s) URL; the path begins with '/' unless empty.
fn parts(url: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Some((scheme, &rest[..end], &rest[end..]))
}

/// The absolute URL that `reference` means on the page `base` (RFC 3986, section 5.2, for http).
pub(super) fn join(base: &str, reference: &str) -> String {
    let reference = reference.split('#').next().unwrap_or_default();
    let Some((scheme, authority, path)) = parts(base) else {
        return reference.to_owned();
    };
    if reference.contains("://") {
        return reference.to_owned();
    }
    if let Some(rest) = reference.strip_prefix("//") {
        return format!("{scheme}://{rest}");
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    if reference.starts_with('?') || reference.is_empty() {
        return format!("{scheme}://{authority}{path}{reference}");
    }
    let joined = if reference.starts_with('/') {
        reference.to_owned()
    } else {
        let folder = &path[..path.rfind('/').map_or(0, |slash| slash + 1)];
        format!("/{}{reference}", folder.trim_start_matches('/'))
    };
    let (path, query) = joined
        .split_once('?')
        .map_or((joined.as_str(), String::new()), |(path, query)| {
            (path, format!("?{query}"))
        });
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("{scheme}://{authority}/{}{query}", kept.join("/"))
}

/// Scheme, host and port: where a token given for `url` may also be sent.
pub(super) fn origin(url: &str) -> Option<(String, String)> {
    let (scheme, authority, _) = parts(url)?;
    let host = authority.rsplit('@').next()?;
    Some((scheme.to_ascii_lowercase(), host.to_ascii_lowercase()))
}

/// The URL without its user, password and query (which on a content server is a signature), for messages.
pub(super) fn shown(url: &str) -> String {
    match parts(url) {
        Some((scheme, authority, path)) => format!(
            "{scheme}://{}{}",
            authority.rsplit('@').next().unwrap_or_default(),
            path.split(['?', '#']).next().unwrap_or_default()
        ),
        None => url.to_owned(),
    }
}

/// Splits `user:password@` off: the bare URL, and the value of the Authorization header it stands for.
pub(super) fn without_credentials(url: &str) -> (String, Option<String>) {
    let Some((scheme, authority, path)) = parts(url) else {
        return (url.to_owned(), None);
    };
    match authority.rsplit_once('@') {
        None => (url.to_owned(), None),
        Some((credentials, host)) => (
            format!("{scheme}://{host}{path}"),
            Some(format!(
                "Basic {}",
                base64(&percent_decoded(if credentials.contains(':') {
                    credentials.to_owned()
                } else {
                    format!("{credentials}:")
                }))
            )),
        ),
    }
}

fn percent_decoded(text: String) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 3 } else { 1 };
    }
    out
}

/// RFC 4648; ten lines here rather than a dependency of the library without notebooks.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0u32, |word, &byte| word << 8 | u32::from(byte));
        for digit in 0..4 {
            out.push(if digit <= group.len() {
                DIGITS[(word >> (18 - 6 * digit)) as usize & 63] as char
            } else {
                '='
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_joined_as_browsers_do() {
        let base = "https://index.example/simple/pkg/?a=b";
        for (reference, expected) in [
            (
                "https://files.example/x.whl#sha256=1",
                "https://files.example/x.whl",
            ),
            ("//files.example/x.whl", "https://files.example/x.whl"),
            ("/x.whl?sig=1", "https://index.example/x.whl?sig=1"),
            ("x.whl", "https://index.example/simple/pkg/x.whl"),
            (
                "../../packages/./x.whl",
                "https://index.example/packages/x.whl",
            ),
            ("../../../../x.whl", "https://index.example/x.whl"),
            ("..", "https://index.example/simple/"),
            ("?page=2", "https://index.example/simple/pkg/?page=2"),
        ] {
            assert_eq!(join(base, reference), expected, "{reference}");
        }
        assert_eq!(join("https://a.example", "x"), "https://a.example/x");
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(
            shown("https://me:secret@a.example:8/p/q?sig=secret#f"),
            "https://a.example:8/p/q"
        );
        assert_eq!(shown("nonsense"), "nonsense");
    }

    #[test]
    fn credentials_become_a_header() {
        // RFC 7617's own example.
        assert_eq!(
            without_credentials("http://Aladdin:open%20sesame@h/p"),
            (
                "http://h/p".to_owned(),
                Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".to_owned())
            )
        );
        assert_eq!(
            without_credentials("http://h/p"),
            ("http://h/p".to_owned(), None)
        );
    }

    #[test]
    fn base64_pads() {
        // RFC 4648, section 10.
        for (text, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }
}
