"""torch.ops.halfbyte.silu_mul and silu_mul_quantize; _operators.py has what operators share."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from halfbyte import _library, _operators
from halfbyte._operators import ROUNDINGS, Options, Outputs

_ACTIVATION = (
    "int interleave=0, float? clamp=None, float alpha=1.0, float up_bias=0.0, "
    'str rounding="float32"'
)
_SCHEMAS = {
    "silu_mul": f"(Tensor gate_up, *, {_ACTIVATION}) -> Tensor",
    "silu_mul_quantize": (
        "(Tensor gate_up, Tensor? global_scale=None, Tensor? decode_scale=None, *, "
        f"{_ACTIVATION}, {_operators._QUANTIZE_OPTIONS}) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
}


def _activation(
    operator: str,
    interleave: int,
    clamp: float | None,
    alpha: float,
    up_bias: float,
    rounding: str,
) -> _library.Activation:
    if clamp is not None and ctypes.c_float(clamp).value == 0:  # C's 0 means no clamp
        raise ValueError(f"{operator}: clamp: expected a finite value > 0, got {clamp}")
    if interleave not in (0, 1, 8):  # before it becomes 32 bits
        raise ValueError(
            f"{operator}: interleave: expected 0 (halves), 1 or 8, got {interleave}"
        )
    return _library.Activation(
        interleave=interleave,
        clamp=0.0 if clamp is None else clamp,
        alpha=alpha,
        up_bias=up_bias,
        rounding=_operators._value(operator, "rounding", rounding, ROUNDINGS),
    )


def _columns(operator: str, gate_up: Tensor, block: int) -> int:
    """I, where gate_up is [.., 2I]."""
    if gate_up.dim() < 1:
        raise ValueError(f"{operator}: gate_up: expected at least one dimension, got a scalar")
    width = gate_up.shape[-1]
    if width < 1 or width % (2 * block) != 0:
        multiple = "" if block == 1 else f", I a multiple of {block}"
        raise ValueError(
            f"{operator}: gate_up: expected a last dimension 2I{multiple}, got {width}"
        )
    return width // 2


def _allocate(gate_up: Tensor) -> Tensor:
    columns = _columns("silu_mul", gate_up, 1)
    return torch.empty(
        [*gate_up.shape[:-1], columns], dtype=gate_up.dtype, device=gate_up.device
    )


def _allocate_quantized(gate_up: Tensor, options: Options) -> Outputs:
    columns = _columns("silu_mul_quantize", gate_up, _operators._BLOCK[options.format])
    return _operators._outputs(list(gate_up.shape[:-1]), columns, gate_up.device, options)


def _silu_mul(
    gate_up: Tensor,
    *,
    interleave: int = 0,
    clamp: float | None = None,
    alpha: float = 1.0,
    up_bias: float = 0.0,
    rounding: str = "float32",
) -> Tensor:
    name = "silu_mul"
    activation = _activation(name, interleave, clamp, alpha, up_bias, rounding)
    y = _allocate(gate_up)
    args = _library.SiluMulArgs(
        gate_up=_library.tensor(name, "gate_up", gate_up),
        activation=activation,
        y=_library.tensor(name, "y", y),
    )
    _operators._run(name, args, gate_up)
    return y


def _silu_mul_fake(
    gate_up: Tensor,
    *,
    interleave: int = 0,
    clamp: float | None = None,
    alpha: float = 1.0,
    up_bias: float = 0.0,
    rounding: str = "float32",
) -> Tensor:
    _activation("silu_mul", interleave, clamp, alpha, up_bias, rounding)
    return _allocate(gate_up)


def _silu_mul_quantize(
    gate_up: Tensor,
    global_scale: Tensor | None = None,
    decode_scale: Tensor | None = None,
    *,
    interleave: int = 0,
    clamp: float | None = None,
    alpha: float = 1.0,
    up_bias: float = 0.0,
    rounding: str = "float32",
    **names: str | None,
) -> Outputs:
    name = "silu_mul_quantize"
    options = Options(**names)
    spec = _operators._spec(name, options)
    activation = _activation(name, interleave, clamp, alpha, up_bias, rounding)
    out = _allocate_quantized(gate_up, options)
    args = _library.SiluMulQuantizeArgs(
        gate_up=_library.tensor(name, "gate_up", gate_up),
        activation=activation,
        global_scale=_library.tensor(name, "global_scale", global_scale),
        decode_scale=_library.tensor(name, "decode_scale", decode_scale),
        spec=spec,
        out=_operators._c_outputs(name, out, options),
    )
    _operators._run(name, args, gate_up, options.scale)
    return out


def _silu_mul_quantize_fake(
    gate_up: Tensor,
    global_scale: Tensor | None = None,
    decode_scale: Tensor | None = None,
    *,
    interleave: int = 0,
    clamp: float | None = None,
    alpha: float = 1.0,
    up_bias: float = 0.0,
    rounding: str = "float32",
    **names: str | None,
) -> Outputs:
    options = Options(**names)
    _operators._spec("silu_mul_quantize", options)
    _activation("silu_mul_quantize", interleave, clamp, alpha, up_bias, rounding)
    return _allocate_quantized(gate_up, options)


for _name, _real, _fake in (
    ("silu_mul", _silu_mul, _silu_mul_fake),
    ("silu_mul_quantize", _silu_mul_quantize, _silu_mul_quantize_fake),
):
    _operators._register(_name, _SCHEMAS[_name], _real, _fake)
