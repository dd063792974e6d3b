"""PyTorch as a peer: `linear` and scaled_dot_product_attention, which oneDNN and its own flash attention compute on a CPU, and GPTQ.

Serves the protocol of worker.py.
"""

import argparse

import torch_without_cuda

torch_without_cuda.preload()

import torch  # noqa: E402
from torch.nn import functional  # noqa: E402

import torch_gptq  # noqa: E402
from worker import serve, timed  # noqa: E402

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def prepare(case):
    if case["kind"] == "gptq":
        network, windows = torch_gptq.read(case["folder"])
        return lambda: timed(lambda: torch_gptq.quantize(network, windows))
    kind, element = case["kind"], TYPES[case["element"]]
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.rand(*shape, generator=generator).mul_(2).sub_(1).to(element)

    if kind == "gemm":
        x, w = noise(case["m"], case["k"]), noise(case["n"], case["k"])
        return lambda: timed(lambda: functional.linear(x, w), case["reps"])
    if kind == "sdpa":
        q, k, v = (noise(1, case["heads"], case["tokens"], case["dim"]) for _ in range(3))
        attend = functional.scaled_dot_product_attention
        return lambda: timed(lambda: attend(q, k, v, is_causal=True), case["reps"])
    raise ValueError(f"PyTorch has no {kind}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    with torch.inference_mode():
        serve("PyTorch", torch.__version__, prepare)


if __name__ == "__main__":
    main()
