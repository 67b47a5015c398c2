"""The fusion pass: what it finds, what it leaves alone, exactness, kernels of a compiled graph.

Most cases run the pass on the graph that inductor would see and then that graph as it is, which is
fast; the last ones compile with inductor.
"""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers import DTYPES, same
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.decomposition import select_decomp_table

import halfbyte
import halfbyte.compile
from halfbyte.compile import FusionPass

H = 64
OPS = torch.ops.halfbyte


def graph_backend(found: FusionPass, counted: dict[str, int]) -> Callable:
    def compile_graph(gm: torch.fx.GraphModule, inputs: list) -> Callable:
        gm.graph.eliminate_dead_code()
        found(gm.graph)
        for node in gm.graph.nodes:
            if node.op == "call_function":
                target = node.args[0] if "auto_functionalized" in str(node.target) else node.target
                counted[str(target)] = counted.get(str(target), 0) + 1
        gm.recompile()
        return gm

    return aot_autograd(fw_compiler=compile_graph, decompositions=select_decomp_table())


def run(function: Callable, *inputs: torch.Tensor, dynamic: bool = False) -> tuple:
    """(outputs of the compiled function, its fusions, how often each target is called). Tensors that
    the function updates are cloned first."""
    torch._dynamo.reset()
    found, counted = FusionPass(), {}
    with torch.no_grad():
        backend = graph_backend(found, counted)
        compiled = torch.compile(function, fullgraph=True, backend=backend, dynamic=dynamic)
        outputs = compiled(*(t.clone() for t in inputs))
    return outputs, found.fusions, counted


