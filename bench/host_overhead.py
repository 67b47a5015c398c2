#!/usr/bin/env python3
"""Host time of one eager call of the Python operators and functions, over an empty custom operator.

    PYTHONPATH=bindings/python HALFBYTE_LIBRARY=build/lib/libhalfbyte.so python3 bench/host_overhead.py

Inputs are 1 x 64 in bf16, so that the kernel is nothing; on a GPU nothing waits for it, and its launch is
part of the time. Microseconds, the best of 7 series of calls.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

import torch

import halfbyte

CALLS = 400  # less than a stream's queue of launches


def microseconds(function: Callable) -> float:
    for _ in range(200):
        function()
    best = float("inf")
    for _ in range(7):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, timeit.timeit(function, number=CALLS) / CALLS * 1e6)
    return best


def empty_operator() -> tuple[torch.library.Library, Callable]:
    library = torch.library.Library("halfbyte_empty", "DEF")
    library.define('e(Tensor x, Tensor? g=None, Tensor? d=None, str format="nvfp4") -> ()')
    for key in ("CPU", "CUDA"):
        library.impl("e", lambda x, *args, **kwargs: None, key)
    return library, torch.ops.halfbyte_empty.e.default


def table(device: str, empty: Callable) -> None:
    ops = torch.ops.halfbyte
    x = torch.randn(1, 64, dtype=torch.bfloat16, device=device)
    weight, residual, y = torch.ones_like(x[0]), torch.zeros_like(x), torch.empty_like(x)
    gate_up = torch.randn(1, 128, dtype=torch.bfloat16, device=device)
    out = halfbyte.quantize(x)
    outputs = {"codes": out.codes, "scales": out.scales}
    base = microseconds(lambda: empty(x))
    print(f"{device}: an empty operator {base:.2f} us; over it:")
    for name, call in {
        "x + x": lambda: x + x,
        "torch.empty_like(x)": lambda: torch.empty_like(x),
        "ops.rmsnorm.out": lambda: ops.rmsnorm.out(x, weight, y=y),
        "ops.rmsnorm": lambda: ops.rmsnorm.default(x, weight),
        "ops.quantize.out": lambda: ops.quantize.out(x, **outputs),
        "ops.quantize": lambda: ops.quantize.default(x),
        "ops.rmsnorm_quantize": lambda: ops.rmsnorm_quantize.default(x, weight, residual),
        "ops.rmsnorm_quantize.out": lambda: ops.rmsnorm_quantize.out(x, weight, residual, **outputs),
        "ops.silu_mul_quantize": lambda: ops.silu_mul_quantize.default(gate_up),
        "halfbyte.quantize": lambda: halfbyte.quantize(x),
        "halfbyte.rmsnorm_quantize": lambda: halfbyte.rmsnorm_quantize(x, weight, residual),
    }.items():
        print(f"  {name:26} {microseconds(call) - base:6.2f} us")


def main() -> None:
    library, empty = empty_operator()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, halfbyte {halfbyte.__version__}")
    with torch.inference_mode():
        for device in (["cuda"] if torch.cuda.is_available() else []) + ["cpu"]:
            table(device, empty)
    del library


if __name__ == "__main__":
    main()
