//! Chat templates in the manner of those that models come with (our own words, their constructions), and hostile ones.

use super::super::chat::{ChatTemplate, Message, SMOLLM2};

fn render(source: &str, messages: &[Message]) -> String {
    let template = ChatTemplate::new("t.jinja", source, "<s>", "</s>");
    template.render(messages, true).unwrap()
}

fn refusal(source: &str) -> String {
    let template = ChatTemplate::new("t.jinja", source, "<s>", "</s>");
    let error = template.render(&[Message::user("x")], true).unwrap_err();
    assert!(matches!(error, crate::Error::Format { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("t.jinja: chat template"), "{text}");
    text
}

/// What SmolLM2 was trained on, by hand.
pub(super) fn smollm2(message: &str) -> String {
    let system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
    format!(
        "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n"
    )
}

#[test]
fn the_built_in_template_is_smollm2s() {
    for message in ["Hi", "  two\nlines {{ 1 }} <b> & 'q' \"é\" 🦀\n", ""] {
        assert_eq!(render(SMOLLM2, &[Message::user(message)]), smollm2(message));
    }
    let talk = [
        Message::system("S"),
        Message::user("a"),
        Message::assistant("b"),
        Message::user("c"),
    ];
    let expected = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n\
                    <|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(render(SMOLLM2, &talk), expected);
    let closed = ChatTemplate::new("t", SMOLLM2, "", "").render(&talk, false);
    assert_eq!(closed.unwrap() + "<|im_start|>assistant\n", expected);
}

#[test]
fn headers_in_the_manner_of_llama_3() {
    let source = "\
{%- set ns = namespace(first=true) %}
{%- if not date_string is defined %}{% set date_string = strftime_now('%Y') %}{% endif %}
{%- for message in messages %}
    {%- set text = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' %}
    {%- if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif %}
    {{- text }}
{%- endfor %}
{%- if tools is not none %}{{ raise_exception('no tools') }}{% endif %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
";
    assert_eq!(
        render(
            source,
            &[Message::system("Be brief."), Message::user("  Hi\n")]
        ),
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi\
         <|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    );
}

#[test]
fn turns_in_the_manner_of_mistral() {
    let source = "\
{{ bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system, rest = messages[0].content, messages[1:] %}
{%- else %}
    {%- set system, rest = '', messages %}
{%- endif %}
{%- for m in rest %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user/assistant') }}
    {%- endif %}
    {%- if m.role == 'user' %}
        {{- '[INST] ' ~ (system ~ '\\n\\n' if loop.last and system else '') ~ m.content.strip() ~ ' [/INST]' }}
    {%- else %}
        {{- ' ' ~ m.content ~ eos_token }}
    {%- endif %}
{%- endfor %}";
    let talk = [
        Message::system("S"),
        Message::user(" a "),
        Message::assistant("b"),
        Message::user("c"),
    ];
    let expected = "<s>[INST] a [/INST] b</s>[INST] S\n\nc [/INST]";
    assert_eq!(render(source, &talk), expected);
    let twice = [Message::user("a"), Message::user("b")];
    let error = ChatTemplate::new("m.gguf", source, "", "").render(&twice, true);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("m.gguf") && error.contains("must alternate"),
        "{error}"
    );
}

#[test]
fn tools_in_the_manner_of_qwen() {
    let source = "\
{%- if tools %}
    {{- '# Tools' }}
{%- else %}
    {%- if messages[0]['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if message.role in ['user', 'system'] or (message.role == 'assistant' and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content.split('</think>')[-1].lstrip('\\n') + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'tool' %}
        {{- message | tojson }}
        {{- {'n': [1, 2]} | tojson(indent=2) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}";
    let talk = [
        Message::user("a"),
        Message::assistant("<think>hm</think>\n\nb"),
        Message::new("tool", "<é & '\">"),
    ];
    assert_eq!(
        render(source, &talk),
        "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n\
         {\"role\": \"tool\", \"content\": \"<é & '\\\">\"}{\n  \"n\": [\n    1,\n    2\n  ]\n}<|im_start|>assistant\n"
    );
}

#[test]
fn marks_for_training_are_no_matter() {
    let source = "\
{% for m in messages -%}
    {%- if m.role == 'assistant' %}{%- generation -%}{{ m.content }}{% endgeneration %}{% else %}{{ m.role }}{% endif %}
{%- endfor %}{{ 'generation {% generation' }}";
    let talk = [Message::user("a"), Message::assistant("b")];
    assert_eq!(render(source, &talk), "userbgeneration {% generation");
}

#[test]
fn nothing_is_not_iterable() {
    let source =
        "{% if tools is iterable and tools | length > 0 %}T{% endif %}{{ messages is iterable }}";
    // As Python writes it.
    assert_eq!(render(source, &[Message::user("a")]), "True");
}

#[test]
fn hostile_templates_are_refused() {
    for (source, expected) in [
        (
            "{% for x in range(100000) %}{% for y in range(100000) %}{% endfor %}{% endfor %}",
            "does not end",
        ),
        (
            "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
            "recursion",
        ),
        ("{{ 'abcdefgh' * 1000000 }}", "more than"),
        ("{{ 'abcdefgh' * 1000000000000 }}", "too large"),
        (
            "{% for x in range(9000) %}{{ 'abcdefgh' * 1000 }}{% endfor %}",
            "more than",
        ),
        ("{% if %}", "syntax error"),
        ("{{ messages[0].content.nothing() }}", "unknown method"),
        ("{{ strftime_now('%Q%') }}", "no format of a date"),
        ("{{ raise_exception('not like that') }}", "not like that"),
        ("{% include '/etc/passwd' %}", "t.jinja"),
    ] {
        let text = refusal(source);
        assert!(text.contains(expected), "{source}: {text}");
    }
    let deep = |n: usize| format!("{}1{}", "{% if 1 %}".repeat(n), "{% endif %}".repeat(n));
    let nested = |n: usize| format!("{{{{ {}1{} }}}}", "(".repeat(n), ")".repeat(n));
    for source in [deep(2500), nested(30_000)] {
        assert!(refusal(&source).contains("syntax error"));
    }
    for source in [deep(5000), nested(50_000)] {
        assert!(refusal(&source).contains("at most 65536 bytes"));
    }
    assert_eq!(render("", &[]), "");
    assert_eq!(render("{{ messages | length }}{{ nothing }}", &[]), "0");
}
