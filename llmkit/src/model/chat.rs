//! Chat templates: a conversation in the markup that a model was trained on.
//!
//! A template is a small program in the Jinja language that comes with the model: in a GGUF file's metadata, in
//! `tokenizer_config.json` or in `chat_template.jinja`. It is rendered by minijinja with what Hugging Face's
//! `apply_chat_template` gives it: `messages`, `bos_token`, `eos_token`, `add_generation_prompt`, `raise_exception`, `strftime_now`,
//! the methods of Python's strings and dictionaries, `tojson` as Python writes it; blocks trimmed.
//!
//! Templates are not trusted: steps, depth and the length of the result are limited, and nothing outside the conversation is
//! in reach. One thing is not bounded: a template that doubles a text in a variable again and again asks for memory without printing it.

use std::fmt;
use std::io;

use chrono::format::{Item, StrftimeItems};
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, ErrorKind, context};

use crate::{Error, Result};

/// What is said, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message {
            role: role.into(),
            content: content.into(),
        }
    }

    /// A message of the user.
    pub fn user(content: impl Into<String>) -> Message {
        Message::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Message {
        Message::new("assistant", content)
    }

    /// An instruction for the whole conversation.
    pub fn system(content: impl Into<String>) -> Message {
        Message::new("system", content)
    }
}

/// A model's chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    file: String,
    source: String,
    bos: String,
    eos: String,
}

/// Steps of the interpreter: for a template, and for each message more. (Llama 3.1's longest takes about 200 a message.)
const STEPS: u64 = 50_000;
const STEPS_A_MESSAGE: u64 = 5_000;
/// Macros and blocks within each other.
const DEPTH: usize = 64;
/// Bytes of the result beyond 16 times those of template and messages.
const SPARE_BYTES: usize = 1 << 20;

/// Bytes of a template. minijinja's parser calls itself for each `not` or bracket without a limit of its own …
const SOURCE_BYTES: usize = 64 << 10;
/// … so that it is given a stack that is enough for as many as fit into a template.
const STACK_BYTES: usize = 256 << 20;

/// ChatML with SmolLM2's instruction, for its checkpoint as [`hub`](crate::hub) fetches it: without `tokenizer_config.json`.
pub(super) const SMOLLM2: &str = "\
{%- if messages[0].role != 'system' -%}
{{ '<|im_start|>system\n' }}You are a helpful AI assistant named SmolLM, trained by Hugging Face{{ '<|im_end|>\n' }}
{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\n' }}
{%- endif -%}";

impl ChatTemplate {
    /// A template; `file` is its name in messages, `bos` and `eos` the texts of the tokens that it may write. Mistakes in it are
    /// reported when it is rendered.
    pub fn new(
        file: impl Into<String>,
        source: impl Into<String>,
        bos: impl Into<String>,
        eos: impl Into<String>,
    ) -> ChatTemplate {
        ChatTemplate {
            file: file.into(),
            source: source.into(),
            bos: bos.into(),
            eos: eos.into(),
        }
    }

    /// The conversation as the model reads it; `is_answered_next` has the template end where the model's answer begins.
    ///
    /// # Errors
    /// [`Error::Format`] with file and line if the template is no template, refuses the conversation, or exceeds a limit.
    pub fn render(&self, messages: &[Message], is_answered_next: bool) -> Result<String> {
        let file = format!("{}: chat template", self.file);
        let expected = "a template that renders this conversation";
        if self.source.len() > SOURCE_BYTES {
            let expected = format!("a template of at most {SOURCE_BYTES} bytes");
            return Err(self.wrong(&expected, format!("{} bytes", self.source.len())));
        }
        // minijinja 2.24 panics on `[][::-1][0]`, say.
        let render =
            || Error::guarded(file, expected, || self.rendered(messages, is_answered_next));
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            let running = thread
                .spawn_scoped(scope, render)
                .map_err(|error| self.wrong("a thread to render it on", error))?;
            // A panic never gets here: it was caught above.
            running
                .join()
                .unwrap_or_else(|_| Err(self.wrong(expected, "a failure of its thread")))
        })?
    }

    fn rendered(&self, messages: &[Message], is_answered_next: bool) -> Result<String> {
        let given: usize = messages
            .iter()
            .map(|it| it.content.len() + it.role.len())
            .sum();
        let mut out = Limited {
            bytes: Vec::new(),
            most: SPARE_BYTES + 16 * (given + self.source.len()),
        };
        let mut environment = environment();
        let source = unmarked(&self.source);
        environment.set_fuel(Some(STEPS + STEPS_A_MESSAGE * messages.len() as u64));
        environment
            .template_from_named_str("chat template", &source)
            .and_then(|template| {
                let context = context! {
                    messages => Value::from_serialize(messages),
                    bos_token => self.bos,
                    eos_token => self.eos,
                    add_generation_prompt => is_answered_next,
                    tools => (),
                    documents => (),
                };
                template.render_captured_to(context, &mut out).map(drop)
            })
            .map_err(|error| {
                let reason = match error.kind() {
                    ErrorKind::OutOfFuel => "one that does not end".to_owned(),
                    ErrorKind::WriteFailure => format!("more than {} bytes", out.most),
                    _ => error.to_string(),
                };
                self.wrong("a template that renders this conversation", reason)
            })?;
        String::from_utf8(out.bytes).map_err(|error| self.wrong("UTF-8", error))
    }

    /// The template itself.
    pub fn source(&self) -> &str {
        &self.source
    }

    fn wrong(&self, expected: &str, got: impl fmt::Display) -> Error {
        Error::Format {
            file: format!("{}: chat template", self.file),
            expected: expected.to_owned(),
            got: got.to_string(),
        }
    }
}

