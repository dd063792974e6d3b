//! `archive`: what hostile and broken archives must not achieve.

use std::io::Write;
use std::path::Path;

use super::{files_below, noise, pinned};
use crate::hub::archive::{Limits, extract};
use crate::hub::registry::Pinned;
use crate::{Error, Result};

const TEXT: &[u8] = b"It is a truth universally acknowledged";

/// A tar entry: type flag, name, content or link target. Written by hand: the tar crate refuses to make hostile ones.
fn tar_entry(flag: u8, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut head = [0u8; 512];
    head[..name.len()].copy_from_slice(name.as_bytes());
    head[100..108].copy_from_slice(b"0000644\0");
    head[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    head[136..148].copy_from_slice(b"00000000000\0");
    head[148..156].fill(b' ');
    head[156] = flag;
    head[157..157 + link.len()].copy_from_slice(link.as_bytes());
    head[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = head.iter().map(|&byte| u32::from(byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut entry = head.to_vec();
    entry.extend(content);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn tar_gz(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut tar = entries.concat();
    tar.extend([0; 1024]);
    gzip(&tar)
}

fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer
            .start_file(*name, zip::write::SimpleFileOptions::default())
            .unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Replaces a name in a zip by another of the same length, in both directories.
fn renamed(mut archive: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    for at in 0..archive.len() - from.len() {
        if &archive[at..at + from.len()] == from.as_bytes() {
            archive[at..at + from.len()].copy_from_slice(to.as_bytes());
        }
    }
    archive
}

/// Extracts into a fresh folder; on failure checks that nothing was left there or around it.
fn try_extract(name: &str, archive: &[u8], members: &[Pinned]) -> Result<Vec<u8>> {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("archive");
    std::fs::write(&path, archive).unwrap();
    let folder = home.path().join("a/b");
    std::fs::create_dir_all(&folder).unwrap();
    let result = extract(&path, name, members, &folder, Limits::default());
    match result {
        Ok(paths) => {
            assert_eq!(files_below(&folder).len(), paths.len());
            Ok(std::fs::read(&paths[0]).unwrap())
        }
        Err(error) => {
            assert_eq!(files_below(home.path()), ["archive"], "{error}");
            assert!(!Path::new("/tmp/llmkit-escaped").exists());
            Err(error)
        }
    }
}

fn refusal(name: &str, archive: &[u8], members: &[Pinned]) -> String {
    match try_extract(name, archive, members) {
        Err(error @ Error::Archive { .. }) => error.to_string(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn honest_archives_give_their_member() {
    let member = [pinned("p-1/test/x.txt", TEXT)];
    let tar = tar_gz(&[
        tar_entry(b'5', "p-1/", "", b""),
        tar_entry(b'5', "p-1/", "", b""),
        tar_entry(b'0', "p-1/setup.py", "", b"raise SystemExit"),
        tar_entry(b'2', "p-1/test/link.py", "../setup.py", b""),
        tar_entry(b'0', "p-1/test/x.txt", "", TEXT),
    ]);
    assert_eq!(try_extract("p-1.tar.gz", &tar, &member).unwrap(), TEXT);
    let wheel = zip(&[("p/__init__.py", b""), ("p-1/test/x.txt", TEXT)]);
    assert_eq!(
        try_extract("p-1-py3-none-any.whl", &wheel, &member).unwrap(),
        TEXT
    );
    let empty = [pinned("e", b"")];
    assert_eq!(
        try_extract("e.zip", &zip(&[("e", b"")]), &empty).unwrap(),
        b""
    );
}

#[test]
fn paths_that_leave_the_archive_are_refused() {
    let member = [pinned("good.txt", TEXT)];
    for bad in [
        "../../tmp/llmkit-escaped",
        "/tmp/llmkit-escaped",
        "a/../../x",
        "C:/x",
        "a\\..\\..\\x",
    ] {
        let tar = tar_gz(&[
            tar_entry(b'0', "good.txt", "", TEXT),
            tar_entry(b'0', bad, "", b"x"),
        ]);
        let message = refusal("a.tar.gz", &tar, &member);
        assert!(
            message.contains("path") || message.contains("leaves"),
            "{message}"
        );
        let stand_in = "z".repeat(bad.len());
        let wheel = renamed(
            zip(&[("good.txt", TEXT), (&stand_in, b"x")]),
            &stand_in,
            bad,
        );
        let message = refusal("a.whl", &wheel, &member);
        assert!(
            message.contains("path") || message.contains("leaves"),
            "{message}"
        );
    }
}

#[test]
fn links_are_refused_or_ignored_never_followed() {
    let member = [pinned("p/x.txt", TEXT)];
    // A link that leaves the archive, symbolic and hard.
    for (flag, target) in [
        (b'2', "/etc"),
        (b'2', "../../etc"),
        (b'1', "../x"),
        (b'1', "/etc/passwd"),
        (b'2', ""),
    ] {
        let tar = tar_gz(&[
            tar_entry(flag, "p/link", target, b""),
            tar_entry(b'0', "p/x.txt", "", TEXT),
        ]);
        assert!(refusal("a.tar.gz", &tar, &member).contains("link"));
    }
    // The wanted member is a link to another member.
    let tar = tar_gz(&[
        tar_entry(b'0', "p/y.txt", "", TEXT),
        tar_entry(b'2', "p/x.txt", "y.txt", b""),
    ]);
    assert!(refusal("a.tar.gz", &tar, &member).contains("no member"));
    // A symbolic link in a zip.
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    writer.add_symlink("p/link", "/etc", options).unwrap();
    writer.start_file("p/x.txt", options).unwrap();
    writer.write_all(TEXT).unwrap();
    let wheel = writer.finish().unwrap().into_inner();
    assert!(refusal("a.whl", &wheel, &member).contains("link"));
    // A device.
    let tar = tar_gz(&[
        tar_entry(b'3', "p/null", "", b""),
        tar_entry(b'0', "p/x.txt", "", TEXT),
    ]);
    assert!(refusal("a.tar.gz", &tar, &member).contains("special"));
}

#[test]
fn bombs_are_refused() {
    let zeros = vec![0u8; 64 << 20];
    let member = [pinned("x.txt", TEXT)];
    // Another member than the wanted one unpacks to a thousand times its size.
    let tar = tar_gz(&[
        tar_entry(b'0', "bomb", "", &zeros),
        tar_entry(b'0', "x.txt", "", TEXT),
    ]);
    assert!(tar.len() < 100_000);
    assert!(refusal("a.tar.gz", &tar, &member).contains("times its size"));
    let wheel = zip(&[("bomb", &zeros), ("x.txt", TEXT)]);
    assert!(refusal("a.whl", &wheel, &member).contains("times its size"));
    // The wanted member itself is longer than pinned, within the ratio.
    let long = noise(3 << 20);
    let tar = tar_gz(&[tar_entry(b'0', "x.txt", "", &long)]);
    assert!(refusal("a.tar.gz", &tar, &member).contains("larger than the pinned"));
    let wheel = zip(&[("x.txt", &long)]);
    assert!(refusal("a.whl", &wheel, &member).contains("larger than the pinned"));
    // More entries than there is reason for.
    let home = tempfile::tempdir().unwrap();
    let many: Vec<Vec<u8>> = (0..20)
        .map(|i| tar_entry(b'0', &format!("f{i}"), "", b""))
        .collect();
    let path = home.path().join("many");
    std::fs::write(&path, tar_gz(&many)).unwrap();
    let few = Limits {
        entries: 10,
        ..Limits::default()
    };
    let error = extract(&path, "many.tar.gz", &member, home.path(), few).unwrap_err();
    assert!(
        error.to_string().contains("more than 10 entries"),
        "{error}"
    );
    // An absolute cap.
    let small = Limits {
        bytes: 1000,
        ..Limits::default()
    };
    let error = extract(&path, "many.tar.gz", &member, home.path(), small).unwrap_err();
    assert!(
        error.to_string().contains("more than 1000 bytes"),
        "{error}"
    );
}

#[test]
fn truncated_archives_are_refused() {
    let content = noise(100_000);
    let member = [pinned("x", &content)];
    let tar = tar_gz(&[
        tar_entry(b'0', "x", "", &content),
        tar_entry(b'0', "y", "", b"later"),
    ]);
    let wheel = zip(&[("x", &content)]);
    for keep in [0, 1, 10, 600, 50_000] {
        refusal("a.tar.gz", &tar[..keep], &member);
        refusal("a.whl", &wheel[..keep], &member);
    }
    // Only the gzip checksum is missing; only the end of the zip directory.
    refusal("a.tar.gz", &tar[..tar.len() - 4], &member);
    refusal("a.whl", &wheel[..wheel.len() - 1], &member);
    // Not an archive at all.
    refusal("a.tar.gz", TEXT, &member);
    refusal("a.whl", TEXT, &member);
    refusal("a.rar", TEXT, &member);
}

#[test]
fn a_name_twice_is_refused() {
    let member = [pinned("x.txt", TEXT)];
    for other in ["x.txt", "./x.txt"] {
        let tar = tar_gz(&[
            tar_entry(b'0', "x.txt", "", TEXT),
            tar_entry(b'0', other, "", b"evil"),
        ]);
        assert!(refusal("a.tar.gz", &tar, &member).contains("two members"));
    }
    let wheel = renamed(
        zip(&[("x.txt", TEXT), ("y.txt", b"evil")]),
        "y.txt",
        "x.txt",
    );
    assert!(refusal("a.whl", &wheel, &member).contains("two members"));
}

#[test]
fn wrong_bytes_and_missing_members_are_refused() {
    let mut other = TEXT.to_vec();
    other[0] ^= 32;
    let member = [pinned("x.txt", TEXT)];
    for (name, archive) in [
        ("a.tar.gz", tar_gz(&[tar_entry(b'0', "x.txt", "", &other)])),
        ("a.whl", zip(&[("x.txt", &other)])),
    ] {
        let result = try_extract(name, &archive, &member);
        assert!(matches!(result, Err(Error::Checksum { .. })), "{result:?}");
    }
    assert!(refusal("a.whl", &zip(&[]), &member).contains("no member x.txt"));
    assert!(refusal("a.tar.gz", &tar_gz(&[]), &member).contains("no member x.txt"));
    // One of two is right: all or nothing.
    let two = [pinned("x.txt", TEXT), pinned("y.txt", TEXT)];
    let archive = zip(&[("x.txt", TEXT), ("y.txt", &other)]);
    assert!(try_extract("a.whl", &archive, &two).is_err());
}

#[test]
fn flipped_bits_never_pass() {
    let content = noise(2000);
    let member = [pinned("x", &content)];
    for archive in [
        tar_gz(&[tar_entry(b'0', "x", "", &content)]),
        zip(&[("x", &content)]),
    ] {
        let name = if archive.starts_with(b"PK") {
            "a.whl"
        } else {
            "a.tar.gz"
        };
        for at in (0..archive.len()).step_by(7) {
            let mut damaged = archive.clone();
            damaged[at] ^= 0x10;
            if let Ok(bytes) = try_extract(name, &damaged, &member) {
                assert_eq!(bytes, content, "byte {at}");
            }
        }
    }
}
