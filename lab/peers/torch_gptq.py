"""GPTQ of a whole model in PyTorch, as its paper has it (arXiv 2210.17323, algorithm 1): the peer of our `gptq:int4-g64`.

The folder holds `model.safetensors` in F32, `config.json`, and `windows.json`, the tokens to calibrate on. Statistics are those of
the original network, taken in one pass, as ours are; blocks are 128 columns wide, damping is 1 %, grids are symmetric and fitted when
their group begins.
"""

import json
import math
import pathlib

import torch
from torch.nn import functional

BLOCK, DAMPING = 128, 0.01
BATCH = 4  # windows that go through the network together


def read_safetensors(path):
    """Tensors of an F32 file: 8 bytes of length, a JSON header, then the data."""
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    whole = torch.frombuffer(data, dtype=torch.uint8)[8 + size :]
    found = {}
    for name, it in header.items():
        if it["dtype"] != "F32":
            raise ValueError(f"{path}: {name} is {it['dtype']}, not F32")
        start, end = it["data_offsets"]
        found[name] = whole[start:end].clone().view(torch.float32).view(it["shape"])
    return found


class Network:
    """A Llama; `weights` are by their Hugging Face names."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = read_safetensors(folder / "model.safetensors")
        self.heads, self.groups = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        self.dim = self.config.get("head_dim") or self.config["hidden_size"] // self.heads

    def norm(self, x, name):
        return functional.rms_norm(x, x.shape[-1:], self.weights[name], self.config["rms_norm_eps"])

    def linear(self, x, name, seen):
        seen(name, x)
        return functional.linear(x, self.weights[name])

    def turned(self, x, cos, sin):
        half = self.dim // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin

    def forward(self, ids, seen):
        """Calls `seen(name of the weight, its input)` before every linear layer; logits are not needed."""
        count, length = ids.shape
        theta = self.config.get("rope_theta") or self.config["rope_parameters"]["rope_theta"]
        steps = torch.arange(0, self.dim, 2) / self.dim
        angles = torch.outer(torch.arange(length), 1.0 / theta**steps).repeat(1, 2)
        cos, sin = angles.cos(), angles.sin()
        x = self.weights["model.embed_tokens.weight"][ids]
        for n in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{n}."
            attention, mlp = layer + "self_attn.", layer + "mlp."
            h = self.norm(x, layer + "input_layernorm.weight")
            q, k, v = (self.linear(h, f"{attention}{it}_proj.weight", seen).view(count, length, -1, self.dim).transpose(1, 2) for it in "qkv")
            q, k = self.turned(q, cos, sin), self.turned(k, cos, sin)
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.groups != self.heads)
            x = x + self.linear(out.transpose(1, 2).reshape(count, length, -1), attention + "o_proj.weight", seen)
            h = self.norm(x, layer + "post_attention_layernorm.weight")
            gate = functional.silu(self.linear(h, mlp + "gate_proj.weight", seen))
            x = x + self.linear(gate * self.linear(h, mlp + "up_proj.weight", seen), mlp + "down_proj.weight", seen)


def hessians(network, windows):
    """2/n · Σ x·xᵀ of the inputs of each layer; layers that share their input share the sum."""
    shared = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
    sums, tokens = {}, windows.numel()

    def seen(name, x):
        if name.split(".")[-2] not in shared:
            x = x.reshape(-1, x.shape[-1])
            total = sums.setdefault(name, torch.zeros(x.shape[1], x.shape[1]))
            total.addmm_(x.T, x, alpha=2 / tokens)

    for batch in windows.split(BATCH):
        network.forward(batch, seen)

    def of(name):
        kind = name.split(".")[-2]
        return sums[name.replace(kind, shared.get(kind, kind))]

    return of


def gptq(weight, hessian, bits, group):
    """The quantized weight, decoded."""
    w, h = weight.clone(), hessian.clone()
    greatest = 2 ** (bits - 1) - 1
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1
    w[:, dead] = 0
    h.diagonal().add_(DAMPING * h.diagonal().mean())
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    result = torch.zeros_like(w)
    for start in range(0, w.shape[1], BLOCK):
        end = min(start + BLOCK, w.shape[1])
        block, errors, factor = w[:, start:end].clone(), torch.zeros(w.shape[0], end - start), inverse[start:end, start:end]
        for i in range(end - start):
            if (start + i) % group == 0:
                scale = (w[:, start + i : start + i + group].abs().amax(1) / greatest).clamp_min(1e-12)
            column = block[:, i]
            rounded = (column / scale).round().clamp(-greatest - 1, greatest) * scale
            result[:, start + i] = rounded
            error = (column - rounded) / factor[i, i]
            block[:, i:] -= torch.outer(error, factor[i, i:])
            errors[:, i] = error
        w[:, end:] -= errors @ inverse[start:end, end:]
    return result


def quantize(network, windows, bits=4, group=64):
    """Every linear layer of the network, by name; the mean of tr(ΔHΔᵀ)/tr(WHWᵀ) over them says whether it worked."""
    of, done, lost = hessians(network, windows), {}, []
    for name, weight in network.weights.items():
        if name.endswith("_proj.weight"):
            h, done[name] = of(name), gptq(weight, of(name), bits, group)
            delta = weight - done[name]
            lost.append(((delta @ h * delta).sum() / (weight @ h * weight).sum()).item())
    mean = sum(lost) / len(lost)
    if not math.isfinite(mean):
        raise ValueError("PyTorch's GPTQ came to no finite result")
    return done, mean


def read(folder):
    """The network in `folder` and the windows that it is calibrated on, (windows, tokens)."""
    folder = pathlib.Path(folder)
    return Network(folder), torch.tensor(json.loads((folder / "windows.json").read_text()))
