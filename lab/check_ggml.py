"""Compares our ggml block types with llama.cpp's own quantizer, byte for byte, and writes the golden hashes.

    cargo build --release -p llmkit --example ggml_quantize
    python lab/check_ggml.py LIBGGML [--model FILE.gguf|FILE.safetensors]... [--golden data/golden/ggml-quantize.csv]

LIBGGML is the shared library that has `ggml_quantize_chunk` (libggml-base.so of a llama.cpp build, or of
llama-cpp-python's wheel). Inputs are made here: bells, outliers, zeros, constants, subnormals, and the rows of weights
files. Decoding is compared too. Nothing but the golden file is written.
"""

import argparse
import ctypes
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
# Name: number in ggml, weights a block, bytes a block, name of the decoder.
TYPES = {
    "Q4_0": (2, 32, 18, "q4_0"), "Q4_1": (3, 32, 20, "q4_1"), "Q5_0": (6, 32, 22, "q5_0"),
    "Q5_1": (7, 32, 24, "q5_1"), "Q8_0": (8, 32, 34, "q8_0"), "Q2_K": (10, 256, 84, "q2_K"),
    "Q3_K": (11, 256, 110, "q3_K"), "Q4_K": (12, 256, 144, "q4_K"), "Q5_K": (13, 256, 176, "q5_K"),
    "Q6_K": (14, 256, 210, "q6_K"), "IQ4_NL": (20, 32, 18, "iq4_nl"), "TQ1_0": (34, 256, 54, "tq1_0"),
    "TQ2_0": (35, 256, 66, "tq2_0"),
}


