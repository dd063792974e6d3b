//! GGUF files made by hand.

use super::TOKENS;

const MERGES: [&str; 3] = ["a b", "ab c", "\u{120} a"];

/// A file in the making: everything in it may be made wrong.
#[derive(Clone)]
pub struct File {
    /// Version of the format.
    pub version: u32,
    /// Tensors and pairs that the head promises beyond those there are.
    pub too_many: (u64, u64),
    /// Key, type and value.
    pub pairs: Vec<(Vec<u8>, u32, Vec<u8>)>,
    /// The directory with the data.
    pub tensors: Vec<Tensor>,
}

/// An entry of the directory, and its data.
#[derive(Clone)]
pub struct Tensor {
    /// UTF-8, if honest.
    pub name: Vec<u8>,
    /// Innermost first.
    pub dims: Vec<u64>,
    /// ggml's number.
    pub kind: u32,
    /// Where it claims to be; where it is, if nothing.
    pub offset: Option<u64>,
    /// Its blocks.
    pub data: Vec<u8>,
}

/// A length and that many bytes.
pub fn text(value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [&(value.len() as u64).to_le_bytes()[..], value].concat()
}

/// The value of an array.
pub fn array(kind: u32, values: &[Vec<u8>]) -> Vec<u8> {
    let count = values.len() as u64;
    [
        &kind.to_le_bytes()[..],
        &count.to_le_bytes(),
        &values.concat(),
    ]
    .concat()
}

/// The value of an array of texts.
pub fn texts(values: &[&str]) -> Vec<u8> {
    let values: Vec<Vec<u8>> = values.iter().map(text).collect();
    array(8, &values)
}

impl File {
    /// Sets a pair, in its place if it is there.
    pub fn set(&mut self, key: &str, kind: u32, value: impl AsRef<[u8]>) {
        let pair = (key.into(), kind, value.as_ref().to_vec());
        match self.pairs.iter_mut().find(|it| it.0 == key.as_bytes()) {
            Some(old) => *old = pair,
            None => self.pairs.push(pair),
        }
    }

    /// Sets a pair to a text.
    pub fn text(&mut self, key: &str, value: &str) {
        self.set(key, 8, text(value));
    }

    /// Sets a pair to a u32.
    pub fn integer(&mut self, key: &str, value: u32) {
        self.set(key, 4, value.to_le_bytes());
    }

    /// Sets a pair to an f32.
    pub fn float(&mut self, key: &str, value: f32) {
        self.set(key, 6, value.to_le_bytes());
    }

    /// Adds a tensor whose elements are kept as ggml's type `kind`.
    pub fn add(&mut self, name: &str, dims: &[u64], kind: u32) {
        self.tensors.push(Tensor {
            name: name.into(),
            dims: dims.to_vec(),
            kind,
            offset: None,
            data: blocks(kind, dims.iter().product::<u64>() as usize),
        });
    }

    /// The tensor of that name, which must be there.
    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        let found = self
            .tensors
            .iter_mut()
            .find(|it| it.name == name.as_bytes());
        found.expect(name)
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(
            (self.tensors.len() as u64)
                .wrapping_add(self.too_many.0)
                .to_le_bytes(),
        );
        out.extend(
            (self.pairs.len() as u64)
                .wrapping_add(self.too_many.1)
                .to_le_bytes(),
        );
        for (key, kind, value) in &self.pairs {
            out.extend([&text(key)[..], &kind.to_le_bytes(), value].concat());
        }
        let mut data = Vec::new();
        for it in &self.tensors {
            out.extend(text(&it.name));
            out.extend((it.dims.len() as u32).to_le_bytes());
            it.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(it.kind.to_le_bytes());
            out.extend(it.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&it.data);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }

