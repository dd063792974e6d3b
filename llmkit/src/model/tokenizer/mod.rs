//! Text to token ids and back.
//!
//! Either the model's own `tokenizer.json`, or the same thing rebuilt from a GGUF file's metadata: byte-level BPE (SmolLM2, GPT-2,
//! Llama 3, Qwen2) and SentencePiece's BPE (Llama 2, Mistral).
//!
//! Markup such as `<|im_start|>` in a text becomes its special token, as in Hugging Face's `encode`.

mod rebuilt;

use std::path::Path;

use super::gguf::Gguf;
use super::settings::Settings;
use crate::{Error, Result};

/// A model's tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The model's beginning-of-sequence token if it wants it in front of a text.
    pub bos: Option<u32>,
    /// Ids after which a generation ends.
    pub ends: Vec<u32>,
    /// The texts of the beginning- and end-of-sequence tokens, wanted or not; empty if there are none.
    pub(super) bos_and_eos: [String; 2],
}

/// Tokens that end a generation wherever they are in a vocabulary.
const ENDS: [&str; 4] = ["<|im_end|>", "<|endoftext|>", "</s>", "<|eot_id|>"];

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Tokenizer(error.to_string())
}

impl Tokenizer {
    /// From a `tokenizer.json` alone: what its neighbours would say of beginnings and ends is not known.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if it cannot be read.
    pub fn from_json(path: &Path) -> Result<Tokenizer> {
        Tokenizer::with_settings(path, &Settings::default())
    }

    /// From a `tokenizer.json`, with what its neighbours say.
    pub(super) fn with_settings(path: &Path, settings: &Settings) -> Result<Tokenizer> {
        // What is no JSON inside the decoder, the library does not refuse but panics on.
        #[derive(serde::Deserialize)]
        struct Readable {
            #[serde(default, rename = "decoder")]
            _decoder: serde_json::Value,
        }
        let json = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let _: Readable = serde_json::from_str(&json).map_err(|source| Error::Json {
            context: path.display().to_string(),
            source,
        })?;
        let read = || Tokenizer::of_text(path, &json, settings);
        Error::guarded(path.display(), "a tokenizer", read)?
    }

    fn of_text(path: &Path, json: &str, settings: &Settings) -> Result<Tokenizer> {
        let wrong = |error| Error::Tokenizer(format!("{}: {error}", path.display()));
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(wrong)?;
        // These are for batches in training: they would cut a text, or fill it up to a length of the file's choice.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(wrong)?;
        let id = |token: &Option<String>| inner.token_to_id(token.as_ref()?);
        // Where nobody says it, the tokenizer itself may put a token in front.
        let adds_bos = settings.adds_bos.unwrap_or_else(|| {
            let alone = inner.encode_fast("", true);
            alone.is_ok_and(|it| {
                id(&settings.bos).is_some_and(|id| it.get_ids().first() == Some(&id))
            })
        });
        let known = ENDS.iter().filter_map(|token| inner.token_to_id(token));
        let ends = settings
            .ends
            .iter()
            .copied()
            .chain(id(&settings.eos))
            .chain(known);
        Ok(Tokenizer {
            bos: id(&settings.bos).filter(|_| adds_bos),
            ends: once(ends),
            bos_and_eos: [&settings.bos, &settings.eos].map(|it| it.clone().unwrap_or_default()),
            inner,
        })
    }

    /// Rebuilt from the metadata of a GGUF file.
    ///
    /// # Errors
    /// [`Error::Format`] if the metadata are incomplete or of a kind we do not know.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer> {
        Error::guarded(gguf.file(), "a tokenizer", || rebuilt::tokenizer(gguf))?
    }

    /// Token ids of `text`, without a beginning-of-sequence token. A byte for which the vocabulary has no token is left out, as by
    /// Hugging Face: SmolLM2's lacks 21, among them the controls 04, 06, 13, 14, 16 and 1d (hexadecimal).
    ///
    /// # Errors
    /// [`Error::Tokenizer`], which byte-level BPE has no reason for.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encode = || self.inner.encode_fast(text, false);
        let encoding = Error::guarded("tokenizer", "one that can encode", encode)?;
        Ok(encoding.map_err(failed)?.get_ids().to_vec())
    }

    /// Text of `ids`, markup included. Bytes that are not UTF-8 (a character cut in two) become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Argument`] if an id is outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(&id) = ids.iter().find(|&&id| self.inner.id_to_token(id).is_none()) {
            return Err(Error::argument(
                "token id",
                format!("below {}", self.vocabulary()),
                id,
            ));
        }
        let decode = || self.inner.decode(ids, false);
        Error::guarded("tokenizer", "one that can decode", decode)?.map_err(failed)
    }

    /// What a `tokenizer.json` of it holds.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], which none that was read has a reason for.
    pub fn to_json(&self) -> Result<String> {
        self.inner.to_string(true).map_err(failed)
    }

    /// Tokens in the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token, written as it stands in the vocabulary: `<|im_start|>`.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
}

/// Each once, in order of first appearance.
fn once(ids: impl Iterator<Item = u32>) -> Vec<u32> {
    ids.fold(Vec::new(), |mut seen, id| {
        if !seen.contains(&id) {
            seen.push(id);
        }
        seen
    })
}
