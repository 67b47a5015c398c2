"""The .out overloads: they give what the functional operators give, and torch may compile them."""

from __future__ import annotations

import pytest
import torch
from helpers import sample, same, same_packed

import halfbyte

NAMES = ("codes", "scales", "scales_second", "row_scale", "computed_global_scale",
         "computed_decode_scale")  # fmt: skip
OPTIONS = [
    {},
    {"layout": "128x4", "second_layout": "linear"},
    {"scale": "row"},
    {"scale": "computed", "layout": "8x4"},
    {"format": "mxfp4"},
    {"format": "fp8", "scale": "row"},
]
OPS = torch.ops.halfbyte


def garbage_like(packed: halfbyte.QuantizedTensor) -> dict[str, torch.Tensor]:
    outputs = zip(NAMES, packed[:6], strict=True)
    return {name: torch.full_like(t, 77) for name, t in outputs if t is not None}


def check(function, operator, inputs: list, options: dict, **own: torch.Tensor) -> None:
    expected = function(*[t.clone() for t in inputs], **options)
    out = garbage_like(expected)
    operator(*[t.clone() for t in inputs], **options, **out, **own)
    for name, want in zip(NAMES, expected[:6], strict=True):
        assert (want is None) == (name not in out)
        if want is not None:
            same(out[name], want)
    for name, t in own.items():
        same(t, getattr(expected, name))
    torch.library.opcheck(operator, (*inputs,), {**options, **out, **own})


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_quantizations(device: str, options: dict) -> None:
    x = sample(7, 128).to(device)
    residual, weight = sample(7, 128, seed=1).to(device), sample(128, seed=2).to(device)
    check(halfbyte.quantize, OPS.quantize.out, [x], options)
    check(halfbyte.silu_mul_quantize, OPS.silu_mul_quantize.out, [x], options)
    check(halfbyte.rmsnorm_quantize, OPS.rmsnorm_quantize.out, [x, weight, residual], options)
    check(
        lambda *a, **k: halfbyte.rmsnorm_quantize(*a, normed=True, **k),
        OPS.rmsnorm_quantize.out, [x, weight, residual], options, normed=torch.full_like(x, 9),
    )  # fmt: skip


def test_the_others(device: str) -> None:
    x, weight = sample(4, 128).to(device), sample(128, seed=2).to(device)  # no NaN: opcheck's rule
    packed = halfbyte.quantize(x, scale="row")
    heads, positions = x.view(4, 2, 64), torch.arange(4, device=device)
    cos, sin = (t.to(device) for t in halfbyte.rope_table(9, 64))
    for operator, inputs, options, out in [
        (OPS.rmsnorm, (x, weight), {"bias": True}, "y"),
        (OPS.silu_mul, (x,), {"interleave": 8}, "y"),
        (OPS.dequantize, (packed.codes, packed.scales, None, packed.row_scale), {}, "x"),
        (OPS.amax, (x,), {}, "amax"),
        (OPS.amax, (x,), {"per_row": True}, "amax"),
        (OPS.rope, (heads, positions, cos, sin), {"style": "gptj"}, "y"),
    ]:
        expected = operator(*inputs, **options)
        actual = torch.full_like(expected, 77)
        operator.out(*inputs, **options, **{out: actual})
        same(actual, expected)
        torch.library.opcheck(operator.out, inputs, {**options, out: actual})
        torch.library.opcheck(operator.default, inputs, options)


def test_wrong_outputs() -> None:
    x = torch.ones(4, 64)
    codes, scales = torch.full((4, 32), 77, dtype=torch.uint8), torch.zeros(4, 4).byte()
    with pytest.raises(RuntimeError, match="quantize: scales: expected a tensor"):
        OPS.quantize.out(x, codes=codes)
    with pytest.raises(RuntimeError, match=r"quantize: codes: expected 4 rows of 32 bytes"):
        OPS.quantize.out(x, codes=codes[:3], scales=scales)
    with pytest.raises(RuntimeError, match="quantize: row_scale: expected no tensor"):
        OPS.quantize.out(x, codes=codes, scales=scales, row_scale=torch.ones(4))
    assert (codes == 77).all()


