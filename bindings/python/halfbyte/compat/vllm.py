"""vLLM's FP4 operators over halfbyte's, under a namespace of their own: torch.ops.halfbyte_vllm.*
with the schemas of vLLM's torch.ops._C.*, and the Python functions of vllm._custom_ops.

register_torch_ops() defines them in vLLM's namespace too, where a name is free: for a vLLM build
whose kernels do not exist for the device. Importing this module does not.

The scales are E4M3 in vLLM's order: swizzled, int32 [rows up to 128, blocks up to 4 / 4] (128x4
tiles), else uint8 [rows, blocks]. Padding is always written, as zero. The normalisations round as
vLLM's unfused kernels do (rounding="huggingface").
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from halfbyte import _functions, _library
from halfbyte.compat._arguments import as_bytes, checked, require, round_up, scale_tensor

_OPS = torch.ops.halfbyte
_own = torch.library.Library("halfbyte_vllm", "DEF")
_kept: list[torch.library.Library] = []
_operators: list[tuple[str, Callable, Callable]] = []


def _operator(schema: str, fake: Callable | None = None) -> Callable:
    def define(function: Callable) -> Callable:
        entry = (schema, function, fake or (lambda *args, **kwargs: None))
        _operators.append(entry)
        _define(_own, "halfbyte_vllm", *entry)
        return function

    return define


def _define(
    library: torch.library.Library, namespace: str, schema: str, real: Callable, fake: Callable
) -> None:
    name = schema.partition("(")[0]
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, real, "CPU")
    library.impl(name, real, "CUDA")
    torch.library.register_fake(f"{namespace}::{name}", fake, lib=library)


def register_torch_ops(namespace: str = "_C") -> list[str]:
    """Defines the operators in vLLM's namespace where a name is free; the names it defined."""
    library = torch.library.Library(namespace, "FRAGMENT")
    defined = []
    for schema, real, fake in _operators:
        name, _, overload = schema.partition("(")[0].partition(".")
        packet = getattr(getattr(torch.ops, namespace), name, None)
        if packet is not None and (overload or "default") in packet.overloads():
            continue
        _define(library, namespace, schema, real, fake)
        defined.append(f"{name}.{overload}" if overload else name)
    _kept.append(library)
    return defined


