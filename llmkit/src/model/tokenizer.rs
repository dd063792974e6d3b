//! Text to token ids and back.
//!
//! Either the model's own `tokenizer.json`, or the same thing rebuilt from a GGUF file's metadata: byte-level BPE with the
//! merges in rank order. The pre-tokenizer called `smollm` splits digits one by one, then as GPT-2 does — in
//! Hugging Face's terms `Digits(individual) + ByteLevel(no prefix space)`, in llama.cpp's the regular expressions `\p{N}` and
//! GPT-2's. (candle's own reading of GGUF tokenizers does neither for this model: it adds a space in front and keeps
//! digits together.)
//!
//! Markup such as `<|im_start|>` in a text becomes its special token, as in Hugging Face's `encode`.

use std::path::Path;

use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::{PreTokenizerWrapper, digits::Digits, sequence::Sequence};
use tokenizers::{AddedToken, DecoderWrapper};

use super::gguf::{Gguf, Value};
use crate::{Error, Result};

/// A model's tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Whether the model wants its beginning-of-sequence token in front of a text, and which it is.
    pub bos: Option<u32>,
    /// Ids after which a generation ends.
    pub ends: Vec<u32>,
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Tokenizer(error.to_string())
}

impl Tokenizer {
    /// From a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if it cannot be read.
    pub fn from_json(path: &Path) -> Result<Tokenizer> {
        let inner = tokenizers::Tokenizer::from_file(path)
            .map_err(|error| Error::Tokenizer(format!("{}: {error}", path.display())))?;
        let ends = ["<|im_end|>", "<|endoftext|>", "</s>", "<|eot_id|>"]
            .iter()
            .filter_map(|token| inner.token_to_id(token))
            .collect();
        Ok(Tokenizer {
            inner,
            bos: None,
            ends,
        })
    }

    /// Rebuilt from the metadata of a GGUF file.
    ///
    /// # Errors
    /// [`Error::Format`] if the metadata are incomplete or of a kind we do not know.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer> {
        let kind = gguf.text("tokenizer.ggml.model")?;
        if kind != "gpt2" {
            return Err(gguf.wrong("tokenizer.ggml.model", "gpt2 (byte-level BPE)", kind));
        }
        let pre: PreTokenizerWrapper = match gguf.text("tokenizer.ggml.pre")? {
            "smollm" => Sequence::new(vec![
                Digits::new(true).into(),
                ByteLevel::new(false, true, true).into(),
            ])
            .into(),
            "gpt-2" | "gpt2" | "default" => ByteLevel::new(false, true, true).into(),
            other => return Err(gguf.wrong("tokenizer.ggml.pre", "smollm or gpt-2", other)),
        };
        let tokens = gguf.texts("tokenizer.ggml.tokens")?;
        let merges = gguf.texts("tokenizer.ggml.merges")?;
        let vocabulary = tokens.iter().cloned().zip(0..).collect::<Vocab>();
        if vocabulary.len() != tokens.len() {
            return Err(gguf.wrong("tokenizer.ggml.tokens", "each token once", "some twice"));
        }
        let merges = merges
            .iter()
            .map(|merge| {
                let (left, right) = merge
                    .split_once(' ')
                    .ok_or_else(|| gguf.wrong("tokenizer.ggml.merges", "two parts", merge))?;
                Ok((left.to_owned(), right.to_owned()))
            })
            .collect::<Result<Vec<_>>>()?;
        let model = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .build()
            .map_err(failed)?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_pre_tokenizer(Some(pre));
        inner.with_decoder(Some(DecoderWrapper::from(ByteLevel::default())));
        // Types 3 (control) and 4 (user-defined) are matched whole in the text; only control tokens are "special".
        if let Some(Value::Integers(types)) = gguf.metadata.get("tokenizer.ggml.token_type") {
            let added: Vec<AddedToken> = tokens
                .iter()
                .zip(types)
                .filter(|(_, kind)| matches!(kind, 3 | 4))
                .map(|(token, &kind)| AddedToken::from(token.clone(), kind == 3).normalized(false))
                .collect();
            inner.add_tokens(added).map_err(failed)?;
        }
        let id = |key: &str| {
            gguf.integer(key)
                .ok()
                .filter(|&id| id < tokens.len())
                .map(|id| id as u32)
        };
        let wants_bos =
            gguf.metadata.get("tokenizer.ggml.add_bos_token") == Some(&Value::Bool(true));
        let mut ends: Vec<u32> = ["eos", "eot", "eom"]
            .iter()
            .filter_map(|name| id(&format!("tokenizer.ggml.{name}_token_id")))
            .chain(inner.token_to_id("<|endoftext|>"))
            .collect();
        ends.dedup();
        Ok(Tokenizer {
            bos: id("tokenizer.ggml.bos_token_id").filter(|_| wants_bos),
            ends,
            inner,
        })
    }

    /// Token ids of `text`, without a beginning-of-sequence token.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], which byte-level BPE has no reason for.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self
            .inner
            .encode_fast(text, false)
            .map_err(failed)?
            .get_ids()
            .to_vec())
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
        self.inner.decode(ids, false).map_err(failed)
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
