"""docs/numerics.md once more, in NumPy: NVFP4 with a tensor scale, RMSNorm, SiLU · mul, layouts.

Written from the document, not from the C++; E4M3 comes from torch's own conversion.
"""

from __future__ import annotations

import numpy as np
import torch

F32 = np.float32
_MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float64)


def e2m1(values: np.ndarray) -> np.ndarray:
    """Codes of fp32 values: nearest, ties to the even code, saturating, NaN 7."""
    magnitude = np.abs(values.astype(np.float64))
    distance = np.abs(np.minimum(magnitude, 6.0)[..., None] - _MAGNITUDES)
    odd = np.arange(8) % 2
    code = np.lexsort((np.broadcast_to(odd, distance.shape), distance), axis=-1)[..., 0]
    code = np.where(np.signbit(values), code + 8, code)
    return np.where(np.isnan(values), 7, code).astype(np.uint8)


def e4m3(values: np.ndarray) -> np.ndarray:
    clamped = torch.from_numpy(np.clip(values, F32(-448), F32(448)))
    code = clamped.to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    return np.where(np.isnan(values), 0x7F, code).astype(np.uint8)


def e4m3_value(codes: np.ndarray) -> np.ndarray:
    return torch.from_numpy(codes).view(torch.float8_e4m3fn).to(torch.float32).numpy()


def nvfp4(x: torch.Tensor, g: float | torch.Tensor = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes, linear scales) of x [.., H] under the encode scale g, one or [M]."""
    shape = x.shape
    blocks = x.float().numpy().reshape(-1, shape[-1] // 16, 16)
    g = np.broadcast_to(np.asarray(g, dtype=F32).reshape(-1, 1), blocks.shape[:1] + (1,))
    with np.errstate(all="ignore"):
        d = F32(1) / g
        amax = np.abs(blocks).max(axis=-1)  # NaN propagates
        scale = e4m3(g * (amax * F32(1 / 6)))
        scale = np.where(amax == 0, 0, scale).astype(np.uint8)
        value = e4m3_value(scale)
        r = np.minimum(F32(1) / (value * d), np.finfo(F32).max)
        r = np.where(value == 0, F32(0), r)
        codes = e2m1(blocks * r[..., None])
    codes = np.where(np.isnan(amax)[..., None], 7, codes).astype(np.uint8)
    packed = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return (
        torch.from_numpy(packed.reshape(*shape[:-1], shape[-1] // 2)),
        torch.from_numpy(scale.reshape(*shape[:-1], shape[-1] // 16)),
    )


def tiled(scales: torch.Tensor, layout: str) -> torch.Tensor:
    """Linear scales in the order of a tiled layout, padding zero."""
    flat = scales.reshape(-1, scales.shape[-1])
    tile = {"128x4": 128, "8x4": 8}[layout]
    rows, columns = -(-flat.shape[0] // tile) * tile, -(-flat.shape[1] // 4) * 4
    out = np.zeros(rows * columns, dtype=np.uint8)
    for (m, k), value in np.ndenumerate(flat.numpy()):
        tile_index = (m // tile) * (columns // 4) + k // 4
        if layout == "128x4":
            out[tile_index * 512 + m % 32 * 16 + m % 128 // 32 * 4 + k % 4] = value
        else:
            out[tile_index * 32 + m % 8 * 4 + k % 4] = value
    return torch.from_numpy(out.reshape(rows, columns))


def _fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """fl(a * b + c): the product is exact in fp64; the sum is rounded to odd there first, so that
    rounding it to fp32 is the only rounding that counts."""
    product = a.astype(np.float64) * b.astype(np.float64)
    addend = c.astype(np.float64)
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    even = (total.view(np.int64) & 1) == 0
    away = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where((error != 0) & even, away, total).astype(F32)


def sum_of_squares(rows: np.ndarray) -> np.ndarray:
    """The canonical order: leaves of 16, even and odd chains, then a balanced tree."""
    count, columns = rows.shape
    leaves = 1
    while leaves * 16 < columns:
        leaves *= 2
    padded = np.zeros((count, leaves * 16), dtype=F32)
    padded[:, :columns] = rows
    h = padded.reshape(count, leaves, 16)
    chains = []
    for first in (0, 1):
        chain = h[..., first] * h[..., first]
        for i in range(first + 2, 16, 2):
            chain = _fma(h[..., i], h[..., i], chain)
        chains.append(chain)
    level = chains[0] + chains[1]
    while level.shape[1] > 1:
        level = level[:, 0::2] + level[:, 1::2]
    return level[:, 0]


@np.errstate(all="ignore")
def rmsnorm(
    x: torch.Tensor,
    weight: torch.Tensor,
    residual: torch.Tensor | None = None,
    eps: float = 1e-6,
    rounding: str = "float32",
    bias: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, h), both of x's type."""
    kind = x.dtype

    def rounded(values: np.ndarray) -> np.ndarray:
        return torch.from_numpy(values).to(kind).float().numpy()

    h = x.float().numpy().reshape(-1, x.shape[-1])
    if residual is not None:
        h = rounded(h + residual.float().numpy().reshape(h.shape))
    w = weight.float().numpy() + F32(1) if bias else weight.float().numpy()
    mean = sum_of_squares(h) / F32(h.shape[1])
    rstd = F32(1) / np.sqrt(mean + F32(eps))
    scaled = h * rstd[:, None]
    if rounding == "huggingface":
        scaled = rounded(scaled)
    y = torch.from_numpy(scaled * w).to(kind).reshape(x.shape)
    return y, torch.from_numpy(h).to(kind).reshape(x.shape)


@np.errstate(all="ignore")
def exp(x: np.ndarray) -> np.ndarray:
    """The project's exponential of fp32 values; 2^n p is exact in fp64, so it is rounded once."""

    def number(text: str) -> np.ndarray:
        return np.full_like(x, float.fromhex(text))

    x = np.where(np.isnan(x), x, np.clip(x, F32(-104), F32(104)))
    shift = number("0x1.80000000p+23") + F32(254)
    n = _fma(x, number("0x1.715476p+0"), shift) - shift
    r = _fma(n, -number("0x1.62e43p-1"), x)
    r = _fma(n, -number("-0x1.05c61p-29"), r)
    p = number("0x1.6a23dp-10")
    for c in ("0x1.123a2p-7", "0x1.5558f2p-5", "0x1.555492p-3", "0x1.fffffcp-2", "1", "1"):
        p = _fma(p, r, number(c))
    return np.ldexp(p.astype(np.float64), np.nan_to_num(n).astype(np.int64)).astype(F32)


@np.errstate(all="ignore")
def silu_mul(
    gate_up: torch.Tensor,
    interleave: int = 0,
    clamp: float | None = None,
    alpha: float = 1.0,
    up_bias: float = 0.0,
    rounding: str = "float32",
) -> torch.Tensor:
    kind = gate_up.dtype
    columns = gate_up.shape[-1] // 2
    groups = gate_up.float().numpy().reshape(-1, 2, interleave or columns)
    shape = (*gate_up.shape[:-1], columns)
    gate, up = (np.ascontiguousarray(groups[:, i]).reshape(shape) for i in (0, 1))
    if clamp is not None:
        gate = np.minimum(gate, F32(clamp))  # NaN propagates
        up = np.maximum(np.minimum(up, F32(clamp)), F32(-clamp))
    s = gate * (F32(1) / (F32(1) + exp(-(F32(alpha) * gate))))
    if rounding == "huggingface":
        s = torch.from_numpy(s).to(kind).float().numpy()
    u = up + F32(up_bias) if up_bias != 0 else up
    return torch.from_numpy(s * u).to(kind)
