#!/usr/bin/env python3
"""A picture of SQNR by layer from a report of `halfbyte quantize --report`.

  python3 halfbyte/checkpoint/plot_report.py REPORT.json OUT.png      (needs matplotlib)
"""

from __future__ import annotations

import json
import re
import sys


def points(layers: list) -> dict[str, list[tuple[int, float]]]:
    """Kind of layer ("self_attn.q_proj") to (number of the block, SQNR). Experts are one kind."""
    kinds: dict[str, list[tuple[int, float]]] = {}
    for position, layer in enumerate(layers):
        if layer["sqnr_db"] is None:  # exact
            continue
        name = re.sub(r"\[\d+\]$", "", layer["tensor"].removesuffix(".weight"))
        found = re.search(r"\.(\d+)\.(.*)$", name)
        number, kind = (int(found[1]), found[2]) if found else (position, name)
        kinds.setdefault(re.sub(r"experts\.\d+", "experts", kind), []).append(
            (number, layer["sqnr_db"]))
    return kinds


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    report = json.load(open(sys.argv[1]))
    kinds = points(report["layers"])
    try:
        import matplotlib
    except ImportError:
        print("plot_report.py: needs matplotlib (pip install matplotlib)", file=sys.stderr)
        return 1
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5))
    for kind, values in sorted(kinds.items()):
        values.sort()
        axes.plot(*zip(*values), marker="o", markersize=3, linewidth=1, label=kind)
    axes.set_xlabel("layer")
    axes.set_ylabel("SQNR, dB")
    mean = report["mean_sqnr_db"]
    axes.set_title(f"{report['input']}: {report['format']}, {report['convention']}"
                   + (f", mean {mean:.2f} dB" if mean is not None else ""))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    figure.tight_layout()
    figure.savefig(sys.argv[2], dpi=120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
