"""Quantized checkpoints of the shipped model, against the packages that engines' users have.

compressed-tensors, llm-compressor and nvidia-modelopt are not installed by make test-python: the
tests that need one are skipped without it. To run them, put the packages beside the environment's:

  python -m pip install --no-deps --target DIR compressed-tensors llmcompressor nvidia-modelopt ..
  PYTHONPATH=DIR HALFBYTE_PROGRAM=build/bin/halfbyte python -m pytest models/test_quantized.py
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

MODEL = Path(__file__).parent / "arith-llama-6m"
PROGRAM = os.environ.get("HALFBYTE_PROGRAM", "")
LAYERS = 35

pytestmark = pytest.mark.skipif(not PROGRAM, reason="HALFBYTE_PROGRAM is not set")


def halfbyte(*args: object, code: int = 0) -> str:
    result = subprocess.run([PROGRAM, *map(str, args)], capture_output=True, text=True)
    assert result.returncode == code, result.stderr
    return result.stdout


def quantize(out: Path, *args: object) -> dict[str, torch.Tensor]:
    halfbyte("quantize", MODEL, out, *args)
    return load_file(out / "model.safetensors")


def dequantize(folder: Path, dtype: str) -> dict[str, torch.Tensor]:
    back = folder.with_name(folder.name + "-" + dtype)
    halfbyte("dequantize", folder, back, "--dtype", dtype)
    return load_file(back / "model.safetensors")


def modules_of(tensors: dict[str, torch.Tensor], suffix: str) -> list[str]:
    return [name.removesuffix(suffix) for name in tensors if name.endswith(suffix)]


def differing(ours: torch.Tensor, theirs: torch.Tensor) -> int:
    """Elements that differ; each by at most one unit of bf16's last place.

    Both multiply a code, its block scale and the fp32 scale and round to bf16, in another order:
    ours fl((code * S) * fl(1/g)), theirs fl(code * fl(S / g)). Their fp32 values differ by two
    units of fp32's last place at most, which bf16 shows only beside a midpoint.
    """
    assert ours.dtype == theirs.dtype == torch.bfloat16 and ours.shape == theirs.shape
    distance = (ours.view(torch.int16).int() - theirs.view(torch.int16).int()).abs()
    assert int(distance.max()) <= 1
    return int((distance > 0).sum())


def compressors():
    """Format name to compressor of compressed-tensors."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.mxfp4.base import MXFP4PackedCompressor
    from compressed_tensors.compressors.nvfp4.base import NVFP4PackedCompressor

    return {"nvfp4": NVFP4PackedCompressor, "mxfp4": MXFP4PackedCompressor}


def scheme_of(folder: Path):
    """The scheme that compressed-tensors parses from a folder's config.json."""
    from compressed_tensors.quantization import QuantizationConfig

    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    return QuantizationConfig.model_validate(config).config_groups["group_0"]


@pytest.mark.parametrize("form", ["nvfp4", "mxfp4"])
def test_compressed_tensors_reads_ours(form: str, tmp_path: Path) -> None:
    compressor = compressors()[form]
    tensors = quantize(tmp_path / "q", "--format", form, "--convention", "compressed-tensors")
    ours = dequantize(tmp_path / "q", "bf16")
    scheme = scheme_of(tmp_path / "q")
    assert scheme.input_activations is None
    different = 0
    modules = modules_of(tensors, ".weight_packed")
    assert len(modules) == LAYERS
    for module in modules:
        state = {name: tensors[f"{module}.{name}"]
                 for name in compressor.compression_param_names(scheme)}
        theirs = compressor.decompress(state, scheme)["weight"]
        different += differing(ours[module + ".weight"], theirs.to(torch.bfloat16))
    print(f"{form}: {different} values differ by one unit of bf16's last place")
    assert different == 0 if form == "mxfp4" else different < 1000  # of 5.9 million


def test_activation_scales_are_declared_as_compressed_tensors_does(tmp_path: Path) -> None:
    compressors()
    tensors = quantize(tmp_path / "q", "--convention", "compressed-tensors", "--activation-amax",
                       MODEL / "activation_amax.json")
    scheme = scheme_of(tmp_path / "q")
    from compressed_tensors.quantization.quant_scheme import NVFP4

    for ours, theirs in ((scheme.weights, NVFP4["weights"]),
                         (scheme.input_activations, NVFP4["input_activations"])):
        for field in ("num_bits", "type", "strategy", "symmetric", "dynamic", "group_size",
                      "scale_dtype"):
            assert getattr(ours, field) == getattr(theirs, field), field
    amax = json.loads((MODEL / "activation_amax.json").read_text())
    module = "model.layers.3.mlp.down_proj"
    stored = tensors[module + ".input_global_scale"]
    assert stored.dtype == torch.float32 and stored.shape == (1,)
    assert stored.item() == (torch.tensor(2688.0) / torch.tensor(amax[module])).item()


