"""The fusion pass: operators, exactly; kernels of a graph that inductor compiles."""

from __future__ import annotations

import functools
import re
import shutil

import pytest
import torch
import torch.nn.functional as F
from fusion_helpers import H, assert_close_codes, random, run
from helpers import same
from test_fusion_plain import cast_first

import halfbyte
import halfbyte.compile
from halfbyte.compile import FusionPass

OPS = torch.ops.halfbyte

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


def block(x, weight, gate_up, *attention, eps=1e-6):
    """Half a decoder layer in plain PyTorch, products and quantizations."""
    h = x + F.linear(*attention)
    packed = halfbyte.quantize(cast_first(h, weight, eps), scale="row")
    y = packed.dequantize()
    gate, up = y @ gate_up[0], y @ gate_up[1]
    down = halfbyte.quantize(F.silu(gate) * up, scale="row")
    return down.codes, down.scales, h


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_kernels_of_a_compiled_graph(device: str) -> None:
    from torch._inductor.utils import fresh_inductor_cache, run_and_get_code

    x, weight, gate_up = random(2, 4, H), random(H, seed=1), random(2, H, 128, seed=3) * 0.1
    attention = random(2, 4, 16, seed=2), random(H, 16, seed=4)
    inputs = [t.to(device) for t in (x, weight, gate_up, *attention)]
    counts = []
    for options in ({}, halfbyte.compile.options()):
        torch._dynamo.reset()
        halfbyte.compile.summary(clear=True)
        with torch.no_grad(), fresh_inductor_cache():
            compiled = torch.compile(block, fullgraph=True, options=options)
            outputs, code = run_and_get_code(compiled, *inputs)
        text = "".join(code)
        call = text[text.index("def call(") :]
        counts.append({
            "loops": call.count("cpp_fused") + call.count(".run("),  # C++; Triton
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
    expected = block(*inputs)
    assert_close_codes(outputs[0].cpu(), expected[0].cpu())


@functools.cache  # torch keeps what an operator was when it was first looked up
def vllm_operators() -> torch.library.Library:
    """vLLM's norms and activation, by its schemas, as it rounds."""
    library = torch.library.Library("_C", "FRAGMENT")

    def define(schema: str, function) -> None:
        library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        library.impl(schema.partition("(")[0], function, "CPU")
        torch.library.register_fake(
            "_C::" + schema.partition("(")[0], lambda *a: None, lib=library
        )

    def fused_add_rms_norm(x, residual, weight, eps) -> None:
        x.copy_(halfbyte.rmsnorm(x.clone(), weight, residual, eps=eps, rounding="huggingface"))

    define("rms_norm(Tensor! result, Tensor input, Tensor weight, float epsilon) -> ()",
           lambda out, x, w, eps: OPS.rmsnorm.out(x, w, None, eps, "huggingface", y=out))
    define("fused_add_rms_norm(Tensor! input, Tensor! residual, Tensor weight, float epsilon) -> ()",
           fused_add_rms_norm)
    define("silu_and_mul(Tensor! result, Tensor input) -> ()",
           lambda out, x: OPS.silu_mul.out(x, rounding="huggingface", y=out))  # fmt: skip
    return library


@pytest.mark.parametrize("v2", [False, True])
def test_vllms_operators(v2: bool) -> None:
    from halfbyte.compat import vllm as _  # noqa: F401 (defines scaled_fp4_quant)

    vllm_operators()
    quant = torch.ops.halfbyte_vllm.scaled_fp4_quant
    x, weight, residual, g = random(4, H), random(H, seed=1), random(4, H, seed=2), torch.ones(1)

    def layer(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> tuple:
        first = torch.empty_like(x)
        torch.ops._C.rms_norm(first, x, weight, 1e-5)
        h, r = x * 2, residual * 2
        torch.ops._C.fused_add_rms_norm(h, r, weight, 1e-5)
        gate_up = torch.cat([r, r], -1)
        y = torch.empty_like(r)
        torch.ops._C.silu_and_mul(y, gate_up)
        return (*quant(first, g, True), *quant(h, g, True), *quant(y, g, False), r + 1)

    expected = layer(x, weight, residual)
    with torch._inductor.config.patch(enable_auto_functionalized_v2=v2):
        outputs, fusions, counted = run(layer, x, weight, residual)
    assert [(f.operator, f.residual) for f in fusions] == [
        ("rmsnorm_quantize", False), ("rmsnorm_quantize", True), ("silu_mul_quantize", False)
    ]  # fmt: skip
    assert not [name for name in counted if name.startswith("_C.")]
    for actual, want in zip(outputs, expected, strict=True):
        same(actual, want)


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


def test_submodules_are_imported_when_used() -> None:
    """And not before: inductor takes a second to import."""
    import subprocess
    import sys

    code = """
import sys, halfbyte
assert not [m for m in sys.modules if m.startswith(("torch._inductor", "halfbyte.comp"))]
assert halfbyte.compile.options()["post_grad_custom_post_pass"] is halfbyte.compile.fusion_pass
assert not hasattr(halfbyte, "nothing")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


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
