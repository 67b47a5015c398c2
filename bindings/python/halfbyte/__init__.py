"""halfbyte: fused FP4 kernels for transformer inference, as PyTorch operators.

Functions that are torch.ops.halfbyte operators too, which torch.compile can trace. Results are
bit-exact: the same bits on every CPU, GPU, batch size and number of threads (docs/numerics.md).

    packed = halfbyte.quantize(x, scale="row")                    # NVFP4, one pass
    packed = halfbyte.rmsnorm_quantize(x, weight, residual)       # residual is updated in place
    y = halfbyte.silu_mul(gate_up)                                # and silu_mul_quantize
    x = halfbyte.dequantize(packed.codes, packed.scales, decode_scale=packed.row_scale)
    cos, sin = halfbyte.rope_table(8192, 128, theta=500000.0)     # once, on the CPU
    halfbyte.rope_(q, positions, cos, sin)                        # in place; rope() is not

Bad arguments raise ValueError naming the argument, what was expected and what was given, before
anything is written. NotImplementedError: this build or this device cannot do it. RuntimeError: the
CUDA runtime failed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from halfbyte import _library
from halfbyte import _operators as _operators  # registers torch.ops.halfbyte
from halfbyte._rope import rope, rope_, rope_table
from halfbyte import _silu_mul as _silu_mul

__version__ = _library.version()
numerics_version = _library.numerics_version()

__all__ = [
    "Quantized",
    "__version__",
    "cpu_level",
    "cuda_architectures",
    "dequantize",
    "numerics_version",
    "quantize",
    "rmsnorm_quantize",
    "rope",
    "rope_",
    "rope_table",
    "silu_mul",
    "silu_mul_quantize",
]


class Quantized(NamedTuple):
    """What a quantization gives. For x [.., H] with M rows, and blocks of 16 (nvfp4), 32 (mxfp4):

    codes          uint8 [.., H/2], the even column in the low nibble; fp8: uint8 [.., H]
    scales         uint8 [.., H/block] for layout "linear"; for "128x4" and "8x4" the tiles,
                   [padded rows, padded columns], padding zero. None for fp8
    scales_second  the same scales in second_layout, or None
    row_scale      float32 [M], decode scales, for scale="row", or None
    global_scale   float32 [1], the encode scale, for scale="computed", or None
    decode_scale   float32 [1], the decode scale, for scale="computed", or None
    normed         rmsnorm_quantize with normed=True: the normalised tensor, like x, or None
    """

    codes: Tensor
    scales: Tensor | None
    scales_second: Tensor | None
    row_scale: Tensor | None
    global_scale: Tensor | None
    decode_scale: Tensor | None
    normed: Tensor | None = None


def cpu_level() -> str:
    """The CPU kernels in use: "reference", "v3", "v4" or "neon"."""
    return _library.cpu_level()


def cuda_architectures() -> str:
    """What CUDA kernels were compiled for, like "80,90a"; "" in a build without CUDA."""
    return _library.cuda_architectures()


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
) -> Quantized:
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
    """
    out = torch.ops.halfbyte.quantize(
        x,
        global_scale,
        decode_scale,
        format=format,
        layout=layout,
        second_layout=second_layout,
        scale=scale,
        scale_rule=scale_rule,
        mx_rule=mx_rule,
    )
    return _named(out, None, format, second_layout, scale)


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
) -> Quantized:
    """RMS normalisation and quantization in one pass; the bits are those of the two one by one.

    x, and the quantization options   as for quantize
    weight    [H], the type of x or float32
    residual  like x, any row stride: x + residual is normalised, and written back to residual
    eps       finite, >= 0
    rounding  "float32": rounded to x's type once, after the weight; "huggingface": before it too
    bias      True: the weight is stored minus one (Gemma)
    normed    True: the normalised tensor is returned too
    """
    *out, y = torch.ops.halfbyte.rmsnorm_quantize(
        x,
        weight,
        residual,
        global_scale,
        decode_scale,
        eps=eps,
        rounding=rounding,
        bias=bias,
        normed=normed,
        format=format,
        layout=layout,
        second_layout=second_layout,
        scale=scale,
        mx_rule=mx_rule,
    )
    return _named(out, y if normed else None, format, second_layout, scale)


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
    return torch.ops.halfbyte.silu_mul(
        gate_up,
        interleave=interleave,
        clamp=clamp,
        alpha=alpha,
        up_bias=up_bias,
        rounding=rounding,
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
) -> Quantized:
    """silu_mul and quantize in one pass; the bits are those of the two one by one.

    The activation's options are those of silu_mul, the quantization's those of quantize, where H
    is I: the columns of y.
    """
    out = torch.ops.halfbyte.silu_mul_quantize(
        gate_up,
        global_scale,
        decode_scale,
        interleave=interleave,
        clamp=clamp,
        alpha=alpha,
        up_bias=up_bias,
        rounding=rounding,
        format=format,
        layout=layout,
        second_layout=second_layout,
        scale=scale,
        mx_rule=mx_rule,
    )
    return _named(out, None, format, second_layout, scale)


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
    return torch.ops.halfbyte.dequantize(
        codes, scales, global_scale, decode_scale, format=format, layout=layout, dtype=dtype
    )


def _named(
    out: list[Tensor], normed: Tensor | None, format: str, second_layout: str | None, scale: str
) -> Quantized:
    """The operators return empty tensors for what a call does not give; people get None."""
    codes, scales, scales_second, row_scale, global_scale, decode_scale = out
    return Quantized(
        codes,
        None if format == "fp8" else scales,
        None if second_layout is None else scales_second,
        row_scale if scale == "row" else None,
        global_scale if scale == "computed" else None,
        decode_scale if scale == "computed" else None,
        normed,
    )
