"""torch.ops.halfbyte.*: schemas, implementations through the C ABI, and fake implementations.

Every operator returns a fixed number of tensors; one that a call does not produce is empty ([0]).
The real and the fake implementation allocate with the same function, so they cannot disagree.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from halfbyte import _library

FORMATS = {"nvfp4": 0, "mxfp4": 1, "fp8": 2}
LAYOUTS = {"linear": 0, "128x4": 1, "8x4": 2}
SCALES = {"tensor": 0, "row": 1, "computed": 2}
SCALE_RULES = {"kernel": 0, "te": 1}
MX_RULES = {"round_up": 0, "ocp_floor": 1}
ROUNDINGS = {"float32": 0, "huggingface": 1}

_BLOCK = {"nvfp4": 16, "mxfp4": 32, "fp8": 1}
_DEQUANTIZED = (torch.float32, torch.float16, torch.bfloat16)
_TILE_ROWS = {"linear": 1, "128x4": 128, "8x4": 8}

_QUANTIZE_OPTIONS = (
    'str format="nvfp4", str layout="linear", str? second_layout=None, str scale="tensor", '
    'str scale_rule="kernel", str mx_rule="round_up"'
)
_SCHEMAS = {
    "quantize": (
        "(Tensor x, Tensor? global_scale=None, Tensor? decode_scale=None, *, "
        f"{_QUANTIZE_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "rmsnorm_quantize": (
        "(Tensor x, Tensor weight, Tensor(a!)? residual=None, Tensor? global_scale=None, "
        'Tensor? decode_scale=None, *, float eps=1e-6, str rounding="float32", '
        f"bool bias=False, bool normed=False, {_QUANTIZE_OPTIONS}) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "dequantize": (
        "(Tensor codes, Tensor? scales=None, Tensor? global_scale=None, "
        'Tensor? decode_scale=None, *, str format="nvfp4", str layout="linear", '
        "ScalarType? dtype=None) -> Tensor"
    ),
}


class Options(NamedTuple):
    """The options that every operator ending in a quantization shares, as their names. The defaults
    are the schemas': torch leaves arguments at their default out."""

    format: str = "nvfp4"
    layout: str = "linear"
    second_layout: str | None = None
    scale: str = "tensor"
    scale_rule: str = "kernel"
    mx_rule: str = "round_up"


class Outputs(NamedTuple):
    codes: Tensor
    scales: Tensor
    scales_second: Tensor
    row_scale: Tensor
    global_scale: Tensor
    decode_scale: Tensor


def _value(operator: str, argument: str, name: str, names: dict[str, int]) -> int:
    value = names.get(name)
    if value is None:
        known = ", ".join(names)
        raise ValueError(f"{operator}: {argument}: expected one of {known}, got {name!r}")
    return value


@functools.cache
def _spec(operator: str, options: Options) -> _library.QuantizeSpec:
    """Checked names as the C struct; a program uses a handful of combinations."""
    second_layout = "linear" if options.second_layout is None else options.second_layout
    return _library.QuantizeSpec(
        format=_value(operator, "format", options.format, FORMATS),
        layout=_value(operator, "layout", options.layout, LAYOUTS),
        second_layout=_value(operator, "second_layout", second_layout, LAYOUTS),
        scale=_value(operator, "scale", options.scale, SCALES),
        scale_rule=_value(operator, "scale_rule", options.scale_rule, SCALE_RULES),
        mx_rule=_value(operator, "mx_rule", options.mx_rule, MX_RULES),
    )


