"""The functions of the package: torch.ops.halfbyte.* with names, defaults and documentation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from halfbyte import _operators as _operators  # defines torch.ops.halfbyte
from halfbyte._library import call
from halfbyte._quantized import QuantizedTensor, named

# Looked up once.
_AMAX = torch.ops.halfbyte.amax.default
_DEQUANTIZE = torch.ops.halfbyte.dequantize.default
_QUANTIZE = torch.ops.halfbyte.quantize.default
_RMSNORM = torch.ops.halfbyte.rmsnorm.default
_RMSNORM_QUANTIZE = torch.ops.halfbyte.rmsnorm_quantize.default
_SILU_MUL = torch.ops.halfbyte.silu_mul.default
_SILU_MUL_QUANTIZE = torch.ops.halfbyte.silu_mul_quantize.default


class RowGroups(NamedTuple):
    """Rows sorted by group, such as the tokens of a mixture of experts: group e has the rows
    row_offsets[e] .. row_offsets[e + 1] - 1 of x, and the rows from scale_row_offsets[e] on of the
    block scales, `scale_rows` rows in all (for a tiled layout each group starts at a multiple of
    its tile's rows, 128 or 8). Both are int32 [groups + 1] on x's device. global_scale is then one
    value or [groups]. Rows of no group give codes 0, scale rows of no row are zero."""

    row_offsets: Tensor
    scale_row_offsets: Tensor
    scale_rows: int


def written(tensor: Tensor | None) -> None:
    """Tells autograd that a kernel wrote to `tensor`."""
    if tensor is not None and not torch.compiler.is_compiling() and not tensor.is_inference():
        torch.autograd.graph.increment_version(tensor)


def quantize(
    x: Tensor,
    global_scale: Tensor | None = None,
    decode_scale: Tensor | None = None,
    *,
    format: str = "nvfp4",
    layout: str = "linear",
    second_layout: str | None = None,
    scale: str = "tensor",
    scale_rule: str = "kernel",
    mx_rule: str = "round_up",
    groups: RowGroups | None = None,
) -> QuantizedTensor:
    """Quantizes x: float32, float16 or bfloat16 [.., H], its last dimension dense, H a multiple of
    the block. Any row stride and M = 0 are fine.

    format         "nvfp4", "mxfp4" or "fp8"
    global_scale   nvfp4 with scale="tensor": the encode scale, float32 with one element or [M];
                   1 if not given. It multiplies x: 2688 / amax
    decode_scale   fp8 with scale="tensor" needs it: float32 with one element, amax / 448
    layout         order of the block scales: "linear", "128x4" or "8x4"
    second_layout  the same scales once more, in this order
    scale          "tensor": given; "row": from each row's amax; "computed": from the tensor's
    scale_rule     "kernel" (vLLM, FlashInfer) or "te" (TransformerEngine), nvfp4 only
    mx_rule        "round_up" or "ocp_floor", mxfp4 only
    groups         rows sorted by expert: see RowGroups; not with fp8 or "computed"
    """
    out = call(
        _QUANTIZE,
        x,
        global_scale,
        decode_scale,
        format,
        layout,
        second_layout,
        scale,
        scale_rule,
        mx_rule,
        *(groups or ()),
    )
    given = (global_scale, decode_scale)
    return named(out, x, given, (format, layout, second_layout, scale))


def rmsnorm(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None = None,
    *,
    eps: float = 1e-6,
    rounding: str = "float32",
    bias: bool = False,
) -> Tensor:
    """RMS normalisation of x [.., H]: a new tensor like it. Arguments as for rmsnorm_quantize."""
    y = call(
        _RMSNORM, x, weight, residual, eps, rounding, bias
    )
    written(residual)
    return y


def rmsnorm_quantize(
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
    format: str = "nvfp4",
    layout: str = "linear",
    second_layout: str | None = None,
    scale: str = "tensor",
    mx_rule: str = "round_up",
) -> QuantizedTensor:
    """RMS normalisation and quantization in one pass; the bits are those of the two one by one.

    x, and the quantization options   as for quantize
    weight    [H], the type of x or float32
    residual  like x, any row stride: x + residual is normalised, and written back to residual
    eps       finite, >= 0
    rounding  "float32": rounded to x's type once, after the weight; "huggingface": before it too
    bias      True: the weight is stored minus one (Gemma)
    normed    True: the normalised tensor is returned too
    """
    out = call(
        _RMSNORM_QUANTIZE,
        x,
        weight,
        residual,
        global_scale,
        decode_scale,
        eps,
        rounding,
        bias,
        normed,
        format,
        layout,
        second_layout,
        scale,
        "kernel",
        mx_rule,
    )
    given = (global_scale, decode_scale)
    options = (format, layout, second_layout, scale)
    written(residual)
    return named(out[:6], x, given, options, out[6] if normed else None)


def silu_mul(
    gate_up: Tensor,
    *,
    interleave: int = 0,
    clamp: float | None = None,
    alpha: float = 1.0,
    up_bias: float = 0.0,
    rounding: str = "float32",
) -> Tensor:
    """gate * sigmoid(alpha * gate) * (up + up_bias), [.., I], for gate_up [.., 2I]: float32,
    float16 or bfloat16, its last dimension dense. Any row stride and M = 0 are fine.

    interleave  0: gate and up are the halves of the last dimension; 1 or 8: they alternate in
                groups of so many, gate group first
    clamp       gate is at most clamp, up within -clamp .. clamp; finite, > 0
    rounding    "float32": rounded to gate_up's type once, at the end; "huggingface": before the
                multiplication by up too

    gpt-oss: interleave=1, clamp=7.0, alpha=1.702, up_bias=1.0.
    """
    return call(
        _SILU_MUL,
        gate_up,
        interleave,
        clamp,
        alpha,
        up_bias,
        rounding,
    )


def silu_mul_quantize(
    gate_up: Tensor,
    global_scale: Tensor | None = None,
    decode_scale: Tensor | None = None,
    *,
    interleave: int = 0,
    clamp: float | None = None,
    alpha: float = 1.0,
    up_bias: float = 0.0,
    rounding: str = "float32",
    format: str = "nvfp4",
    layout: str = "linear",
    second_layout: str | None = None,
    scale: str = "tensor",
    mx_rule: str = "round_up",
    groups: RowGroups | None = None,
) -> QuantizedTensor:
    """silu_mul and quantize in one pass; the bits are those of the two one by one.

    The activation's options are those of silu_mul, the quantization's those of quantize, where H
    is I: the columns of y.
    """
    out = call(
        _SILU_MUL_QUANTIZE,
        gate_up,
        global_scale,
        decode_scale,
        interleave,
        clamp,
        alpha,
        up_bias,
        rounding,
        format,
        layout,
        second_layout,
        scale,
        "kernel",
        mx_rule,
        *(groups or ()),
    )
    given = (global_scale, decode_scale)
    return named(out, gate_up, given, (format, layout, second_layout, scale))


def dequantize(
    codes: Tensor,
    scales: Tensor | None = None,
    global_scale: Tensor | None = None,
    decode_scale: Tensor | None = None,
    *,
    format: str = "nvfp4",
    layout: str = "linear",
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """The tensor [.., H] that codes and scales stand for, in float32, float16 or bfloat16.

    scales        as quantize gives them, in `layout`; None for fp8
    global_scale  the encode scale (nvfp4), or
    decode_scale  the decode scale: float32, one element or [M] (row_scale). At most one of the two
    """
    return call(
        _DEQUANTIZE,
        codes, scales, global_scale, decode_scale, format, layout, dtype
    )


def amax(x: Tensor, *, per_row: bool = False) -> Tensor:
    """max |x|, float32 [1], or [M], one a row; NaN if there is one, inf counts as FLT_MAX."""
    return call(
        _AMAX,x, per_row)
