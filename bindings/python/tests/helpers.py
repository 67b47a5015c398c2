"""Samples and exact comparisons that the tests share."""

from __future__ import annotations

import torch

import halfbyte

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def sample(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * 3
    rows = x.view(-1, shape[-1])
    if rows.shape[0] > 4:  # the table of special blocks
        rows[0, :16] = 0.0
        rows[1, 3] = float("nan")
        rows[2, 5] = float("inf")
        rows[3, 7] = -float("inf")
        rows[4, :16] = -0.0
    return x.to(dtype)


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    torch.testing.assert_close(actual.cpu(), expected.cpu(), rtol=0, atol=0, equal_nan=True)


def same_packed(actual: halfbyte.QuantizedTensor, expected: halfbyte.QuantizedTensor) -> None:
    for name, got, want in zip(actual._fields, actual, expected, strict=True):
        if isinstance(got, torch.Tensor) and isinstance(want, torch.Tensor):
            same(got, want)
        else:
            assert got == want, name
