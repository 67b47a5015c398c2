"""fp4_quantize and its relatives, dequantization, silu_and_mul."""

from __future__ import annotations

import os
from enum import Enum

import torch
from torch import Tensor

from halfbyte import _functions, _library
from halfbyte.compat._arguments import as_bytes, checked, require, round_up, scale_tensor

_LAYOUTS = ("128x4", "8x4", "linear")


class SfLayout(Enum):
    """Order of the block scales."""

    layout_128x4 = 0
    layout_8x4 = 1
    layout_linear = 2


def _layout(value: SfLayout | int) -> str:
    return _LAYOUTS[SfLayout(value).value]


def _exact() -> bool:
    return os.environ.get("FLASHINFER_DISABLE_FP4_QUANT_FAST_MATH", "0") == "1"


def _check_backend(function: str, backend: str) -> None:
    expected = "'cuda' or 'cute-dsl' (halfbyte's own kernels serve both)"
    require(backend in ("cuda", "cute-dsl"), function, "backend", expected, repr(backend))


def _input(tensor: Tensor) -> Tensor:
    """FP8 inputs, which the operators do not take, as bfloat16: exact."""
    return tensor.to(torch.bfloat16) if tensor.dtype == torch.float8_e4m3fn else tensor


def _quantize(
    input: Tensor, global_scale: Tensor | float | None, format: str, layout: str
) -> tuple[Tensor, Tensor]:
    """Codes [.., K/2] and scales [padded rows, padded columns], both uint8."""
    input = _input(input)
    nvfp4 = format == "nvfp4"
    packed = _functions.quantize(
        input,
        scale_tensor(global_scale, input) if nvfp4 else None,
        format=format,
        layout=layout,
        scale_rule="te" if nvfp4 and _exact() else "kernel",
    )
    return packed.codes, packed.scales.reshape(-1, packed.scales.shape[-1])


@checked
def fp4_quantize(
    input: Tensor,
    global_scale: Tensor | float | None = None,
    sf_vec_size: int = 16,
    sf_use_ue8m0: bool = False,
    is_sf_swizzled_layout: bool = True,
    is_sf_8x4_layout: bool = False,
    is_global_scale_inversed: bool = False,
    enable_pdl: bool | None = None,
    backend: str = "cuda",
) -> tuple[Tensor, Tensor]:
    """(codes uint8 [.., K/2], scales uint8 [padded rows, padded columns]) of input [.., K]: fp16,
    bf16, fp32 or float8_e4m3fn; a column-major input gives column-major outputs.

    global_scale              NVFP4's encode scale; its reciprocal with is_global_scale_inversed.
                              Accepted and not read with sf_use_ue8m0
    sf_vec_size, sf_use_ue8m0  16 with False (NVFP4), 32 with True (MXFP4). FlashInfer writes E4M3
                              scales for 16 with True; that, and 32 with False, is refused
    """
    name = "fp4_quantize"
    _check_backend(name, backend)
    if sf_vec_size not in (16, 32):
        raise NotImplementedError(f"fp4_quantize: sf_vec_size: expected 16 or 32, got {sf_vec_size}")
    expected = "True with sf_vec_size 32, False with 16"
    require(sf_use_ue8m0 == (sf_vec_size == 32), name, "sf_use_ue8m0", expected, sf_use_ue8m0)
    require(input.dim() >= 2, name, "input", "at least two dimensions", input.dim())
    column_major = input.stride(-2) == 1 and input.stride(-1) != 1
    if column_major:
        input = input.transpose(-2, -1)
    if is_global_scale_inversed and global_scale is not None:
        global_scale = 1.0 / global_scale
    layout = ("8x4" if is_sf_8x4_layout else "128x4") if is_sf_swizzled_layout else "linear"
    codes, scales = _quantize(input, global_scale, "mxfp4" if sf_use_ue8m0 else "nvfp4", layout)
    if column_major:
        return codes.transpose(-2, -1), scales.transpose(-2, -1)
    return codes, scales


