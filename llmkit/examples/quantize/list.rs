//! What recipes are made of: names and settings from the library's tables, what they are and whose from the heads of their files.

use std::fmt::Write;

use llmkit::quant::{format, method, transform};
use serde_json::{Value, json};

/// One family of methods, formats or transforms.
struct Family {
    name: &'static str,
    members: Vec<String>,
}

/// What the head of a module says.
#[derive(Default)]
struct Head {
    /// Its first sentence.
    what: String,
    /// Its source, without what it adds about code.
    source: String,
}

/// All that can be said, as lines or as one JSON object.
pub fn list(is_json: bool) -> String {
    let areas = [
        ("methods", "method", methods()),
        ("formats", "format", formats()),
        ("transforms", "transform", transforms()),
    ];
    if is_json {
        let area = |(title, folder, families): &(&str, &str, Vec<Family>)| {
            let rows = families.iter().map(|family| {
                let head = head(folder, family.name);
                json!({ "family": family.name, "names": family.members, "what": head.what, "source": head.source })
            });
            (
                (*title).to_owned(),
                Value::from(rows.collect::<Vec<Value>>()),
            )
        };
        return Value::from(
            areas
                .iter()
                .map(area)
                .collect::<serde_json::Map<String, Value>>(),
        )
        .to_string();
    }
    let mut text = String::new();
    for (title, folder, families) in &areas {
        let _ = writeln!(text, "{title}");
        for family in families {
            let head = head(folder, family.name);
            let _ = writeln!(text, "  {}\n      {}", family.members.join(", "), head.what);
            if !head.source.is_empty() {
                let _ = writeln!(text, "      source: {}", head.source);
            }
        }
        text.push('\n');
    }
    text + "after the format: @a8-token, @a8-g64, @a8-tensor, @a8-tensor-p99.9, @a8-outliers6 (inputs in few bits, LLM.int8())\n\
at the end:       PLACE=[METHOD:]FORMAT (a matrix, a layer or a part of all layers), lorc-r16 or eora-r16\n\
in front:         sequential, true-sequential (inputs of the network quantized so far), packed (run on codes)\n\
defaults:         rotate is rotate-seed0, smooth is smooth-a0.5, spin is spin-a4-steps100-seed0 (slow), awq is for the recipe's format, int4-g64 is int4-symmetric-g64;\n\
                  a method's first name above has the settings of its paper"
}

fn methods() -> Vec<Family> {
    let of = |it: method::Family| Family {
        name: it.name,
        members: (it.members)().iter().map(|it| it.name()).collect(),
    };
    method::all().into_iter().map(of).collect()
}

fn formats() -> Vec<Family> {
    let of = |it: format::Family| Family {
        name: it.name,
        members: (it.members)().iter().map(|it| it.name()).collect(),
    };
    format::all().into_iter().map(of).collect()
}

fn transforms() -> Vec<Family> {
    let of = |it: transform::Family| Family {
        name: it.name,
        members: (it.members)().iter().map(|it| it.name()).collect(),
    };
    transform::all().into_iter().map(of).collect()
}

/// The head of `quant/FOLDER/NAME.rs` of the checkout that this was built from; empty if it is not there any more.
fn head(folder: &str, name: &str) -> Head {
    let path = format!(
        "{}/src/quant/{folder}/{name}.rs",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
    let paragraphs: Vec<String> = lines
        .map(str::trim)
        .collect::<Vec<&str>>()
        .split(|line| line.is_empty())
        .map(|lines| lines.join(" "))
        .collect();
    let first = paragraphs.first().cloned().unwrap_or_default();
    let source = paragraphs.iter().find_map(|it| it.strip_prefix("Source: "));
    Head {
        what: sentence(&first).to_owned(),
        source: source.unwrap_or_default().to_owned(),
    }
}

/// To the first full stop that ends a sentence.
fn sentence(text: &str) -> &str {
    text.split_once(". ").map_or(text, |(first, _)| first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_says_what_it_is_and_whose() {
        for (folder, families) in [
            ("method", methods()),
            ("format", formats()),
            ("transform", transforms()),
        ] {
            for family in families {
                let head = head(folder, family.name);
                assert!(!head.what.is_empty(), "{folder}/{}", family.name);
                assert!(!head.source.is_empty(), "{folder}/{}", family.name);
                assert!(!family.members.is_empty(), "{folder}/{}", family.name);
            }
        }
    }
}
