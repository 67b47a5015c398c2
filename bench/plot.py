#!/usr/bin/env python3
"""Draws the roofline picture of results that `halfbyte bench --json` wrote.

    python3 bench/plot.py bench/results/*_nvidia-h200.json -o roofline.png

Left: the speed in GB/s over the bytes that the operator must move, below the streaming floor of the
same runs. Right: the ratio to that floor over M (over H where all rows have one M). A line is one
operator with its options at one H; several files may be given, of one device or of several.

Needs matplotlib. Exit code 2 for a file that is not a result.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple


class Point(NamedTuple):
    group: str  # operator and options
    m: int
    h: int
    bytes: int
    gb_per_s: float
    floor_gb_per_s: float
    ratio: float


class Result(NamedTuple):
    device: str
    date: str
    points: list[Point]


class NotAResult(Exception):
    pass


def group_of(row: dict, report: dict) -> str:
    """What tells lines apart beside H; what all of them share is left out later."""
    def value(key: str):
        return row.get(key, report.get(key))

    words = [report.get("op", "?")]
    if row.get("residual"):
        words.append("+ residual")
    if row.get("normed"):
        words.append("+ normed")
    for key in ("dtype", "format", "layout", "second_layout", "scale", "head_dim", "style",
                "interleave", "per"):
        if value(key) is not None:
            words.append(f"{key.replace('_', ' ')}={value(key)}")
    backend = "cpu" if value("backend") == "auto" else value("backend")
    if backend == "cuda":
        words.append("backend=cuda")
    else:
        words += [f"backend={backend}", f"level={value('cpu_level')}",
                  f"threads={value('threads')}"]
    return "\0".join(words)


def load(path: Path) -> Result:
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise NotAResult(f"{path}: {error}") from None
    if not isinstance(report, dict) or report.get("schema") != 1 or "rows" not in report:
        raise NotAResult(f'{path}: expected the JSON of `halfbyte bench --json` ("schema": 1, rows)')
    points = []
    try:
        for row in report["rows"]:
            if row.get("floor_us") is None or row.get("fused_us") is None:
                continue
            points.append(Point(group_of(row, report), row["m"], row["h"], row["bytes"],
                                row["bytes"] / row["fused_us"] / 1e3,
                                row["bytes"] / row["floor_us"] / 1e3,
                                row["fused_us"] / row["floor_us"]))
    except (KeyError, TypeError) as error:
        raise NotAResult(f"{path}: a row without {error}") from None
    # Older files have neither field: their names do, DATE_what_device.json.
    words = path.stem.split("_")
    return Result(report.get("device") or words[-1], report.get("date") or words[0], points)


def short_names(groups: list[str]) -> dict[str, str]:
    """Names without the words that all groups share; the operator stays."""
    split = {group: group.split("\0") for group in groups}
    shared = set.intersection(*(set(words) for words in split.values()))
    names = {}
    for group, words in split.items():
        own = [word for word in words[1:] if word not in shared]
        names[group] = " ".join([words[0], *own])
    return names


def shared_words(groups: list[str]) -> str:
    split = [group.split("\0") for group in groups]
    return ", ".join(word.removeprefix("+ ") for word in split[0][1:]
                     if all(word in words for words in split))


def best_by_bytes(points: list[Point]) -> tuple[list[int], list[float]]:
    """The floor: of shapes with (nearly) the same bytes, the fastest."""
    bins: dict[int, Point] = {}
    for point in points:
        key = round(len(bin(point.bytes)) * 4 + point.bytes / (1 << point.bytes.bit_length()) * 4)
        if key not in bins or bins[key].floor_gb_per_s < point.floor_gb_per_s:
            bins[key] = point
    best = sorted(bins.values(), key=lambda point: point.bytes)
    return [point.bytes for point in best], [point.floor_gb_per_s for point in best]


def bytes_label(value: float, _position: int = 0) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:g} {unit}"
    return f"{value:g} B"


def draw(results: list[Result], out: Path, title: str | None) -> None:
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, ScalarFormatter

    points = [point for result in results for point in result.points]
    groups = list(dict.fromkeys(point.group for point in points))
    names = short_names(groups)
    widths = sorted({point.h for point in points})
    over_m = len({point.m for point in points}) > 1
    # Colour says H, line style and marker say the operator.
    colours = pyplot.get_cmap("viridis")
    colour = {h: colours(0.05 + 0.85 * i / max(1, len(widths) - 1)) for i, h in enumerate(widths)}
    styles = [("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"), ((0, (5, 1)), "v"),
              ((0, (1, 1)), "P"), ((0, (3, 1, 1, 1)), "X"), ((0, (7, 2)), "*")]
    style = {group: styles[i % len(styles)] for i, group in enumerate(groups)}

    pyplot.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
                            "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.7,
                            "axes.axisbelow": True, "axes.edgecolor": "#888888"})
    figure, (speed, ratio) = pyplot.subplots(1, 2, figsize=(13, 5.6), layout="constrained")

    series: dict[tuple[str, int], list[Point]] = defaultdict(list)
    for point in points:
        series[point.group, point.h].append(point)

    # Operators differ in what they read and write, so each has its own floor.
    for group in groups:
        floor_x, floor_y = best_by_bytes([point for point in points if point.group == group])
        speed.plot(floor_x, floor_y, color="#c0392b", linestyle=style[group][0], linewidth=2.2,
                   marker="_" if len(floor_x) == 1 else None, markersize=14, zorder=4)
    ratio.axhline(1, color="#c0392b", linewidth=2.2, zorder=4)

    # With one M a line joins different H: it is the operator's, in grey, and H colours its points.
    for group in groups:
        line, marker = style[group]
        of_group = [(h, series[group, h]) for h in widths if (group, h) in series]
        if not over_m:
            joined = [point for _, some in of_group for point in some]
            speed.plot([p.bytes for p in joined], [p.gb_per_s for p in joined], linestyle=line,
                       color="#999999", linewidth=1.2)
            ratio.plot([p.h for p in joined], [p.ratio for p in joined], linestyle=line,
                       color="#999999", linewidth=1.2)
        for h, some in of_group:
            look = {"linestyle": line if over_m else "none", "marker": marker, "markersize": 4.5,
                    "linewidth": 1.4, "color": colour[h], "zorder": 3}
            some = sorted(some, key=lambda point: point.m)
            speed.plot([p.bytes for p in some], [p.gb_per_s for p in some], **look)
            ratio.plot([p.m if over_m else p.h for p in some], [p.ratio for p in some], **look)

    speed.set(xscale="log", xlabel="bytes that must be read and written", ylabel="GB/s",
              title="Speed under the streaming floor")
    most, least = max(p.bytes for p in points), min(p.bytes for p in points)
    speed.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if most < 100 * least else (1,)))
    speed.xaxis.set_major_formatter(FuncFormatter(bytes_label))
    speed.xaxis.set_minor_formatter(NullFormatter())
    slow, fast = min(p.gb_per_s for p in points), max(p.floor_gb_per_s for p in points)
    if fast / slow > 30:
        speed.set_yscale("log")
        speed.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        speed.set_ylim(bottom=0)
    ratio.set(xlabel="M (rows)" if over_m else "H (columns)", ylabel="time / floor time",
              title="Ratio to the floor (1 is the limit)", xscale="log")
    values = sorted({p.m for p in points}) if over_m else widths
    if len(values) <= 8:
        ratio.set_xticks(values, [str(value) for value in values])
    else:
        ratio.xaxis.set_major_locator(LogLocator(base=4))
        ratio.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ratio.xaxis.set_minor_formatter(NullFormatter())
    highest = max(p.ratio for p in points)
    if highest > 12:
        ratio.set_yscale("log")
        ratio.yaxis.set_major_formatter(ScalarFormatter())
        ratio.yaxis.set_minor_formatter(NullFormatter())
        ratio.set_yticks([t for t in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
                          if t <= highest * 1.3])
    else:
        ratio.set_ylim(bottom=0)

    floor = "streaming floor" + (" of each" if len(groups) > 1 else "")
    handles = [Line2D([], [], color="#c0392b", linewidth=2.2, label=floor)]
    handles += [Line2D([], [], color="#555555", linestyle=style[g][0], marker=style[g][1],
                       markersize=4.5, label=names[g]) for g in groups]
    handles += [Line2D([], [], color=colour[h], linewidth=4, label=f"H = {h}") for h in widths]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)

    devices = ", ".join(dict.fromkeys(result.device for result in results))
    dates = ", ".join(sorted({result.date for result in results}))
    # At the left: the legend has the right.
    figure.suptitle(title or f"{devices}, {dates}", fontsize=13, fontweight="bold", x=0.01, ha="left")
    if words := shared_words(groups):
        figure.supxlabel(words, fontsize=9, color="#666666")
    figure.savefig(out, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", nargs="+", type=Path, help="JSON files of halfbyte bench")
    parser.add_argument("-o", "--out", required=True, type=Path, help="PNG, SVG or PDF to write")
    parser.add_argument("--title", help="default: devices and dates")
    arguments = parser.parse_args()
    try:
        results = [load(path) for path in arguments.results]
    except NotAResult as error:
        print(f"plot.py: {error}", file=sys.stderr)
        return 2
    if not any(result.points for result in results):
        print("plot.py: no row has a floor", file=sys.stderr)
        return 2
    draw(results, arguments.out, arguments.title)
    return 0


if __name__ == "__main__":
    sys.exit(main())
