"""llama.cpp as a peer, through llama-cpp-python's low-level bindings.

`llama.py --threads N` serves (see worker.py); `llama.py --quantize FROM TYPE TO` writes a GGUF file in another type first.
"""

import argparse
import ctypes
import functools
import sys

import llama_cpp as cpp

from worker import serve, timed, tokens

FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "BF16": 32}


@cpp.llama_log_callback
def quiet(level, text, data):
    if level == 4:  # errors
        sys.stderr.write(text.decode(errors="replace"))


def quantize(source, kind, target):
    """In `Q4_0` llama.cpp keeps the embedding, which is the head too, in 8 bits; in `Q4_0-pure` every matrix is in 4, as in ours."""
    name, _, is_pure = kind.partition("-")
    options = cpp.llama_model_quantize_default_params()
    options.ftype = FILE_TYPES[name]
    options.allow_requantize = True
    options.pure = bool(is_pure)
    status = cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(options))
    if status != 0:
        raise SystemExit(f"llama.cpp could not write {target} (status {status})")


def load(path):
    model = cpp.llama_model_load_from_file(path.encode(), cpp.llama_model_default_params())
    if not model:
        raise ValueError(f"llama.cpp cannot load {path}")
    return model


def context(model, threads, length, sequences):
    options = cpp.llama_context_default_params()
    options.n_ctx = length * sequences
    options.n_batch = options.n_ubatch = max(512, sequences)
    options.n_seq_max = sequences
    options.n_threads = options.n_threads_batch = threads
    made = cpp.llama_init_from_model(model, options)
    if not made:
        raise ValueError(f"llama.cpp makes no context for {sequences} × {length} tokens")
    return made


class Batch:
    """Room for `size` tokens."""

    def __init__(self, size):
        self.raw = cpp.llama_batch_init(size, 0, 1)

    def fill(self, entries):
        """Of (token, position, sequence, whether its logits are wanted)."""
        self.raw.n_tokens = len(entries)
        for i, (token, position, sequence, is_scored) in enumerate(entries):
            self.raw.token[i] = token
            self.raw.pos[i] = position
            self.raw.n_seq_id[i] = 1
            self.raw.seq_id[i][0] = sequence
            self.raw.logits[i] = is_scored

    def decode(self, made):
        status = cpp.llama_decode(made, self.raw)
        if status != 0:
            raise ValueError(f"llama_decode: status {status}")


def prompt(made, batch, count):
    cpp.llama_memory_clear(cpp.llama_get_memory(made), True)
    ids = tokens(count)
    for start in range(0, count, 512):
        piece = range(start, min(count, start + 512))
        batch.fill([(ids[i], i, 0, i + 1 == count) for i in piece])
        batch.decode(made)
    cpp.llama_synchronize(made)


def decode(made, batch, steps, sequences):
    cpp.llama_memory_clear(cpp.llama_get_memory(made), True)
    for step in range(steps):
        ids = tokens(sequences, step)
        batch.fill([(token, step, i, True) for i, token in enumerate(ids)])
        batch.decode(made)
        cpp.llama_synchronize(made)


def first_token(path, threads):
    model = load(path)
    made = context(model, threads, 64, 1)
    batch = Batch(1)
    batch.fill([(tokens(1)[0], 0, 0, True)])
    batch.decode(made)
    cpp.llama_synchronize(made)
    cpp.llama_free(made)
    cpp.llama_model_free(model)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quantize", nargs=3, metavar=("FROM", "TYPE", "TO"))
    options = parser.parse_args()
    cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    cpp.llama_backend_init()
    if options.quantize:
        return quantize(*options.quantize)
    models = functools.cache(load)

    def prepare(case):
        kind = case["kind"]
        if kind not in ("load", "prompt", "decode"):
            raise ValueError(f"llama.cpp has no {kind}")
        if kind == "load":
            return lambda: timed(lambda: first_token(case["model"], options.threads))
        model = models(case["model"])
        if kind == "prompt":
            made, batch = context(model, options.threads, max(512, case["tokens"]), 1), Batch(512)
            return lambda: timed(lambda: prompt(made, batch, case["tokens"]))
        many = case["batch"]
        made, batch = context(model, options.threads, 256, many), Batch(many)
        return lambda: timed(lambda: decode(made, batch, case["tokens"], many))

    serve("llama.cpp", f"llama-cpp-python {cpp.__version__}", prepare)


if __name__ == "__main__":
    main()
