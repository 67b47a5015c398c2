"""The fusion pass on plain PyTorch code and on transformers' modules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from fusion_helpers import H, assert_close_codes, assert_one_ulp, random, run
from helpers import DTYPES, same

import halfbyte


def cast_first(x, w, eps=1e-5):
    h = x.float()
    return w * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def cast_last(x, w, eps=1e-5):
    h = x.float()
    return (w * (h * torch.rsqrt((h * h).mean(-1, keepdim=True) + eps))).to(x.dtype)


def gemma(x, w, eps=1e-5):
    h = x.float()
    h = h * torch.pow(h.pow(2).mean(-1, keepdim=True) + eps, -0.5)
    return (h * (1.0 + w.float())).type_as(x)


def functional(x, w, eps=1e-5):
    return F.rms_norm(x, (x.shape[-1],), w, eps)


def square_root(x, w, eps=1e-5):
    h = x.float()
    return (h / torch.sqrt(h.square().mean(-1, keepdim=True) + eps) * w.float()).to(x.dtype)


NORMS = [
    (cast_first, "huggingface"),
    (cast_last, "float32"),
    (gemma, "float32"),
    (functional, "float32"),
    (square_root, "float32"),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("norm", "rounding"), NORMS)
def test_plain_norms(norm: Callable, rounding: str, dtype: torch.dtype) -> None:
    x, weight = random(64, 256, dtype=dtype), random(256, dtype=dtype, seed=1) * 0.3
    a = random(64, 256, dtype=dtype, seed=2)

    def block(x: torch.Tensor, a: torch.Tensor, weight: torch.Tensor) -> tuple:
        h = x + a.sin()  # a tensor of the graph, dead after the add
        y = norm(h, weight)
        return halfbyte.quantize(y).codes, y, h

    outputs, fusions, counted = run(block, x, a, weight)
    expected = block(x, a, weight)
    wanted = "float32" if dtype == torch.float32 else rounding
    assert [(f.source, f.residual, f.normed, f.rounding) for f in fusions] == [
        ("plain", True, True, wanted)
    ]
    assert "aten.rsqrt.default" not in counted and "halfbyte.quantize.default" not in counted
    assert_close_codes(outputs[0], expected[0])
    if dtype != torch.float32:  # the ulp of fp32 is finer than the order of a sum
        assert_one_ulp(outputs[1], expected[1])
    same(outputs[2], expected[2])
    # and it is halfbyte's own operator, bit by bit
    packed = halfbyte.rmsnorm_quantize(
        expected[2], weight, eps=1e-5, rounding=wanted, bias=norm is gemma, normed=True
    )
    same(outputs[0], packed.codes)
    same(outputs[1], packed.normed)


@pytest.mark.parametrize("dynamic", [False, True])
def test_reshapes_and_three_dimensions(dynamic: bool) -> None:
    x, weight = random(2, 3, H), random(H, seed=1)

    def block(x: torch.Tensor, weight: torch.Tensor) -> tuple:
        h = x.float()  # eps in the code: as an argument, dynamic=True would make it an input
        y = weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype)
        packed = halfbyte.quantize(y.reshape(-1, H), scale="row")
        return packed.codes, packed.scales, packed.row_scale

    outputs, fusions, _ = run(block, x, weight, dynamic=dynamic)
    assert len(fusions) == 1
    packed = halfbyte.rmsnorm_quantize(x, weight, eps=1e-5, rounding="huggingface", scale="row")
    same(outputs[0], packed.codes.reshape(6, -1))
    same(outputs[1], packed.scales.reshape(6, -1))
    same(outputs[2], packed.row_scale)


def test_residuals_that_must_stay() -> None:
    """Both operands of the add are read later, or the caller's: the add stays by itself."""
    x, a, weight = random(4, H), random(4, H, seed=1), random(H, seed=2)

    def callers(x: torch.Tensor, a: torch.Tensor, weight: torch.Tensor) -> tuple:
        h = x + a
        return halfbyte.quantize(cast_first(h, weight)).codes, h

    def read_later(x: torch.Tensor, a: torch.Tensor, weight: torch.Tensor) -> tuple:
        b, c = x.sin(), a.cos()
        h = b + c
        return halfbyte.quantize(cast_first(h, weight)).codes, h, b, c.reshape(-1)

    def part_of_another(x: torch.Tensor, a: torch.Tensor, weight: torch.Tensor) -> tuple:
        b, c = torch.cat([x, a]).sin().split(4)
        h = b + x
        return halfbyte.quantize(cast_first(h, weight)).codes, h, c

    for function in (callers, read_later, part_of_another):
        outputs, fusions, counted = run(function, x, a, weight)
        assert [f.residual for f in fusions] == [False] and counted["aten.add.Tensor"] == 1
        for actual, want in zip(outputs[1:], function(x, a, weight)[1:], strict=True):
            same(actual, want)