def formula(blocks):
    """The weights of `numeric/ggml/tests.rs`, in numpy."""
    i = np.arange(256 * blocks, dtype=np.int64)

    def draw(k):
        mixed = (k.astype(np.uint64) * 2_654_435_761 + 12_345) & 0xFFFFFFFF
        mixed = ((mixed ^ (mixed >> 15)) * 2_246_822_519) & 0xFFFFFFFF
        return (mixed ^ (mixed >> 13)) >> 16

    bell = sum(draw(4 * i + k) for k in range(4)).astype(np.float32)
    x = (bell - np.float32(131_072)) / np.float32(131_072)
    f = np.float32
    kinds = [
        x * f(0.125), np.where(i % 97 == 0, x * f(64), x * f(0.0625)), np.where(i // 32 % 2 == 0, f(0), x),
        np.full_like(x, 0.75), np.abs(x) + f(0.25), -np.abs(x) * f(0.001_953_125), x * x * x,
        np.where(i % 5 == 0, x * f(1000), x * f(7.450_580_6e-9)),
    ]
    return np.choose(i // 256 % 8, kinds).astype(np.float32)


def samples(rows):
    """Named arrays of whole super-blocks that have broken quantizers before."""
    rng = np.random.default_rng(20261124)
    n = 256 * rows
    bell = lambda scale: (rng.standard_normal(n) * scale).astype(np.float32)
    outliers = bell(0.02)
    outliers[rng.integers(0, n, n // 100)] *= 100
    sparse = bell(1.0) * (rng.random(n) < 0.02)
    halves = (rng.integers(-16, 17, n) / 2).astype(np.float32)
    yield "formula", formula(64)
    yield "bell", bell(0.05)
    yield "wide bell", bell(100.0)
    yield "heavy tails", rng.standard_t(2, n).astype(np.float32)
    yield "outliers", outliers
    yield "sparse", sparse.astype(np.float32)
    yield "zeros", np.zeros(n, np.float32)
    yield "minus zeros", -np.zeros(n, np.float32)
    yield "constants", np.repeat(bell(1.0)[:rows], 256)
    yield "one sign", np.abs(bell(1.0)) + np.float32(0.1)
    yield "other sign", -np.abs(bell(1.0))
    yield "halves (ties)", halves
    yield "ternary", (rng.integers(-1, 2, n) * 0.37).astype(np.float32)
    yield "below f16", bell(1e-6)
    yield "far below f16", bell(1e-9)
    yield "near the search's zero", bell(1e-15)
    yield "f32 subnormals", bell(1e-40)
    yield "scales that differ", bell(1.0) * np.repeat(10.0 ** rng.uniform(-6, 3, n // 16), 16).astype(np.float32)


def weights(path):
    """Rows of the matrices of a weights file, f32, in pieces of whole super-blocks."""
    if path.suffix == ".safetensors":
        raw = np.memmap(path, np.uint8, "r")
        size = int(raw[:8].view("<u8")[0])
        for name, entry in json.loads(raw[8 : 8 + size].tobytes()).items():
            if name != "__metadata__" and len(entry["shape"]) == 2:
                start, end = entry["data_offsets"]
                data = raw[8 + size + start : 8 + size + end]
                if entry["dtype"] == "BF16":
                    yield name, (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
                elif entry["dtype"] in ("F16", "F32"):
                    yield name, data.view("<f2" if entry["dtype"] == "F16" else "<f4").astype(np.float32)
        return
    from gguf import GGUFReader, dequantize  # pip install gguf

    for tensor in GGUFReader(path).tensors:
        if len(tensor.shape) == 2:
            yield tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32).ravel()


class Theirs:
    """llama.cpp's functions."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.ggml_quantize_chunk.restype = ctypes.c_size_t

    def quantize(self, name, x, importance=None):
        number, elements, size, _ = TYPES[name]
        out = np.zeros(x.size // elements * size, np.uint8)
        pointer = lambda array: array.ctypes.data_as(ctypes.c_void_p)
        # One long row: without an importance matrix, rows do not matter.
        row = x.size if importance is None else importance.size
        self.library.ggml_quantize_chunk(
            ctypes.c_int(number), pointer(x), pointer(out), ctypes.c_int64(0), ctypes.c_int64(x.size // row),
            ctypes.c_int64(row), None if importance is None else pointer(importance))
        return out.tobytes()

    def dequantize(self, name, data, count):
        out = np.zeros(count, np.float32)
        function = getattr(self.library, f"dequantize_row_{TYPES[name][3]}")
        function(ctypes.c_char_p(data), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(count))
        return out.tobytes()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("library")
    arguments.add_argument("--model", type=Path, action="append", default=[])
    arguments.add_argument("--golden", type=Path)
    arguments.add_argument("--golden-importance", type=Path)
    arguments.add_argument("--ours", type=Path, default=ROOT / "target/release/examples/ggml_quantize")
    arguments.add_argument("--rows", type=int, default=1000, help="super-blocks a sample")
    arguments.add_argument("--limit", type=int, default=40_000, help="super-blocks of a weights file, evenly spaced")
    options = arguments.parse_args()
    theirs = Theirs(options.library)

    def ours(name, data, *more):
        return subprocess.run([options.ours, name, *more], input=data, capture_output=True, check=True).stdout

    inputs = list(samples(options.rows))
    for path in options.model:
        blocks = np.concatenate([array[: array.size // 256 * 256] for _, array in weights(path)]).reshape(-1, 256)
        step = max(1, len(blocks) // options.limit)
        inputs.append((path.name, blocks[::step].ravel()))
    bad = 0
    for name, (_, elements, size, _) in TYPES.items():
        blocks = wrong = 0
        for sample, x in inputs:
            x = np.ascontiguousarray(x)
            expected = theirs.quantize(name, x)
            got = ours(name, x.tobytes())
            pair = [np.frombuffer(data, np.uint8).reshape(-1, size) for data in (expected, got)]
            differ = np.flatnonzero((pair[0] != pair[1]).any(axis=1))
            # NaN payloads of scales beyond f16 may differ; such blocks do not occur in these inputs.
            if theirs.dequantize(name, expected, x.size) != ours(name, expected, "--decode"):
                print(f"{name} on {sample}: decoded values differ")
                wrong += 1
            if differ.size:
                print(f"{name} on {sample}: {differ.size} of {len(pair[0])} blocks differ, first {differ[0]}")
            blocks, wrong = blocks + len(pair[0]), wrong + differ.size
        print(f"{name:7} {blocks:9} blocks of {elements} compared, {wrong} differ")
        bad += wrong
    if options.golden:
        x = formula(64)
        lines = ["type,sha256", f"F32,{hashlib.sha256(x.tobytes()).hexdigest()}"]
        lines += [f"{name},{hashlib.sha256(theirs.quantize(name, x)).hexdigest()}" for name in TYPES]
        options.golden.write_text("\n".join(lines) + "\n")
    if options.golden_importance:
        x = formula(64)
        j = np.arange(1024)
        importance = ((j * 37 % 101 + 1) * 0.0625 * np.where(j % 64 == 5, 64, 1)).astype(np.float32)
        lines = ["type,sha256", f"F32,{hashlib.sha256(x.tobytes()).hexdigest()}"]
        lines += [
            f"{name},{hashlib.sha256(theirs.quantize(name, x, importance)).hexdigest()}"
            for name in TYPES if not name.startswith("TQ")]
        options.golden_importance.write_text("\n".join(lines) + "\n")
    sys.exit(bad != 0)


if __name__ == "__main__":
    main()
