"""rope, rope_ and rope_table: operators, structs and functions.

torch.ops.halfbyte.rope gives a new tensor, torch.ops.halfbyte.rope_ updates x and says so.
"""

from __future__ import annotations

from ctypes import c_double, c_int32, c_int64, c_uint32, c_void_p

import torch
from torch import Tensor

from halfbyte import _library
from halfbyte._operators import _registry, _run, _value

STYLES = {"neox": 0, "gptj": 1}
SCALINGS = {"none": 0, "linear": 1, "llama3": 2, "yarn": 3}

_ARGUMENTS = (
    'Tensor positions, Tensor cos, Tensor sin, *, str style="neox", int? rope_dim=None, '
    "int rope_offset=0, bool inverse=False"
)


class RopeArgs(_library._Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("style", c_int32),
        ("inverse", c_int32),
        ("reserved", c_int32),
        ("rope_dim", c_int64),
        ("rope_offset", c_int64),
        ("x", c_void_p),
        ("positions", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("y", c_void_p),
    ]


class RopeTableArgs(_library._Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("scaling", c_int32),
        ("no_truncate", c_int32),
        ("reserved", c_int32),
        ("theta", c_double),
        ("factor", c_double),
        ("low_freq_factor", c_double),
        ("high_freq_factor", c_double),
        ("original_max_position", c_double),
        ("beta_fast", c_double),
        ("beta_slow", c_double),
        ("attention_factor", c_double),
        ("mscale", c_double),
        ("mscale_all_dim", c_double),
        ("cos", c_void_p),
        ("sin", c_void_p),
    ]


def rope(
    x: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    style: str = "neox",
    rope_dim: int | None = None,
    rope_offset: int = 0,
    inverse: bool = False,
) -> Tensor:
    """Rotary position embedding of x: float32, float16 or bfloat16 [M, heads, D], its last
    dimension dense, any other strides. Gives a new tensor; rope_ updates x.

    positions    int32 or int64 [M], rows of the tables. One out of range raises for CPU tensors;
                 on CUDA it leaves its token unrotated
    cos, sin     float32 [P, rope_dim / 2], as rope_table gives them, on the device of x
    style        "neox": pairs (i, i + rope_dim/2), as in Llama; "gptj": pairs (2i, 2i + 1)
    rope_dim     how many elements of a head are rotated, from rope_offset on; all if not given
    inverse      True: rotates back
    """
    return torch.ops.halfbyte.rope(
        x,
        positions,
        cos,
        sin,
        style=style,
        rope_dim=rope_dim,
        rope_offset=rope_offset,
        inverse=inverse,
    )


def rope_(
    x: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    style: str = "neox",
    rope_dim: int | None = None,
    rope_offset: int = 0,
    inverse: bool = False,
) -> Tensor:
    """rope in place: updates x, which may be a slice of a larger tensor, and returns it."""
    torch.ops.halfbyte.rope_(
        x,
        positions,
        cos,
        sin,
        style=style,
        rope_dim=rope_dim,
        rope_offset=rope_offset,
        inverse=inverse,
    )
    return x


def rope_table(
    positions: int,
    rope_dim: int,
    *,
    theta: float = 10000.0,
    scaling: str = "none",
    factor: float | None = None,
    low_freq_factor: float | None = None,
    high_freq_factor: float | None = None,
    original_max_position: float | None = None,
    beta_fast: float | None = None,
    beta_slow: float | None = None,
    attention_factor: float | None = None,
    mscale: float | None = None,
    mscale_all_dim: float | None = None,
    truncate: bool = True,
) -> tuple[Tensor, Tensor]:
    """cos and sin for positions 0 .. positions - 1: float32 [positions, rope_dim / 2] on the CPU,
    computed in float64 and rounded once. Parameters are those of transformers' rope types:

    "none"    (their "default") theta alone
    "linear"  factor
    "llama3"  factor, low_freq_factor, high_freq_factor, original_max_position
    "yarn"    factor, original_max_position, and if wanted beta_fast (32), beta_slow (1),
              attention_factor, or mscale with mscale_all_dim, truncate

    A parameter that the scaling does not take raises ValueError. A model's tables are made once.
    """
    if positions < 0 or rope_dim < 2 or rope_dim % 2 != 0:
        raise ValueError(
            "rope_table: expected positions >= 0 and an even rope_dim >= 2, "
            f"got {positions} and {rope_dim}"
        )
    cos, sin = (torch.empty(positions, rope_dim // 2, dtype=torch.float32) for _ in range(2))
    optional = {
        "factor": factor,
        "low_freq_factor": low_freq_factor,
        "high_freq_factor": high_freq_factor,
        "original_max_position": original_max_position,
        "beta_fast": beta_fast,
        "beta_slow": beta_slow,
        "attention_factor": attention_factor,
        "mscale": mscale,
        "mscale_all_dim": mscale_all_dim,
    }
    args = RopeTableArgs(
        scaling=_value("rope_table", "scaling", scaling, SCALINGS),
        no_truncate=int(not truncate),
        theta=theta,
        cos=_library.tensor("rope_table", "cos", cos),
        sin=_library.tensor("rope_table", "sin", sin),
        **{name: value for name, value in optional.items() if value is not None},
    )
    _library.call_on_host("rope_table", args)
    return cos, sin


def _rotate(
    x: Tensor,
    y: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    style: str,
    rope_dim: int | None,
    rope_offset: int,
    inverse: bool,
) -> None:
    view = _library.tensor
    args = RopeArgs(
        style=_value("rope", "style", style, STYLES),
        inverse=int(inverse),
        rope_dim=_rope_dim(rope_dim),
        rope_offset=rope_offset,
        x=view("rope", "x", x),
        positions=view("rope", "positions", positions),
        cos=view("rope", "cos", cos),
        sin=view("rope", "sin", sin),
        y=view("rope", "y", y),
    )
    _run("rope", args, x)


def _rope_dim(rope_dim: int | None) -> int:
    if rope_dim == 0:  # the library's "not given"
        raise ValueError("rope: rope_dim: expected an even number from 2 on, got 0")
    return rope_dim or 0


def _rope(
    x: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    style: str = "neox",
    rope_dim: int | None = None,
    rope_offset: int = 0,
    inverse: bool = False,
) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _rotate(x, y, positions, cos, sin, style, rope_dim, rope_offset, inverse)
    return y


def _rope_fake(
    x: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    style: str = "neox",
    rope_dim: int | None = None,
    rope_offset: int = 0,
    inverse: bool = False,
) -> Tensor:
    _value("rope", "style", style, STYLES)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _rope_in_place(
    x: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    style: str = "neox",
    rope_dim: int | None = None,
    rope_offset: int = 0,
    inverse: bool = False,
) -> None:
    _rotate(x, x, positions, cos, sin, style, rope_dim, rope_offset, inverse)
    if not x.is_inference():
        torch.autograd.graph.increment_version(x)  # it was written behind torch's back


def _rope_in_place_fake(
    x: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    style: str = "neox",
    rope_dim: int | None = None,
    rope_offset: int = 0,
    inverse: bool = False,
) -> None:
    _value("rope", "style", style, STYLES)


for _name, _schema, _real, _fake in (
    ("rope", f"(Tensor x, {_ARGUMENTS}) -> Tensor", _rope, _rope_fake),
    ("rope_", f"(Tensor(a!) x, {_ARGUMENTS}) -> ()", _rope_in_place, _rope_in_place_fake),
):
    _registry.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag,))
    _registry.impl(_name, _real, "CPU")
    _registry.impl(_name, _real, "CUDA")
    torch.library.register_fake(f"halfbyte::{_name}", _fake, lib=_registry)
