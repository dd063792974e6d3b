//! What a user does with a file, as functions of the file's bytes: the tests here and the fuzz targets in `fuzz/` call these.
//!
//! Each either refuses the bytes with an error or uses what it got. A panic, an abort or an answer that is no answer is a bug.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llmkit::eval::Ledger;
use llmkit::model::gguf::Gguf;
use llmkit::model::weights::Weights;
use llmkit::model::{ChatTemplate, Config, Llama, Message, Model, Piece, Tokenizer, WeightType};
use llmkit::{Error, Result};

/// What a target does with the bytes it is given.
pub type Entry = fn(&[u8]) -> Result<()>;

/// Names of all targets with what they do, in the order of the fuzz targets.
pub const ALL: [(&str, Entry); 5] = [
    ("gguf", gguf),
    ("folder", folder),
    ("tokenizer", tokenizer),
    ("template", template),
    ("ledger", ledger),
];

/// Between the parts of a [`folder`].
pub const CUT: &[u8] = b"\n%%%%\n";

/// The bytes of a GGUF file, from the directory of tensors to the first logits.
pub fn gguf(bytes: &[u8]) -> Result<()> {
    let gguf = Arc::new(Gguf::parse("input.gguf", bytes.to_vec())?);
    for info in &gguf.tensors {
        let elements: usize = info.shape.iter().product();
        assert_eq!(gguf.dequantize(info).len(), elements, "{}", info.name);
    }
    let config = Config::from_gguf(&gguf)?;
    // A tokenizer that is refused is no reason to leave the weights alone.
    let tokenizer = Tokenizer::from_gguf(&gguf).map(|it| text(&it));
    let weights = Weights::of_gguf(Arc::clone(&gguf));
    for kind in [WeightType::F32, WeightType::Native] {
        first_logits(&Llama::new(&config, &weights, kind)?, &config)?;
    }
    tokenizer
}

/// A folder: `config.json`, `tokenizer.json`, `model.safetensors.index.json` and weights, in this order, [`CUT`] between them. With an
/// empty index there is one file of weights, `model.safetensors`; else they are called `model-1.safetensors` and so on.
pub fn folder(bytes: &[u8]) -> Result<()> {
    in_directory(|directory| {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
        let parts = split(bytes);
        let has_index = parts.get(2).is_some_and(|index| !index.is_empty());
        for (i, part) in parts.iter().enumerate() {
            let name = match i {
                0 => "config.json".to_owned(),
                1 => "tokenizer.json".to_owned(),
                2 if has_index => "model.safetensors.index.json".to_owned(),
                2 => continue,
                3 if !has_index => "model.safetensors".to_owned(),
                _ => format!("model-{}.safetensors", i - 2),
            };
            write(&directory.join(name), part)?;
        }
        let model = Model::load(&directory.display().to_string())?;
        text(&model.tokenizer);
        first_logits(model.network(), &model.config)
    })
}

/// A `tokenizer.json`.
pub fn tokenizer(bytes: &[u8]) -> Result<()> {
    in_directory(|directory| {
        let path = directory.join("tokenizer.json");
        write(&path, bytes)?;
        text(&Tokenizer::from_json(&path)?);
        Ok(())
    })
}

/// A chat template; bytes that are no UTF-8 cannot come to one.
pub fn template(bytes: &[u8]) -> Result<()> {
    let source = String::from_utf8_lossy(bytes);
    let template = ChatTemplate::new("input.jinja", source, "<s>", "</s>");
    let conversations = [
        vec![Message::user("2 + 2?")],
        vec![
            Message::system("Be brief."),
            Message::user("né\n{{ x }}"),
            Message::assistant("4"),
            Message::user(""),
        ],
    ];
    for messages in conversations {
        for is_answered_next in [false, true] {
            let limit = (2 << 20) + 16 * (bytes.len() * 3 + 100);
            let text = template.render(&messages, is_answered_next)?;
            assert!(text.len() <= limit, "{} bytes", text.len());
        }
    }
    Ok(())
}

/// A ledger that is read, and written with its last row once more.
pub fn ledger(bytes: &[u8]) -> Result<()> {
    in_directory(|directory| {
        let path = directory.join("ledger.csv");
        write(&path, bytes)?;
        let ledger = Ledger::at(&path);
        let Some(last) = ledger.rows()?.pop() else {
            return Ok(());
        };
        ledger.record(&last)?;
        assert!(ledger.rows()?.contains(&last), "{last:?} is lost");
        Ok(())
    })
}

fn split(bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    // Sixteen parts are enough for any folder here.
    while let Some(at) = rest.windows(CUT.len()).position(|it| it == CUT)
        && parts.len() < 15
    {
        parts.push(&rest[..at]);
        rest = &rest[at + CUT.len()..];
    }
    parts.push(rest);
    parts
}

/// Texts into ids that exist, and ids into texts.
fn text(tokenizer: &Tokenizer) {
    let texts = [
        "",
        "abc ab  a",
        "<|im_start|>a\n12 3<|im_end|>",
        "né 日本語 🦀\u{0}\r\n",
    ];
    for text in texts {
        if let Ok(ids) = tokenizer.encode(text) {
            let _ = tokenizer.decode(&ids);
            let limit = 40 * text.len() + 40;
            assert!(ids.len() <= limit, "{} ids for {text:?}", ids.len());
        }
    }
    for ids in [&[][..], &[0], &[1, 2, 3, 0, 5], &[u32::MAX]] {
        let _ = tokenizer.decode(ids);
    }
}

/// Some tokens, then one more, through the network.
fn first_logits(network: &Llama, config: &Config) -> Result<()> {
    let last = config.vocabulary as u32 - 1;
    let mut store = network.store();
    for tokens in [&[0, last, last / 2][..], &[last]] {
        let store = store.as_mut();
        let hidden = network.hidden(&mut [Piece { store, tokens }], None)?;
        assert!(hidden.iter().all(|it| it.is_finite()), "hidden states");
        let logits = network.logits(&hidden);
        assert_eq!(logits.len(), tokens.len() * config.vocabulary, "logits");
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(Error::io("write", path))
}

/// Calls `work` with a directory of this thread's own, in memory where there is one.
fn in_directory<R>(work: impl FnOnce(&Path) -> R) -> R {
    thread_local! {
        static DIRECTORY: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
    }
    DIRECTORY.with(|it| {
        let memory = PathBuf::from("/dev/shm");
        let parent = match memory.is_dir() {
            true => memory,
            false => std::env::temp_dir(),
        };
        let make = || tempfile::tempdir_in(parent).expect("a directory for test files");
        work(it.get_or_init(make).path())
    })
}
