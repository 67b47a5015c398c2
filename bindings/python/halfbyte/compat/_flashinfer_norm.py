"""rmsnorm_fp4quant, add_rmsnorm_fp4quant, norm.rmsnorm, norm.fused_add_rmsnorm."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from halfbyte import _functions, _library
from halfbyte.compat._arguments import as_bytes, checked, require, scale_tensor

_OPS = torch.ops.halfbyte
_SCALE_TYPES = {"e4m3": torch.float8_e4m3fn, "ue8m0": torch.uint8}


@checked
def rmsnorm_fp4quant(
    input: Tensor,
    weight: Tensor,
    y_fp4: Tensor | None = None,
    block_scale: Tensor | None = None,
    global_scale: Tensor | float | None = None,
    eps: float = 1e-6,
    block_size: int = 16,
    scale_format: str | None = None,
    is_sf_swizzled_layout: bool = False,
    enable_pdl: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """RMS normalisation and FP4 quantization of input [M, H] or [B, S, H]: (y_fp4, block_scale),
    torch.float4_e2m1fn_x2 [.., H/2] and, for block_size 16, torch.float8_e4m3fn, for 32 uint8
    (UE8M0): [.., H/block_size], or flat in 128x4 tiles with is_sf_swizzled_layout.

    y_fp4, block_scale  preallocated, of these types or uint8; they are what is returned
    global_scale        NVFP4's encode scale: it multiplies (FlashInfer's documentation says
                        "divided by"; its code multiplies too). Accepted and not read for UE8M0
    scale_format        "e4m3" with block_size 16 or "ue8m0" with 32; the other two combinations,
                        where FlashInfer writes scales of another format than asked for, are refused
    """
    return _norm_quantize(
        "rmsnorm_fp4quant", input, None, weight, y_fp4, block_scale, None, None, global_scale, eps,
        block_size, scale_format, is_sf_swizzled_layout, False,
    )  # fmt: skip


@checked
def add_rmsnorm_fp4quant(
    input: Tensor,
    residual: Tensor,
    weight: Tensor,
    y_fp4: Tensor | None = None,
    block_scale: Tensor | None = None,
    global_scale: Tensor | float | None = None,
    eps: float = 1e-6,
    block_size: int = 16,
    scale_format: str | None = None,
    is_sf_swizzled_layout: bool = False,
    output_both_sf_layouts: bool = False,
    block_scale_unswizzled: Tensor | None = None,
    enable_pdl: bool | None = None,
    y_out: Tensor | None = None,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """rmsnorm_fp4quant of input + residual, which is written back to residual, whatever its strides
    (FlashInfer updates a copy of a residual that is not contiguous, and the update is lost).

    output_both_sf_layouts  returns (y_fp4, block_scale in 128x4 tiles, block_scale_unswizzled)
    y_out                   like input: the normalised values are written to it too
    """
    return _norm_quantize(
        "add_rmsnorm_fp4quant", input, residual, weight, y_fp4, block_scale,
        block_scale_unswizzled, y_out, global_scale, eps, block_size, scale_format,
        is_sf_swizzled_layout, output_both_sf_layouts,
    )  # fmt: skip


def _norm_quantize(
    function: str,
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    y_fp4: Tensor | None,
    block_scale: Tensor | None,
    block_scale_unswizzled: Tensor | None,
    y_out: Tensor | None,
    global_scale: Tensor | float | None,
    eps: float,
    block_size: int,
    scale_format: str | None,
    swizzled: bool,
    both: bool,
) -> tuple[Tensor, ...]:
    require(input.dim() in (2, 3), function, "input", "2 or 3 dimensions", input.dim())
    require(block_size in (16, 32), function, "block_size", "16 or 32", block_size)
    own = "e4m3" if block_size == 16 else "ue8m0"
    scale_format = scale_format or own
    expected = f"{own!r} with block_size {block_size}"
    require(scale_format == own, function, "scale_format", expected, repr(scale_format))
    if y_out is not None:
        expected = f"{input.dtype} {list(input.shape)}"
        fits = y_out.dtype == input.dtype and y_out.shape == input.shape
        require(fits, function, "y_out", expected, f"{y_out.dtype} {list(y_out.shape)}")
    columns = input.shape[-1]
    fits = columns > 0 and columns % block_size == 0
    require(fits, function, "input", f"a last dimension in blocks of {block_size}", columns)
    rows, blocks = input.numel() // columns, columns // block_size
    layout = "128x4" if swizzled or both else "linear"

    def scales(given: Tensor | None, argument: str, tiled: bool) -> tuple[Tensor, Tensor]:
        """What is returned and its bytes: as given, or made."""
        shape = [*input.shape[:-1], blocks]
        if tiled:
            shape = [-(-rows // 128) * 128 * (-(-blocks // 4) * 4)]
        if given is None:
            given = torch.empty(shape, dtype=_SCALE_TYPES[own], device=input.device)
        size = 1
        for extent in shape:
            size *= extent
        got = f"{list(given.shape)} of {given.dtype}"
        fits = given.dtype in (_SCALE_TYPES[own], torch.uint8) and given.numel() == size
        require(fits, function, argument, f"{size} elements of {_SCALE_TYPES[own]} or uint8", got)
        return given, as_bytes(given)

    if y_fp4 is None:
        y_fp4 = torch.empty(
            [*input.shape[:-1], columns // 2], dtype=torch.uint8, device=input.device
        ).view(torch.float4_e2m1fn_x2)
    block_scale, scale_bytes = scales(block_scale, "block_scale", layout != "linear")
    second_bytes = None
    if both:
        block_scale_unswizzled, second_bytes = scales(
            block_scale_unswizzled, "block_scale_unswizzled", False
        )
    _library.call(
        _write,
        (input, weight, residual, scale_tensor(global_scale, input) if own == "e4m3" else None),
        (eps, "nvfp4" if own == "e4m3" else "mxfp4", layout, "linear" if both else None),
        (as_bytes(y_fp4), scale_bytes, second_bytes, y_out),
    )
    _functions.written(residual)
    if both:
        return y_fp4, block_scale, block_scale_unswizzled
    return y_fp4, block_scale


def _write(inputs: tuple, options: tuple, outputs: tuple) -> None:
    input, weight, residual, global_scale = inputs
    eps, format, layout, second_layout = options
    codes, scales, scales_second, normed = outputs
    _OPS.rmsnorm_quantize.out(
        input, weight, residual, global_scale, None, eps, "float32", False, format, layout,
        second_layout, codes=codes, scales=scales, scales_second=scales_second, normed=normed,
    )  # fmt: skip


@checked
def rmsnorm(
    input: Tensor,
    weight: Tensor,
    eps: float = 1e-6,
    out: Tensor | None = None,
    enable_pdl: bool | None = None,
) -> Tensor:
    """RMS normalisation of input [M, H] or [B, heads, H], to `out` if given."""
    if out is None:
        return _functions.rmsnorm(input, weight, eps=eps)
    _library.call(_rmsnorm_out, input, weight, None, eps, out)
    return out


@checked
def fused_add_rmsnorm(
    input: Tensor,
    residual: Tensor,
    weight: Tensor,
    eps: float = 1e-6,
    enable_pdl: bool | None = None,
) -> None:
    """residual += input; input = rmsnorm(residual): both in place."""
    # The library's y may not be its x: rows of y are written while x is read.
    y = _functions.rmsnorm(input, weight, residual, eps=eps)
    input.copy_(y)


def _rmsnorm_out(
    input: Tensor, weight: Tensor, residual: Tensor | None, eps: float, out: Tensor
) -> None:
    _OPS.rmsnorm.out(input, weight, residual, eps, y=out)
    _functions.written(out)


norm = SimpleNamespace(
    rmsnorm=rmsnorm,
    fused_add_rmsnorm=fused_add_rmsnorm,
    rmsnorm_fp4quant=rmsnorm_fp4quant,
    add_rmsnorm_fp4quant=add_rmsnorm_fp4quant,
)