@pytest.mark.parametrize("form", ["nvfp4", "mxfp4"])
def test_reads_what_compressed_tensors_writes(form: str, tmp_path: Path) -> None:
    compressor = compressors()[form]
    from compressed_tensors.quantization import QuantizationScheme
    from compressed_tensors.quantization.quant_scheme import MXFP4A16, NVFP4A16
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    nvfp4 = form == "nvfp4"
    scheme = QuantizationScheme(targets=["Linear"], **(NVFP4A16 if nvfp4 else MXFP4A16))
    generator = torch.Generator().manual_seed(1)
    file, theirs = {}, {}
    for i, shape in enumerate([(64, 128), (3, 32), (200, 512)]):
        weight = torch.randn(shape, generator=generator).to(torch.bfloat16) * 0.03 * 10**i
        blocks = weight.float().unflatten(1, (-1, scheme.weights.group_size))
        state = {"weight": weight}
        gparam = generate_gparam(weight.min().float(), weight.max().float()) if nvfp4 else None
        if nvfp4:
            state["weight_global_scale"] = gparam
        state["weight_scale"], _ = calculate_qparams(blocks.amin(-1), blocks.amax(-1),
                                                     scheme.weights, global_scale=gparam)
        compressed = compressor.compress(state, scheme)
        file.update({f"layer{i}.{name}": value.contiguous() for name, value in compressed.items()})
        theirs[f"layer{i}.weight"] = compressor.decompress(compressed, scheme)["weight"]
    save_file(file, tmp_path / "theirs.safetensors")
    halfbyte("dequantize", tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors")
    ours = load_file(tmp_path / "ours.safetensors")
    assert ours.keys() == theirs.keys()
    for name in ours:
        different = differing(ours[name], theirs[name].to(torch.bfloat16))
        assert different == 0 if form == "mxfp4" else different < 100


def test_reads_what_llm_compressor_writes(tmp_path: Path) -> None:
    pytest.importorskip("llmcompressor")
    compressor = compressors()["nvfp4"]
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype="auto")
    oneshot(model=model, recipe=QuantizationModifier(targets="Linear", scheme="NVFP4A16",
                                                     ignore=["lm_head"]))
    model.save_pretrained(tmp_path / "theirs", save_compressed=True)
    tensors = load_file(tmp_path / "theirs" / "model.safetensors")
    report = json.loads(halfbyte("inspect", tmp_path / "theirs", "--json"))
    assert report["formats"]["nvfp4 compressed-tensors"]["tensors"] == LAYERS
    assert {f["kind"] for f in report["findings"]} <= {"tensor_parallel"}
    ours = dequantize(tmp_path / "theirs", "bf16")
    scheme = scheme_of(tmp_path / "theirs")
    different = 0
    for module in modules_of(tensors, ".weight_packed"):
        state = {name: tensors[f"{module}.{name}"]
                 for name in compressor.compression_param_names(scheme)}
        theirs = compressor.decompress(state, scheme)["weight"]
        different += differing(ours[module + ".weight"], theirs.to(torch.bfloat16))
    print(f"llm-compressor: {different} values differ by one unit of bf16's last place")
    assert different < 1000
    # It computes 2688 / amax in the type of the weights, bf16: the same scale but for two roundings
    # of 2^-8 each.
    ours = quantize(tmp_path / "ours", "--convention", "compressed-tensors")
    for name, theirs in tensors.items():
        if name.endswith("weight_global_scale"):
            assert theirs.shape == ours[name].shape and theirs.dtype == ours[name].dtype
            if "o_proj" in name or "down_proj" in name:  # fused with no other layer
                assert abs(theirs.item() / ours[name].item() - 1) <= 2**-7, name


