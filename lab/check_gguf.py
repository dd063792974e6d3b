"""Whether stock llama.cpp loads the GGUF files that `quant::export` writes and scores them as we do. Not a default test.

    cargo build -p llmkit --features notebook --example export --example eval
    python lab/check_gguf.py target/debug/examples smollm2-135m-instruct-q4_1 TEXT WORK LLAMA_PERPLEXITY [TYPE …]

For each type of ggml: the model with its matrices in that type, embedding and head in Q8_0; perplexity over the first windows of TEXT by
`llama-perplexity -c 512` and by `eval --protocol llamacpp:512` on the same file. Then the same with the network rotated first, whose head
is a tensor of its own.

llama.cpp rounds inputs to 8 bits where weights are codes, in groups of 256 for k-quants, which moves perplexity by up to 2 % on this model.
So two comparisons are made. As it is: ours keeps the codes and rounds inputs to 8 bits in groups of 32, where we have the kernel. In f32: ours,
and llama.cpp's of the same weights decoded into an F32 file. The second says whether the file is understood alike, and must agree to
0.1 % of ln PPL; the first is reported.
"""

import json
import math
import pathlib
import re
import subprocess
import sys

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "TQ1_0", "TQ2_0"]
CHUNKS = "4"


def run(*command):
    done = subprocess.run([str(it) for it in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout + done.stderr


def main():
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    examples, model, text, work, theirs, *types = sys.argv[1:]
    file, wide = pathlib.Path(work) / "check.gguf", pathlib.Path(work) / "wide.gguf"
    worst = 0.0

    def llama_cpp(path):
        output = run(theirs, "-m", path, "-f", text, "-c", "512", "--chunks", CHUNKS)
        return float(re.search(r"Final estimate: PPL = ([0-9.]+)", output).group(1))

    def evaluated(path, weights):
        flags = ["--protocol", "llamacpp:512", "--chunks", CHUNKS, "--weights", weights, "--json"]
        output = run(f"{examples}/eval", path, "--corpus", text, *flags)
        found = json.loads(output[output.index("{") : output.rindex("}") + 1])["perplexity"]
        return found["value"] if isinstance(found, dict) else found

    for kind in types or TYPES + ["Q8_0 rotated"]:
        name, _, rotated = kind.partition(" ")
        flags = ["--rotate"] if rotated else []
        said = run(f"{examples}/export", model, file, "--matrices", name, "--embedding", "Q8_0", *flags)
        fallbacks = len(re.findall(r" instead of ", said))
        llama = llama_cpp(file)
        ours, native = (evaluated(file, weights) for weights in ["f32", "native"])
        size = file.stat().st_size
        # The same weights in F32.
        run(f"{examples}/export", file, wide, "--matrices", "F32", "--embedding", "F32")
        exact = llama_cpp(wide)
        both = [native / llama - 1, ours / exact - 1]
        worst = max(worst, abs(math.log(ours) / math.log(exact) - 1) / 0.001)
        print(f"{kind:13} {size / 1e6:6.1f} MB {fallbacks:3} of 210 fall back | as it is: llama.cpp {llama:.4f} ours {native:.4f} "
              f"({both[0]:+.2%}) | in f32: llama.cpp {exact:.4f} ours {ours:.4f} ({both[1]:+.3%})", flush=True)
    for it in (file, wide):
        it.unlink()
    sys.exit(worst > 1)


main()
