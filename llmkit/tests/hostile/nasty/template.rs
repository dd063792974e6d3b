//! Chat templates that are no templates, do not end, or ask for what is not theirs.

use super::refused;
use crate::entry;

#[test]
fn templates_that_are_none() {
    for source in [
        "{% for",
        "{{ messages",
        "{% endfor %}",
        "{{ 1 +",
        "{% if true %}",
        "{{ messages | nofilter }}",
        "{{ nofunction() }}",
        "{{ messages[0].content.nomethod() }}",
        "{{ raise_exception('no') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% extends 'x' %}",
        "{{ strftime_now('%!') }}",
        "{{ 1 // 0 }}",
        "{{ range(1000000000000) }}",
        // Once a panic inside minijinja.
        "{{ [][::-1][0].content[:5] }}",
    ] {
        let words = ["input.jinja: chat template"];
        refused(source, entry::template, source.as_bytes(), &words);
    }
}

#[test]
fn templates_that_do_not_end() {
    let ten = "{% for a in range(10000) %}";
    for source in [
        format!("{}{}", ten.repeat(5), "{% endfor %}".repeat(5)),
        format!("{}x{}", ten.repeat(5), "{% endfor %}".repeat(5)),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}".to_owned(),
        format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(50_000)),
        format!("{{{{ {}{} }}}}", "[".repeat(50_000), "]".repeat(50_000)),
        "{% if true %}".repeat(20_000),
    ] {
        let words = ["input.jinja: chat template"];
        refused(&source[..20], entry::template, source.as_bytes(), &words);
    }
}
