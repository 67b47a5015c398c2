#!/usr/bin/env python3
"""A two-layer decoder block: eager, inductor alone, and inductor with halfbyte's fusion pass.

    PYTHONPATH=bindings/python HALFBYTE_LIBRARY=build-cuda/lib/libhalfbyte.so \\
      python3 bench/decoder_block.py --model llama-8b,qwen3-30b --m 1,16,512,8192 --json out.json

A layer is: add, RMSNorm, quantize; qkv; (Qwen3: q and k norms) rope, causal attention; quantize; o;
add, RMSNorm, quantize; gate and up; SiLU · mul, quantize; down. Norms and SiLU · mul are plain PyTorch;
NVFP4 with a scale a tensor, weights and activations; products by halfbyte.gemm up to 16 rows, and above
dequantized to BF16 for torch's, in every variant (--products chooses one). Qwen3-30B-A3B's mixture of
experts is a dense MLP of its eight active experts' width.

    eager     operators one by one, halfbyte.quantize
    plain     inductor alone, the quantization plain PyTorch too (not of the block)
    operator  inductor alone, halfbyte.quantize as an operator
    pass      the same code with halfbyte.compile's pass

"norm" is a layer's add, norm and quantization by themselves (it has two), "silu" its SiLU · mul and
quantization. Everything is captured in a CUDA graph and replayed; the time is the median of --samples of
as many replays as take a millisecond, the caches warm. Kernels are those of one run under the profiler;
"copies" are those that do nothing but copy: memcpy, copy, clone, cat.

--warm only compiles, one process a variant at a time of many: inductor's cache keeps the result.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import halfbyte
import halfbyte.compile

sys.path.insert(0, str(Path(__file__).resolve().parent))
from torch_cpu import encode_compare, pack_strided  # noqa: E402

VARIANTS = ("eager", "plain", "operator", "pass")
EPS = 1e-6


@dataclass(frozen=True)
class Dims:
    hidden: int
    heads: int
    kv_heads: int
    head: int
    intermediate: int
    qk_norm: bool


MODELS = {
    "llama-8b": Dims(4096, 32, 8, 128, 14336, False),
    "qwen3-30b": Dims(2048, 32, 4, 128, 8 * 768, True),
    "tiny": Dims(64, 2, 1, 32, 128, True),
}


def norm(x: Tensor, weight: Tensor) -> Tensor:
    """As transformers' Llama and Qwen3 write it."""
    h = x.float()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)
    return weight * h.to(x.dtype)


def plain_quantize(y: Tensor, global_scale: Tensor) -> tuple[Tensor, Tensor]:
    """NVFP4 as docs/numerics.md has it, in PyTorch's operations."""
    blocks = y.float().unflatten(-1, (-1, 16))
    amax = blocks.abs().amax(-1)
    scales = (global_scale * (amax * (1 / 6))).clamp(max=448.0).to(torch.float8_e4m3fn)
    value = scales.float()
    inverse = torch.where(value == 0, 0.0, 1 / (value * (1 / global_scale)))
    scaled = blocks * inverse.unsqueeze(-1)
    codes = encode_compare(scaled.abs()) | (torch.signbit(scaled).to(torch.uint8) << 3)
    return pack_strided(codes.flatten(-2)), scales.view(torch.uint8)


def operator_quantize(y: Tensor, global_scale: Tensor) -> tuple[Tensor, Tensor]:
    packed = halfbyte.quantize(y, global_scale)
    return packed.codes, packed.scales


