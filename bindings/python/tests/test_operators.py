"""Values: against the definition, fused against unfused, layouts, shapes, strides."""

from __future__ import annotations

import definition
import numpy as np
import pytest
import torch
from helpers import DTYPES, sample, same, same_packed

import halfbyte

@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("g", [None, 1.0, 37.5, 1e-3, 3e38, 1e-45])
def test_nvfp4_is_the_definition(device: str, dtype: torch.dtype, g: float | None) -> None:
    x = sample(9, 80, dtype=dtype)
    scale = None if g is None else torch.tensor(g, dtype=torch.float32, device=device)
    packed = halfbyte.quantize(x.to(device), scale)
    codes, scales = definition.nvfp4(x, 1.0 if g is None else g)
    same(packed.codes, codes)
    same(packed.scales, scales)


def midpoints(g: float, blocks: int = 4096) -> torch.Tensor:
    """fp32 blocks whose amax lies on, or an ulp beside, a midpoint between two E4M3 scales, and
    whose elements do between two E2M1 codes: where another order of roundings shows."""
    generator = np.random.default_rng(0)
    codes = generator.integers(8, 126, blocks).astype(np.uint8)
    tie = (definition.e4m3_value(codes) + definition.e4m3_value(codes + 1)) / 2
    amax = (6 * tie / g).astype(np.float32).view(np.int32) + generator.integers(-2, 3, blocks)
    x = np.zeros((blocks, 16), dtype=np.float32)
    x[:, 0] = amax.astype(np.int32).view(np.float32)
    scale = definition.e4m3_value(definition.nvfp4(torch.from_numpy(x), g)[1].numpy())
    ties = generator.choice([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], (blocks, 15))
    bits = (ties * scale / g).astype(np.float32).view(np.int32)
    bits += generator.integers(-2, 3, bits.shape, dtype=np.int32)
    x[:, 1:] = bits.view(np.float32)
    return torch.from_numpy(x).reshape(-1, 128)


@pytest.mark.parametrize("g", [1.0, 37.5, 0.013, 1e7])
def test_nvfp4_at_midpoints(device: str, g: float) -> None:
    x = midpoints(g)
    packed = halfbyte.quantize(x.to(device), torch.tensor(g))
    codes, scales = definition.nvfp4(x, g)
    same(packed.codes, codes)
    same(packed.scales, scales)


def test_global_scale_shapes(device: str) -> None:
    x = sample(3, 64)
    rows = torch.tensor([0.5, 3.0, 700.0])
    packed = halfbyte.quantize(x.to(device), rows.to(device))
    codes, scales = definition.nvfp4(x, rows)
    same(packed.codes, codes)
    same(packed.scales, scales)
    one = torch.tensor([3.0])
    expected = definition.nvfp4(x, 3.0)[0]
    for scale in (one, one.to(device), one.reshape(()), one.to(device).reshape(())):
        same(halfbyte.quantize(x.to(device), scale).codes, expected)


@pytest.mark.parametrize("layout", ["128x4", "8x4"])
@pytest.mark.parametrize("shape", [(5, 80), (130, 16), (2, 5, 48), (32,)])
def test_layouts_pad_with_zero(device: str, layout: str, shape: tuple[int, ...]) -> None:
    x = sample(*shape)
    linear = halfbyte.quantize(x.to(device))
    first = halfbyte.quantize(x.to(device), layout=layout, second_layout="linear")
    second = halfbyte.quantize(x.to(device), second_layout=layout)
    expected = definition.tiled(linear.scales.cpu(), layout)
    same(first.scales, expected)
    same(second.scales_second, expected)
    same(first.scales_second, linear.scales)
    back = halfbyte.dequantize(first.codes, first.scales, layout=layout)
    same(back, halfbyte.dequantize(linear.codes, linear.scales))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rounding", ["float32", "huggingface"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("float_weight", [False, True])
def test_rmsnorm_is_the_definition(
    device: str, dtype: torch.dtype, rounding: str, bias: bool, float_weight: bool
) -> None:
    x, residual = sample(7, 272, dtype=dtype), sample(7, 272, dtype=dtype, seed=1)
    weight = sample(272, dtype=torch.float32 if float_weight else dtype, seed=2)
    y, h = definition.rmsnorm(x, weight, residual, 1e-5, rounding, bias)
    updated = residual.to(device)
    packed = halfbyte.rmsnorm_quantize(
        x.to(device), weight.to(device), updated, eps=1e-5, rounding=rounding, bias=bias,
        normed=True,
    )  # fmt: skip
    same(packed.normed, y)
    same(updated, h)
    codes, scales = definition.nvfp4(y)
    same(packed.codes, codes)
    same(packed.scales, scales)