    fn vocabulary(&mut self) {
        self.text("tokenizer.ggml.model", "gpt2");
        self.text("tokenizer.ggml.pre", "smollm");
        self.set("tokenizer.ggml.tokens", 9, texts(&TOKENS));
        self.set("tokenizer.ggml.merges", 9, texts(&MERGES));
        let kinds = (0..12i32).map(|i| if i < 9 { 1i32 } else { 3 });
        let kinds: Vec<Vec<u8>> = kinds.map(|it| it.to_le_bytes().to_vec()).collect();
        self.set("tokenizer.ggml.token_type", 9, array(5, &kinds));
        self.integer("tokenizer.ggml.bos_token_id", 9);
        self.integer("tokenizer.ggml.eos_token_id", 11);
        self.set("tokenizer.ggml.add_bos_token", 7, [1]);
    }

    /// Sizes: width, heads, key/value heads, head dimension, feed-forward width.
    fn sizes(&mut self, name: &str, [width, heads, groups, head, ffn]: [u32; 5]) {
        let key = |field: &str| format!("{name}.{field}");
        self.integer(&key("block_count"), 1);
        self.integer(&key("context_length"), 64);
        self.integer(&key("embedding_length"), width);
        self.integer(&key("feed_forward_length"), ffn);
        self.integer(&key("attention.head_count"), heads);
        self.integer(&key("attention.head_count_kv"), groups);
        self.integer(&key("attention.key_length"), head);
        self.float(&key("attention.layer_norm_rms_epsilon"), 1e-5);
        self.float(&key("rope.freq_base"), 10_000.0);
    }
}

/// Blocks of ggml's type `kind` for `elements` elements: any codes, scales (f16) of about 0.01.
pub fn blocks(kind: u32, elements: usize) -> Vec<u8> {
    // Elements and bytes of a block, and where its f16 scales and mins are.
    let (in_block, bytes, scales): (usize, usize, &[usize]) = match kind {
        0 => (1, 4, &[2]),
        1 | 30 => (1, 2, &[0]),
        2 => (32, 18, &[0]),
        3 => (32, 20, &[0, 2]),
        6 => (32, 22, &[0]),
        7 => (32, 24, &[0, 2]),
        8 => (32, 34, &[0]),
        10 => (256, 84, &[80, 82]),
        11 => (256, 110, &[108]),
        12 => (256, 144, &[0, 2]),
        13 => (256, 176, &[0, 2]),
        14 => (256, 210, &[208]),
        20 => (32, 18, &[0]),
        34 => (256, 54, &[52]),
        35 => (256, 66, &[64]),
        _ => unreachable!("no such type in the seeds"),
    };
    let mut out: Vec<u8> = (0..elements / in_block * bytes)
        .map(|i| (i * 73 + i / 11 * 29) as u8)
        .collect();
    for block in out.chunks_mut(bytes) {
        for &at in scales {
            // 0x21.. is about 0.01 as f16; as the upper half of an f32 or a bf16, 0x3c.. is.
            block[at + 1] = if matches!(kind, 0 | 30) { 0x3c } else { 0x21 };
        }
    }
    out
}

/// Neither metadata nor tensors.
pub fn nothing() -> File {
    File {
        version: 3,
        too_many: (0, 0),
        pairs: Vec::new(),
        tensors: Vec::new(),
    }
}

/// A Llama of one layer whose matrices are of all the plain types.
pub fn llama() -> File {
    let mut file = nothing();
    file.text("general.architecture", "llama");
    file.sizes("llama", [32, 2, 1, 16, 64]);
    file.vocabulary();
    file.add("token_embd.weight", &[32, 12], 8);
    file.add("blk.0.attn_norm.weight", &[32], 0);
    file.add("blk.0.attn_q.weight", &[32, 32], 2);
    file.add("blk.0.attn_k.weight", &[32, 16], 3);
    file.add("blk.0.attn_v.weight", &[32, 16], 6);
    file.add("blk.0.attn_output.weight", &[32, 32], 7);
    file.add("blk.0.ffn_norm.weight", &[32], 0);
    file.add("blk.0.ffn_gate.weight", &[32, 64], 2);
    file.add("blk.0.ffn_up.weight", &[32, 64], 30);
    file.add("blk.0.ffn_down.weight", &[64, 32], 1);
    file.add("output_norm.weight", &[32], 0);
    file
}

