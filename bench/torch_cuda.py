#!/usr/bin/env python3
"""rmsnorm_quantize and rmsnorm beside torch.compile's and other libraries' kernels on a GPU, in one run.

    bench/peers.sh runs it; by hand:
    PYTHONPATH=bindings/python HALFBYTE_LIBRARY=build-cuda/lib/libhalfbyte.so \\
      python3 bench/torch_cuda.py --flashinfer libflashinfer_norm.so --warm-processes 12 --json out.json

bf16 rows, RMSNorm, NVFP4 with a given scale, block scales in the 128x4 layout; with a residual, which
is added first and updated. Shapes: set `peers` of bench/shapes.json.

- torch.compile: the function of bench/torch_cpu.py and the 128x4 layout in PyTorch's operations, by
  each of WAYS; the fastest counts.
- RMSNorm alone, bf16 out: Liger Kernel's forward (its Triton kernels, by both of its rounding modes),
  FlashInfer's CUDA kernel, torch's own rms_norm, and halfbyte's rmsnorm.

Answers are compared: codes and scales of torch.compile with halfbyte's, norms with one in fp32.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import cuda_timing
from cuda_timing import Candidate, Timer
from torch_cpu import BLOCK, ENCODERS, EPS, PACKERS, make

NAMES = {"default": "compiled", "max-autotune-no-cudagraphs": "max_autotune"}
# (encoder of torch_cpu, mode): max-autotune tunes one way alone, since each takes a minute
WAYS = (("compare", "default"), ("round", "default"), ("compare", "max-autotune-no-cudagraphs"))
TARGET = 3.0  # times torch.compile's
TILE_ROWS, TILE_COLUMNS = 128, 4


class Shape(NamedTuple):
    m: int
    h: int
    residual: bool

    @property
    def name(self) -> str:
        return f"{self.m}x{self.h}" + ("+residual" if self.residual else "")


def parse_shape(text: str) -> Shape:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)(\+residual)?", text)
    if not found or int(found[2]) % BLOCK:
        raise argparse.ArgumentTypeError(
            f"expected MxH or MxH+residual with H a multiple of {BLOCK}, got {text!r}")
    return Shape(int(found[1]), int(found[2]), found[3] is not None)


def named_shapes() -> list[Shape]:
    named = json.loads(Path(__file__).with_name("shapes.json").read_text())["peers"]
    return ([parse_shape(text) for text in named["shapes"]]
            + [parse_shape(text + "+residual") for text in named["residual"]])


# ---- the function in PyTorch


def tile_scales(scales: Tensor) -> Tensor:
    """[M, columns] to the bytes of the 128x4 layout (docs/numerics.md), padding zero."""
    m, columns = scales.shape
    padded = F.pad(scales, (0, -columns % TILE_COLUMNS, 0, -m % TILE_ROWS))
    tiles = padded.view(-1, 4, 32, padded.shape[1] // TILE_COLUMNS, TILE_COLUMNS)
    return tiles.permute(0, 3, 2, 1, 4).reshape(padded.shape)


def plain(encoder: str) -> Callable:
    function = make(ENCODERS[encoder], PACKERS["strided"])

    def rmsnorm_quantize(x: Tensor, weight: Tensor, residual: Tensor | None,
                         global_scale: Tensor) -> tuple[Tensor, Tensor]:
        codes, scales = function(x, weight, residual, global_scale)
        return codes, tile_scales(scales)

    return rmsnorm_quantize


def way_name(encoder: str, mode: str) -> str:
    return f"{NAMES[mode]}_{encoder}"


def compiled(encoder: str, mode: str) -> Callable:
    return torch.compile(plain(encoder), fullgraph=True, dynamic=False, mode=mode)


# ---- data and candidates


class Inputs(NamedTuple):
    x: list[Tensor]
    weight: list[Tensor]
    residual: list[Tensor | None]
    global_scale: Tensor

    def one(self, index: int) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.x[index], self.weight[index], self.residual[index]


def make_inputs(shape: Shape, device: str) -> Inputs:
    generator = torch.Generator(device).manual_seed(1)

    def normal(*size: int, mean: float = 0.0, deviation: float = 1.0) -> Tensor:
        values = torch.randn(*size, generator=generator, device=device) * deviation + mean
        return values.bfloat16()

    m, h, residual = shape
    count = cuda_timing.copies_of(m * h * (4 if residual else 2), cuda_timing.l2_bytes(device))
    x, weight = normal(m, h), normal(h, mean=1.0, deviation=0.1)
    first = normal(m, h) if residual else None
    amax = F.rms_norm((x if first is None else x + first).float(), [h], weight.float(), EPS)
    return Inputs([x.clone() for _ in range(count)], [weight.clone() for _ in range(count)],
                  [None if first is None else first.clone() for _ in range(count)],
                  448.0 * 6.0 / amax.abs().max())


def fused_candidates(inputs: Inputs, ways: tuple) -> dict[str, Candidate]:
    import halfbyte  # noqa: F401 (registers the operators)
    operator = torch.ops.halfbyte.rmsnorm_quantize.default

    def ours(index: int) -> tuple[Tensor, Tensor]:
        codes, scales, *_ = operator(*inputs.one(index), inputs.global_scale, eps=EPS,
                                     layout="128x4")
        return codes, scales

    def theirs(function: Callable) -> Candidate:
        return lambda index: function(*inputs.one(index), inputs.global_scale)

    return {"halfbyte": ours} | {way_name(*way): theirs(compiled(*way)) for way in ways}


class FlashInfer:
    """norm.cuh's two launchers; x is where a sum's norm goes, as in fused_add_rmsnorm."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path.resolve()))

    def __call__(self, x: Tensor, weight: Tensor, residual: Tensor | None) -> Tensor:
        pointer = lambda tensor: ctypes.c_void_p(tensor.data_ptr())  # noqa: E731
        sizes = (ctypes.c_uint(x.shape[0]), ctypes.c_uint(x.shape[1]), ctypes.c_float(EPS),
                 ctypes.c_void_p(torch.cuda.current_stream().cuda_stream))
        if residual is None:
            y = torch.empty_like(x)
            status = self.library.flashinfer_rmsnorm(pointer(x), pointer(weight), pointer(y), *sizes)
        else:
            y = x
            status = self.library.flashinfer_add_rmsnorm(
                pointer(x), pointer(residual), pointer(weight), *sizes)
        if status != 0:
            raise RuntimeError(f"FlashInfer's kernel: CUDA error {status}")
        return y


