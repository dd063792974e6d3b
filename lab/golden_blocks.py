"""Golden values of GGUF's element types, from the reference decoder in Python.

    pip install gguf numpy        # 0.19.0 wrote data/golden/blocks.csv
    python lab/golden_blocks.py > data/golden/blocks.csv

The bytes come from a linear congruential generator seeded with ggml's number of the type; f16 scales (and f32 exponents)
have a bit cleared so that every value is a number. llmkit/src/model/blocks/tests.rs makes the same bytes.
"""

import hashlib

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize

HIGH_BYTES = {
    "F32": [3], "F16": [1], "BF16": [1], "Q4_0": [1], "Q4_1": [1, 3], "Q5_0": [1], "Q5_1": [1, 3], "Q8_0": [1],
    "Q2_K": [81, 83], "Q3_K": [109], "Q4_K": [1, 3], "Q5_K": [1, 3], "Q6_K": [209], "IQ4_NL": [1],
    "TQ1_0": [53], "TQ2_0": [65],
}
BLOCKS = 64


def main():
    print("type,blocks,first,last,sha256")
    for name, high in HIGH_BYTES.items():
        kind = Type[name]
        _, size = GGML_QUANT_SIZES[kind]
        state, data = kind.value, bytearray()
        for _ in range(BLOCKS * size):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            data.append(state >> 56)
        for at in high:
            data[at::size] = bytes(byte & 0xBF for byte in data[at::size])
        blocks = np.frombuffer(bytes(data), dtype=np.uint8).reshape(1, BLOCKS * size)
        if name in ("F32", "F16"):
            values = blocks.view(np.float32 if name == "F32" else np.float16).astype(np.float32)
        else:
            values = dequantize(blocks, kind)
        values = np.ascontiguousarray(values, dtype="<f4").reshape(-1)
        digest = hashlib.sha256(values.tobytes()).hexdigest()
        print(f"{name},{BLOCKS},{values[0]!s},{values[-1]!s},{digest}")


main()
