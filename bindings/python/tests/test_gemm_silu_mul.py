"""gemm_silu_mul_quantize: what gemm and silu_mul_quantize give in sequence, bit by bit. The CUDA cases
use prepared weights and method="exact"."""

from __future__ import annotations

import pytest
import torch
from helpers import same, same_packed

import halfbyte
from test_gemm import on, random
from test_out import NAMES, garbage_like

OPS = torch.ops.halfbyte
GPT_OSS = {"interleave": 1, "clamp": 7.0, "alpha": 1.702, "up_bias": 1.0}
OPTIONS = [
    {},
    {**GPT_OSS, "scale": "row", "rounding": "huggingface"},
    {"layout": "128x4", "second_layout": "linear", "interleave": 8},
    {"scale": "computed", "layout": "8x4"},
    {"format": "mxfp4", "mx_rule": "ocp_floor"},
    {"format": "fp8", "scale": "row"},
]


def gate_up_weights(format: str = "nvfp4", k: int = 128) -> halfbyte.QuantizedTensor:
    scale = "computed" if format == "nvfp4" else "tensor"
    return halfbyte.quantize(random(192, k, seed=5), format=format, scale=scale)


def inputs(x: torch.Tensor, format: str) -> list:
    """A of W4A16, and of W4A4 with one scale a row where the format has one."""
    return [x, halfbyte.quantize(x, format=format, scale="row" if format == "nvfp4" else "tensor")]