def test_compiled_without_copies() -> None:
    """The out overload in a graph: what inductor compiles has no clone of a buffer."""
    x, weight = sample(4, 64), sample(64)

    def norm(x: torch.Tensor) -> torch.Tensor:
        y = torch.empty_like(x)
        OPS.rmsnorm.out(x * 2, weight, y=y)
        return y + 1

    torch._dynamo.reset()
    compiled = torch.compile(norm, fullgraph=True, backend="aot_eager")
    same(compiled(x), norm(x))


@pytest.mark.parametrize("layout", ["linear", "128x4", "8x4"])
@pytest.mark.parametrize("operator", ["quantize", "silu_mul_quantize"])
def test_row_groups(device: str, operator: str, layout: str) -> None:
    """Groups one by one, at their places, under a scale each; an empty one; rows of none."""
    function = getattr(halfbyte, operator)
    x = sample(23, 128).to(device)
    bounds, tile = [2, 9, 9, 20], {"linear": 1, "128x4": 128, "8x4": 8}[layout]
    places = [0]
    for first, last in zip(bounds, bounds[1:], strict=False):
        places.append(places[-1] + -(-(last - first) // tile) * tile)
    g = torch.tensor([0.5, 8.0, 2.0], device=device)
    offsets = [torch.tensor(o, dtype=torch.int32, device=device) for o in (bounds, places)]
    packed = function(x, g, layout=layout, groups=halfbyte.RowGroups(*offsets, places[-1]))
    assert packed.scales.shape[0] == places[-1]
    for e in range(3):
        rows = slice(bounds[e], bounds[e + 1])
        one = function(x[rows], g[e], layout=layout)
        same(packed.codes[rows], one.codes)
        same(packed.scales[places[e] : places[e + 1]], one.scales)
    assert not packed.codes[:2].any() and not packed.codes[20:].any()
    with pytest.raises(ValueError, match=f"{operator}: row_offsets: expected"):
        function(x, groups=halfbyte.RowGroups(offsets[0].long(), offsets[1], places[-1]))
    target = getattr(OPS, operator).default
    torch.library.opcheck(
        target, (x, g),
        {"layout": layout, "row_offsets": offsets[0], "scale_row_offsets": offsets[1],
         "scale_rows": places[-1]},
    )  # fmt: skip


def test_quantized_tensor(device: str) -> None:
    x = sample(2, 3, 64)[..., :64].to(device)
    g = torch.tensor([4.0], device=device)
    for options in (*OPTIONS[:3], *OPTIONS[4:]):
        packed = halfbyte.quantize(x, **options)
        assert packed.shape == x.shape and packed.dtype == x.dtype and packed.device == x.device
        back = packed.dequantize()
        scale = packed.row_scale
        same(back, halfbyte.dequantize(
            packed.codes, packed.scales, None, scale, format=packed.format, layout=packed.layout,
            dtype=x.dtype,
        ))  # fmt: skip
    packed = halfbyte.quantize(x.half(), g)
    assert packed.dequantize(torch.float32).dtype == torch.float32
    same(packed.dequantize(), halfbyte.dequantize(packed.codes, packed.scales, g, dtype=x.half().dtype))
    assert repr(packed.__class__(*packed[:3])).startswith("QuantizedTensor(nvfp4 [2, 3, 64]")
    assert "global_scale=4" in repr(packed) and "linear scales" in repr(packed)
    same_packed(packed, halfbyte.quantize(x.half(), g))


def test_amax_and_rmsnorm(device: str) -> None:
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(3)).to(device)
    same(halfbyte.amax(x), x.abs().amax().reshape(1))
    same(halfbyte.amax(x, per_row=True), x.abs().amax(dim=-1))
    weight, residual = torch.rand(96).to(device), torch.randn(5, 96).to(device)
    expected = halfbyte.rmsnorm_quantize(x, weight, residual.clone(), normed=True).normed
    version = residual._version
    same(halfbyte.rmsnorm(x, weight, residual), expected)
    assert residual._version > version
