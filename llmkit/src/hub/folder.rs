//! A folder with a Hugging Face checkpoint: which files belong to it.
//!
//! ```text
//! model.safetensors, or model.safetensors.index.json and the shards that its weight_map names
//! config.json, tokenizer.json
//! generation_config.json, tokenizer_config.json, chat_template.jinja      where they are there
//! ```
//! An index is not trusted: a shard is a file in the same folder, and a tensor is in one shard.
//!
//! Source: the layout that Hugging Face's `save_pretrained` writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::{Error, Result};

/// What the index of a sharded checkpoint is called.
const INDEX: &str = "model.safetensors.index.json";
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
const OPTIONAL: [&str; 3] = [
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// Whether a file is the index of a sharded checkpoint.
pub(crate) fn is_index(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".safetensors.index.json")
}

/// The files of the model in `folder`, the main one first: weights or their index, then shards, configuration, tokenizer.
/// A folder without safetensors that has a single GGUF file is that file.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    for main in ["model.safetensors", INDEX] {
        if folder.join(main).is_file() {
            return with_companions(folder.join(main));
        }
    }
    let entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let mut ggufs: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|it| it == "gguf"))
        .collect();
    match (ggufs.pop(), ggufs.len()) {
        (Some(single), 0) => Ok(vec![single]),
        (found, more) => Err(Error::NotFound {
            what: format!("a model in {}", folder.display()),
            tried: vec![
                "model.safetensors: no such file".to_owned(),
                format!("{INDEX}: no such file"),
                match found {
                    None => "a GGUF file: none".to_owned(),
                    Some(_) => format!("a GGUF file: {} of them, name one", more + 1),
                },
            ],
        }),
    }
}

/// `main` (safetensors or an index) and what lies beside it.
pub(super) fn with_companions(main: PathBuf) -> Result<Vec<PathBuf>> {
    let folder = main.parent().unwrap_or(Path::new("")).to_owned();
    let shards: BTreeSet<String> = match is_index(&main) {
        true => shards(&main)?.into_values().collect(),
        false => BTreeSet::new(),
    };
    let needed = shards.into_iter().chain(NEEDED.map(str::to_owned));
    let needed = needed.map(|name| folder.join(name));
    let optional = OPTIONAL.iter().map(|name| folder.join(name));
    let optional = optional.filter(|path| path.is_file());
    Ok([main].into_iter().chain(needed).chain(optional).collect())
}

/// The file name of the shard of each tensor, from an index.
///
/// # Errors
/// [`Error::Io`], [`Error::Json`] if it is no index or names a tensor twice, [`Error::Format`] if a shard is not a
/// plain file name or not there.
pub(crate) fn shards(index: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: Once,
    }
    let json = std::fs::read(index).map_err(Error::io("read", index))?;
    let parsed: Index = serde_json::from_slice(&json).map_err(|source| Error::Json {
        context: index.display().to_string(),
        source,
    })?;
    let Once(map) = parsed.weight_map;
    let wrong = |tensor: &str, expected: &str, got: String| Error::Format {
        file: format!("{}: {tensor}", index.display()),
        expected: expected.to_owned(),
        got,
    };
    let mut seen = BTreeSet::new();
    for (tensor, shard) in &map {
        let is_plain = Path::new(shard)
            .file_name()
            .is_some_and(|it| it == &**shard)
            && !shard.contains(['/', '\\', '\0']);
        if !is_plain || !shard.ends_with(".safetensors") {
            let expected = "a safetensors file in the same folder";
            return Err(wrong(tensor, expected, format!("{shard:?}")));
        }
        if seen.insert(shard) && !index.with_file_name(shard).is_file() {
            let got = "no such file".to_owned();
            return Err(wrong(tensor, &format!("the shard {shard}"), got));
        }
    }
    if map.is_empty() {
        let got = "an empty one".to_owned();
        return Err(wrong("weight_map", "tensors and their shards", got));
    }
    Ok(map)
}

/// A JSON object of texts in which no key stands twice. (The usual maps silently keep the last.)
struct Once(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Once, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Once;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensor names and shards, each name once")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Once, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, value)) = entries.next_entry::<String, String>()? {
                    if map.contains_key(&key) {
                        return Err(A::Error::custom(format!("tensor {key} twice")));
                    }
                    map.insert(key, value);
                }
                Ok(Once(map))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(weight_map: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join(INDEX);
        std::fs::write(folder.path().join("a.safetensors"), b"").unwrap();
        std::fs::write(&index, format!("{{\"weight_map\": {weight_map}}}")).unwrap();
        match shards(&index) {
            Err(error) => error.to_string(),
            Ok(map) => format!("{map:?}"),
        }
    }

    #[test]
    fn shards_are_files_of_the_folder() {
        assert_eq!(
            refusal(r#"{"x": "a.safetensors"}"#),
            r#"{"x": "a.safetensors"}"#
        );
        for odd in [
            "../a.safetensors",
            "/etc/a.safetensors",
            "b/../a.safetensors",
            "./a.safetensors",
            "a.safetensors/",
            "..\\\\a.safetensors",
            "a.safetensors\\u0000",
            "..",
            "",
            "config.json",
        ] {
            let message = refusal(&format!(r#"{{"model.norm": "{odd}"}}"#));
            assert!(message.contains("in the same folder"), "{odd}: {message}");
            assert!(message.contains("index.json: model.norm"), "{message}");
        }
        let missing = refusal(r#"{"x": "b.safetensors"}"#);
        assert!(missing.contains("the shard b.safetensors"), "{missing}");
    }

    #[test]
    fn a_tensor_is_in_one_shard() {
        let twice =
            refusal(r#"{"x": "a.safetensors", "y": "a.safetensors", "x": "a.safetensors"}"#);
        assert!(twice.contains("tensor x twice"), "{twice}");
        for odd in ["{}", "[]", "{\"x\": 1}", "{\"x\": null}"] {
            let message = refusal(odd);
            assert!(message.contains(INDEX), "{odd}: {message}");
        }
    }

    #[test]
    fn a_folder_is_its_checkpoint_or_its_only_gguf_file() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(folder.path().join(name), b"{}").unwrap();
        let names = || -> Vec<String> {
            let files = files(folder.path()).unwrap();
            let name = |it: &PathBuf| it.file_name().unwrap().to_string_lossy().into_owned();
            files.iter().map(name).collect()
        };
        assert!(files(folder.path()).is_err());
        write("a.gguf");
        assert_eq!(names(), ["a.gguf"]);
        write("b.gguf");
        let error = files(folder.path()).unwrap_err().to_string();
        assert!(error.contains("2 of them"), "{error}");
        write("model.safetensors");
        write("tokenizer_config.json");
        let expected = [
            "model.safetensors",
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        assert_eq!(names(), expected);
    }
}
