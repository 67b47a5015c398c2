"""What the drop-in modules share: their error class, scales given in any form, typed views."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class ArgumentError(AssertionError, ValueError):
    """A shape, type or value that a drop-in function refuses. Code written for the other library
    may expect either class; the message names the argument, what was expected and what was given."""


def checked(function: Callable) -> Callable:
    """Makes the ValueErrors of `function` ArgumentErrors."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ArgumentError:
            raise
        except ValueError as error:
            raise ArgumentError(str(error)) from None

    return call


def require(condition: bool, function: str, argument: str, expected: object, got: object) -> None:
    if not condition:
        raise ArgumentError(f"{function}: {argument}: expected {expected}, got {got}")


def scale_tensor(scale: Tensor | float | None, like: Tensor) -> Tensor | None:
    """A scale as the operators take it: float32, [1] or one a row or group. A host float stays on
    the host, and a CPU tensor of one element does too: the library reads it at the call."""
    if scale is None:
        return None
    if not isinstance(scale, Tensor):
        return torch.tensor([float(scale)], dtype=torch.float32)
    if scale.device != like.device and scale.numel() != 1:
        scale = scale.to(like.device)
    return scale.to(torch.float32).reshape(-1)


def as_bytes(tensor: Tensor | None) -> Tensor | None:
    """A tensor of a float4, float8, int32 or uint8 type, as its bytes."""
    if tensor is None or tensor.dtype == torch.uint8:
        return tensor
    return tensor.view(torch.uint8)


def round_up(value: int, multiple: int) -> int:
    return (value + multiple - 1) // multiple * multiple
