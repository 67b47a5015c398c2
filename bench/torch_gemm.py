#!/usr/bin/env python3
"""Times PyTorch's own products (oneDNN) in bf16 and fp32 on the CPU, for comparison with `halfbyte bench gemm`.

    python3 bench/torch_gemm.py [-j 2] [--shapes 1x4096x4096,..] [--json FILE]

Each product runs on weights that rotate over more than three times the last-level cache; median and
minimum of 21 after 2 warm-ups.
"""

import argparse
import datetime
import json
import statistics
import sys
import time
from pathlib import Path

import torch

REPEATS, WARM_UPS, COLD_BYTES = 21, 2, 100 << 20


def measure(m: int, n: int, k: int, dtype: torch.dtype) -> tuple[float, float]:
    """Median and minimum, in microseconds."""
    count = COLD_BYTES // (n * k * dtype.itemsize) + 2
    weights = [torch.randn(n, k, dtype=dtype) for _ in range(count)]
    x = torch.randn(m, k, dtype=dtype)
    times = []
    for i in range(WARM_UPS + REPEATS):
        start = time.perf_counter()
        torch.nn.functional.linear(x, weights[i % count])
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times[WARM_UPS:]), min(times[WARM_UPS:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-j", "--threads", type=int, default=2)
    parser.add_argument("--shapes", default="1x4096x4096,1x28672x4096,1x4096x14336,4x4096x4096,16x4096x4096")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for shape in arguments.shapes.split(","):
        m, n, k = map(int, shape.split("x"))
        for dtype in (torch.bfloat16, torch.float32):
            median, least = measure(m, n, k, dtype)
            rows.append({"name": shape, "m": m, "n": n, "k": k, "dtype": str(dtype).removeprefix("torch."),
                         "threads": arguments.threads, "us": median, "min_us": least})
            print(f"{shape:16} {rows[-1]['dtype']:9} {median:10.1f} us, min {least:10.1f}", flush=True)
    if arguments.json:
        cpu = next((line.split(": ")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                    if line.startswith("model name")), "CPU")
        report = {"schema": 1, "op": "torch.nn.functional.linear", "torch": torch.__version__, "device": cpu,
                  "date": datetime.date.today().isoformat(), "command": " ".join(sys.argv), "rows": rows}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