@checked
def nvfp4_quantize(
    a: Tensor,
    a_global_sf: Tensor | float,
    sfLayout: SfLayout = SfLayout.layout_128x4,
    do_shuffle: bool = False,
    sf_vec_size: int = 16,
    enable_pdl: bool | None = None,
    backend: str = "cuda",
    per_token_activation: bool = False,
    expanded_idx_to_permuted_idx: Tensor | None = None,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """fp4_quantize of a [M, K] to NVFP4 in sfLayout, where a is: nothing is moved to a GPU.

    per_token_activation  a_global_sf is the base multiplier of the decode scales, usually
                          1 / (448 * 6); the third tensor are the rows' decode scales, float32 [M],
                          amax * a_global_sf. With the usual base it is one kernel (scale="row")

    do_shuffle (the weight order of one GEMM backend) and expanded_idx_to_permuted_idx raise
    NotImplementedError.
    """
    name = "nvfp4_quantize"
    _check_backend(name, backend)
    require(sf_vec_size == 16, name, "sf_vec_size", 16, sf_vec_size)
    if do_shuffle:
        raise NotImplementedError(f"{name}: do_shuffle: expected False: mm_fp4 takes plain rows")
    if expanded_idx_to_permuted_idx is not None:
        raise NotImplementedError(f"{name}: expanded_idx_to_permuted_idx: expected None")
    layout = _layout(sfLayout)
    if not per_token_activation:
        return _quantize(a, a_global_sf, "nvfp4", layout)
    a = _input(a)
    base = torch.as_tensor(a_global_sf, dtype=torch.float32).reshape(())
    if not isinstance(a_global_sf, Tensor) and abs(float(base) * 2688 - 1) < 1e-6:
        packed = _functions.quantize(a, layout=layout, scale="row")
        decode = packed.row_scale
    else:
        amax = _functions.amax(a, per_row=True)
        decode = torch.where(amax == 0, 1.0, amax * base.to(a.device))
        packed = _functions.quantize(a, decode.reciprocal(), layout=layout)
    return packed.codes, packed.scales.reshape(-1, packed.scales.shape[-1]), decode


@checked
def mxfp4_quantize(
    a: Tensor,
    backend: str = "cuda",
    enable_pdl: bool | None = None,
    sfLayout: SfLayout = SfLayout.layout_128x4,
) -> tuple[Tensor, Tensor]:
    """(codes uint8 [M, K/2], UE8M0 scales uint8 [padded rows, padded columns]) of a [M, K]."""
    _check_backend("mxfp4_quantize", backend)
    return _quantize(a, None, "mxfp4", _layout(sfLayout))


@checked
def mxfp4_dequantize(
    a_fp4: Tensor, a_sf: Tensor, sfLayout: SfLayout = SfLayout.layout_128x4
) -> Tensor:
    """float32 [M, K] on the CPU, as FlashInfer gives it."""
    codes = as_bytes(a_fp4).cpu()
    scales = as_bytes(a_sf).cpu()
    return _functions.dequantize(
        codes, scales.contiguous(), format="mxfp4", layout=_layout(sfLayout), dtype=torch.float32
    )


@checked
def nvfp4_batched_quantize(
    a: Tensor, a_global_sf: Tensor | float, sf_vec_size: int = 16
) -> tuple[Tensor, Tensor]:
    """(codes uint8 [B, M, K/2], scales uint8 [B, padded rows * padded columns] in 128x4 tiles) of
    a [B, M, K], each batch padded by itself. a_global_sf: one value, or one a batch."""
    name = "nvfp4_batched_quantize"
    require(sf_vec_size == 16, name, "sf_vec_size", 16, sf_vec_size)
    require(a.dim() == 3, name, "a", "[B, M, K]", list(a.shape))
    a = _input(a)
    batches, rows, _ = a.shape
    packed = _functions.quantize(
        a, scale_tensor(a_global_sf, a), layout="128x4", groups=_equal_groups(batches, rows, a.device)
    )
    return packed.codes, packed.scales.reshape(batches, -1)


def _equal_groups(count: int, rows: int, device: torch.device) -> _functions.RowGroups:
    steps = torch.arange(count + 1, dtype=torch.int32, device=device)
    padded = round_up(rows, 128)
    return _functions.RowGroups(steps * rows, steps * padded, count * padded)


def _masked(a: Tensor, mask: Tensor) -> Tensor:
    """a [B, M, K] with rows from mask[b] on zero, whose codes and scales are then zero."""
    inside = torch.arange(a.shape[1], device=a.device) < mask.to(a.device).reshape(-1, 1)
    return torch.where(inside.unsqueeze(-1), a, 0)


def _expert_shapes(codes: Tensor, scales: Tensor, batches: int) -> tuple[Tensor, Tensor]:
    """The logical shapes that grouped products take: [M, K/2, B] and [32, 4, rm, 4, rk, B]."""
    rk = scales.shape[-1] // 4
    tiles = scales.view(torch.float8_e4m3fn).view(batches, -1, rk, 32, 4, 4)
    return codes.permute(1, 2, 0), tiles.permute(3, 4, 1, 5, 2, 0)


@checked
def scaled_fp4_grouped_quantize(
    a: Tensor, mask: Tensor, a_global_sf: Tensor
) -> tuple[Tensor, Tensor]:
    """NVFP4 of a [B, M, K], B groups of which the first mask[b] (int32 [B]) rows count, with an
    encode scale a group, a_global_sf [B]: codes uint8 [M, K/2, B], physically [B, M, K/2], and
    float8_e4m3fn scales [32, 4, rm, 4, rk, B], physically 128x4 tiles a group.

    Rows that do not count get codes and scales 0 (FlashInfer leaves them unwritten). That costs a
    pass over a of its own, before the one that quantizes."""
    require(a.dim() == 3, "scaled_fp4_grouped_quantize", "a", "[B, M, K]", list(a.shape))
    groups = _equal_groups(a.shape[0], a.shape[1], a.device)
    packed = _functions.quantize(
        _masked(_input(a), mask), scale_tensor(a_global_sf, a), layout="128x4", groups=groups
    )
    return _expert_shapes(packed.codes, packed.scales, a.shape[0])


@checked
def silu_and_mul_scaled_nvfp4_experts_quantize(
    a: Tensor, mask: Tensor, a_global_sf: Tensor
) -> tuple[Tensor, Tensor]:
    """scaled_fp4_grouped_quantize of silu(a[..., :K]) * a[..., K:], a [B, M, 2K], in one kernel."""
    name = "silu_and_mul_scaled_nvfp4_experts_quantize"
    require(a.dim() == 3, name, "a", "[B, M, 2K]", list(a.shape))
    groups = _equal_groups(a.shape[0], a.shape[1], a.device)
    packed = _functions.silu_mul_quantize(
        _masked(a, mask), scale_tensor(a_global_sf, a), layout="128x4", groups=groups
    )
    return _expert_shapes(packed.codes, packed.scales, a.shape[0])


@checked
def silu_and_mul(
    input: Tensor, out: Tensor | None = None, enable_pdl: bool | None = None
) -> Tensor:
    """silu(input[..., :K]) * input[..., K:] of input [.., 2K], to `out` if given."""
    if out is None:
        return _functions.silu_mul(input)
    _library.call(_silu_mul_out, input, out)
    return out


def _silu_mul_out(input: Tensor, out: Tensor) -> None:
    torch.ops.halfbyte.silu_mul.out(input, y=out)
    _functions.written(out)


@checked
def silu_and_mul_nvfp4_quantize(
    input: Tensor,
    global_scale: Tensor | float,
    sf_vec_size: int = 16,
    is_sf_swizzled_layout: bool = True,
    is_sf_8x4_layout: bool = False,
    enable_pdl: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """silu_and_mul and NVFP4 in one kernel: codes uint8 [M, K/2], leading dimensions of input
    [.., 2K] folded, and scales uint8 [padded rows, padded columns]."""
    if sf_vec_size != 16:
        raise NotImplementedError(
            f"silu_and_mul_nvfp4_quantize: sf_vec_size: expected 16, got {sf_vec_size}"
        )
    layout = ("8x4" if is_sf_8x4_layout else "128x4") if is_sf_swizzled_layout else "linear"
    packed = _functions.silu_mul_quantize(input, scale_tensor(global_scale, input), layout=layout)
    codes, scales = packed.codes, packed.scales
    return codes.reshape(-1, codes.shape[-1]), scales.reshape(-1, scales.shape[-1])


@checked
def block_scale_interleave(unswizzled_sf: Tensor) -> Tensor:
    """Linear block scales [rows, columns], or [experts, rows, columns], uint8 (or bfloat16), in 128x4
    tiles, each expert padded with zeros to 128 rows and 4 columns: flat."""
    name = "block_scale_interleave"
    kinds = (torch.uint8, torch.bfloat16, torch.float8_e4m3fn)
    require(
        unswizzled_sf.dtype in kinds, name, "unswizzled_sf", "uint8 or bfloat16", unswizzled_sf.dtype
    )
    dimensions = unswizzled_sf.dim()
    require(dimensions in (2, 3), name, "unswizzled_sf", "2 or 3 dimensions", dimensions)
    *experts, rows, columns = unswizzled_sf.shape
    count = experts[0] if experts else 1
    scales = unswizzled_sf.reshape(count, rows, columns)
    if scales.dtype == torch.float8_e4m3fn:
        scales = scales.view(torch.uint8)
    padding = (0, -columns % 4, 0, -rows % 128)
    padded = torch.nn.functional.pad(scales, padding)
    # Row m of a tile is m % 32 and m / 32: stored [m % 32][m / 32][column].
    tiles = padded.reshape(count, padded.shape[1] // 128, 4, 32, padded.shape[2] // 4, 4)
    return tiles.permute(0, 1, 4, 3, 2, 5).reshape(-1)


nvfp4_block_scale_interleave = block_scale_interleave


@checked
def e2m1_and_ufp8sf_scale_to_float(
    e2m1_tensor: Tensor,
    ufp8_scale_tensor: Tensor,
    global_scale_tensor: Tensor | float | None = None,
    sf_vec_size: int = 16,
    ufp8_type: int = 1,
    is_sf_swizzled_layout: bool = True,
    is_sf_8x4_layout: bool = False,
) -> Tensor:
    """float32 [M, K] on the CPU: code * scale * global_scale_tensor, which is a decode scale here.
    ufp8_type 1: E4M3 scales with sf_vec_size 16; 0: UE8M0 with 32 (then there is no global scale)."""
    name = "e2m1_and_ufp8sf_scale_to_float"
    expected = "(16, 1) for NVFP4 or (32, 0) for MXFP4"
    kind = (sf_vec_size, ufp8_type)
    require(kind in ((16, 1), (32, 0)), name, "sf_vec_size, ufp8_type", expected, kind)
    layout = ("8x4" if is_sf_8x4_layout else "128x4") if is_sf_swizzled_layout else "linear"
    codes = as_bytes(e2m1_tensor).cpu()
    decode = scale_tensor(global_scale_tensor, codes)
    return _functions.dequantize(
        codes,
        as_bytes(ufp8_scale_tensor).cpu().contiguous(),
        decode_scale=None if decode is None or ufp8_type == 0 else decode.cpu(),
        format="nvfp4" if ufp8_type == 1 else "mxfp4",
        layout=layout,
        dtype=torch.float32,
    )
