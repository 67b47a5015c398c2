"""QuantizedTensor: what a quantization gives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from halfbyte import _library


class QuantizedTensor(NamedTuple):
    """A quantized x [.., H] of M rows, with blocks of 16 (nvfp4) or 32 (mxfp4):

    codes          uint8 [.., H/2], the even column in the low nibble; fp8: uint8 [.., H]
    scales         uint8 [.., H/block] for layout "linear"; for "128x4" and "8x4" the tiles,
                   [padded rows, padded columns], padding zero. None for fp8
    scales_second  the same scales in second_layout, or None
    row_scale      float32 [M], decode scales, for scale="row", or None
    global_scale   the encode scale: as given, or float32 [1] for scale="computed", or None (1)
    decode_scale   the decode scale: as given (fp8), or float32 [1] for "computed", or None
    normed         rmsnorm_quantize with normed=True: the normalised tensor, like x, or None
    format, layout, second_layout, dtype   "nvfp4", .. as asked for, and the type of x
    """

    codes: Tensor
    scales: Tensor | None = None
    scales_second: Tensor | None = None
    row_scale: Tensor | None = None
    global_scale: Tensor | None = None
    decode_scale: Tensor | None = None
    normed: Tensor | None = None
    format: str = "nvfp4"
    layout: str = "linear"
    second_layout: str | None = None
    dtype: torch.dtype = torch.bfloat16

    @property
    def shape(self) -> torch.Size:
        """Of x."""
        columns = self.codes.shape[-1] * (1 if self.format == "fp8" else 2)
        return torch.Size((*self.codes.shape[:-1], columns))

    @property
    def device(self) -> torch.device:
        return self.codes.device

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor that this stands for, in float32, float16 or bfloat16; x's type if not given.
        Not for rows in groups."""
        decode = self.decode_scale if self.row_scale is None else self.row_scale
        encode = self.global_scale if decode is None else None
        return _library.call(
            torch.ops.halfbyte.dequantize.default,
            self.codes,
            self.scales,
            encode,
            decode,
            self.format,
            self.layout,
            dtype or self.dtype,
        )

    def __repr__(self) -> str:
        parts = [f"{self.format} {list(self.shape)} of {self.dtype}"]
        if self.format != "fp8":
            second = f" and {self.second_layout}" if self.second_layout else ""
            parts.append(f"{self.layout}{second} scales")
        for name in ("row_scale", "global_scale", "decode_scale"):
            value = getattr(self, name)
            if value is not None:
                shown = f"{float(value):g}" if value.numel() == 1 else list(value.shape)
                parts.append(f"{name}={shown}")
        if self.normed is not None:
            parts.append("with the normalised tensor")
        return f"QuantizedTensor({', '.join(parts)}, device={self.device})"


def named(
    out: list[Tensor],
    like: Tensor,
    given: tuple[Tensor | None, Tensor | None],
    options: tuple[str, str, str | None, str],
    normed: Tensor | None = None,
) -> QuantizedTensor:
    """The operators return empty tensors for what a call does not give; people get None."""
    format, layout, second_layout, scale = options
    codes, scales, scales_second, row_scale, global_scale, decode_scale = out
    computed = scale == "computed"
    return QuantizedTensor(
        codes,
        None if format == "fp8" else scales,
        None if second_layout is None else scales_second,
        row_scale if scale == "row" else None,
        global_scale if computed else given[0],
        decode_scale if computed else given[1],
        normed,
        format,
        layout,
        second_layout,
        like.dtype,
    )
