"""rope, rope_ and rope_table: torch.ops.halfbyte.rope gives a new tensor, rope_ updates x."""

from __future__ import annotations

import torch
from torch import Tensor

from halfbyte._functions import written
from halfbyte._library import call


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
    return call(
        torch.ops.halfbyte.rope.default,
        x,
        positions,
        cos,
        sin,
        style,
        rope_dim,
        rope_offset,
        inverse,
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
    call(
        torch.ops.halfbyte.rope_.default,
        x,
        positions,
        cos,
        sin,
        style,
        rope_dim,
        rope_offset,
        inverse,
    )
    written(x)
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
    optional = (
        factor,
        low_freq_factor,
        high_freq_factor,
        original_max_position,
        beta_fast,
        beta_slow,
        attention_factor,
        mscale,
        mscale_all_dim,
    )
    given = (0.0 if value is None else value for value in optional)
    call(torch.ops.halfbyte.rope_table.out, cos, sin, theta, scaling, truncate, *given)
    return cos, sin
