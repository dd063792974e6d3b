//! Honest files, small, made by code: what is mutated, and what the fuzz targets begin with.

pub mod gguf;

use super::entry::CUT;
use gguf::blocks;

/// The seeds of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "gguf" => vec![
            gguf::llama().bytes(),
            gguf::qwen().bytes(),
            gguf::k_quants().bytes(),
            gguf::sentence_piece().bytes(),
            gguf::nothing().bytes(),
        ],
        "folder" => vec![folder("F32"), folder("BF16")],
        "tokenizer" => vec![
            tokenizer_json().into_bytes(),
            WORD_PIECE.as_bytes().to_vec(),
            UNIGRAM.as_bytes().to_vec(),
        ],
        "template" => TEMPLATES.iter().map(|it| it.as_bytes().to_vec()).collect(),
        "ledger" => vec![LEDGER.as_bytes().to_vec(), b"".to_vec()],
        _ => Vec::new(),
    }
}

pub(crate) const TOKENS: [&str; 12] = [
    "a",
    "b",
    "c",
    "ab",
    "abc",
    "\u{120}",
    "\u{120}a",
    "0",
    "1",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
];
/// A `tokenizer.json` as SmolLM2's: digits one by one, then bytes.
fn tokenizer_json() -> String {
    let vocabulary: Vec<String> = (TOKENS[..9].iter().enumerate())
        .map(|(id, token)| format!("{token:?}: {id}"))
        .collect();
    let added: Vec<String> = (TOKENS.iter().enumerate().skip(9))
        .map(|(id, token)| {
            format!(
                r#"{{"id": {id}, "content": "{token}", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}}"#
            )
        })
        .collect();
    format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [{}], "normalizer": {{"type": "NFC"}},
"pre_tokenizer": {{"type": "Sequence", "pretokenizers": [{{"type": "Digits", "individual_digits": true}},
 {{"type": "Split", "pattern": {{"Regex": "\\p{{L}}+|\\s+(?!\\S)"}}, "behavior": "Isolated", "invert": false}},
 {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}}]}},
"post_processor": {{"type": "TemplateProcessing", "single": [{{"SpecialToken": {{"id": "<|endoftext|>", "type_id": 0}}}}, {{"Sequence": {{"id": "A", "type_id": 0}}}}],
 "pair": [{{"Sequence": {{"id": "A", "type_id": 0}}}}, {{"Sequence": {{"id": "B", "type_id": 1}}}}],
 "special_tokens": {{"<|endoftext|>": {{"id": "<|endoftext|>", "ids": [11], "tokens": ["<|endoftext|>"]}}}}}},
"decoder": {{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}},
"model": {{"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
 "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": {{{}}}, "merges": [["a", "b"], ["ab", "c"], ["{} ", "a"]]}}}}"#,
        added.join(", "),
        vocabulary.join(", "),
        "\u{120}",
    )
    .replace("\u{120} \", \"a\"", "\u{120}\", \"a\"")
}

const TEMPLATES: [&str; 2] = [
    r#"{%- if messages[0]['role'] != 'system' -%}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>' ~ '\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"#,
    r#"{{ bos_token }}{% set ns = namespace(last = -1, text = '') %}
{% macro part(role, text) -%}[{{ role.upper() }}] {{ text.split('\n')[0] | default('-') }}{%- endmacro %}
{% for message in messages %}{% if message.role == 'user' and loop.index0 % 2 == 1 %}{% set ns.last = loop.index0 %}
{% endif %}{{ part(message.role, message.content) }}{{ message | tojson(indent = 2) }}{% if loop.last %}{% break %}{% endif %}
{% endfor %}{{ range(3) | list | length }}{{ messages[::-1][0].content[:5] }}{{ strftime_now('%d %b %Y') }}
{% if not messages %}{{ raise_exception('nobody said anything') }}{% endif %}{{ eos_token * 2 }}"#,
];

const WORD_PIECE: &str = r###"{"version": "1.0", "truncation": {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
"padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": 4, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
"added_tokens": [], "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
"pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
"model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
 "vocab": {"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3, "##b": 4, "##c": 5}}}"###;

const UNIGRAM: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}, "post_processor": null,
"decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁", -1.5], ["a", -2.0], ["ab", -2.5], ["<0x0A>", -3.0]], "byte_fallback": true}}"#;

/// A checkpoint folder in the form that [`super::entry::folder`] takes: one layer, 8 features.
fn folder(element: &str) -> Vec<u8> {
    let config = r#"{"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1,
"intermediate_size": 6, "vocab_size": 12, "max_position_embeddings": 64, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
"tie_word_embeddings": true}"#;
    let layer = |part: &str| format!("model.layers.0.{part}.weight");
    let tensors = [
        ("model.embed_tokens.weight".to_owned(), vec![12, 8]),
        (layer("input_layernorm"), vec![8]),
        (layer("self_attn.q_proj"), vec![8, 8]),
        (layer("self_attn.k_proj"), vec![4, 8]),
        (layer("self_attn.v_proj"), vec![4, 8]),
        (layer("self_attn.o_proj"), vec![8, 8]),
        (layer("post_attention_layernorm"), vec![8]),
        (layer("mlp.gate_proj"), vec![6, 8]),
        (layer("mlp.up_proj"), vec![6, 8]),
        (layer("mlp.down_proj"), vec![8, 6]),
        ("model.norm.weight".to_owned(), vec![8]),
    ];
    let tokenizer = tokenizer_json();
    let weights = safetensors(element, &tensors);
    [config.as_bytes(), tokenizer.as_bytes(), b"", &weights].join(CUT)
}

fn safetensors(element: &str, tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let kind = if element == "F32" { 0 } else { 30 };
    let mut data = Vec::new();
    let mut entries = Vec::new();
    for (name, shape) in tensors {
        let from = data.len();
        data.extend(blocks(kind, shape.iter().product()));
        let to = data.len();
        entries.push(format!(
            r#""{name}":{{"dtype":"{element}","shape":{shape:?},"data_offsets":[{from},{to}]}}"#
        ));
    }
    let mut header = format!("{{{}}}", entries.join(",")).into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

const LEDGER: &str = "stem,claim,paper,where,kind,expected,value,low,high,unit,verdict,config,commit,machine,date,notebook
quant/gptq,\"less, by \"\"much\"\"\",frantar2022gptq,table 1,Distributional,≥ 0,1.5,1.25,1.75,dB,Reproduced,0123456789ab,4e03051,\"AMD, 2 threads\",2026-11-24,quant/gptq.ipynb
quant/rtn,6 dB a bit,bennett1948,eq. 1.6,Exact,6.02 ± 0.12,6.0206,6.01,6.03,dB,Reproduced,ba9876543210,4e03051-dirty,x,2026-11-24,
";