/// A Qwen2 of one layer, with biases, YaRN and an output matrix.
pub fn qwen() -> File {
    let mut file = nothing();
    file.text("general.architecture", "qwen2");
    file.sizes("qwen2", [32, 2, 2, 8, 32]);
    file.text("qwen2.rope.scaling.type", "yarn");
    file.float("qwen2.rope.scaling.factor", 4.0);
    file.integer("qwen2.rope.scaling.original_context_length", 16);
    file.vocabulary();
    file.add("token_embd.weight", &[32, 12], 1);
    file.add("blk.0.attn_norm.weight", &[32], 0);
    for (part, kind) in [("attn_q", 8), ("attn_k", 1), ("attn_v", 30)] {
        file.add(&format!("blk.0.{part}.weight"), &[32, 16], kind);
        file.add(&format!("blk.0.{part}.bias"), &[16], 0);
    }
    file.add("blk.0.attn_output.weight", &[16, 32], 1);
    file.add("blk.0.ffn_norm.weight", &[32], 0);
    file.add("blk.0.ffn_gate.weight", &[32, 32], 3);
    file.add("blk.0.ffn_up.weight", &[32, 32], 6);
    file.add("blk.0.ffn_down.weight", &[32, 32], 7);
    file.add("output_norm.weight", &[32], 0);
    file.add("output.weight", &[32, 12], 8);
    file
}

/// A Llama of one layer whose rows are of 256: the K-quants and IQ4_NL.
pub fn k_quants() -> File {
    let mut file = nothing();
    file.text("general.architecture", "llama");
    file.sizes("llama", [256, 2, 1, 16, 32]);
    file.vocabulary();
    file.add("token_embd.weight", &[256, 12], 14);
    file.add("blk.0.attn_norm.weight", &[256], 0);
    file.add("blk.0.attn_q.weight", &[256, 32], 12);
    file.add("blk.0.attn_k.weight", &[256, 16], 13);
    file.add("blk.0.attn_v.weight", &[256, 16], 34);
    file.add("blk.0.attn_output.weight", &[32, 256], 20);
    file.add("blk.0.ffn_norm.weight", &[256], 0);
    file.add("blk.0.ffn_gate.weight", &[256, 32], 10);
    file.add("blk.0.ffn_up.weight", &[256, 32], 11);
    file.add("blk.0.ffn_down.weight", &[32, 256], 8);
    file.add("output_norm.weight", &[256], 0);
    file
}

/// The same Llama as [`llama`] with SentencePiece's vocabulary, a template, and factors of frequencies.
pub fn sentence_piece() -> File {
    let mut file = llama();
    let pieces = [
        "<unk>",
        "<s>",
        "</s>",
        "<0x0A>",
        "\u{2581}",
        "a",
        "b",
        "c",
        "ab",
        "\u{2581}ab",
        "abc",
        "0",
    ];
    file.text("tokenizer.ggml.model", "llama");
    file.set("tokenizer.ggml.tokens", 9, texts(&pieces));
    let scores = (0..12).map(|i| (-(i as f32)).to_le_bytes().to_vec());
    file.set(
        "tokenizer.ggml.scores",
        9,
        array(6, &scores.collect::<Vec<_>>()),
    );
    let kinds = [2i32, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1].map(|it| it.to_le_bytes().to_vec());
    file.set("tokenizer.ggml.token_type", 9, array(5, &kinds));
    file.integer("tokenizer.ggml.bos_token_id", 1);
    file.integer("tokenizer.ggml.eos_token_id", 2);
    file.text("tokenizer.chat_template", "{{ messages[0].content }}");
    file.add("rope_freqs.weight", &[8], 0);
    for factor in file.tensor("rope_freqs.weight").data.chunks_mut(4) {
        factor.copy_from_slice(&1.5f32.to_le_bytes());
    }
    file
}