def test_a_residual_that_plain_code_updates_in_place() -> None:
    x, residual, weight = random(4, H), random(4, H, seed=1), random(H, seed=2)

    def layer(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple:
        residual.add_(x)
        return halfbyte.quantize(cast_first(residual, weight)).codes, residual * 2

    outputs, fusions, counted = run(layer, x, residual, weight)
    assert [f.residual for f in fusions] == [True] and "aten.add.Tensor" not in counted
    expected = layer(x, residual.clone(), weight)
    assert_close_codes(outputs[0], expected[0])
    same(outputs[1], expected[1])


def test_scales_that_depend_on_the_norm() -> None:
    """A scale made from what would be fused: no cycle."""
    x, weight = random(4, H), random(H, seed=1)

    def block(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        y = cast_last(x, weight)
        return halfbyte.quantize(y, 2688 / y.float().abs().amax()).codes

    outputs, fusions, _ = run(block, x, weight)
    assert fusions == []
    same(outputs, block(x, weight))


def test_what_is_left_alone() -> None:
    x, weight = random(4, H), random(H, seed=1)
    wide = weight.float()

    def te(x, w):
        return halfbyte.quantize(cast_first(x, w), scale_rule="te").codes

    def fp32_weight_after_the_cast(x, w):  # y is fp32 then
        return halfbyte.quantize(cast_first(x, wide)).codes

    def other_axis(x, w):
        h = x.float()
        return halfbyte.quantize((h * torch.rsqrt(h.pow(2).mean(0, True) + 1e-5) * w).to(x.dtype)).codes

    def other_x(x, w):
        h, g = x.float(), x.sin().float()
        return halfbyte.quantize((h * torch.rsqrt(g.pow(2).mean(-1, True) + 1e-5) * w).to(x.dtype)).codes

    def cubes(x, w):
        h = x.float()
        return halfbyte.quantize((h * torch.rsqrt(h.pow(3).mean(-1, True) + 9) * w).to(x.dtype)).codes

    def silu_used_elsewhere(x, w):
        y = F.silu(x[:, :32]) * x[:, 32:]
        return halfbyte.quantize(y).codes, y + 1

    def wrong_halves(x, w):
        return halfbyte.quantize(F.silu(x[:, 32:]) * x[:, :32]).codes

    for function in (te, fp32_weight_after_the_cast, other_axis, other_x, cubes,
                     silu_used_elsewhere, wrong_halves):  # fmt: skip
        _, fusions, counted = run(function, x, weight)
        assert fusions == [] and counted["halfbyte.quantize.default"] == 1, function


def silu_slices(gate_up):
    half = gate_up.shape[-1] // 2
    return F.silu(gate_up[..., :half]) * gate_up[..., half:]


def silu_chunks(gate_up):
    gate, up = gate_up.chunk(2, dim=-1)
    return up * F.silu(gate)


def silu_wide(gate_up):
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (gate * torch.sigmoid(gate) * up).to(gate_up.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [silu_slices, silu_chunks])
def test_plain_silu_mul(function: Callable, dtype: torch.dtype) -> None:
    gate_up = random(2, 32, 512, dtype=dtype)

    def block(gate_up: torch.Tensor) -> torch.Tensor:
        return halfbyte.quantize(function(gate_up), layout="128x4").codes

    outputs, fusions, counted = run(block, gate_up)
    assert [(f.operator, f.source) for f in fusions] == [("silu_mul_quantize", "plain")]
    assert "aten.exp.default" not in counted
    assert_close_codes(outputs, block(gate_up))
    same(outputs, halfbyte.silu_mul_quantize(gate_up, rounding="huggingface").codes)


# --- transformers' modules, unchanged -----------------------------------------------------------

MODULES = [
    ("llama", "LlamaRMSNorm", "huggingface"),
    ("qwen3", "Qwen3RMSNorm", "huggingface"),
    ("gemma2", "Gemma2RMSNorm", "float32"),
    ("gemma3", "Gemma3RMSNorm", "float32"),
    ("gpt_oss", "GptOssRMSNorm", "float32"),
]


@pytest.mark.parametrize(("model", "name", "rounding"), MODULES)
def test_transformers_norms(model: str, name: str, rounding: str) -> None:
    modeling = pytest.importorskip(f"transformers.models.{model}.modeling_{model}")
    norm = getattr(modeling, name)(H).bfloat16()
    norm.weight.data = random(H, seed=3)
    x = random(2, 8, H)
    outputs, fusions, _ = run(lambda x: halfbyte.quantize(norm(x)).codes, x)
    assert [(f.source, f.rounding) for f in fusions] == [("plain", rounding)]
    with torch.no_grad():
        assert_close_codes(outputs, halfbyte.quantize(norm(x)).codes)


@pytest.mark.parametrize("model", ["llama", "qwen3"])
def test_transformers_mlp(model: str) -> None:
    modeling = pytest.importorskip(f"transformers.models.{model}.modeling_{model}")
    prefix = {"llama": "Llama", "qwen3": "Qwen3"}[model]
    config = getattr(__import__("transformers"), f"{prefix}Config")(
        hidden_size=H, intermediate_size=128
    )
    mlp = getattr(modeling, f"{prefix}MLP")(config).bfloat16()

    class Down(torch.nn.Module):
        def forward(self, y: torch.Tensor) -> torch.Tensor:
            return halfbyte.quantize(y, scale="row").codes

    mlp.down_proj = Down()
    x = random(2, 8, H)
    outputs, fusions, counted = run(mlp, x)
    assert [(f.operator, f.source) for f in fusions] == [("silu_mul_quantize", "plain")]
    assert counted["aten.cat.default"] == 1  # of the two products; inductor makes no copy of it
    with torch.no_grad():
        assert_close_codes(outputs, mlp(x))