def random(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close_codes(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """At least 99.9% of the codes are equal: y differs by at most an ulp, seldom, where the sum's
    order or rsqrt differ."""
    halves = [torch.stack([t & 15, t >> 4]) for t in (actual, expected)]
    assert actual.shape == expected.shape
    assert (halves[0] == halves[1]).double().mean() >= 0.999


def assert_one_ulp(actual: torch.Tensor, expected: torch.Tensor) -> None:
    steps = torch.nextafter(expected.abs(), torch.tensor(torch.inf, dtype=expected.dtype))
    error = (actual.double() - expected.double()).abs()
    assert (error <= (steps - expected.abs()).double()).all()


# --- Operators: exact --------------------------------------------------------------------------

OPTIONS = [
    {},
    {"scale": "row", "layout": "128x4", "second_layout": "linear"},
    {"format": "mxfp4", "layout": "8x4"},
    {"format": "fp8", "scale": "row"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [(5, H), (2, 3, H)])
def test_operators_exactly(shape: tuple[int, ...], options: dict) -> None:
    x, weight, residual = random(*shape), random(H, seed=1), random(*shape, seed=2)

    def unfused(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> list:
        r = residual * 2
        first = halfbyte.quantize(halfbyte.rmsnorm(x, weight, bias=True), **options)
        y = halfbyte.rmsnorm(x * 2, weight, r, rounding="huggingface")
        second = halfbyte.quantize(y.reshape(-1, H), **options)
        third = halfbyte.quantize(halfbyte.silu_mul(torch.cat([x, r], -1), clamp=1.0), **options)
        return [t for p in (first, second, third) for t in p[:6] if t is not None] + [r + 1]

    expected = unfused(x, weight, residual)
    outputs, fusions, counted = run(unfused, x, weight, residual)
    assert [(f.operator, f.source, f.residual) for f in fusions] == [
        ("rmsnorm_quantize", "operator", False),
        ("rmsnorm_quantize", "operator", True),
        ("silu_mul_quantize", "operator", False),
    ]
    assert "halfbyte.quantize.default" not in counted
    for actual, want in zip(outputs, expected, strict=True):
        same(actual, want)


def test_the_normalised_tensor_stays() -> None:
    x, weight = random(4, H), random(H, seed=1)

    def block(x: torch.Tensor, weight: torch.Tensor) -> tuple:
        y = halfbyte.rmsnorm(x, weight)
        return halfbyte.quantize(y).codes, y * 2, halfbyte.quantize(y, layout="8x4").scales

    outputs, fusions, counted = run(block, x, weight)
    assert [f.normed for f in fusions] == [True] and counted["halfbyte.quantize.default"] == 1
    for actual, want in zip(outputs, block(x, weight), strict=True):
        same(actual, want)


def test_equal_quantizations_become_one() -> None:
    x, weight = random(4, H), random(H, seed=1)

    def qkv(x: torch.Tensor, weight: torch.Tensor) -> tuple:
        y = halfbyte.rmsnorm(x, weight)
        return tuple(halfbyte.quantize(y, scale="row").codes for _ in range(3))

    outputs, fusions, counted = run(qkv, x, weight)
    assert len(fusions) == 1 and counted["halfbyte.rmsnorm_quantize.default"] == 1
    for actual in outputs:
        same(actual, qkv(x, weight)[0])


def test_vllm_quantization() -> None:
    from halfbyte.compat import vllm as _  # defines the operator

    quant = torch.ops.halfbyte_vllm.scaled_fp4_quant
    x, weight, g = random(2, 3, H), random(H, seed=1), torch.tensor([3.0])

    def block(x: torch.Tensor, weight: torch.Tensor, g: torch.Tensor) -> tuple:
        y = halfbyte.rmsnorm(x, weight)
        z = halfbyte.silu_mul(torch.cat([x, x], -1))
        return (*quant(y, g, True), *quant(z, g, False))

    outputs, fusions, _ = run(block, x, weight, g)
    assert len(fusions) == 2
    for actual, want in zip(outputs, block(x, weight, g), strict=True):
        same(actual, want)


# --- Plain PyTorch -----------------------------------------------------------------------------


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

    for function in (callers, read_later):
        outputs, fusions, counted = run(function, x, a, weight)
        assert [f.residual for f in fusions] == [False] and counted["aten.add.Tensor"] == 1
        for actual, want in zip(outputs[1:], function(x, a, weight)[1:], strict=True):
            same(actual, want)


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


# --- With inductor -------------------------------------------------------------------------------


def block(x, weight, gate_up, *attention, eps=1e-6):
    """Half a decoder layer in plain PyTorch, products and quantizations."""
    h = x + F.linear(*attention)
    packed = halfbyte.quantize(cast_first(h, weight, eps), scale="row")
    y = packed.dequantize()
    gate, up = y @ gate_up[0], y @ gate_up[1]
    down = halfbyte.quantize(F.silu(gate) * up, scale="row")
    return down.codes, down.scales, h


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_kernels_of_a_compiled_graph() -> None:
    from torch._inductor.utils import fresh_inductor_cache, run_and_get_code

    x, weight, gate_up = random(2, 4, H), random(H, seed=1), random(2, H, 128, seed=3) * 0.1
    attention = random(2, 4, 16, seed=2), random(H, 16, seed=4)
    counts = []
    for options in ({}, halfbyte.compile.options()):
        torch._dynamo.reset()
        halfbyte.compile.summary(clear=True)
        with torch.no_grad(), fresh_inductor_cache():
            compiled = torch.compile(block, fullgraph=True, options=options)
            outputs, code = run_and_get_code(compiled, x, weight, gate_up, *attention)
        text = "".join(code)
        call = text[text.index("def call(") :]
        counts.append({
            "loops": call.count("cpp_fused"),
            "halfbyte": len(re.findall(r"= torch\.ops\.halfbyte\.\w+\.default\(", call)),
            "mm": call.count("extern_kernels.mm("),
        })  # fmt: skip
        assert "copy_(" not in call and "clone" not in text
    # Before: add and norm, silu and mul; after: none of them, and no copy.
    assert counts[0]["halfbyte"] == counts[1]["halfbyte"] == 3
    assert counts[0]["loops"] >= 2 and counts[1]["loops"] == 0
    assert counts[0]["mm"] == counts[1]["mm"]
    fused = halfbyte.compile.summary(clear=True)
    assert [(f.operator, f.residual) for f in fused] == [
        ("rmsnorm_quantize", True),
        ("silu_mul_quantize", False),
    ]
    assert "residual" in str(fused[0])
    expected = block(x, weight, gate_up, *attention)
    assert_close_codes(outputs[0], expected[0])


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_a_residual_of_the_caller_is_updated_in_place() -> None:
    from torch._inductor.utils import fresh_inductor_cache, run_and_get_code

    x, weight, residual = random(8, H), random(H, seed=1), random(8, H, seed=2)

    def layer(x, weight, residual):
        return halfbyte.quantize(halfbyte.rmsnorm(x, weight, residual)).codes

    mine, theirs = residual.clone(), residual.clone()
    expected = layer(x, weight, theirs)
    torch._dynamo.reset()
    with fresh_inductor_cache():
        compiled = torch.compile(layer, fullgraph=True, options=halfbyte.compile.options())
        actual, code = run_and_get_code(compiled, x, weight, mine)
    same(actual, expected)
    same(mine, theirs)
    call = code[0][code[0].index("def call(") :]
    assert call.count("torch.ops.halfbyte.rmsnorm_quantize.default(") == 1
    assert "cpp_fused" not in call and "copy_(" not in call


def test_uuid_is_stable() -> None:
    assert FusionPass().uuid() == halfbyte.compile.fusion_pass.uuid()
    assert isinstance(FusionPass().uuid(), str)


def test_as_vllm_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType

    class InductorPass:
        def uuid(self) -> str:
            return "theirs"

    module = ModuleType("vllm.compilation.inductor_pass")
    module.InductorPass = InductorPass
    for name in ("vllm", "vllm.compilation"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.compilation.inductor_pass", module)
    theirs = halfbyte.compile.vllm_pass()
    assert isinstance(theirs, InductorPass) and theirs.uuid() == FusionPass().uuid()
    assert functools.partial(theirs)  # callable
