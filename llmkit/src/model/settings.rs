//! What the small files of a Hugging Face folder say about tokens and chat: `tokenizer_config.json`, `generation_config.json`,
//! `config.json`, `chat_template.jinja`. All but `config.json` may be missing.

use std::path::Path;

use serde_json::Value;

use crate::hub::Asset;
use crate::{Error, Result};

/// What they say; nothing is required.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Settings {
    /// The beginning-of-sequence token, as text.
    pub(super) bos: Option<String>,
    /// The end-of-sequence token, as text.
    pub(super) eos: Option<String>,
    /// Whether the former goes in front of a text.
    pub(super) adds_bos: Option<bool>,
    /// Ids after which a generation ends.
    pub(super) ends: Vec<u32>,
    /// The chat template, and the file it is from.
    pub(super) chat: Option<(String, String)>,
}

impl Settings {
    /// Reads those of an asset's files that are there.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Json`] if one cannot be read.
    pub(super) fn of(asset: &Asset) -> Result<Settings> {
        let json = |name: &str| match asset.file(name) {
            Some(path) => read(path),
            None => Ok(Value::Null),
        };
        let tokenizer = json("tokenizer_config.json")?;
        let mut settings = Settings {
            bos: token(&tokenizer["bos_token"]),
            eos: token(&tokenizer["eos_token"]),
            adds_bos: tokenizer["add_bos_token"].as_bool(),
            ends: ids(&json("generation_config.json")?["eos_token_id"]),
            chat: None,
        };
        if settings.ends.is_empty() {
            settings.ends = ids(&json("config.json")?["eos_token_id"]);
        }
        settings.chat = match asset.file("chat_template.jinja") {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
                Some((path.display().to_string(), text))
            }
            None => asset.file("tokenizer_config.json").and_then(|path| {
                let text = template(&tokenizer["chat_template"])?;
                Some((path.display().to_string(), text))
            }),
        };
        Ok(settings)
    }
}

fn read(path: &Path) -> Result<Value> {
    let json = std::fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&json).map_err(|source| Error::Json {
        context: path.display().to_string(),
        source,
    })
}

/// A token is a text, or an object that has it as `content`.
fn token(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value["content"].as_str())?;
    Some(text.to_owned())
}

/// An id or a list of ids.
fn ids(value: &Value) -> Vec<u32> {
    let one = |value: &Value| value.as_u64().and_then(|it| u32::try_from(it).ok());
    match value {
        Value::Array(values) => values.iter().filter_map(one).collect(),
        value => one(value).into_iter().collect(),
    }
}

/// A text, or a list of named ones, of which `default` is taken, else the first.
fn template(value: &Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    let named = value.as_array()?;
    let default = named.iter().find(|it| it["name"] == "default");
    let text = default.or_else(|| named.first())?["template"].as_str()?;
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub;

    fn settings(files: &[(&str, &str)]) -> Result<Settings> {
        let folder = tempfile::tempdir().unwrap();
        for name in ["model.safetensors", "config.json", "tokenizer.json"] {
            std::fs::write(folder.path().join(name), "{}").unwrap();
        }
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Settings::of(&hub::model(&folder.path().display().to_string())?)
    }

    #[test]
    fn nothing_said_is_nothing_known() {
        assert_eq!(settings(&[]).unwrap(), Settings::default());
    }

    #[test]
    fn tokens_and_ends_are_found_in_both_their_forms() {
        let tokens = r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": true, "chat_template": "T"}"#;
        let list = r#"{"eos_token_id": [7, 9, -1, 4294967296]}"#;
        let found = settings(&[
            ("tokenizer_config.json", tokens),
            ("generation_config.json", list),
            ("config.json", r#"{"eos_token_id": 3}"#),
        ])
        .unwrap();
        assert_eq!(found.bos.as_deref(), Some("<s>"));
        assert_eq!(found.eos.as_deref(), Some("</s>"));
        assert_eq!(found.adds_bos, Some(true));
        assert_eq!(found.ends, [7, 9], "what is no id is left out");
        let (file, text) = found.chat.unwrap();
        assert!(file.ends_with("tokenizer_config.json") && text == "T");
        let only = settings(&[("config.json", r#"{"eos_token_id": 3}"#)]).unwrap();
        assert_eq!(only.ends, [3]);
    }

    #[test]
    fn a_template_may_be_named_or_a_file() {
        let named = r#"{"chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]}"#;
        let found = settings(&[("tokenizer_config.json", named)]).unwrap();
        assert_eq!(found.chat.unwrap().1, "D");
        let found = settings(&[
            ("tokenizer_config.json", named),
            ("chat_template.jinja", "F"),
        ]);
        let (file, text) = found.unwrap().chat.unwrap();
        assert!(file.ends_with("chat_template.jinja") && text == "F");
    }

    #[test]
    fn a_broken_file_is_named() {
        for name in [
            "tokenizer_config.json",
            "generation_config.json",
            "config.json",
        ] {
            let error = settings(&[(name, "{")]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