def test_modelopt_layout(tmp_path: Path) -> None:
    """Names, shapes and types as ModelOpt's export writes them (peers.md, conventions.h)."""
    original = load_file(MODEL / "model.safetensors")
    tensors = quantize(tmp_path / "q", "--activation-amax", MODEL / "activation_amax.json")
    modules = modules_of(tensors, ".weight_scale")
    assert len(modules) == LAYERS
    for module in modules:
        rows, columns = original[module + ".weight"].shape
        for name, dtype, shape in (("weight", torch.uint8, (rows, columns // 2)),
                                   ("weight_scale", torch.float8_e4m3fn, (rows, columns // 16)),
                                   ("weight_scale_2", torch.float32, ()),
                                   ("input_scale", torch.float32, ())):
            tensor = tensors[f"{module}.{name}"]
            assert (tensor.dtype, tuple(tensor.shape)) == (dtype, shape), f"{module}.{name}"
    config = json.loads((tmp_path / "q" / "hf_quant_config.json").read_text())["quantization"]
    assert config == {"quant_algo": "NVFP4", "kv_cache_quant_algo": None, "group_size": 16,
                      "exclude_modules": ["lm_head"]}


def test_modelopt_computes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("modelopt")
    from modelopt.torch.export.convert_hf_config import convert_hf_quant_config_format
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

    original = load_file(MODEL / "model.safetensors")
    tensors = quantize(tmp_path / "q", "--convention", "modelopt")
    ours = dequantize(tmp_path / "q", "bf16")
    codes = scales = blocks = bytes_ = different = 0
    for module in modules_of(tensors, ".weight_scale_2"):
        weight, d = original[module + ".weight"], tensors[module + ".weight_scale_2"]
        leaf = module.rsplit(".", 1)[1]
        if leaf in ("o_proj", "down_proj"):  # fused with no other: its own amax
            assert torch.equal(d, NVFP4QTensor.get_weights_scaling_factor_2(weight)), module
        packed, scale, _ = NVFP4QTensor.quantize(weight.clone(), 16, None, d)
        stored_scale = tensors[module + ".weight_scale"]
        scales += int((scale.view(torch.uint8) != stored_scale.view(torch.uint8)).sum())
        codes += int((packed._quantized_data != tensors[module + ".weight"]).sum())
        blocks += scale.numel()
        bytes_ += packed._quantized_data.numel()
        wrapped = NVFP4QTensor(weight.shape, torch.bfloat16, tensors[module + ".weight"])
        theirs = wrapped.dequantize(dtype=torch.bfloat16, scale=stored_scale, double_scale=d,
                                    block_sizes={-1: 16})
        different += differing(ours[module + ".weight"] + 0.0, theirs)  # their -0 decodes to +0
    print(f"modelopt: {scales} of {blocks} block scales and {codes} of {bytes_} bytes of codes "
          f"differ, {different} dequantized values by one unit of bf16's last place")
    assert scales < blocks / 1000 and codes < bytes_ / 1000 and different < 1000
    hf = json.loads((tmp_path / "q" / "hf_quant_config.json").read_text())
    wanted = convert_hf_quant_config_format(hf)
    got = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    assert got == wanted


def test_convert_is_what_compressed_tensors_converter_does(tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.entrypoints.convert.converters.modelopt_nvfp4 import (
        ModelOptNvfp4Converter,
    )

    tensors = quantize(tmp_path / "q", "--activation-amax", MODEL / "activation_amax.json")
    halfbyte("convert", tmp_path / "q", tmp_path / "ct", "--convention", "compressed-tensors")
    ours = load_file(tmp_path / "ct" / "model.safetensors")
    theirs = ModelOptNvfp4Converter(targets=["re:.*proj"]).process(dict(tensors))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name].flatten().view(torch.uint8),
                           tensor.flatten().view(torch.uint8)), name


@pytest.mark.parametrize("form", ["nvfp4", "mxfp4"])
def test_transformers_loads_both(form: str, tmp_path: Path) -> None:
    """The dequantized folder; and, with compressed-tensors, the quantized one: the same logits."""
    from transformers import AutoModelForCausalLM

    quantize(tmp_path / "q", "--format", form, "--convention", "compressed-tensors")
    dequantize(tmp_path / "q", "bf16")
    ids = torch.arange(2, 66).reshape(2, 32)

    def logits(folder: Path) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        with torch.inference_mode():
            return model(input_ids=ids).logits.float()

    ours = logits(tmp_path / "q-bf16")
    assert torch.isfinite(ours).all()
    pytest.importorskip("compressed_tensors")
    theirs = logits(tmp_path / "q")
    # Weights that differ in bf16's last place (differing() above), through five layers.
    assert (ours - theirs).abs().max() <= 0.02 * theirs.abs().max()
