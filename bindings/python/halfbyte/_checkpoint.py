"""load_quantized: a transformers model with the quantized linears of a directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halfbyte._gemm import Linear

_MODELOPT = {"weight", "weight_scale", "weight_scale_2", "input_scale", "bias"}
_COMPRESSED = {"weight_packed", "weight_scale", "weight_global_scale", "input_global_scale", "bias"}


def load_quantized(
    model: torch.nn.Module,
    directory: str | Path,
    *,
    activations: str | None = "auto",
    **options: Any,
) -> torch.nn.Module:
    """Swaps the torch.nn.Linear layers of `model` that the safetensors files of `directory` hold
    quantized, in ModelOpt's or compressed-tensors' convention, for Linear, loads everything else
    that they hold, and returns the model. Layers stay on the device of the weights they replace.

    activations  "auto": as the checkpoint declares, "tensor" for layers with an input scale, else
                 None (W4A16); or the same for all layers: "row", "tensor", None
    options      Linear's: prepare, method

    Input scales that are equal (q, k, v; gate, up) are one tensor afterwards, so that a compiled
    model quantizes an input that they share once. Needs the safetensors package. ValueError: a
    quantized layer that the model has not, a shape that does not fit, tensors that are missing.
    """
    tensors = _read(Path(directory))
    scales: dict[tuple, Tensor] = {}
    for name in sorted(_quantized_layers(tensors)):
        parent_name, _, child = name.rpartition(".")
        try:
            old = model.get_submodule(name)
        except AttributeError:
            raise ValueError(
                f"load_quantized: model: expected a layer {name}, which {directory} quantizes, got "
                "none"
            ) from None
        if not isinstance(old, torch.nn.Linear):
            got = type(old).__name__
            raise ValueError(f"load_quantized: model: expected torch.nn.Linear at {name}, got {got}")
        parts = {
            part: tensors.pop(f"{name}.{part}").to(old.weight.device)
            for part in _MODELOPT | _COMPRESSED
            if f"{name}.{part}" in tensors
        }
        layer = _layer(name, parts, old, activations, options)
        if layer.input_scale is not None:
            key = (layer.input_scale.device, layer.input_scale.item())
            layer.input_scale = scales.setdefault(key, layer.input_scale)
        setattr(model.get_submodule(parent_name), child, layer)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    swapped = {id(m) for m in model.modules() if isinstance(m, Linear)}
    kept = _parameters_without(model, swapped)
    lost = sorted(set(missing) & kept - _tied(model, tensors))
    if lost or unexpected:
        raise ValueError(
            f"load_quantized: directory: expected the model's tensors, got {directory} without "
            f"{lost[:3]} and with {unexpected[:3]}"
        )
    return model


def _read(directory: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    index = directory / "model.safetensors.index.json"
    if index.exists():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        files = ["model.safetensors"]
    tensors: dict[str, Tensor] = {}
    for file in files:
        if not (directory / file).exists():
            raise ValueError(f"load_quantized: directory: expected {file} in {directory}, got none")
        tensors.update(load_file(directory / file))
    return tensors


def _quantized_layers(tensors: dict[str, Tensor]) -> set[str]:
    names = {name.removesuffix(".weight_packed") for name in tensors if name.endswith("_packed")}
    for name in tensors:
        module = name.removesuffix(".weight_scale_2")
        if module != name:
            names.add(module)
    return names


def _layer(
    name: str,
    parts: dict[str, Tensor],
    old: torch.nn.Linear,
    activations: str | None,
    options: dict[str, Any],
) -> Linear:
    packed = "weight_packed" in parts
    required = {"weight_packed", "weight_scale"} if packed else _MODELOPT - {"input_scale", "bias"}
    if lacking := sorted(required - set(parts)):
        raise ValueError(f"load_quantized: {name}: expected tensors {lacking}, got none")
    make = Linear.from_compressed_tensors if packed else Linear.from_modelopt
    if old.bias is not None and "bias" in parts:
        parts["bias"] = parts["bias"].to(old.bias.dtype)
    layer = make(**parts, activations=activations, **options)
    if (layer.out_features, layer.in_features) != (old.out_features, old.in_features):
        raise ValueError(
            f"load_quantized: {name}: expected shape [{old.out_features}, {old.in_features}], got "
            f"[{layer.out_features}, {layer.in_features}]"
        )
    return layer


def _parameters_without(model: torch.nn.Module, modules: set[int]) -> set[str]:
    """Names of the parameters that no swapped layer has."""
    swapped = [name for name, module in model.named_modules() if id(module) in modules]
    names = dict(model.named_parameters(remove_duplicate=False))
    return {n for n in names if not any(n.startswith(s + ".") for s in swapped)}


def _tied(model: torch.nn.Module, tensors: dict[str, Tensor]) -> set[str]:
    """Parameters that share the memory of one that was loaded (lm_head and the embedding)."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    loaded = {parameters[n].data_ptr() for n in tensors if n in parameters}
    return {n for n, p in parameters.items() if p.data_ptr() in loaded}
