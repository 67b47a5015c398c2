"""libhalfbyte.so, the C ABI, and libhalfbyte_torch.so, the operators' kernels over it."""

from __future__ import annotations

import ctypes
import os
from ctypes import c_char_p, c_int, c_int32, c_int64
from pathlib import Path
from typing import Any

import torch  # libtorch must be loaded before the kernels are


def _load() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    folder = Path(__file__).parent
    named = os.environ.get("HALFBYTE_LIBRARY")
    path = folder / "libhalfbyte.so"
    if named and not path.exists():
        path = Path(named)
    try:
        library = ctypes.CDLL(str(path))
        kernels = ctypes.CDLL(str(path.with_name("libhalfbyte_torch.so")))
    except OSError as error:
        raise ImportError(
            f"halfbyte: cannot load its library: {error}. It is part of an installed package "
            "(pip install .); in a source tree set HALFBYTE_LIBRARY to build/lib/libhalfbyte.so"
        ) from error
    library.halfbyte_error_message.restype = c_char_p
    library.halfbyte_version.restype = c_char_p
    library.halfbyte_cuda_architectures.restype = c_char_p
    library.halfbyte_cpu_level.restype = c_char_p
    library.halfbyte_numerics_version.restype = c_int
    library.halfbyte_prepared_weight_bytes.argtypes = [c_int32, c_int64, c_int64]
    library.halfbyte_prepared_weight_bytes.restype = c_int64
    kernels.halfbyte_torch_register.restype = c_char_p
    kernels.halfbyte_torch_last_status.restype = c_int
    return library, kernels


library, _kernels = _load()


def register_kernels() -> None:
    """Gives torch.ops.halfbyte.* their CPU and CUDA kernels; the operators must be defined."""
    missing = _kernels.halfbyte_torch_register()
    if missing is not None:
        raise ImportError(
            f"halfbyte: torch {torch.__version__} lacks what the operators need: "
            f"{missing.decode()}. It must be 2.11 or later"
        )


def call(operator: torch._ops.OpOverload, *args: Any) -> Any:
    """Calls an operator. What a compiled kernel throws is a RuntimeError to torch; ValueError and
    NotImplementedError are told apart here, not in torch.ops.halfbyte.* themselves."""
    try:
        return operator(*args)
    except RuntimeError as error:
        if torch.compiler.is_compiling():  # a fake implementation's error, not a kernel's
            raise
        raise _named(error) from None


def _named(error: RuntimeError) -> Exception:
    """The class that the status of this thread's last failed call has."""
    kind = {1: ValueError, 2: NotImplementedError}.get(_kernels.halfbyte_torch_last_status())
    return error if kind is None else kind(str(error))


def prepared_weight_bytes(format: int, rows: int, columns: int) -> int:
    return library.halfbyte_prepared_weight_bytes(format, rows, columns)


def version() -> str:
    return library.halfbyte_version().decode()


def numerics_version() -> int:
    return library.halfbyte_numerics_version()


def cuda_architectures() -> str:
    return library.halfbyte_cuda_architectures().decode()


def cpu_level() -> str:
    return library.halfbyte_cpu_level().decode()
