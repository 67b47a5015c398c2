"""libhalfbyte.so through ctypes: the structs of halfbyte.h and its functions.

Nothing here knows an operator's rules: arguments are passed on, and the library checks them.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_char_p, c_float, c_int, c_int32, c_int64, c_uint8, c_uint16, c_uint32
from ctypes import c_uint64, c_void_p
from pathlib import Path
from typing import Any

import torch

_OK, _INVALID_ARGUMENT, _UNSUPPORTED = 0, 1, 2

# code and bits of DLPack's type
_DTYPES = {
    torch.float32: (2, 32),
    torch.float16: (2, 16),
    torch.bfloat16: (4, 16),
    torch.uint8: (1, 8),
    torch.int32: (0, 32),
    torch.int64: (0, 64),
}
_SIZES = [c_int64 * (2 * ndim) for ndim in range(9)]  # shape, strides


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_index", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("byte_offset", c_uint64),
    ]


class _Sized(ctypes.Structure):
    """A struct of halfbyte.h. Pointers to structs are set by name, and what they point to is kept
    alive as long as the struct is."""

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        self.struct_size = ctypes.sizeof(self)
        self._kept = []
        for name, value in fields.items():
            if isinstance(value, ctypes.Structure):
                self._kept.append(value)
                value = ctypes.addressof(value)
            setattr(self, name, value)


class Execution(_Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("backend", c_int32),
        ("num_threads", c_int32),
        ("reserved", c_int32),
        ("stream", c_void_p),
        ("workspace", c_void_p),
        ("workspace_bytes", c_uint64),
        ("programmatic_launch", c_int32),
        ("constant_weights", c_int32),
    ]


class QuantizeSpec(_Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("format", c_int32),
        ("layout", c_int32),
        ("second_layout", c_int32),
        ("scale", c_int32),
        ("scale_rule", c_int32),
        ("mx_rule", c_int32),
    ]


class QuantizeOutputs(_Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("scales_second", c_void_p),
        ("row_scale", c_void_p),
        ("global_scale", c_void_p),
        ("decode_scale", c_void_p),
    ]


class QuantizeArgs(_Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("x", c_void_p),
        ("global_scale", c_void_p),
        ("decode_scale", c_void_p),
        ("spec", c_void_p),
        ("out", c_void_p),
    ]


class DequantizeArgs(_Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("format", c_int32),
        ("layout", c_int32),
        ("rows", c_int64),
        ("columns", c_int64),
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("global_scale", c_void_p),
        ("decode_scale", c_void_p),
        ("x", c_void_p),
    ]


class NormArgs(_Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("eps", c_float),
        ("rounding", c_int32),
        ("weight_bias", c_int32),
        ("x", c_void_p),
        ("weight", c_void_p),
        ("residual", c_void_p),
    ]


class RmsNormQuantizeArgs(_Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("norm", c_void_p),
        ("normed", c_void_p),
        ("global_scale", c_void_p),
        ("decode_scale", c_void_p),
        ("spec", c_void_p),
        ("out", c_void_p),
    ]


class Activation(_Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("interleave", c_int32),
        ("clamp", c_float),
        ("alpha", c_float),
        ("up_bias", c_float),
        ("rounding", c_int32),
    ]


class SiluMulArgs(_Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("gate_up", c_void_p),
        ("activation", c_void_p),
        ("y", c_void_p),
    ]


class SiluMulQuantizeArgs(_Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("gate_up", c_void_p),
        ("activation", c_void_p),
        ("global_scale", c_void_p),
        ("decode_scale", c_void_p),
        ("spec", c_void_p),
        ("out", c_void_p),
    ]


def tensor(operator: str, argument: str, value: torch.Tensor | None) -> Tensor | None:
    """A borrowed view of `value`, which must outlive it."""
    if value is None:
        return None
    kind = _DTYPES.get(value.dtype)
    if kind is None:
        raise ValueError(
            f"{operator}: {argument}: expected float32, float16, bfloat16, uint8, int32 or int64, "
            f"got {value.dtype}"
        )
    ndim = value.dim()
    if ndim >= len(_SIZES):
        raise ValueError(f"{operator}: {argument}: expected 0 to 8 dimensions, got {ndim}")
    sizes = _SIZES[ndim](*value.shape, *value.stride())
    address = ctypes.addressof(sizes)
    view = Tensor(
        value.data_ptr() or None,
        2 if value.is_cuda else 1,
        value.get_device() if value.is_cuda else 0,
        ndim,
        kind[0],
        kind[1],
        1,
        address,
        address + 8 * ndim,
        0,
    )
    view.kept = sizes
    return view


def call(operator: str, args: ctypes.Structure, execution: Execution) -> None:
    """Calls halfbyte_<operator>. ValueError for arguments that the library refuses,
    NotImplementedError for what this build or device cannot do, RuntimeError for the rest."""
    _check(
        getattr(_library, "halfbyte_" + operator)(ctypes.byref(args), ctypes.byref(execution))
    )


def call_on_host(function: str, args: ctypes.Structure) -> None:
    """Calls halfbyte_<function>, which takes no execution. Errors as for call()."""
    _check(getattr(_library, "halfbyte_" + function)(ctypes.byref(args)))


def _check(status: int) -> None:
    if status == _OK:
        return
    message = _library.halfbyte_error_message().decode(errors="replace")
    if status == _INVALID_ARGUMENT:
        raise ValueError(message)
    if status == _UNSUPPORTED:
        raise NotImplementedError(message)
    raise RuntimeError(message)


def _load() -> ctypes.CDLL:
    packaged = Path(__file__).with_name("libhalfbyte.so")
    named = os.environ.get("HALFBYTE_LIBRARY")
    path = packaged if packaged.exists() or not named else Path(named)
    try:
        library = ctypes.CDLL(str(path))
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
    library.halfbyte_workspace_bytes.argtypes = [c_int32]
    library.halfbyte_workspace_bytes.restype = c_uint64
    library.halfbyte_rope_table.argtypes = [c_void_p]
    library.halfbyte_rope_table.restype = c_int
    for operator in (
        "quantize",
        "dequantize",
        "rmsnorm_quantize",
        "silu_mul",
        "silu_mul_quantize",
        "rope",
    ):
        function = getattr(library, "halfbyte_" + operator)
        function.argtypes = [c_void_p, c_void_p]
        function.restype = c_int
    return library


_library = _load()


def version() -> str:
    return _library.halfbyte_version().decode()


def numerics_version() -> int:
    return _library.halfbyte_numerics_version()


def cuda_architectures() -> str:
    return _library.halfbyte_cuda_architectures().decode()


def cpu_level() -> str:
    return _library.halfbyte_cpu_level().decode()


def workspace_bytes(scale_mode: int) -> int:
    return _library.halfbyte_workspace_bytes(scale_mode)
