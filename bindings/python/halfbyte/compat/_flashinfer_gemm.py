"""mm_fp4."""

from __future__ import annotations

import torch
from torch import Tensor

from halfbyte import _library
from halfbyte.compat._arguments import as_bytes, checked, require, scale_tensor

_BACKENDS = ("cudnn", "trtllm", "cutlass", "cute-dsl", "b12x", "auto")


@checked
def mm_fp4(
    a: Tensor,
    b: Tensor,
    a_descale: Tensor,
    b_descale: Tensor,
    alpha: Tensor | float | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
    block_size: int = 16,
    use_8x4_sf_layout: bool = False,
    backend: str = "auto",
    use_nvfp4: bool = True,
    enable_pdl: bool = True,
) -> Tensor:
    """a [m, k/2] times b [k/2, n], column-major (weights [n, k/2] transposed), both FP4 codes as
    uint8 or float4_e2m1fn_x2: [m, n] of out_dtype, or in `out`.

    a_descale  block scales of a in 128x4 tiles, in 8x4 tiles with use_8x4_sf_layout
    b_descale  block scales of the weights in 128x4 tiles, transposed like b
    alpha      multiplies the product: 1 / (a's encode scale * b's)
    use_nvfp4  with block_size 16; MXFP4 is False with 32

    Weights are unshuffled for every backend (nvfp4_quantize(do_shuffle=False)). On CUDA they are
    read as they are, which is slower than halfbyte.prepare_weights once and halfbyte.gemm.
    """
    name = "mm_fp4"
    require(backend in _BACKENDS, name, "backend", f"one of {', '.join(_BACKENDS)}", repr(backend))
    expected = "16 with use_nvfp4, 32 without"
    require(block_size == (16 if use_nvfp4 else 32), name, "block_size", expected, block_size)
    for argument, tensor in (("a", a), ("b", b)):
        require(tensor.dim() == 2, name, argument, "2 dimensions", tensor.dim())
    weights = as_bytes(b.t())
    require(weights.stride(-1) == 1, name, "b", "column-major", f"strides {list(b.stride())}")
    if out is None:
        out = torch.empty(a.shape[0], b.shape[1], dtype=out_dtype, device=a.device)
    scale = scale_tensor(alpha, a)
    c = out
    if not use_nvfp4 and scale is not None:  # MXFP4 has no fp32 scale of its own
        c = torch.empty(out.shape, dtype=torch.float32, device=a.device)
    _library.call(
        _gemm_out, as_bytes(a), weights, as_bytes(a_descale).contiguous(),
        as_bytes(b_descale.t()).contiguous(), scale if use_nvfp4 else None,
        "nvfp4" if use_nvfp4 else "mxfp4", "8x4" if use_8x4_sf_layout else "128x4", c,
    )  # fmt: skip
    if c is not out:
        out.copy_(c * scale.to(c.device))
    return out


def _gemm_out(
    a: Tensor,
    b: Tensor,
    a_scales: Tensor,
    b_scales: Tensor,
    decode_scale: Tensor | None,
    format: str,
    a_layout: str,
    c: Tensor,
) -> None:
    torch.ops.halfbyte.gemm.out(
        a, b, b_scales, a_scales, None, decode_scale, format=format, a_layout=a_layout,
        b_layout="128x4", c=c,
    )  # fmt: skip