def in_sequence(a, b, *given, dtype=None, bias=None, **options) -> halfbyte.QuantizedTensor:
    c = halfbyte.gemm(a, b, bias=bias, dtype=dtype, method="exact")
    return halfbyte.silu_mul_quantize(c, *given, **options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
def test_is_the_two_in_sequence(device: str, format: str, options: dict) -> None:
    x = random(2, 3, 128).to(device)
    w = halfbyte.prepare_weights(on(device, gate_up_weights(format)))
    bias = random(192, seed=3, dtype=torch.float32).to(device)
    for a in inputs(x, format):
        for dtype in (None, torch.float16, torch.float32):
            fused = halfbyte.gemm_silu_mul_quantize(
                a, w, bias=bias, dtype=dtype, method="exact", **options
            )
            same_packed(fused, in_sequence(a, w, bias=bias, dtype=dtype, **options))
            assert fused.dtype == (dtype or torch.bfloat16)
            assert fused.codes.shape[:-1] == (2, 3)


def test_given_scales(device: str) -> None:
    x, w = random(4, 128).to(device), halfbyte.prepare_weights(on(device, gate_up_weights()))
    g, d = torch.tensor([37.0], device=device), torch.tensor([0.25], device=device)
    rows = torch.arange(1.0, 5.0, device=device)
    for given, options in [((g,), {}), ((rows,), {}), ((None, d), {"format": "fp8"})]:
        fused = halfbyte.gemm_silu_mul_quantize(x, w, *given, method="exact", **options)
        same_packed(fused, in_sequence(x, w, *given, **options))


def test_plain_weights_and_no_rows() -> None:
    x, w = random(0, 128), gate_up_weights()
    assert halfbyte.gemm_silu_mul_quantize(x, w).shape == (0, 96)
    x = random(70, 128)
    same_packed(
        halfbyte.gemm_silu_mul_quantize(x, w),
        halfbyte.gemm_silu_mul_quantize(x, halfbyte.prepare_weights(w)),
    )


def test_groups() -> None:
    x, stack = random(9, 64), random(2, 64, 64, seed=1)
    parts = [halfbyte.quantize(stack[e]) for e in range(2)]
    b = parts[0]._replace(
        codes=torch.stack([p.codes for p in parts]), scales=torch.stack([p.scales for p in parts])
    )
    offsets = torch.tensor([0, 4, 9], dtype=torch.int32)
    out_offsets = torch.tensor([0, 128, 133], dtype=torch.int32)
    groups, g = halfbyte.RowGroups(offsets, offsets, 9), torch.tensor([1.0, 4.0])
    out_groups = halfbyte.RowGroups(offsets, out_offsets, 256)
    for a in (x, halfbyte.quantize(x, groups=groups)):
        c = halfbyte.gemm(a, b, groups=groups)
        fused = halfbyte.gemm_silu_mul_quantize(
            a, b, g, groups=groups, layout="128x4",
            out_scale_row_offsets=out_offsets, scale_rows=256,
        )  # fmt: skip
        same_packed(fused, halfbyte.silu_mul_quantize(c, g, layout="128x4", groups=out_groups))
        # As rows without groups.
        same_packed(
            halfbyte.gemm_silu_mul_quantize(a, b, groups=groups, scale="row"),
            halfbyte.silu_mul_quantize(c, scale="row"),
        )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_operator(device: str, options: dict) -> None:
    x, w = random(4, 128).to(device), halfbyte.prepare_weights(on(device, gate_up_weights()))
    a = halfbyte.quantize(x)
    options = {**options, "prepared_rows": 192, "method": "exact"}
    for inputs in ((x, w.data), (a.codes, w.data, None, a.scales)):
        torch.library.opcheck(OPS.gemm_silu_mul_quantize.default, inputs, options)
        expected = OPS.gemm_silu_mul_quantize(*inputs, **options)
        given = [t if t.numel() else None for t in expected]
        out = garbage_like(given)
        OPS.gemm_silu_mul_quantize.out(*inputs, **options, **out)
        for name, want in zip(NAMES, given, strict=True):
            if want is not None:
                same(out[name], want)
        torch.library.opcheck(OPS.gemm_silu_mul_quantize.out, inputs, {**options, **out})


def test_compiles(device: str) -> None:
    w = halfbyte.prepare_weights(on(device, gate_up_weights()))
    x = random(3, 128).to(device)

    def mlp(x: torch.Tensor) -> tuple:
        a = halfbyte.quantize(x, scale="row")
        return tuple(halfbyte.gemm_silu_mul_quantize(a, w, scale="row", method="exact")[:2])

    torch._dynamo.reset()
    for actual, expected in zip(
        torch.compile(mlp, fullgraph=True, backend="aot_eager")(x), mlp(x), strict=True
    ):
        same(actual, expected)


def test_schema_has_the_arguments_of_both() -> None:
    names = [a.name for a in OPS.gemm_silu_mul_quantize.default._schema.arguments]
    product = [a.name for a in OPS.gemm.default._schema.arguments if a.name != "dtype"]
    assert names[: len(product)] == ["b_format" if n == "format" else n for n in product]
    second = [a.name for a in OPS.silu_mul_quantize.default._schema.arguments]
    assert set(second) - set(names) == {"gate_up"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": random(4, 64)}, "b: expected 32 bytes a row"),
        ({"bias": torch.ones(3)}, "bias: expected"),
        ({"method": "x"}, "method: expected one of auto, exact"),
        ({"dtype": torch.int32}, "dtype: expected float32, float16 or bfloat16"),
        ({"interleave": 3}, "interleave: expected 0"),
        ({"clamp": 0.0}, "clamp: expected a finite value > 0"),
        ({"format": "fp8"}, "decode_scale: expected a tensor"),
        ({"format": "x"}, "format: expected one of nvfp4"),
        ({"scale_rows": 4}, "scale_rows: expected none without out_scale_row_offsets"),
        ({"out_scale_row_offsets": torch.zeros(2, dtype=torch.int32)}, "scale_rows: expected the"),
        ({"b": halfbyte.quantize(random(33, 128))}, "b: expected 2I rows, I a multiple of 16"),
        ({"a": halfbyte.quantize(random(4, 128), format="mxfp4")}, "a: expected nvfp4"),
    ],
)
def test_refuses(change: dict, message: str) -> None:
    arguments = {"a": random(4, 128), "b": gate_up_weights(), **change}
    with pytest.raises(ValueError, match="gemm_silu_mul_quantize: " + message):
        halfbyte.gemm_silu_mul_quantize(**arguments)