def liger_norm(mode: str) -> Callable:
    from liger_kernel.ops.fused_add_rms_norm import fused_add_rms_norm_forward
    from liger_kernel.ops.rms_norm import rms_norm_forward

    def norm(x: Tensor, weight: Tensor, residual: Tensor | None) -> Tensor:
        if residual is None:
            return rms_norm_forward(x, weight, EPS, 0.0, mode, None)[:3]
        return fused_add_rms_norm_forward(x, residual, weight, EPS, 0.0, mode)[:3]

    return norm


def torch_norm(x: Tensor, weight: Tensor, residual: Tensor | None) -> Tensor:
    if residual is not None:
        x = residual.add_(x)
    return F.rms_norm(x, [x.shape[-1]], weight, EPS)


def norm_candidates(inputs: Inputs, flashinfer: Path | None) -> dict[str, Candidate]:
    operator = torch.ops.halfbyte.rmsnorm.default
    functions = {"halfbyte_norm": lambda x, w, r: operator(x, w, r, EPS), "torch_norm": torch_norm}
    try:
        functions |= {f"liger_{mode}": liger_norm(mode) for mode in ("llama", "gemma")}
    except ImportError as error:
        print(f"Liger Kernel left out: {error}")
    if flashinfer is not None:
        functions["flashinfer"] = FlashInfer(flashinfer)
    return {name: lambda index, function=function: function(*inputs.one(index))
            for name, function in functions.items()}