def create_fp4_scale_tensor(
    m: int, n: int, device: torch.device, is_sf_swizzled_layout: bool
) -> Tensor:
    if is_sf_swizzled_layout:
        shape = (round_up(m, 128), round_up(n // 16, 4) // 4)
        return torch.empty(shape, device=device, dtype=torch.int32)
    return torch.empty((m, n // 16), device=device, dtype=torch.uint8)


def create_fp4_output_tensors(
    m: int,
    n: int,
    device: torch.device,
    is_sf_swizzled_layout: bool,
    padded_n: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(codes, scales) for scaled_fp4_quant.out of [m, n], of padded_n columns if given."""
    width = n if padded_n is None else padded_n
    codes = torch.empty((m, width // 2), device=device, dtype=torch.uint8)
    return codes, create_fp4_scale_tensor(m, width, device, is_sf_swizzled_layout)


def _quantize_fake(input: Tensor, input_scale: Tensor, is_sf_swizzled_layout: bool) -> tuple:
    n = input.shape[-1]
    return create_fp4_output_tensors(
        input.numel() // n, n, input.device, is_sf_swizzled_layout
    )


@_operator(
    "scaled_fp4_quant(Tensor input, Tensor input_scale, bool is_sf_swizzled_layout) "
    "-> (Tensor, Tensor)",
    _quantize_fake,
)
def _scaled_fp4_quant(
    input: Tensor, input_scale: Tensor, is_sf_swizzled_layout: bool
) -> tuple[Tensor, Tensor]:
    output, output_scale = _quantize_fake(input, input_scale, is_sf_swizzled_layout)
    _scaled_fp4_quant_out(
        input, input_scale, is_sf_swizzled_layout, output=output, output_scale=output_scale
    )
    return output, output_scale


@_operator(
    "scaled_fp4_quant.out(Tensor input, Tensor input_scale, bool is_sf_swizzled_layout, *, "
    "Tensor(a!) output, Tensor(b!) output_scale) -> ()"
)
def _scaled_fp4_quant_out(
    input: Tensor,
    input_scale: Tensor,
    is_sf_swizzled_layout: bool,
    *,
    output: Tensor,
    output_scale: Tensor,
) -> None:
    n, width = input.shape[-1], 2 * output.shape[-1]
    input = input.reshape(-1, n)
    if width > n:  # columns of zeros give codes and scales 0
        input = torch.nn.functional.pad(input, (0, width - n))
    _OPS.quantize.out(
        input, scale_tensor(input_scale, input), codes=output, scales=as_bytes(output_scale),
        layout="128x4" if is_sf_swizzled_layout else "linear",
    )  # fmt: skip


@_operator(
    "silu_and_mul_nvfp4_quant(Tensor(a!) result, Tensor(b!) result_block_scale, Tensor input, "
    "Tensor input_global_scale) -> ()"
)
def _silu_and_mul_nvfp4_quant(
    result: Tensor, result_block_scale: Tensor, input: Tensor, input_global_scale: Tensor
) -> None:
    _OPS.silu_mul_quantize.out(
        input, scale_tensor(input_global_scale, input), layout="128x4", codes=result,
        scales=as_bytes(result_block_scale), rounding="huggingface",
    )  # fmt: skip


@_operator(
    "rms_norm_nvfp4_quant(Tensor(a!) result, Tensor(b!) result_block_scale, Tensor input, "
    "Tensor weight, Tensor input_global_scale, float epsilon) -> ()"
)
def _rms_norm_nvfp4_quant(
    result: Tensor,
    result_block_scale: Tensor,
    input: Tensor,
    weight: Tensor,
    input_global_scale: Tensor,
    epsilon: float,
) -> None:
    _norm(result, result_block_scale, input, None, weight, input_global_scale, epsilon)


@_operator(
    "fused_add_rms_norm_nvfp4_quant(Tensor(a!) result, Tensor(b!) result_block_scale, "
    "Tensor input, Tensor(c!) residual, Tensor weight, Tensor input_global_scale, float epsilon) "
    "-> ()"
)
def _fused_add_rms_norm_nvfp4_quant(
    result: Tensor,
    result_block_scale: Tensor,
    input: Tensor,
    residual: Tensor,
    weight: Tensor,
    input_global_scale: Tensor,
    epsilon: float,
) -> None:
    _norm(result, result_block_scale, input, residual, weight, input_global_scale, epsilon)


def _norm(
    result: Tensor,
    result_block_scale: Tensor,
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    input_global_scale: Tensor,
    epsilon: float,
) -> None:
    _OPS.rmsnorm_quantize.out(
        input, weight, residual, scale_tensor(input_global_scale, input), None, epsilon,
        "huggingface", layout="128x4", codes=result, scales=as_bytes(result_block_scale),
    )  # fmt: skip


@_operator(
    "cutlass_scaled_fp4_mm(Tensor(a!) out, Tensor a, Tensor b, Tensor block_scale_a, "
    "Tensor block_scale_b, Tensor alpha) -> ()"
)
def _cutlass_scaled_fp4_mm(
    out: Tensor, a: Tensor, b: Tensor, block_scale_a: Tensor, block_scale_b: Tensor, alpha: Tensor
) -> None:
    _OPS.gemm.out(
        a, b, as_bytes(block_scale_b), as_bytes(block_scale_a), None, scale_tensor(alpha, a),
        a_layout="128x4", b_layout="128x4", c=out,
    )  # fmt: skip


@checked
def cutlass_scaled_fp4_mm(
    a: Tensor,
    b: Tensor,
    block_scale_a: Tensor,
    block_scale_b: Tensor,
    alpha: Tensor,
    out_dtype: torch.dtype,
) -> Tensor:
    """alpha * (a [m, k/2] @ b [n, k/2].T): [m, n] of out_dtype; scales in 128x4 tiles, of float8 or
    uint8 type."""
    out = torch.empty(a.shape[0], b.shape[0], dtype=out_dtype, device=a.device)
    _library.call(_cutlass_scaled_fp4_mm, out, a, b, block_scale_a, block_scale_b, alpha)
    return out


@checked
def scaled_fp4_quant(
    input: Tensor,
    input_global_scale: Tensor,
    is_sf_swizzled_layout: bool = True,
    backend: str = "none",
    padded_n: int | None = None,
) -> tuple[Tensor, Tensor]:
    """NVFP4 of input [M, N] (or [.., N], folded) under the encode scale: codes uint8 [M, N/2] and
    float8_e4m3fn scales [rows up to 128, blocks up to 4], or linear [M, N/16]. padded_n: as many
    columns, those from N on zero. backend is accepted and has no effect."""
    n = input.shape[-1]
    input = input.reshape(-1, n)
    width = n if padded_n is None else padded_n
    fits = width >= n and width % 16 == 0
    require(fits, "scaled_fp4_quant", "padded_n", f"a multiple of 16 >= {n}", padded_n)
    packed = _functions.quantize(
        torch.nn.functional.pad(input, (0, width - n)) if width > n else input,
        scale_tensor(input_global_scale, input),
        layout="128x4" if is_sf_swizzled_layout else "linear",
    )
    return packed.codes, packed.scales.view(torch.float8_e4m3fn)


@checked
def silu_and_mul_nvfp4_quant(input: Tensor, input_global_scale: Tensor) -> tuple[Tensor, Tensor]:
    """silu(input[..., :N]) * input[..., N:] of input [M, 2N] and NVFP4, as scaled_fp4_quant."""
    packed = _functions.silu_mul_quantize(
        input.reshape(-1, input.shape[-1]),
        scale_tensor(input_global_scale, input),
        layout="128x4",
        rounding="huggingface",
    )
    return packed.codes, packed.scales.view(torch.float8_e4m3fn)