def _scales_shape(layout: str, leading: list[int], rows: int, columns: int) -> list[int]:
    if layout == "linear":
        return [*leading, columns]
    tile = _TILE_ROWS[layout]
    return [(rows + tile - 1) // tile * tile, (columns + 3) // 4 * 4]


def _allocate(operator: str, x: Tensor, options: Options) -> Outputs:
    """The outputs, uninitialised: the library writes every byte, padding included."""
    block = _BLOCK[options.format]
    if x.dim() < 1:
        raise ValueError(f"{operator}: x: expected at least one dimension, got a scalar")
    *leading, columns = x.shape
    if columns < 1 or columns % block != 0:
        raise ValueError(
            f"{operator}: x: expected a last dimension that is a positive multiple of {block} "
            f"({options.format} blocks), got {columns}"
        )
    return _outputs(leading, columns, x.device, options)


def _outputs(leading: list[int], columns: int, device: torch.device, options: Options) -> Outputs:
    block = _BLOCK[options.format]
    rows = math.prod(leading)
    empty = functools.partial(torch.empty, device=device)
    has_scales = options.format != "fp8"
    second = options.second_layout if has_scales else None

    def scales(layout: str) -> Tensor:
        return empty(_scales_shape(layout, leading, rows, columns // block), dtype=torch.uint8)

    computed = 1 if options.scale == "computed" else 0
    return Outputs(
        empty([*leading, columns // 2 if has_scales else columns], dtype=torch.uint8),
        scales(options.layout) if has_scales else empty(0, dtype=torch.uint8),
        scales(second) if second is not None else empty(0, dtype=torch.uint8),
        empty(rows if options.scale == "row" else 0, dtype=torch.float32),
        empty(computed, dtype=torch.float32),
        empty(computed, dtype=torch.float32),
    )


def _c_outputs(operator: str, out: Outputs, options: Options) -> _library.QuantizeOutputs:
    view = _library.tensor
    fields = {"codes": view(operator, "codes", out.codes)}
    if options.format != "fp8":
        fields["scales"] = view(operator, "scales", out.scales)
    if options.second_layout is not None:
        fields["scales_second"] = view(operator, "scales_second", out.scales_second)
    if options.scale == "row":
        fields["row_scale"] = view(operator, "row_scale", out.row_scale)
    if options.scale == "computed":
        fields["global_scale"] = view(operator, "global_scale", out.global_scale)
        fields["decode_scale"] = view(operator, "decode_scale", out.decode_scale)
    return _library.QuantizeOutputs(**fields)


def _run(operator: str, args: _library._Sized, x: Tensor, scale: str = "tensor") -> None:
    """On torch's current stream, or with torch's number of threads."""
    if not x.is_cuda:
        _library.call(operator, args, _library.Execution(num_threads=torch.get_num_threads()))
        return
    with torch.cuda.device(x.device):
        size = _library.workspace_bytes(SCALES[scale])
        workspace = torch.empty(size, dtype=torch.uint8, device=x.device) if size else None
        execution = _library.Execution(
            stream=torch.cuda.current_stream(x.device).cuda_stream,
            workspace=None if workspace is None else workspace.data_ptr(),
            workspace_bytes=size,
        )
        _library.call(operator, args, execution)


def _quantize(
    x: Tensor,
    global_scale: Tensor | None = None,
    decode_scale: Tensor | None = None,
    **names: str | None,
) -> Outputs:
    name = "quantize"
    options = Options(**names)
    spec = _spec(name, options)
    out = _allocate(name, x, options)
    args = _library.QuantizeArgs(
        x=_library.tensor(name, "x", x),
        global_scale=_library.tensor(name, "global_scale", global_scale),
        decode_scale=_library.tensor(name, "decode_scale", decode_scale),
        spec=spec,
        out=_c_outputs(name, out, options),
    )
    _run(name, args, x, options.scale)
    return out


def _quantize_fake(
    x: Tensor,
    global_scale: Tensor | None = None,
    decode_scale: Tensor | None = None,
    **names: str | None,
) -> Outputs:
    options = Options(**names)
    _spec("quantize", options)
    return _allocate("quantize", x, options)


def _rmsnorm_quantize(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None = None,
    global_scale: Tensor | None = None,
    decode_scale: Tensor | None = None,
    *,
    eps: float = 1e-6,
    rounding: str = "float32",
    bias: bool = False,
    normed: bool = False,
    **names: str | None,
) -> tuple[Tensor, ...]:
    name = "rmsnorm_quantize"
    options = Options(**names)
    spec = _spec(name, options)
    norm = _library.NormArgs(
        eps=eps,
        rounding=_value(name, "rounding", rounding, ROUNDINGS),
        weight_bias=int(bias),
        x=_library.tensor(name, "x", x),
        weight=_library.tensor(name, "weight", weight),
        residual=_library.tensor(name, "residual", residual),
    )
    out = _allocate(name, x, options)
    y = _allocate_normed(x, normed)
    args = _library.RmsNormQuantizeArgs(
        norm=norm,
        normed=_library.tensor(name, "normed", y if normed else None),
        global_scale=_library.tensor(name, "global_scale", global_scale),
        decode_scale=_library.tensor(name, "decode_scale", decode_scale),
        spec=spec,
        out=_c_outputs(name, out, options),
    )
    _run(name, args, x, options.scale)
    if residual is not None and not residual.is_inference():
        torch.autograd.graph.increment_version(residual)  # it was written behind torch's back
    return (*out, y)


def _allocate_normed(x: Tensor, normed: bool) -> Tensor:
    return torch.empty(x.shape if normed else 0, dtype=x.dtype, device=x.device)


def _rmsnorm_quantize_fake(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None = None,
    global_scale: Tensor | None = None,
    decode_scale: Tensor | None = None,
    *,
    eps: float = 1e-6,
    rounding: str = "float32",
    bias: bool = False,
    normed: bool = False,
    **names: str | None,
) -> tuple[Tensor, ...]:
    options = Options(**names)
    _spec("rmsnorm_quantize", options)
    _value("rmsnorm_quantize", "rounding", rounding, ROUNDINGS)
    return (*_allocate("rmsnorm_quantize", x, options), _allocate_normed(x, normed))


def _dequantize(
    codes: Tensor,
    scales: Tensor | None = None,
    global_scale: Tensor | None = None,
    decode_scale: Tensor | None = None,
    *,
    format: str = "nvfp4",
    layout: str = "linear",
    dtype: torch.dtype | None = None,
) -> Tensor:
    name = "dequantize"
    c_format = _value(name, "format", format, FORMATS)
    c_layout = _value(name, "layout", layout, LAYOUTS)
    x = _allocate_dequantized(codes, format, dtype)
    args = _library.DequantizeArgs(
        format=c_format,
        layout=c_layout,
        rows=math.prod(x.shape[:-1]),
        columns=x.shape[-1],
        codes=_library.tensor(name, "codes", codes),
        scales=_library.tensor(name, "scales", scales),
        global_scale=_library.tensor(name, "global_scale", global_scale),
        decode_scale=_library.tensor(name, "decode_scale", decode_scale),
        x=_library.tensor(name, "x", x),
    )
    _run(name, args, codes)
    return x


def _allocate_dequantized(codes: Tensor, format: str, dtype: torch.dtype | None) -> Tensor:
    if codes.dim() < 1:
        raise ValueError("dequantize: codes: expected at least one dimension, got a scalar")
    dtype = dtype or torch.bfloat16
    if dtype not in _DEQUANTIZED:
        raise ValueError(f"dequantize: dtype: expected float32, float16 or bfloat16, got {dtype}")
    columns = codes.shape[-1] * (1 if format == "fp8" else 2)
    return torch.empty([*codes.shape[:-1], columns], dtype=dtype, device=codes.device)


def _dequantize_fake(
    codes: Tensor,
    scales: Tensor | None = None,
    global_scale: Tensor | None = None,
    decode_scale: Tensor | None = None,
    *,
    format: str = "nvfp4",
    layout: str = "linear",
    dtype: torch.dtype | None = None,
) -> Tensor:
    _value("dequantize", "format", format, FORMATS)
    _value("dequantize", "layout", layout, LAYOUTS)
    return _allocate_dequantized(codes, format, dtype)


_registry = torch.library.Library("halfbyte", "DEF")


def _register(name: str, schema: str, real: Callable, fake: Callable) -> None:
    _registry.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _registry.impl(name, real, "CPU")
    _registry.impl(name, real, "CUDA")
    torch.library.register_fake(f"halfbyte::{name}", fake, lib=_registry)


for _name, _real, _fake in (
    ("quantize", _quantize, _quantize_fake),
    ("rmsnorm_quantize", _rmsnorm_quantize, _rmsnorm_quantize_fake),
    ("dequantize", _dequantize, _dequantize_fake),
):
    _register(_name, _SCHEMAS[_name], _real, _fake)
