//! A tokenizer from a GGUF file's metadata, the same as the model's own.
//!
//! `tokenizer.ggml.model` is `gpt2`, byte-level BPE with the merges in rank order, or `llama`, SentencePiece's BPE, whose merges
//! follow from the scores of its pieces. How the former cuts a text before merging is known by a name:
//!
//! | `tokenizer.ggml.pre` | cut |
//! |---|---|
//! | `smollm` | digits one by one, then as GPT-2 does: `Digits(individual) + ByteLevel(no prefix space)` in Hugging Face's terms |
//! | `gpt-2`, `default` | contractions, words, numbers, the rest, blanks: `ByteLevel` |
//! | `llama-bpe` | GPT-4's pattern, numbers in threes; a piece that is a token is one, whatever the merges say |
//! | `qwen2` | GPT-4's pattern, digits one by one, on text in normal form C |
//!
//! (candle's own reading of GGUF tokenizers does not for SmolLM2: it adds a space in front and keeps digits together.)
//!
//! Source: llama.cpp, `llama-vocab.cpp`; Hugging Face's converters of slow tokenizers for the merges of SentencePiece.

use std::collections::HashMap;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{NFC, NormalizerWrapper, Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, DecoderWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::{Tokenizer, failed, once};
use crate::Result;
use crate::model::gguf::{Gguf, Value};

/// What SentencePiece writes for a blank.
const BLANK: &str = "\u{2581}";
/// Bytes of the longest piece that is looked at for merges; real ones have some dozens. A piece has as many merges as ways to cut
/// it: this limits what a hostile vocabulary can ask for.
const LONGEST: usize = 128;

/// The tokenizer of a file.
pub(super) fn tokenizer(gguf: &Gguf) -> Result<Tokenizer> {
    let tokens = gguf.texts("tokenizer.ggml.tokens")?;
    let (mut inner, adds_bos) = match gguf.text("tokenizer.ggml.model")? {
        "gpt2" => byte_level(gguf, tokens)?,
        "llama" => sentence_piece(gguf, tokens)?,
        other => {
            let known = "gpt2 (byte-level BPE) or llama (SentencePiece)";
            return Err(gguf.wrong("tokenizer.ggml.model", known, other));
        }
    };
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
    let id = |name: &str| {
        let id = gguf
            .integer(&format!("tokenizer.ggml.{name}_token_id"))
            .ok();
        id.filter(|&id| id < tokens.len()).map(|id| id as u32)
    };
    let adds_bos = match gguf.metadata.get("tokenizer.ggml.add_bos_token") {
        Some(value) => *value == Value::Bool(true),
        None => adds_bos,
    };
    let ends = ["eos", "eot", "eom"].iter().filter_map(|name| id(name));
    let text = |name| id(name).map_or_else(String::new, |id| tokens[id as usize].clone());
    Ok(Tokenizer {
        bos: id("bos").filter(|_| adds_bos),
        ends: once(ends.chain(inner.token_to_id("<|endoftext|>"))),
        bos_and_eos: [text("bos"), text("eos")],
        inner,
    })
}

fn vocabulary(gguf: &Gguf, tokens: &[String]) -> Result<Vocab> {
    let mut vocabulary = Vocab::with_capacity(tokens.len());
    vocabulary.extend(tokens.iter().cloned().zip(0..));
    match vocabulary.len() == tokens.len() {
        true => Ok(vocabulary),
        false => Err(gguf.wrong("tokenizer.ggml.tokens", "each token once", "some twice")),
    }
}

/// GPT-2's kind, and whether its models want a beginning-of-sequence token where the file does not say it (llama.cpp's rule).
fn byte_level(gguf: &Gguf, tokens: &[String]) -> Result<(tokenizers::Tokenizer, bool)> {
    let name = gguf.text("tokenizer.ggml.pre")?;
    let gpt2 = || ByteLevel::new(false, true, true);
    let pre: PreTokenizerWrapper = match name {
        "smollm" => Sequence::new(vec![Digits::new(true).into(), gpt2().into()]).into(),
        "gpt-2" | "gpt2" | "default" => gpt2().into(),
        "llama-bpe" => gpt4("{1,3}")?,
        "qwen2" => gpt4("")?,
        other => {
            let known = "smollm, gpt-2, llama-bpe or qwen2";
            return Err(gguf.wrong("tokenizer.ggml.pre", known, other));
        }
    };
    let merges = gguf
        .texts("tokenizer.ggml.merges")?
        .iter()
        .map(|merge| {
            let (left, right) = merge
                .split_once(' ')
                .ok_or_else(|| gguf.wrong("tokenizer.ggml.merges", "two parts", merge))?;
            Ok((left.to_owned(), right.to_owned()))
        })
        .collect::<Result<Vec<_>>>()?;
    let model = BPE::builder()
        .vocab_and_merges(vocabulary(gguf, tokens)?, merges)
        .ignore_merges(name == "llama-bpe")
        .build()
        .map_err(|error| gguf.wrong("tokenizer.ggml.merges", "parts that are tokens", error))?;
    let mut inner = tokenizers::Tokenizer::new(model);
    if name == "qwen2" {
        inner.with_normalizer(Some(NFC)).map_err(failed)?;
    }
    inner.with_pre_tokenizer(Some(pre));
    inner.with_decoder(Some(DecoderWrapper::from(ByteLevel::default())));
    Ok((inner, name == "llama-bpe"))
}

/// How GPT-4 cuts a text, with numbers of `digits` digits at most.
fn gpt4(digits: &str) -> Result<PreTokenizerWrapper> {
    let pattern = format!(
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|\\p{{N}}{digits}\
         | ?[^\\s\\p{{L}}\\p{{N}}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
    );
    let pattern = SplitPattern::Regex(pattern);
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?;
    let bytes = ByteLevel::new(false, true, false);
    Ok(Sequence::new(vec![split.into(), bytes.into()]).into())
}

/// SentencePiece's BPE: the pair whose union has the best score is merged first. As a list of merges: all ways to cut a piece
/// into two pieces, best score first. Characters without a piece are spelled in bytes.
fn sentence_piece(gguf: &Gguf, tokens: &[String]) -> Result<(tokenizers::Tokenizer, bool)> {
    let scores = match gguf.metadata.get("tokenizer.ggml.scores") {
        Some(Value::Floats(scores)) if scores.len() == tokens.len() => scores,
        _ => return Err(gguf.wrong("tokenizer.ggml.scores", "one for each token", "others")),
    };
    let ids: HashMap<&str, usize> = tokens.iter().map(String::as_str).zip(0..).collect();
    let mut merges = Vec::new();
    for (token, &score) in tokens.iter().zip(scores) {
        if token.len() > LONGEST {
            continue;
        }
        let first = merges.len();
        for (cut, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(cut);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                merges.push((score, l, r));
            }
        }
        merges[first..].sort_by_key(|&(_, left, right)| (left, right));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    let merges = merges
        .into_iter()
        .map(|(_, left, right)| (tokens[left].clone(), tokens[right].clone()))
        .collect();
    let unknown = gguf.integer("tokenizer.ggml.unknown_token_id").unwrap_or(0);
    let mut model = BPE::builder()
        .vocab_and_merges(vocabulary(gguf, tokens)?, merges)
        .fuse_unk(true)
        .byte_fallback(true);
    if let Some(unknown) = tokens.get(unknown) {
        model = model.unk_token(unknown.clone());
    }
    let model = model
        .build()
        .map_err(|error| gguf.wrong("tokenizer.ggml.tokens", "pieces", error))?;
    let mut inner = tokenizers::Tokenizer::new(model);
    let has_prefix =
        gguf.metadata.get("tokenizer.ggml.add_space_prefix") != Some(&Value::Bool(false));
    let blanks: NormalizerWrapper = Replace::new(" ", BLANK).map_err(failed)?.into();
    let normalizer: NormalizerWrapper = match has_prefix {
        true => Normalizers::new(vec![Prepend::new(BLANK.to_owned()).into(), blanks]).into(),
        false => blanks,
    };
    inner.with_normalizer(Some(normalizer)).map_err(failed)?;
    let mut decoders: Vec<DecoderWrapper> = vec![
        Replace::new(BLANK, " ").map_err(failed)?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if has_prefix {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    inner.with_decoder(Some(DecoderWrapper::from(Decoders::new(decoders))));
    Ok((inner, true))
}
