#!/usr/bin/env python3
"""Times PyTorch's grouped product on bf16 (torch._grouped_mm) on the shapes, numbers of tokens and
random experts of bench/gemm_grouped.cu, beside which it is to run; prints a JSON row each.

    bench/torch_grouped.py [TOKENS ..]
"""

import json
import statistics
import sys

import torch

EXPERTS, TOP, ROUTINGS = 128, 8, 16
SHAPES = ((1536, 2048), (2048, 768))  # N, K: gate and up, down


def ends(tokens: int, seed: int) -> list[int]:
    """Where each expert's rows end."""
    state, rows = seed, [0] * EXPERTS
    for _ in range(tokens):
        taken: set[int] = set()
        while len(taken) < TOP:
            state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
            expert = (state >> 16) % EXPERTS
            if expert not in taken:
                taken.add(expert)
                rows[expert] += 1
    total, found = 0, []
    for count in rows:
        total += count
        found.append(total)
    return found


def time_graph(run, launches: int) -> float:
    run(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = [run(i) for i in range(launches)]
    times = []
    for replay in range(11):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        if replay >= 2:
            times.append(begin.elapsed_time(end) * 1000 / launches)
    del outputs
    return statistics.median(times)


def main() -> None:
    rows = []
    for tokens in [int(a) for a in sys.argv[1:]] or [1, 16, 64, 256, 1024, 4096, 16384]:
        routings = 2 if tokens > 1000 else ROUTINGS
        offsets = [torch.tensor(ends(tokens, 12345 + i), dtype=torch.int32, device="cuda")
                   for i in range(routings)]
        for n, k in SHAPES:
            m = tokens * TOP
            a = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
            b = torch.randn(EXPERTS, n, k, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
            launches = max(2, min(20, int(5000 / max(20.0, 2 * m * n * k / 4e8))))
            us = time_graph(
                lambda i: torch._grouped_mm(a, b, offs=offsets[i % routings]), launches)
            rows.append({"n": n, "k": k, "tokens": tokens, "torch_grouped_mm_bf16_us": round(us, 2)})
            print(json.dumps(rows[-1]), flush=True)
            del a, b


if __name__ == "__main__":
    main()
