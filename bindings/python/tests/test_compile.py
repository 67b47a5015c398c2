"""The operators as torch sees them: opcheck, torch.compile, CUDA graphs."""

from __future__ import annotations

import shutil

import pytest
import torch
from helpers import same_packed

import halfbyte

OPTIONS = [
    {},
    {"layout": "128x4", "second_layout": "linear"},
    {"scale": "row", "layout": "8x4"},
    {"scale": "computed"},
    {"scale_rule": "te"},
    {"format": "mxfp4", "layout": "128x4", "mx_rule": "ocp_floor"},
    {"format": "fp8", "scale": "row"},
]
SHAPES = [(3, 64), (2, 3, 64), (0, 64), (64,)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_opcheck_quantize(device: str, options: dict, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.bfloat16, device=device)
    torch.library.opcheck(torch.ops.halfbyte.quantize.default, (x,), options)
    if not options:
        g = torch.ones(1, device=device)
        torch.library.opcheck(torch.ops.halfbyte.quantize.default, (x, g), options)


@pytest.mark.parametrize("options", [o for o in OPTIONS if "scale_rule" not in o], ids=str)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_opcheck_rmsnorm_quantize(
    device: str, options: dict, normed: bool, with_residual: bool
) -> None:
    for shape in SHAPES:
        x = torch.randn(shape, dtype=torch.bfloat16, device=device)
        residual = torch.randn_like(x) if with_residual else None
        weight = torch.ones(shape[-1], dtype=torch.bfloat16, device=device)
        arguments = {"normed": normed, "rounding": "huggingface", **options}
        torch.library.opcheck(
            torch.ops.halfbyte.rmsnorm_quantize.default, (x, weight, residual), arguments
        )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_opcheck_dequantize(device: str, options: dict) -> None:
    packed = halfbyte.quantize(torch.randn(2, 3, 64, device=device), **options)
    scale = packed.row_scale if packed.row_scale is not None else packed.decode_scale
    options = {name: options[name] for name in ("format", "layout") if name in options}
    for dtype in (None, torch.float32):
        torch.library.opcheck(
            torch.ops.halfbyte.dequantize.default,
            (packed.codes, packed.scales, None, scale),
            {**options, "dtype": dtype},
        )


def block(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """A piece of a decoder: what comes before and after stays in the same graph."""
    packed = halfbyte.rmsnorm_quantize(x * 2, weight, residual, scale="row", layout="128x4")
    y = halfbyte.dequantize(
        packed.codes, packed.scales, decode_scale=packed.row_scale, layout="128x4", dtype=x.dtype
    )
    return y + residual


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(device: str, backend: str, dynamic: bool) -> None:
    if backend == "inductor" and device == "cpu" and not shutil.which("g++"):
        pytest.skip("inductor needs a C++ compiler")
    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend=backend, dynamic=dynamic)
    weight = torch.rand(64, dtype=torch.bfloat16, device=device)
    for rows in (5, 9):
        x = torch.randn(rows, 64, dtype=torch.bfloat16, device=device)
        eager_residual = torch.randn_like(x)
        compiled_residual = eager_residual.clone()
        expected = block(x, weight, eager_residual)
        actual = compiled(x, weight, compiled_residual)
        assert torch.equal(actual, expected)
        assert torch.equal(compiled_residual, eager_residual)


def test_parameters_and_inference_mode(device: str) -> None:
    weight = torch.nn.Parameter(torch.ones(64, device=device))
    x = torch.randn(4, 64, device=device)
    plain = halfbyte.rmsnorm_quantize(x, weight, torch.zeros_like(x))
    assert not plain.codes.requires_grad
    with torch.inference_mode():
        residual = torch.zeros(4, 64, device=device)
        assert torch.equal(halfbyte.rmsnorm_quantize(x, weight, residual).codes, plain.codes)
        assert torch.equal(residual, x)


@pytest.mark.gpu
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_cuda_graph(options: dict) -> None:
    x = torch.randn(17, 256, dtype=torch.bfloat16, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # a stream of its own
        halfbyte.quantize(x, **options)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = halfbyte.quantize(x, **options)
    x.copy_(torch.randn_like(x))
    graph.replay()
    expected = halfbyte.quantize(x, **options)
    same_packed(captured, expected)


def test_errors_of_a_traced_call() -> None:
    x = torch.ones(4, 64)
    for function, message in [
        (lambda x: halfbyte.quantize(x, layout="4x4").codes, "quantize: layout: expected one of"),
        (lambda x: halfbyte.quantize(x[:, :60]).codes, "quantize: x: expected .* multiple of 16"),
    ]:
        torch._dynamo.reset()
        with pytest.raises(Exception, match=message):
            torch.compile(function, fullgraph=True, backend="aot_eager")(x)


def test_a_quantized_tensor_leaves_a_compiled_function() -> None:
    x = torch.randn(4, 64)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: halfbyte.quantize(x, scale="row"), fullgraph=True, backend="aot_eager"
    )
    same_packed(compiled(x), halfbyte.quantize(x, scale="row"))