OPTIONS = [
    {},
    {"layout": "128x4", "second_layout": "8x4"},
    {"scale": "row"},
    {"scale": "row", "layout": "8x4"},
    {"format": "mxfp4"},
    {"format": "mxfp4", "mx_rule": "ocp_floor", "layout": "128x4"},
    {"format": "fp8", "scale": "row"},
]


@pytest.mark.parametrize("options", [*OPTIONS, {"scale": "computed"}], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_is_unfused(device: str, dtype: torch.dtype, options: dict[str, str]) -> None:
    x, weight = sample(2, 6, 96, dtype=dtype).to(device), sample(96, dtype=dtype).to(device)
    fused = halfbyte.rmsnorm_quantize(x, weight, normed=True, **options)
    unfused = halfbyte.quantize(fused.normed, **options)
    same_packed(fused._replace(normed=None), unfused)
    quiet = halfbyte.rmsnorm_quantize(x, weight, **options)
    assert quiet.normed is None
    same(quiet.codes, fused.codes)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options", [*OPTIONS, {"scale": "computed"}, {"scale": "row", "scale_rule": "te"}], ids=str
)
def test_gpu_is_cpu(options: dict[str, str]) -> None:
    x = sample(33, 160)
    reference = halfbyte.quantize(x, **options)
    actual = halfbyte.quantize(x.cuda(), **options)
    same_packed(actual, reference)


def test_threads_do_not_matter() -> None:
    x, weight = sample(300, 512), sample(512)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(halfbyte.rmsnorm_quantize(x, weight, scale="row"))
    torch.set_num_threads(threads)
    for result in results[1:]:
        same(result.codes, results[0].codes)
        same(result.row_scale, results[0].row_scale)


def test_strided_input_and_residual(device: str) -> None:
    wide = sample(6, 192).to(device)
    x, weight = wide[:, 32:128], sample(96).to(device)
    buffer = sample(6, 4, 96, seed=3).to(device)
    residual = buffer[:, 1]
    assert not x.is_contiguous() and not residual.is_contiguous()
    untouched = buffer.clone()
    dense = residual.clone()
    expected = halfbyte.rmsnorm_quantize(x.contiguous(), weight, dense)
    version = residual._version
    actual = halfbyte.rmsnorm_quantize(x, weight, residual)
    same(actual.codes, expected.codes)
    same(actual.scales, expected.scales)
    same(residual, dense)
    assert residual._version > version
    for i in (0, 2, 3):
        same(buffer[:, i], untouched[:, i])
    transposed = sample(3, 5, 64).to(device).transpose(0, 1)  # rows in two levels of strides
    same(halfbyte.quantize(transposed).codes, halfbyte.quantize(transposed.contiguous()).codes)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [(0, 64), (2, 0, 64)])
def test_no_rows(device: str, options: dict[str, str], shape: tuple[int, ...]) -> None:
    x, weight = torch.empty(shape, device=device), torch.ones(64, device=device)
    for packed in (
        halfbyte.quantize(x, **options),
        halfbyte.rmsnorm_quantize(x, weight, torch.empty_like(x), normed=True, **options),
    ):
        assert packed.codes.shape[:-1] == shape[:-1] and packed.codes.numel() == 0
        assert packed.scales is None or packed.scales.numel() == 0
    codes = halfbyte.quantize(x)
    assert halfbyte.dequantize(codes.codes, codes.scales).shape == shape


def test_round_trips(device: str) -> None:
    x = torch.randn(20, 128, generator=torch.Generator().manual_seed(5)).to(device)
    cases = [
        ({"scale": "row"}, {}, 0.2),
        ({"scale": "computed"}, {}, 0.2),
        ({"format": "mxfp4"}, {"format": "mxfp4"}, 0.35),
        ({"format": "fp8", "scale": "row"}, {"format": "fp8"}, 0.07),
    ]
    for options, back_options, bound in cases:
        packed = halfbyte.quantize(x, **options)
        scale = packed.row_scale if packed.row_scale is not None else packed.decode_scale
        for dtype in DTYPES:
            back = halfbyte.dequantize(
                packed.codes, packed.scales, decode_scale=scale, dtype=dtype, **back_options
            )
            assert back.dtype == dtype and back.shape == x.shape
            error = (back.float() - x).abs().amax() / x.abs().amax()
            assert 0 < error < bound, options
    amax = x.abs().amax()
    static = halfbyte.quantize(x, decode_scale=amax / 448, format="fp8")
    back = halfbyte.dequantize(static.codes, decode_scale=amax / 448, format="fp8")
    assert (back.float() - x).abs().amax() < 0.07 * amax


def test_encode_and_decode_scale_are_reciprocal_names(device: str) -> None:
    x = sample(4, 32).to(device)
    g = torch.tensor([8.0], device=device)
    packed = halfbyte.quantize(x, g)
    same(
        halfbyte.dequantize(packed.codes, packed.scales, g),
        halfbyte.dequantize(packed.codes, packed.scales, decode_scale=1 / g),
    )