# ---- comparing


def equal_percent(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Of codes and of scale bytes."""
    different = ours[0] ^ theirs[0]
    unequal = (different & 15).ne(0).sum() + (different >> 4).ne(0).sum()
    scales = ours[1].flatten().eq(theirs[1].flatten()).double().mean().item()
    return 100 * (1 - unequal.item() / (2 * ours[0].numel())), 100 * scales


def check(shape: Shape, device: str, candidates: Callable[[Inputs], dict[str, Candidate]],
          fused: bool) -> dict[str, dict]:
    """Each candidate once, on inputs that nothing has changed. A peer that fails says so."""
    inputs = make_inputs(shape, device)
    x, weight, residual = inputs.one(0)
    start_x, start = x.clone(), None if residual is None else residual.clone()
    h = x if residual is None else x + residual
    expected = F.rms_norm(h.float(), [shape.h], weight.float(), EPS)
    answers, found = {}, {}
    for name, run in candidates(inputs).items():
        x.copy_(start_x)
        if residual is not None:
            residual.copy_(start)
        try:
            answers[name] = run(0)
        except Exception as error:  # noqa: BLE001 (a peer's)
            if name.startswith("halfbyte"):
                raise
            print(f"{shape.name} {name} left out: {error}")
            continue
        if fused:
            codes, scales = equal_percent(answers["halfbyte"], answers[name])
            assert codes > 98 and scales > 90, f"{shape.name} {name}: {codes} {scales}"
            found[name] = {"equal_codes_percent": codes, "equal_scales_percent": scales}
        else:
            y = answers[name][0] if isinstance(answers[name], tuple) else answers[name]
            error = cuda_timing.relative_error(y, expected)
            assert error < 0.01, f"{shape.name} {name}: relative error {error}"  # bf16 rounds to 0.004
            found[name] = {"relative_error": error}
    return found


def warm_all(shapes: list[Shape], processes: int, device: str) -> None:
    """Compiles and tunes every graph, some processes at a time, into inductor's cache; only one
    process at a time measures."""
    with tempfile.NamedTemporaryFile() as lock:
        running: list[subprocess.Popen] = []
        for shape in sorted(shapes, key=lambda shape: -shape.m * shape.h):
            while len(running) >= processes:
                running.pop(0).wait()
            running.append(subprocess.Popen([sys.executable, __file__, "--warm", lock.name,
                                             "--shapes", shape.name, "--device", device]))
        for process in running:
            process.wait()


def warm(shape: Shape, device: str, lock: Path) -> None:
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner
    bench = CachingAutotuner.bench

    def bench_alone(self: CachingAutotuner, *arguments: object, **options: object) -> object:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            return bench(self, *arguments, **options)

    CachingAutotuner.bench = bench_alone
    inputs = make_inputs(shape, device)
    for way in WAYS:
        compiled(*way)(*inputs.one(0), inputs.global_scale)
    cuda_timing.sync(device)


# ---- results


def best(times: dict[str, dict], prefix: tuple[str, ...]) -> tuple[str, float]:
    """The fastest candidate whose name begins with one of `prefix`; NaN if there is none."""
    found = [(row["us"], name) for name, row in times.items() if name.startswith(prefix)]
    us, name = min(found, default=(math.nan, ""))
    return name, us


COMPILED = ("compiled", "max_autotune")


def table(rows: list[dict]) -> str:
    header = ["M x H", "rmsnorm_quantize, µs", "torch.compile", "ratio", "rmsnorm", "Liger", "ratio",
              "FlashInfer", "ratio", "torch rms_norm", "ratio"]
    lines = []
    for row in rows:
        times = row["times"]
        fused, norm = times["halfbyte"]["us"], times["halfbyte_norm"]["us"]
        way, theirs = best(times, COMPILED)
        cells = [row["name"], f"{fused:.1f}", f"{theirs:.1f} ({way or 'left out'})", f"{theirs / fused:.2f}",
                 f"{norm:.1f}"]
        for peer in ("liger", "flashinfer", "torch_norm"):
            us = best(times, (peer,))[1]
            cells += [f"{us:.1f}", f"{us / norm:.2f}"]
        lines.append(cells)
    return cuda_timing.markdown(header, lines)


def summary(rows: list[dict]) -> str:
    """Peers' times over ours: rmsnorm_quantize's, then rmsnorm's."""
    lines = []
    for what, prefix, ours in (("torch.compile over rmsnorm_quantize", COMPILED, "halfbyte"),
                               ("Liger over rmsnorm", ("liger",), "halfbyte_norm"),
                               ("FlashInfer over rmsnorm", ("flashinfer",), "halfbyte_norm"),
                               ("torch's rms_norm over rmsnorm", ("torch_norm",), "halfbyte_norm")):
        found = {row["name"]: best(row["times"], prefix)[1] / row["times"][ours]["us"] for row in rows}
        found = {name: ratio for name, ratio in found.items() if not math.isnan(ratio)}
        if not found:
            continue
        least = min(found, key=lambda name: found[name])
        lines.append(f"{what}: geometric mean {statistics.geometric_mean(found.values()):.2f}, "
                     f"least {found[least]:.2f} at {least}")
        if prefix == COMPILED:
            missed = [f"{name} {ratio:.2f}" for name, ratio in found.items() if ratio < TARGET]
            lines[-1] += (f"; {TARGET:g} asked: {len(found) - len(missed)} of {len(found)} met, "
                          f"missed: {', '.join(missed) or 'none'}")
    return "\n".join(lines)


def measure(shape: Shape, arguments: argparse.Namespace, timer: Timer) -> dict:
    ways = WAYS if arguments.device != "cpu" else WAYS[:1]
    if arguments.norms:
        ways = ()
    groups = ((lambda inputs: fused_candidates(inputs, ways), True),
              (lambda inputs: norm_candidates(inputs, arguments.flashinfer), False))
    times, checks = {}, {}
    for candidates, fused in groups:
        torch._dynamo.reset()
        found = check(shape, arguments.device, candidates, fused)
        inputs = make_inputs(shape, arguments.device)
        runs = {name: run for name, run in candidates(inputs).items() if name in found}
        times |= {name: value.row() for name, value in timer.time(runs, len(inputs.x)).items()}
        checks |= found
    return {"name": shape.name, **shape._asdict(), "dtype": "bf16", "format": "nvfp4",
            "layout": "128x4", "times": times, "checks": checks}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", help="MxH or MxH+residual,..; default: the set `peers`",
                        type=lambda text: [parse_shape(item) for item in text.split(",")])
    parser.add_argument("--flashinfer", type=Path, help="the library that bench/peers.sh makes")
    parser.add_argument("--norms", action="store_true", help="leave out torch.compile, which takes minutes")
    parser.add_argument("--warm-processes", type=int, default=0, help="compile so many at a time first")
    parser.add_argument("--warm", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--replays", type=int, default=cuda_timing.REPLAYS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    shapes = arguments.shapes or named_shapes()
    with torch.no_grad():
        if arguments.warm is not None:
            for shape in shapes:
                warm(shape, arguments.device, arguments.warm)
            return 0
        if arguments.warm_processes:
            warm_all(shapes, arguments.warm_processes, arguments.device)
        timer = Timer(arguments.device, arguments.replays)
        rows = []
        for shape in shapes:
            rows.append(measure(shape, arguments, timer))
            print(rows[-1]["name"], {name: row["us"] for name, row in rows[-1]["times"].items()},
                  flush=True)
    cuda_timing.write(arguments.json, cuda_timing.document(
        "rmsnorm_quantize", arguments.device, timer, rows, what="peers",
        versions=cuda_timing.versions("triton", "liger-kernel")))
    print(f"\n{table(rows)}\n\n{summary(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