class Layer(torch.nn.Module):
    def __init__(self, dims: Dims, device: str, products: str) -> None:
        super().__init__()
        self.dims, self.products = dims, products
        generator = torch.Generator(device).manual_seed(0)

        def random(*shape: int, deviation: float, mean: float = 0.0) -> Tensor:
            values = torch.randn(shape, generator=generator, device=device) * deviation + mean
            return values.bfloat16()

        d, width = dims, dims.heads * dims.head
        shapes = {
            "qkv": (width + 2 * d.kv_heads * d.head, d.hidden),
            "o": (d.hidden, width),
            "gate_up": (2 * d.intermediate, d.hidden),
            "down": (d.hidden, d.intermediate),
        }
        self.rows = {name: shape[0] for name, shape in shapes.items()}
        for name, (n, k) in shapes.items():
            weight = random(n, k, deviation=k**-0.5)
            packed = halfbyte.quantize(weight, scale="computed")
            if products == "gemm":
                prepared = halfbyte.prepare_weights(packed)
                self.register_buffer(name, prepared.data)
                self.register_buffer(name + "_scale", prepared.decode_scale)
            else:
                self.register_buffer(name, packed.dequantize())
        for name in ("norm1", "norm2"):
            self.register_buffer(name, random(d.hidden, deviation=0.1, mean=1.0))
        for name in ("q_norm", "k_norm"):
            self.register_buffer(name, random(d.head, deviation=0.1, mean=1.0))
        self.register_buffer("g", torch.tensor([400.0], device=device))

    def product(self, name: str, codes: Tensor, scales: Tensor) -> Tensor:
        if self.products == "gemm":
            return torch.ops.halfbyte.gemm(
                codes, getattr(self, name), None, scales, self.g,
                b_decode_scale=getattr(self, name + "_scale"), prepared_rows=self.rows[name],
            )  # fmt: skip
        return F.linear(halfbyte.dequantize(codes, scales, self.g), getattr(self, name))

    def forward(self, x: Tensor, residual: Tensor, quantize: Callable, rope: tuple) -> tuple:
        d, m = self.dims, x.shape[0]
        residual = residual + x
        qkv = self.product("qkv", *quantize(norm(residual, self.norm1), self.g))
        sizes = [d.heads * d.head, d.kv_heads * d.head, d.kv_heads * d.head]
        q, k, v = (t.view(m, -1, d.head) for t in qkv.split(sizes, dim=-1))
        if d.qk_norm:
            q, k = norm(q, self.q_norm), norm(k, self.k_norm)
        q, k = halfbyte.rope(q, *rope), halfbyte.rope(k, *rope)
        q, k, v = (t.transpose(0, 1).unsqueeze(0) for t in (q, k, v))
        attention = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        attention = attention.squeeze(0).transpose(0, 1).reshape(m, -1)
        x = self.product("o", *quantize(attention, self.g))
        residual = residual + x
        gate_up = self.product("gate_up", *quantize(norm(residual, self.norm2), self.g))
        gate, up = gate_up.chunk(2, dim=-1)
        return self.product("down", *quantize(F.silu(gate) * up, self.g)), residual


def make_block(dims: Dims, m: int, device: str, products: str, quantize: Callable) -> tuple:
    layers = [Layer(dims, device, products) for _ in range(2)]
    tables = tuple(t.to(device) for t in halfbyte.rope_table(max(m, 16), dims.head))
    positions = torch.arange(m, device=device)
    x = torch.randn(m, dims.hidden, device=device).bfloat16()
    residual = torch.randn(m, dims.hidden, device=device).bfloat16()

    def block(x: Tensor, residual: Tensor) -> tuple:
        for layer in layers:
            x, residual = layer(x, residual, quantize, (positions, *tables))
        return x, residual

    return block, (x, residual)


def make_norm(dims: Dims, m: int, device: str, quantize: Callable) -> tuple:
    """A layer's add, norm and quantization by themselves; the residual is updated."""
    weight = (torch.rand(dims.hidden, device=device) + 0.5).bfloat16()
    g = torch.tensor([400.0], device=device)
    inputs = [torch.randn(m, dims.hidden, device=device).bfloat16() for _ in range(2)]

    def part(x: Tensor, residual: Tensor) -> tuple:
        residual.add_(x)
        return quantize(norm(residual, weight), g)

    return part, inputs


def make_silu(dims: Dims, m: int, device: str, quantize: Callable) -> tuple:
    g = torch.tensor([400.0], device=device)

    def part(gate_up: Tensor) -> tuple:
        gate, up = gate_up.chunk(2, dim=-1)
        return quantize(F.silu(gate) * up, g)

    return part, [torch.randn(m, 2 * dims.intermediate, device=device).bfloat16()]


def compiled(function: Callable, variant: str) -> Callable:
    if variant == "eager":
        return function
    options = halfbyte.compile.options() if variant == "pass" else {}
    return torch.compile(function, fullgraph=True, dynamic=False, options=options)


def kernels_of(run: Callable) -> tuple[int, int]:
    """(kernels, copies among them) of one call."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize()
    names = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return len(names), sum(map(is_copy, names))


def is_copy(kernel: str) -> bool:
    """Triton's names list what was fused: triton_poi_fused_clone_0, but not .._add_copy__1."""
    if kernel.startswith("triton_"):
        fused = re.sub(r"^triton_[a-z]+_fused_|_\d+$", "", kernel)
        return re.fullmatch(r"(_?(copy|clone|cat)_?)+", fused) is not None
    return "memcpy" in kernel.lower() or "direct_copy" in kernel or "CatArray" in kernel


