"""halfbyte: fused FP4 kernels for transformer inference, as PyTorch operators.

Functions that are torch.ops.halfbyte operators too, which torch.compile can trace. Results are
bit-exact: the same bits on every CPU, GPU, batch size and number of threads (docs/numerics.md).

    packed = halfbyte.quantize(x, scale="row")                    # NVFP4, one pass
    packed = halfbyte.rmsnorm_quantize(x, weight, residual)       # residual is updated in place
    y = halfbyte.silu_mul(gate_up)                                # and silu_mul_quantize
    x = packed.dequantize()
    y = halfbyte.gemm(packed, halfbyte.prepare_weights(weights))  # also with x as it is
    packed = halfbyte.gemm_silu_mul_quantize(packed, gate_up_weights)  # and gemm for down
    model = halfbyte.load_quantized(model, "directory")           # a transformers model
    cos, sin = halfbyte.rope_table(8192, 128, theta=500000.0)     # once, on the CPU
    halfbyte.rope_(q, positions, cos, sin)                        # in place; rope() is not

Bad arguments raise ValueError naming the argument, what was expected and what was given, before
anything is written. RuntimeError: this build or this device cannot do it, or the CUDA runtime
failed.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from halfbyte import _library
from halfbyte._checkpoint import load_quantized
from halfbyte._functions import (
    RowGroups,
    amax,
    dequantize,
    quantize,
    rmsnorm,
    rmsnorm_quantize,
    silu_mul,
    silu_mul_quantize,
)
from halfbyte._gemm import (
    Linear,
    PreparedWeights,
    gemm,
    gemm_silu_mul_quantize,
    prepare_weights,
    unprepare_weights,
)
from halfbyte._quantized import QuantizedTensor
from halfbyte._rope import rope, rope_, rope_table

__version__ = _library.version()
numerics_version = _library.numerics_version()

__all__ = [
    "Linear",
    "PreparedWeights",
    "QuantizedTensor",
    "RowGroups",
    "__version__",
    "amax",
    "cpu_level",
    "cuda_architectures",
    "dequantize",
    "gemm",
    "gemm_silu_mul_quantize",
    "load_quantized",
    "numerics_version",
    "prepare_weights",
    "quantize",
    "rmsnorm",
    "rmsnorm_quantize",
    "rope",
    "rope_",
    "rope_table",
    "silu_mul",
    "silu_mul_quantize",
    "unprepare_weights",
]


def cpu_level() -> str:
    """The CPU kernels in use: "reference", "v3", "v4" or "neon"."""
    return _library.cpu_level()


def cuda_architectures() -> str:
    """What CUDA kernels were compiled for, like "80,90a"; "" in a build without CUDA."""
    return _library.cuda_architectures()


def __getattr__(name: str) -> ModuleType:
    """halfbyte.compile and halfbyte.compat are imported when they are first used."""
    if name in ("compat", "compile"):
        return importlib.import_module(f"halfbyte.{name}")
    raise AttributeError(f"module 'halfbyte' has no attribute {name!r}")
