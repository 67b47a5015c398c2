"""Times CUDA work as docs/performance.md says, for the scripts that measure peers.

Each candidate is a graph of clamp(20 ms / t, 1, 20) launches; launch i works on the i-th copy of the
data that rotates. Candidates alternate, in random order. Before every replay, outside of the time
taken, the L2 is emptied by reading three times its size from elsewhere: that also keeps the device
busy until the graph is there, so that no launch gap is in the time.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import random
import shlex
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

GRAPH_US, MOST_LAUNCHES, TIMES_L2 = 20_000, 20, 3
REPLAYS, WARM_UPS = 11, 3
METHOD = (f"CUDA graphs of clamp(20 ms / t, 1, {MOST_LAUNCHES}) launches that rotate over copies of "
          f"more than {TIMES_L2} times the L2, events, L2 emptied before each replay, replays of the "
          "candidates alternate in random order, random data; median and minimum of ")

Candidate = Callable[[int], Any]  # makes launch i, on copy i % copies; returns its outputs


class Times(NamedTuple):
    us: float  # median of one launch
    min_us: float
    launches: int

    def row(self) -> dict[str, float]:
        return {"us": round(self.us, 3), "min_us": round(self.min_us, 3), "launches": self.launches}


def launches_of(us: float) -> int:
    return max(1, min(MOST_LAUNCHES, int(GRAPH_US / max(us, 1e-3))))


def copies_of(bytes_each: int, l2_bytes: int) -> int:
    """Of data that `bytes_each` are read of in a launch. No more than a graph has launches."""
    return min(MOST_LAUNCHES, max(2, -(-TIMES_L2 * l2_bytes // bytes_each)))


def l2_bytes(device: str) -> int:
    if device == "cpu":
        return 32 << 20
    return torch.cuda.get_device_properties(device).L2_cache_size


def device_name(device: str) -> str:
    return "cpu" if device == "cpu" else torch.cuda.get_device_name(device)


def sync(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


class Timer:
    """`device` "cpu" times by the host's clock, without graphs: only to try a script out."""

    def __init__(self, device: str, replays: int = REPLAYS, warm_ups: int = WARM_UPS) -> None:
        self.device, self.replays, self.warm_ups = device, replays, warm_ups
        if device != "cpu":
            self.elsewhere = torch.rand(TIMES_L2 * l2_bytes(device) // 4, device=device)
            self.sink = torch.empty((), device=device)

    def probe(self, run: Candidate) -> float:
        """Microseconds of one eager call after a first one, launch overhead included."""
        run(0)
        sync(self.device)
        start = time.perf_counter()
        run(1)
        sync(self.device)
        return (time.perf_counter() - start) * 1e6

    def time(self, candidates: dict[str, Candidate], copies: int,
             probes: dict[str, float] | None = None) -> dict[str, Times]:
        """`probes`: what probe() said of each, if it was asked before."""
        launches = {name: launches_of(probes[name] if probes else self.probe(run))
                    for name, run in candidates.items()}
        make = self._host_replay if self.device == "cpu" else self._graph_replay
        replays = {name: make(run, launches[name], copies) for name, run in candidates.items()}
        times: dict[str, list[float]] = {name: [] for name in candidates}
        order, shuffle = list(replays), random.Random(1).shuffle
        for index in range(self.warm_ups + self.replays):
            shuffle(order)  # clocks are lower after a long kernel
            for name in order:
                us = replays[name]() / launches[name]
                if index >= self.warm_ups:
                    times[name].append(us)
        del replays
        if self.device != "cpu":
            torch.cuda.empty_cache()  # the graphs' memory
        return {name: Times(statistics.median(values), min(values), launches[name])
                for name, values in times.items()}

    def _host_replay(self, run: Candidate, launches: int, copies: int) -> Callable[[], float]:
        def replay() -> float:
            start = time.perf_counter()
            for index in range(launches):
                run(index % copies)
            return (time.perf_counter() - start) * 1e6

        return replay

    def _graph_replay(self, run: Candidate, launches: int, copies: int) -> Callable[[], float]:
        graph = torch.cuda.CUDAGraph()
        kept: deque[Any] = deque(maxlen=copies)  # outputs rotate as the inputs do
        with torch.cuda.graph(graph):
            for index in range(launches):
                kept.append(run(index % copies))
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

        def replay() -> float:
            torch.sum(self.elsewhere, dim=0, out=self.sink)
            events[0].record()
            graph.replay()
            events[1].record()
            events[1].synchronize()
            return events[0].elapsed_time(events[1]) * 1e3

        return replay


def versions(*packages: str) -> dict[str, str]:
    """Of those that are installed."""
    found = {"torch": torch.__version__}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def document(op: str, device: str, timer: Timer, rows: list[dict], **more: Any) -> dict:
    """What the JSON files of bench/results have, but for the rows' own keys. peers.sh packs the
    commit and the versions of what is no Python package there."""
    packed = Path(__file__).with_name("packed.json")
    more |= json.loads(packed.read_text()) if packed.exists() else {}
    return {"schema": 1, "op": op, "device": device_name(device),
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "command": shlex.join([Path(sys.executable).name, *sys.argv]),
            "method": f"{METHOD}{timer.replays}", **more, "rows": rows}


def write(path: Path | None, report: dict) -> None:
    """One row a line."""
    if path is None:
        return
    head = {key: value for key, value in report.items() if key != "rows"}
    rows = ",\n".join("  " + json.dumps(row) for row in report["rows"])
    path.write_text(json.dumps(head, indent=1)[:-2] + f',\n "rows": [\n{rows}\n ]\n}}\n')


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """||actual - expected|| / ||expected||; NaN where either has one."""
    expected = expected.float()
    return ((actual.float() - expected).norm() / expected.norm()).item()


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
