#!/usr/bin/env python3
"""PyTorch's own CPU operations for rmsnorm_quantize, eager and compiled, beside halfbyte's.

    PYTHONPATH=bindings/python HALFBYTE_LIBRARY=build/lib/libhalfbyte.so \\
      python3 bench/torch_cpu.py --shapes 1024x4096,1024x8192 -j 2 --json out.json

The function: bf16 rows [M, H] and weights [H] to RMSNorm, then NVFP4 with a given global scale: two
E2M1 codes a byte and one E4M3 scale a block of 16, as docs/numerics.md defines them. PyTorch has no
operator for it, so this is what its operations make of it: `ENCODERS` turn scaled values into codes,
`PACKERS` put two in a byte. Every pair of them is tried at the first shape, eager and (with
--search) compiled by inductor; the best of each is timed.

All candidates alternate in one run on buffers that rotate over three times the last-level cache.
Answers are compared with halfbyte's. PyTorch sums a row in another order, so a norm may differ in its
last bit; and inductor, by default, leaves out the rounding of the norm to bf16, which moves about 2%
of the scales and 0.7% of the codes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 16
EPS = 1e-6

# ---- codes of scaled magnitudes a >= 0: 0 .. 7, nearest, ties to even, saturating at 6


def encode_compare(a: Tensor) -> Tensor:
    code = (a > 0.25).to(torch.uint8)
    for above, tie in ((0.75, True), (1.25, False), (1.75, True), (2.5, False), (3.5, True),
                       (5.0, False)):
        code = code + (a >= above if tie else a > above).to(torch.uint8)
    return code


# `bucketize` counts the bounds below a value; just below a bound that goes up at a tie.
_BOUNDS = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
_BOUNDS[1::2] = torch.nextafter(_BOUNDS[1::2], torch.zeros(()))


def encode_bucketize(a: Tensor) -> Tensor:
    return torch.bucketize(a, _BOUNDS, out_int32=True).to(torch.uint8)


def encode_round(a: Tensor) -> Tensor:
    """Steps of 1/2 up to 2, of 1 up to 4, of 2 up to 6; `round` takes ties to even, as codes do."""
    a = a.clamp(max=6.0)
    code = (a * 2).round().clamp(max=4.0)
    code = code + (a.round() - 2).clamp(0.0, 2.0)
    code = code + ((a * 0.5).round() - 2).clamp(min=0.0)
    return code.to(torch.uint8)


# ---- codes of two neighbours in a byte, the first in the low half


def pack_strided(codes: Tensor) -> Tensor:
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def pack_words(codes: Tensor) -> Tensor:
    words = codes.contiguous().view(torch.int16)  # little endian: the second code is the high byte
    return (words | (words >> 4)).to(torch.uint8)


ENCODERS = {"compare": encode_compare, "bucketize": encode_bucketize, "round": encode_round}
PACKERS = {"strided": pack_strided, "words": pack_words}
COMPILED_WAY = "compare+strided"  # what --search found with torch 2.15 and AVX-512
Function = Callable[..., tuple[Tensor, Tensor]]


def make(encode: Callable[[Tensor], Tensor], pack: Callable[[Tensor], Tensor]) -> Function:
    def rmsnorm_quantize(x: Tensor, weight: Tensor, residual: Tensor | None,
                         global_scale: Tensor) -> tuple[Tensor, Tensor]:
        if residual is not None:
            x = residual.add_(x)
        h = x.float()
        y = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + EPS) * weight.float()
        y = y.to(x.dtype).float()
        blocks = y.unflatten(-1, (-1, BLOCK))
        amax = blocks.abs().amax(-1)
        scales = (global_scale * (amax * (1 / 6))).clamp(max=448.0).to(torch.float8_e4m3fn)
        value = scales.float()
        inverse = torch.where(value == 0, 0.0, 1 / (value * (1 / global_scale)))
        scaled = blocks * inverse.unsqueeze(-1)
        codes = encode(scaled.abs())
        codes = codes | (torch.signbit(scaled).to(torch.uint8) << 3)
        return pack(codes.flatten(-2)), scales.view(torch.uint8)

    return rmsnorm_quantize


# ---- measuring


class Inputs(NamedTuple):
    sets: list[tuple[Tensor, Tensor, Tensor | None]]  # x, weight, residual
    global_scale: Tensor

    def call(self, function: Function, index: int) -> tuple[Tensor, Tensor]:
        return function(*self.sets[index % len(self.sets)], self.global_scale)


def last_level_cache_bytes() -> int:
    path = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    try:
        return min(int(path.read_text().strip().removesuffix("K")) << 10, 512 << 20)
    except (OSError, ValueError):
        return 32 << 20


def make_inputs(m: int, h: int, residual: bool) -> Inputs:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int, mean: float = 0.0, deviation: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * deviation + mean).bfloat16()

    moved = m * h * (2 + 0.5 + 1 / 16 + (4 if residual else 0)) + 2 * h
    count = max(1, -(-3 * last_level_cache_bytes() // int(moved)))
    x, weight = normal(m, h), normal(h, mean=1.0, deviation=0.1)
    first = normal(m, h) if residual else None
    sets = [(x.clone(), weight.clone(), None if first is None else first.clone())
            for _ in range(count)]
    total = x if first is None else x + first
    y = torch.nn.functional.rms_norm(total.float(), [h], weight.float(), EPS)
    return Inputs(sets, 448.0 * 6.0 / y.abs().max())


def time_all(functions: dict[str, Function], inputs: Inputs,
             replays: int) -> dict[str, dict[str, float]]:
    """Median and minimum microseconds a call; the replays of about 2 ms alternate."""
    index = 0

    def replay(function: Function, calls: int) -> float:
        nonlocal index
        start = time.perf_counter()
        for _ in range(calls):
            inputs.call(function, index)
            index += 1
        return (time.perf_counter() - start) / calls * 1e6

    calls = {}
    for name, function in functions.items():
        replay(function, 2)
        calls[name] = max(1, min(1000, int(2000 / replay(function, 2))))
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(replays):
        for name, function in functions.items():
            times[name].append(replay(function, calls[name]))
    return {name: {"us": statistics.median(of_one), "min_us": min(of_one)}
            for name, of_one in times.items()}


def halfbyte_function() -> Function:
    import halfbyte  # noqa: F401 (registers the operators)
    operator = torch.ops.halfbyte.rmsnorm_quantize.default

    def call(x: Tensor, weight: Tensor, residual: Tensor | None,
             global_scale: Tensor) -> tuple[Tensor, Tensor]:
        codes, scales, *_ = operator(x, weight, residual, global_scale, eps=EPS)
        return codes, scales

    return call


def compiled(function: Function) -> Function:
    return torch.compile(function, fullgraph=True, dynamic=False)


def equal_share(function: Function, expected: Function, m: int, h: int,
                residual: bool) -> tuple[float, float]:
    """Of codes and of scales, in percent."""
    answers = []
    for each in (function, expected):
        inputs = make_inputs(m, h, residual)
        answers.append(inputs.call(each, 0))
    (codes, scales), (codes_expected, scales_expected) = answers
    different = codes ^ codes_expected
    unequal = (different & 15).ne(0).sum() + (different >> 4).ne(0).sum()
    return (100 * (1 - unequal.item() / (2 * codes.numel())),
            100 * scales.eq(scales_expected).double().mean().item())


def search(inputs: Inputs, wrap: Callable[[Function], Function], names: list[str]) -> str:
    """The fastest of the ways to write it."""
    functions = {name: wrap(variant(name)) for name in names}
    times = time_all(functions, inputs, 5)
    return min(times, key=lambda name: times[name]["us"])


def variant(name: str) -> Function:
    encoder, packer = name.split("+")
    return make(ENCODERS[encoder], PACKERS[packer])


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(": ", 1)[1]
    return platform.processor()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", default="1024x2048,1024x4096,1024x7168,1024x8192")
    parser.add_argument("-j", "--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--residual", action="store_true")
    parser.add_argument("--replays", type=int, default=21)
    parser.add_argument("--search", action="store_true",
                        help="compile every way to write it, not only the one known as the fastest")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    try:
        shapes = [tuple(map(int, text.split("x"))) for text in arguments.shapes.split(",")]
        assert all(m > 0 and h > 0 and h % BLOCK == 0 for m, h in shapes)
    except (ValueError, AssertionError):
        parser.error(f"--shapes: expected MxH,.. with H a multiple of {BLOCK}, "
                     f"got {arguments.shapes!r}")

    torch.set_num_threads(arguments.threads)
    torch._dynamo.config.recompile_limit = 64  # a shape is a graph
    ours = halfbyte_function()
    every = [f"{encoder}+{packer}" for encoder in ENCODERS for packer in PACKERS]
    first = make_inputs(*shapes[0], arguments.residual)
    with torch.inference_mode():
        eager_way = search(first, lambda function: function, every)
        compiled_way = (search(first, compiled, every) if arguments.search else COMPILED_WAY)
        print(f"torch {torch.__version__}, {arguments.threads} threads, {cpu_name()}; "
              f"eager: {eager_way}, compiled: {compiled_way}")
        print(f"{'M x H':>12}  {'eager µs':>10}  {'compiled µs':>11}  {'halfbyte µs':>11}  "
              f"{'speedup':>15}  {'codes equal %':>13}  {'scales equal %':>14}")
        rows = []
        for m, h in shapes:
            functions = {"eager": variant(eager_way), "compiled": compiled(variant(compiled_way)),
                         "halfbyte": ours}
            times = time_all(functions, make_inputs(m, h, arguments.residual), arguments.replays)
            shares = {name: equal_share(functions[name], ours, m, h, arguments.residual)
                      for name in ("eager", "compiled")}
            speedup = [times[name]["us"] / times["halfbyte"]["us"] for name in shares]
            print(f"{f'{m} x {h}':>12}  {times['eager']['us']:>10.1f}  "
                  f"{times['compiled']['us']:>11.1f}  {times['halfbyte']['us']:>11.1f}  "
                  f"{speedup[0]:>6.1f} / {speedup[1]:<6.1f}  "
                  f"{min(share[0] for share in shares.values()):>13.4f}  "
                  f"{min(share[1] for share in shares.values()):>14.4f}", flush=True)
            rows.append({"name": f"{m}x{h}", "m": m, "h": h, "residual": arguments.residual,
                         "dtype": "bf16", "format": "nvfp4", "layout": "linear",
                         "threads": arguments.threads, **{
                             name: {**times[name], **({} if name not in shares else {
                                 "equal_codes_percent": shares[name][0],
                                 "equal_scales_percent": shares[name][1]})}
                             for name in times}})
    if arguments.json:
        report = {"schema": 1, "op": "rmsnorm_quantize", "device": cpu_name(),
                  "date": datetime.date.today().isoformat(),
                  "command": shlex.join([Path(sys.executable).name, *sys.argv]),
                  "method": "replays of about 2 ms that alternate between the candidates, on "
                            "buffers that rotate over three times the last-level cache; median "
                            f"and minimum of {arguments.replays}",
                  "torch": torch.__version__, "eager": eager_way, "compiled": compiled_way,
                  "rows": rows}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
