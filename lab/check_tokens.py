"""Compares token ids with other people's tokenizers built from the same GGUF file.

    pip install gguf numpy regex tokenizers        # and transformers, llama-cpp-python if they are to be asked too
    cargo run -p llmkit --example tokens -- --count 12000 > tokens.jsonl
    python lab/check_tokens.py MODEL.gguf tokens.jsonl

References, each with its count of texts whose ids differ:

hugging face  PyPI `tokenizers`: BPE of the file's vocabulary and merges, cut as the models' own tokenizer.json files say
              (SmolLM2: Digits(individual) + ByteLevel). Not for SentencePiece, whose merges a file does not have.
by hand       written here after the papers: patterns by the module `regex`, merges by rank (SentencePiece: by score), quadratic.
llama.cpp     if llama-cpp-python is there; special tokens parsed.
transformers  `AutoTokenizer.from_pretrained(gguf_file=...)`, if it is there; for information: it cuts all models as GPT-2 does.
"""

import json
import os
import sys
import unicodedata

import regex
from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Name of the cut: patterns applied one after the other; whether a piece that is a token stays whole; normal form C first.
CUTS = {
    "smollm": ([r"\p{N}|\P{N}+", GPT2], False, False),
    "gpt-2": ([GPT2], False, False),
    "llama-bpe": ([GPT4.replace("DIGITS", "{1,3}")], True, False),
    "qwen2": ([GPT4.replace("DIGITS", "")], False, True),
}
BLANK = "\u2581"


class File:
    def __init__(self, path):
        fields = GGUFReader(path).fields
        value = lambda name: fields[name].contents() if name in fields else None
        self.tokens, self.types = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")
        self.merges, self.scores = value("tokenizer.ggml.merges"), value("tokenizer.ggml.scores")
        self.cut = value("tokenizer.ggml.pre") if value("tokenizer.ggml.model") == "gpt2" else "sentencepiece"
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.special = [token for token, kind in zip(self.tokens, self.types) if kind in (3, 4)]


def hugging_face(file):
    patterns, stays_whole, is_normal = CUTS[file.cut]
    merges = [tuple(merge.split(" ")) for merge in file.merges]
    tokenizer = Tokenizer(models.BPE(file.ids, merges, ignore_merges=stays_whole))
    if file.cut == "smollm":
        cut = [pre_tokenizers.Digits(individual_digits=True)]
    elif file.cut == "gpt-2":
        cut = []
    else:
        cut = [pre_tokenizers.Split(Regex(patterns[0]), "isolated")]
    uses_gpt2 = patterns[-1] is GPT2
    cut.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=uses_gpt2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cut)
    if is_normal:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in file.special])
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def merged(parts, rank):
    """The parts after merging the best pair, all its places from the left, until no pair has a rank."""
    while len(parts) > 1:
        best, at = min((rank(pair), i) for i, pair in enumerate(zip(parts, parts[1:])))
        if best == float("inf"):
            break
        pair, after, i = (parts[at], parts[at + 1]), [], 0
        while i < len(parts):
            if parts[i : i + 2] == list(pair):
                after.append(parts[i] + parts[i + 1])
                i += 2
            else:
                after.append(parts[i])
                i += 1
        parts = after
    return parts


def byte_level(file):
    patterns, stays_whole, is_normal = CUTS[file.cut]
    patterns = [regex.compile(pattern) for pattern in patterns]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, more = {byte: chr(byte) for byte in printable}, 256
    for byte in range(256):
        if byte not in letters:
            letters[byte], more = chr(more), more + 1
    ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(file.merges)}
    rank = lambda pair: ranks.get(pair, float("inf"))
    known = {}

    def piece(text):
        # A byte without a token (SmolLM2 lacks 21) is left out, and what stood around it may merge.
        parts = [letters[byte] for byte in text.encode() if letters[byte] in file.ids]
        if stays_whole and "".join(parts) in file.ids:
            return [file.ids["".join(parts)]]
        return [file.ids[part] for part in merged(parts, rank)]

    def encode(text):
        pieces = [unicodedata.normalize("NFC", text) if is_normal else text]
        for pattern in patterns:
            pieces = [it.group() for piece in pieces for it in pattern.finditer(piece)]
        for it in pieces:
            if it not in known:
                known[it] = piece(it)
        return [i for it in pieces for i in known[it]]

    return encode


def sentence_piece(file):
    scores = {token: -score for token, score in zip(file.tokens, file.scores)}
    rank = lambda pair: scores.get(pair[0] + pair[1], float("inf"))

    def encode(text):
        if not text:
            return []
        parts = list((BLANK + text).replace(" ", BLANK))
        out = []
        for part in merged(parts, rank):
            if part in file.ids:
                out.append(file.ids[part])
            else:
                out += [file.ids[f"<0x{byte:02X}>"] for byte in part.encode()]
        return out

    return encode


def by_hand(file):
    plain = sentence_piece(file) if file.cut == "sentencepiece" else byte_level(file)
    markup = regex.compile("(" + "|".join(map(regex.escape, sorted(file.special, key=len, reverse=True))) + ")")

    def encode(text):
        out = []
        for i, stretch in enumerate(markup.split(text)):
            out += [file.ids[stretch]] if i % 2 else plain(stretch)
        return out

    return encode


def llama_cpp(path):
    from llama_cpp import Llama

    model = Llama(path, vocab_only=True, verbose=False)
    return lambda text: model.tokenize(text.encode(), add_bos=False, special=True)


def transformers(path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(os.path.dirname(path) or ".", gguf_file=os.path.basename(path))
    return lambda text: tokenizer.encode(text, add_special_tokens=False)


def main():
    path, lines = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    file = File(path)
    references = {
        "hugging face": lambda: hugging_face(file),
        "by hand": lambda: by_hand(file),
        "llama.cpp": lambda: llama_cpp(path),
        "transformers": lambda: transformers(path),
    }
    with open(lines, encoding="utf-8") if lines else sys.stdin as source:
        texts = [json.loads(line) for line in source]
    total = sum(len(it["ids"]) for it in texts)
    print(f"{len(texts)} texts, {sum(len(it['text']) for it in texts)} characters, {total} tokens")
    is_wrong = False
    for name, build in references.items():
        try:
            encode = build()
        except Exception as error:  # Not installed, or not able to read the file.
            print(f"{name}: not asked ({type(error).__name__}: {error})")
            continue
        different = [it for it in texts if list(encode(it["text"])) != it["ids"]]
        print(f"{name}: {len(different)} of {len(texts)} differ")
        for it in sorted(different, key=lambda it: len(it["text"]))[:3]:
            print(f"  {it['text']!r}\n    ours   {it['ids']}\n    theirs {list(encode(it['text']))}")
        is_wrong |= bool(different) and name in ("hugging face", "by hand")
    sys.exit(is_wrong)


main()
