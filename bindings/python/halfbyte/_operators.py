"""torch.ops.halfbyte.*: schemas and fake implementations.

The kernels are bindings/python/csrc; they take the arguments in the schemas' order. Every operator
returns a fixed number of tensors; one that a call does not produce is empty ([0]). An .out overload
writes to tensors of the caller's and allocates nothing. The tests compare fake and real outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from halfbyte import _library

FORMATS = ("nvfp4", "mxfp4", "fp8")
LAYOUTS = ("linear", "128x4", "8x4")
SCALES = ("tensor", "row", "computed")
SCALE_RULES = ("kernel", "te")
MX_RULES = ("round_up", "ocp_floor")
ROUNDINGS = ("float32", "huggingface")
STYLES = ("neox", "gptj")
METHODS = ("auto", "exact", "tensor_core", "dequantize", "fp8", "block_scaled")
SCALINGS = ("none", "linear", "llama3", "yarn")
DEQUANTIZED = (torch.float32, torch.float16, torch.bfloat16)
BLOCK = {"nvfp4": 16, "mxfp4": 32, "fp8": 1}
_TILE_ROWS = {"linear": 1, "128x4": 128, "8x4": 8}
_NAMES = {
    "format": FORMATS,
    "layout": LAYOUTS,
    "a_layout": LAYOUTS,
    "b_layout": LAYOUTS,
    "b_format": FORMATS,
    "method": METHODS,
    "second_layout": LAYOUTS,
    "scale": SCALES,
    "scale_rule": SCALE_RULES,
    "mx_rule": MX_RULES,
    "rounding": ROUNDINGS,
    "style": STYLES,
    "scaling": SCALINGS,
}

# Parts of the schemas.
_GIVEN = "Tensor? global_scale=None, Tensor? decode_scale=None"
_OPTIONS = (
    'str format="nvfp4", str layout="linear", str? second_layout=None, str scale="tensor", '
    'str scale_rule="kernel", str mx_rule="round_up"'
)
_GROUPS = "Tensor? row_offsets=None, Tensor? scale_row_offsets=None"
_SIX = "Tensor, Tensor, Tensor, Tensor, Tensor, Tensor"
_OUT = (
    "Tensor(b!) codes, Tensor(c!)? scales=None, Tensor(d!)? scales_second=None, "
    "Tensor(e!)? row_scale=None, Tensor(f!)? computed_global_scale=None, "
    "Tensor(g!)? computed_decode_scale=None"
)
_NORM = 'float eps=1e-6, str rounding="float32", bool bias=False'
_NORMALISED = "Tensor x, Tensor weight, Tensor(a!)? residual=None"
_ACTIVATION = (
    "int interleave=0, float? clamp=None, float alpha=1.0, float up_bias=0.0, "
    'str rounding="float32"'
)
_PACKED = f'Tensor codes, Tensor? scales=None, {_GIVEN}, str format="nvfp4", str layout="linear"'
_ROPE = (
    'Tensor positions, Tensor cos, Tensor sin, str style="neox", int? rope_dim=None, '
    "int rope_offset=0, bool inverse=False"
)
_GEMM = (
    "Tensor a, Tensor b, Tensor? b_scales=None, Tensor? a_scales=None, "
    "Tensor? a_global_scale=None, Tensor? a_decode_scale=None, Tensor? b_global_scale=None, "
    'Tensor? b_decode_scale=None, Tensor? bias=None, str format="nvfp4", str a_layout="linear", '
    'str b_layout="linear", str method="auto", int? prepared_rows=None, '
    "Tensor? row_offsets=None, Tensor? scale_row_offsets=None"
)

_registry = torch.library.Library("halfbyte", "DEF")


def operator(schema: str) -> Callable:
    """Defines the operator of `schema`. The decorated function is its fake implementation: it takes
    all arguments, defaults filled in, as attributes of one object. Names of enums are checked
    before, so that a compiled program fails where it is traced."""

    def define(fake: Callable[[SimpleNamespace], Any]) -> Callable:
        _registry.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        qualified = schema.partition("(")[0]
        name, _, overload = qualified.partition(".")
        arguments = getattr(getattr(torch.ops.halfbyte, name), overload or "default")._schema.arguments
        positional = [argument.name for argument in arguments]
        defaults = {a.name: a.default_value for a in arguments if a.has_default_value()}

        def bound(*args: Any, **kwargs: Any) -> Any:
            values = {**defaults, **dict(zip(positional, args, strict=False)), **kwargs}
            check_names(name, values)
            return fake(SimpleNamespace(**values))

        torch.library.register_fake(f"halfbyte::{qualified}", bound, lib=_registry)
        return fake

    return define


def check_names(operator: str, values: dict[str, Any]) -> None:
    for argument, known in _NAMES.items():
        value = values.get(argument)
        if value is not None and value not in known:
            refuse(operator, argument, f"one of {', '.join(known)}", repr(value))


def refuse(operator: str, argument: str, expected: object, got: object) -> None:
    raise ValueError(f"{operator}: {argument}: expected {expected}, got {got}")


def scales_shape(layout: str, leading: Sequence[int], rows: int, columns: int) -> list[int]:
    """Of the block scales of `rows` rows in `leading` dimensions, `columns` blocks each."""
    if layout == "linear":
        return [*leading, columns]
    tile = _TILE_ROWS[layout]
    return [(rows + tile - 1) // tile * tile, (columns + 3) // 4 * 4]


def _outputs(operator: str, argument: str, x: Tensor, a: SimpleNamespace) -> tuple[Tensor, ...]:
    """The six outputs of quantizing x, or, for `gate_up`, half of its columns."""
    block = BLOCK[a.format]
    if x.dim() < 1:
        refuse(operator, argument, "at least one dimension", "a scalar")
    width = x.shape[-1]
    factor = 2 if argument == "gate_up" else 1
    if width < 1 or width % (factor * block) != 0:
        expected = (
            f"a last dimension that is a positive multiple of {block} ({a.format} blocks)"
            if factor == 1
            else f"a last dimension 2I, I a multiple of {block}"
        )
        refuse(operator, argument, expected, width)
    return _outputs_of(x, width // factor, a)


def _outputs_of(x: Tensor, columns: int, a: SimpleNamespace) -> tuple[Tensor, ...]:
    """The same, for x's leading dimensions and as many columns."""
    leading, block = x.shape[:-1], BLOCK[a.format]
    rows = math.prod(leading)
    has_scales = a.format != "fp8"
    second = a.second_layout if has_scales else None
    scale_rows = getattr(a, "scale_rows", None)

    def empty(shape: Sequence[int] | int, dtype: torch.dtype = torch.uint8) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    def scales(layout: str) -> Tensor:
        if scale_rows is not None:
            return empty(scales_shape(layout, [scale_rows], scale_rows, columns // block))
        return empty(scales_shape(layout, leading, rows, columns // block))

    computed = 1 if a.scale == "computed" else 0
    return (
        empty([*leading, columns // 2 if has_scales else columns]),
        scales(a.layout) if has_scales else empty(0),
        scales(second) if second is not None else empty(0),
        empty(rows if a.scale == "row" else 0, torch.float32),
        empty(computed, torch.float32),
        empty(computed, torch.float32),
    )


def _nothing(a: SimpleNamespace) -> None:
    """The fake of an operator that only writes to its arguments."""


@operator(f"quantize(Tensor x, {_GIVEN}, {_OPTIONS}, {_GROUPS}, int? scale_rows=None) -> ({_SIX})")
def _quantize(a: SimpleNamespace) -> tuple[Tensor, ...]:
    return _outputs("quantize", "x", a.x, a)


operator(f"quantize.out(Tensor x, {_GIVEN}, {_OPTIONS}, {_GROUPS}, *, {_OUT}) -> ()")(_nothing)


@operator(f"rmsnorm({_NORMALISED}, {_NORM}) -> Tensor")
def _rmsnorm(a: SimpleNamespace) -> Tensor:
    return torch.empty(a.x.shape, dtype=a.x.dtype, device=a.x.device)


operator(f"rmsnorm.out({_NORMALISED}, {_NORM}, *, Tensor(b!) y) -> ()")(_nothing)


@operator(
    f"rmsnorm_quantize({_NORMALISED}, {_GIVEN}, {_NORM}, bool normed=False, {_OPTIONS}) "
    f"-> ({_SIX}, Tensor)"
)
def _rmsnorm_quantize(a: SimpleNamespace) -> tuple[Tensor, ...]:
    y = torch.empty(a.x.shape if a.normed else 0, dtype=a.x.dtype, device=a.x.device)
    return (*_outputs("rmsnorm_quantize", "x", a.x, a), y)


operator(
    f"rmsnorm_quantize.out({_NORMALISED}, {_GIVEN}, {_NORM}, {_OPTIONS}, *, {_OUT}, "
    "Tensor(h!)? normed=None) -> ()"
)(_nothing)


@operator(f"silu_mul(Tensor gate_up, {_ACTIVATION}) -> Tensor")
def _silu_mul(a: SimpleNamespace) -> Tensor:
    if a.gate_up.dim() < 1:
        refuse("silu_mul", "gate_up", "at least one dimension", "a scalar")
    *leading, width = a.gate_up.shape
    if width < 1 or width % 2 != 0:
        refuse("silu_mul", "gate_up", "a last dimension 2I", width)
    _check_interleave("silu_mul", a)
    return torch.empty([*leading, width // 2], dtype=a.gate_up.dtype, device=a.gate_up.device)


operator(f"silu_mul.out(Tensor gate_up, {_ACTIVATION}, *, Tensor(a!) y) -> ()")(_nothing)


@operator(
    f"silu_mul_quantize(Tensor gate_up, {_GIVEN}, {_ACTIVATION}, {_OPTIONS}, {_GROUPS}, "
    f"int? scale_rows=None) -> ({_SIX})"
)
def _silu_mul_quantize(a: SimpleNamespace) -> tuple[Tensor, ...]:
    _check_interleave("silu_mul_quantize", a)
    return _outputs("silu_mul_quantize", "gate_up", a.gate_up, a)


operator(
    f"silu_mul_quantize.out(Tensor gate_up, {_GIVEN}, {_ACTIVATION}, {_OPTIONS}, {_GROUPS}, *, "
    f"{_OUT}) -> ()"
)(_nothing)


def _check_interleave(operator: str, a: SimpleNamespace) -> None:
    if a.interleave not in (0, 1, 8):
        refuse(operator, "interleave", "0 (halves), 1 or 8", a.interleave)


@operator(f"dequantize({_PACKED}, ScalarType? dtype=None) -> Tensor")
def _dequantize(a: SimpleNamespace) -> Tensor:
    if a.codes.dim() < 1:
        refuse("dequantize", "codes", "at least one dimension", "a scalar")
    dtype = a.dtype or torch.bfloat16
    if dtype not in DEQUANTIZED:
        refuse("dequantize", "dtype", "float32, float16 or bfloat16", dtype)
    columns = a.codes.shape[-1] * (1 if a.format == "fp8" else 2)
    return torch.empty([*a.codes.shape[:-1], columns], dtype=dtype, device=a.codes.device)


operator(f"dequantize.out({_PACKED}, *, Tensor(a!) x) -> ()")(_nothing)


@operator(f"gemm({_GEMM}, ScalarType? dtype=None) -> Tensor")
def _gemm(a: SimpleNamespace) -> Tensor:
    return _product("gemm", a)


def _product(operator: str, a: SimpleNamespace) -> Tensor:
    packed = a.a.dtype == torch.uint8
    dtype = a.dtype or (torch.bfloat16 if packed else a.a.dtype)
    if a.prepared_rows is None and a.b.dim() < 2:
        refuse(operator, "b", "[N, K/2], or [groups, N, K/2]", "fewer dimensions")
    rows = a.b.shape[-2] if a.prepared_rows is None else a.prepared_rows
    return torch.empty([*a.a.shape[:-1], rows], dtype=dtype, device=a.a.device)


@operator(
    f"gemm_pair({_GEMM}, *, Tensor second_b, Tensor? second_b_scales=None, "
    "Tensor? second_b_global_scale=None, Tensor? second_b_decode_scale=None, "
    "Tensor? second_bias=None, int? second_prepared_rows=None, ScalarType? dtype=None) -> Tensor"
)
def _gemm_pair(a: SimpleNamespace) -> Tensor:
    """Two products of one a, [.., 2N]: halfbyte.compile makes it of gate and up."""
    one = _gemm(a)
    return one.new_empty([*one.shape[:-1], 2 * one.shape[-1]])


operator(f"gemm.out({_GEMM}, *, Tensor(a!) c) -> ()")(_nothing)


_GATE_UP = (
    f"{_GEMM}, {_GIVEN}, {_ACTIVATION}, {_OPTIONS}, Tensor? out_scale_row_offsets=None, "
    "ScalarType? dtype=None"
).replace("str format", "str b_format", 1)


@operator(f"gemm_silu_mul_quantize({_GATE_UP}, int? scale_rows=None) -> ({_SIX})")
def _gemm_silu_mul_quantize(a: SimpleNamespace) -> tuple[Tensor, ...]:
    name = "gemm_silu_mul_quantize"
    product = _product(name, a)
    if product.dtype not in DEQUANTIZED:
        refuse(name, "dtype", "float32, float16 or bfloat16", product.dtype)
    _check_interleave(name, a)
    rows, block = product.shape[-1], BLOCK[a.format]
    if rows < 1 or rows % (2 * block) != 0:
        refuse(name, "b", f"2I rows, I a multiple of {block}", rows)
    return _outputs_of(product, rows // 2, a)


operator(f"gemm_silu_mul_quantize.out({_GATE_UP}, *, {_OUT}) -> ()")(_nothing)


@operator(
    'prepare_weights(Tensor codes, Tensor scales, str format="nvfp4", str layout="linear") -> Tensor'
)
def _prepare_weights(a: SimpleNamespace) -> Tensor:
    rows, columns = a.codes.shape[-2], 2 * a.codes.shape[-1]
    size = _library.prepared_weight_bytes(FORMATS.index(a.format), int(rows), int(columns))
    return torch.empty(size, dtype=torch.uint8, device=a.codes.device)


@operator(
    "unprepare_weights(Tensor prepared, int rows, int columns, str format=\"nvfp4\") "
    "-> (Tensor, Tensor)"
)
def _unprepare_weights(a: SimpleNamespace) -> tuple[Tensor, Tensor]:
    shapes = ([a.rows, a.columns // 2], [a.rows, a.columns // BLOCK[a.format]])
    return tuple(torch.empty(s, dtype=torch.uint8, device=a.prepared.device) for s in shapes)


@operator("amax(Tensor x, bool per_row=False) -> Tensor")
def _amax(a: SimpleNamespace) -> Tensor:
    count = math.prod(a.x.shape[:-1]) if a.per_row else 1
    return torch.empty(count, dtype=torch.float32, device=a.x.device)


operator("amax.out(Tensor x, bool per_row=False, *, Tensor(a!) amax) -> ()")(_nothing)


@operator(f"rope(Tensor x, {_ROPE}) -> Tensor")
def _rope(a: SimpleNamespace) -> Tensor:
    return torch.empty(a.x.shape, dtype=a.x.dtype, device=a.x.device)


operator(f"rope_(Tensor(a!) x, {_ROPE}) -> ()")(_nothing)
operator(f"rope.out(Tensor x, {_ROPE}, *, Tensor(a!) y) -> ()")(_nothing)
operator(
    'rope_table.out(Tensor(a!) cos, Tensor(b!) sin, float theta, str scaling="none", '
    "bool truncate=True, float factor=0.0, float low_freq_factor=0.0, float high_freq_factor=0.0, "
    "float original_max_position=0.0, float beta_fast=0.0, float beta_slow=0.0, "
    "float attention_factor=0.0, float mscale=0.0, float mscale_all_dim=0.0) -> ()"
)(_nothing)

_library.register_kernels()