/// `{% generation %}` marks what the model said, for training, and is no Jinja: here it is `{% if true %}`.
fn unmarked(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        let (tag, after) = tag.split_at(tag.find("%}").unwrap_or(tag.len()));
        out.push_str(before);
        match tag.trim_matches(|it: char| "{%-+".contains(it) || it.is_whitespace()) {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Jinja as Hugging Face sets it up.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_recursion_limit(DEPTH);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", to_json);
    environment.add_test("iterable", is_iterable);
    environment.add_function("raise_exception", |message: String| -> Refusal {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: &str| -> Refusal {
        if StrftimeItems::new(format).any(|item| matches!(item, Item::Error)) {
            let message = format!("no format of a date: {format:?}");
            return Err(minijinja::Error::new(ErrorKind::InvalidOperation, message));
        }
        Ok(chrono::Local::now().format(format).to_string().into())
    });
    environment
}

/// As in Python, where nothing is nothing to walk through; minijinja's own test is more generous.
fn is_iterable(value: Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
    )
}

type Refusal = Result<Value, minijinja::Error>;

/// As Python's `json.dumps(value, ensure_ascii=False, indent=indent)`: a blank after commas and colons, nothing escaped for HTML.
fn to_json(value: &Value, options: Kwargs) -> Refusal {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let failed = |error: serde_json::Error| {
        minijinja::Error::new(ErrorKind::BadSerialization, error.to_string())
    };
    let mut bytes = Vec::new();
    match indent {
        Some(width) => {
            let blanks = vec![b' '; width.min(16)];
            let pretty = serde_json::ser::PrettyFormatter::with_indent(&blanks);
            let mut out = serde_json::Serializer::with_formatter(&mut bytes, pretty);
            serde::Serialize::serialize(value, &mut out).map_err(failed)?;
        }
        None => {
            let mut out = serde_json::Serializer::with_formatter(&mut bytes, Spaced);
            serde::Serialize::serialize(value, &mut out).map_err(failed)?;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned().into())
}

/// JSON on one line with a blank after commas and colons.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

/// Memory that takes so many bytes and no more.
struct Limited {
    bytes: Vec<u8>,
    most: usize,
}

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most {
            return Err(io::Error::other("too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