def captured(run: Callable) -> Callable:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def microseconds(replay: Callable, samples: int) -> float:
    def once(count: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3 / count

    once(3)
    count = max(3, int(1000 / once(3)))
    return statistics.median(once(count) for _ in range(samples))


def measure(function: Callable, inputs: list[Tensor], variant: str, arguments: argparse.Namespace,
            layers: int) -> dict:
    torch._dynamo.reset()
    run = compiled(function, variant)
    with torch.no_grad():
        outputs = run(*(t.clone() for t in inputs))
        if arguments.device == "cpu" or arguments.warm:
            return {"outputs": outputs}
        kernels, copies = kernels_of(lambda: run(*inputs))
        us = microseconds(captured(lambda: run(*inputs)), arguments.samples)
    return {"outputs": outputs, "us": us, "kernels_a_layer": kernels / layers, "copies": copies}


def close(actual: tuple, expected: tuple) -> float:
    """The smallest cosine between outputs, codes left out."""
    values = [(a, b) for a, b in zip(actual, expected, strict=True) if a.dtype != torch.uint8]
    return min((F.cosine_similarity(a.float().flatten(), b.float().flatten(), dim=0).item()
                for a, b in values), default=1.0)


def rows_of(name: str, m: int, arguments: argparse.Namespace) -> list[dict]:
    rows, expected = [], {}
    for variant in arguments.variants:
        quantize = plain_quantize if variant == "plain" else operator_quantize
        for what, layers in (("block", 2), ("norm", 1), ("silu", 1)):
            torch.manual_seed(0)
            common = (MODELS[name], m, arguments.device)
            if what == "block" and variant == "plain":
                continue  # its quantization would be most of the time
            if what == "block":
                products = arguments.products
                if products == "auto":
                    products = "gemm" if m <= 16 else "dequantize"
                function, inputs = make_block(*common, products, quantize)
            else:
                function, inputs = {"norm": make_norm, "silu": make_silu}[what](*common, quantize)
            row = measure(function, inputs, variant, arguments, layers)
            outputs = row.pop("outputs")
            cosine = close(outputs, expected.setdefault(what, outputs))
            row |= {"model": name, "m": m, "what": what, "variant": variant, "cosine": cosine}
            rows.append(row)
            # Inductor leaves out roundings to bf16 (torch.compile's emulate_precision_casts has them):
            # another code here and there, and their noise through two layers.
            assert cosine > 0.9, f"{name} M={m} {what} {variant}: cosine {cosine}"
            if not arguments.warm:
                print(f"{name:10} {m:5} {what:5} {variant:9} {row.get('us', float('nan')):10.1f} us "
                      f"{row.get('kernels_a_layer', 0):5.1f} kernels a layer, "
                      f"{row.get('copies', 0)} copies, cosine {cosine:.5f}", flush=True)
            del function, inputs, outputs
    return rows


def warm_all(arguments: argparse.Namespace) -> None:
    """Compiles everything, some processes at a time, into inductor's cache."""
    jobs = [(name, m, variant) for name in arguments.model for m in arguments.m
            for variant in arguments.variants if variant != "eager"]
    running: list[subprocess.Popen] = []
    for name, m, variant in jobs:
        while len(running) >= arguments.warm_processes:
            running.pop(0).wait()
        running.append(subprocess.Popen(
            [sys.executable, __file__, "--warm", "--model", name, "--m", str(m), "--variants",
             variant, "--device", arguments.device, "--products", arguments.products]))
    for process in running:
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=lambda s: s.split(","), default=["llama-8b", "qwen3-30b"])
    parser.add_argument("--m", type=lambda s: [int(v) for v in s.split(",")],
                        default=[1, 16, 512, 8192])
    parser.add_argument("--variants", type=lambda s: s.split(","), default=list(VARIANTS))
    parser.add_argument("--products", choices=("auto", "gemm", "dequantize"), default="auto")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--samples", type=int, default=15)
    parser.add_argument("--warm", action="store_true", help="compile only")
    parser.add_argument("--warm-processes", type=int, default=0, help="compile so first")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if unknown := set(arguments.model) - set(MODELS) | set(arguments.variants) - set(VARIANTS):
        parser.error(f"expected models {list(MODELS)} and variants {VARIANTS}, got {unknown}")
    if arguments.warm_processes:
        warm_all(arguments)
    rows = [row for name in arguments.model for m in arguments.m
            for row in rows_of(name, m, arguments)]
    if arguments.json:
        device = "cpu" if arguments.device == "cpu" else torch.cuda.get_device_name()
        document = {"schema": 1, "op": "decoder_block", "device": device, "torch": torch.__version__,
                    "products": arguments.products, "date": datetime.date.today().isoformat(),
                    "rows": rows}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
