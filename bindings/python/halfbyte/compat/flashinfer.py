"""FlashInfer's FP4 functions over halfbyte's operators: the same names, signatures, defaults, dtypes
and shapes, on a CPU and on any GPU from sm_80 on.

    from halfbyte.compat.flashinfer import fp4_quantize, rmsnorm_fp4quant, SfLayout

Arguments about how a kernel is launched (enable_pdl, backend) are accepted and have no effect; a
backend that FlashInfer does not know is refused. Shapes, types and values that are refused raise
ArgumentError, which is an AssertionError and a ValueError. Global scales are tensors of any floating
type, or host floats. FLASHINFER_DISABLE_FP4_QUANT_FAST_MATH=1 asks for FlashInfer's exact mode:
scale_rule="te" (docs/numerics.md); otherwise the block scales follow the kernels' rule.

Where FlashInfer's documentation or behaviour is a defect, the contract of docs/numerics.md holds, and
the function's documentation says so. Padding scales are always zero.
"""

from __future__ import annotations

from halfbyte.compat._arguments import ArgumentError
from halfbyte.compat._flashinfer_gemm import mm_fp4
from halfbyte.compat._flashinfer_norm import (
    add_rmsnorm_fp4quant,
    fused_add_rmsnorm,
    norm,
    rmsnorm,
    rmsnorm_fp4quant,
)
from halfbyte.compat._flashinfer_quantize import (
    SfLayout,
    block_scale_interleave,
    e2m1_and_ufp8sf_scale_to_float,
    fp4_quantize,
    mxfp4_dequantize,
    mxfp4_quantize,
    nvfp4_batched_quantize,
    nvfp4_block_scale_interleave,
    nvfp4_quantize,
    scaled_fp4_grouped_quantize,
    silu_and_mul,
    silu_and_mul_nvfp4_quantize,
    silu_and_mul_scaled_nvfp4_experts_quantize,
)

__all__ = [
    "ArgumentError",
    "SfLayout",
    "add_rmsnorm_fp4quant",
    "block_scale_interleave",
    "e2m1_and_ufp8sf_scale_to_float",
    "fp4_quantize",
    "fused_add_rmsnorm",
    "mm_fp4",
    "mxfp4_dequantize",
    "mxfp4_quantize",
    "norm",
    "nvfp4_batched_quantize",
    "nvfp4_block_scale_interleave",
    "nvfp4_quantize",
    "rmsnorm",
    "rmsnorm_fp4quant",
    "scaled_fp4_grouped_quantize",
    "silu_and_mul",
    "silu_and_mul_nvfp4_quantize",
    "silu_and_mul_scaled_nvfp4_experts_quantize",
]
