"""Whether the peers read what `quant::export` writes, and compute the same logits from it. On the processor; nothing of this is a default test.

    pip install torch transformers compressed-tensors numpy safetensors
    pip download --no-deps autoawq auto-gptq      # unpacked: awq/utils/packing_utils.py, auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py
    cargo build -p llmkit --example export
    python lab/check_export.py target/debug/examples/export smollm2-135m-instruct WORK --awq DIR --gptq DIR

| layout | read by |
|---|---|
| plain | transformers, `AutoModelForCausalLM.from_pretrained` |
| compressed-tensors | the same, with its quantizer, which calls compressed-tensors; for affine codes that library's own `decompress` |
| gptq | AutoGPTQ's `QuantLinear` in place of each linear layer, buffers as they are in the file |
| awq | AutoAWQ's `dequantize_gemm` |

transformers 5.24.0 with compressed-tensors 0.20.0 expects zero points unpacked while it allocates and packed when it decodes, so that it refuses
affine files of the library's own making too (`PackedQuantizationCompressor.compress` on the meta device leaves them unpacked).

Scales are widened to f32 before the peers multiply with them: in f16 they would round each weight once more.
"""

import argparse
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "peers"))
try:
    import torch_without_cuda

    torch_without_cuda.preload()
    import torch
    import transformers
    from safetensors.torch import load_file
except ImportError as error:
    sys.exit(f"skipped: {error}; see the head of {__file__} for what to install")

TOKENS = [504, 3575, 282, 4649, 314, 7042, 28]  # what the example computes logits for


def module(name, path):
    """A single file of a peer, without the package around it and what that imports."""
    spec = importlib.util.spec_from_file_location(name, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def ours(path):
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.float32).reshape(len(TOKENS), -1)


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0].float()


def bare(folder):
    """The architecture without its quantizer, with the weights that are not quantized."""
    config = transformers.AutoConfig.from_pretrained(folder)
    quantization = config.quantization_config
    del config.quantization_config
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    tensors = load_file(folder / "model.safetensors")
    state = model.state_dict()
    plain = {name: tensor for name, tensor in tensors.items() if name in state}
    model.load_state_dict(plain, strict=False)
    return model, tensors, quantization


def linears(model):
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear) and name != "lm_head"]


def of_gptq(folder, peer):
    model, tensors, quantization = bare(folder)
    kind = module("qlinear_cuda_old", peer / "auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py").QuantLinear
    bits, group = quantization["bits"], quantization["group_size"]
    if quantization["checkpoint_format"] == "gptq_v2":
        # AutoGPTQ is older than version 2: zeros of each field less one, as GPTQModel's `convert_gptq_v2_to_v1_format` does it.
        mask = (1 << bits) - 1
        for name in [name for name in tensors if name.endswith("qzeros")]:
            words = tensors[name].to(torch.int64) & 0xFFFFFFFF
            fields = [((words >> at) & mask) - 1 & mask for at in range(0, 32, bits)]
            words = sum(field << at for field, at in zip(fields, range(0, 32, bits)))
            tensors[name] = torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
    for name, layer in linears(model):
        new = kind(bits, group, layer.in_features, layer.out_features, False, weight_dtype=torch.float32)
        new.load_state_dict({part: tensors[f"{name}.{part}"] for part in ["qweight", "qzeros", "scales", "g_idx"]})
        new.scales = new.scales.float()
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, new)
    return model


def of_awq(folder, peer):
    model, tensors, quantization = bare(folder)
    peer = module("packing_utils", peer / "awq/utils/packing_utils.py")
    for name, layer in linears(model):
        words = (tensors[f"{name}.{part}"] for part in ["qweight", "qzeros"])
        scales = tensors[f"{name}.scales"].float()
        weight = peer.dequantize_gemm(*words, scales, quantization["bits"], quantization["group_size"])
        layer.weight.data = weight.T.contiguous()
    return model


def of_compressed_tensors(folder, _):
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme

    model, tensors, quantization = bare(folder)
    scheme = QuantizationScheme(**quantization["config_groups"]["group_0"])
    for name, layer in linears(model):
        parts = ["weight_packed", "weight_scale", "weight_zero_point", "weight_shape"]
        state = {part: tensors[f"{name}.{part}"] for part in parts}
        state["weight_scale"] = state["weight_scale"].float()
        layer.weight.data = PackedQuantizationCompressor.decompress(state, scheme)["weight"]
    return model


def of_transformers(folder, _):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("example")
    parser.add_argument("model")
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--awq", type=pathlib.Path)
    parser.add_argument("--gptq", type=pathlib.Path)
    options = parser.parse_args()
    cases = [("plain", [], of_transformers, None)]
    for kind in (["--symmetric"], []):
        cases.append(("compressed-tensors", kind, of_transformers if kind else of_compressed_tensors, None))
        if options.gptq:
            cases.append(("gptq", kind, of_gptq, options.gptq))
        if options.awq:
            cases.append(("awq", kind, of_awq, options.awq))
    worst = 0.0
    for layout, kind, reader, peer in cases:
        folder = options.work / "folder"
        shutil.rmtree(folder, ignore_errors=True)
        values = options.work / "logits.f32"
        command = [options.example, options.model, str(folder), "--layout", layout, "--logits", str(values), *kind]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        expected, got = ours(values), logits(reader(folder, peer))
        error = ((got - expected).abs().max() / expected.abs().max()).item()
        worst = max(worst, error)
        agree = (got.argmax(-1) == expected.argmax(-1)).all().item()
        config = json.loads((folder / "config.json").read_text()).get("quantization_config", {})
        print(f"{layout:20}{'symmetric' if kind else 'affine':10} {config.get('checkpoint_format', ''):8} "
              f"largest difference / largest logit {error:.1e}, same best tokens: {agree}")
    # Two f32 programs that sum in other orders: √(60 · 1536) roundings of 2⁻²⁴, and a factor of four.
    bound = 4 * (60 * 1536) ** 0.5 * 2**-24
    print(f"bound {bound:.1e}")
    sys.exit(worst > bound)


main()
