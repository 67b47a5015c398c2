#!/usr/bin/env python3
"""The layers of docs/architecture.md, enforced: reads every #include of the tree.

Dependencies point down only; CUDA layers are used by CUDA files alone, so that a CPU-only build is
real; a room sees another room's *_math.h, and the *_epilogue.h that it offers to operators that end in
it, and nothing else of it; no framework outside bindings/.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What a layer may include, itself aside.
BELOW = {
    "base": set(),
    "numerics": {"base"},
    "formats": {"base", "numerics"},
    "simd": {"base", "numerics", "formats"},
    "simt": {"base", "numerics", "formats"},
    "comm": {"base", "numerics", "formats", "simt"},
    "ops": {"base", "numerics", "formats", "simd", "simt", "comm"},
    "io": {"base", "numerics", "formats"},
    "checkpoint": {"base", "numerics", "formats", "ops", "io"},
    "model": {"base", "numerics", "formats", "ops", "io", "checkpoint", "comm"},
}
FRAMEWORKS = ("torch/", "ATen/", "c10/", "Python.h", "pybind11/")
SHARED_ROOM = "common"
SEEN_BY_OTHER_ROOMS = ("_math.h", "_epilogue.h")
MAX_LINES = 400
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


def is_cuda(path: pathlib.Path) -> bool:
    return path.suffix in (".cu", ".cuh")


def is_test(path: pathlib.Path) -> bool:
    return path.stem.endswith("_test") or path.stem.startswith("testing")


def check_include(path: pathlib.Path, include: str) -> str | None:
    """Why `path` may not include `include`; None if it may."""
    if include.startswith(FRAMEWORKS):
        return "a framework header outside bindings/"
    if not include.startswith("halfbyte/") or include == "halfbyte/halfbyte.h":
        return None
    parts = path.relative_to(ROOT / "halfbyte").parts
    target = include.split("/")[1:]
    layer, wanted = parts[0], target[0]
    if len(parts) == 1:
        return None  # halfbyte/version.cpp: the shared library's own
    if wanted != layer and wanted not in BELOW[layer]:
        return f"layer {layer} may not use {wanted}"
    if wanted in ("simt", "comm") and layer != wanted and not (is_cuda(path) or is_test(path)):
        return f"only *_cuda.cu* files use {wanted}"
    if layer == wanted == "ops" and not is_test(path):
        room, other = parts[1], target[1]
        if other not in (room, SHARED_ROOM) and not target[-1].endswith(SEEN_BY_OTHER_ROOMS):
            return f"room {room} may use only *_math.h and *_epilogue.h of room {other}"
    return None


def main() -> int:
    problems = []
    files = [p for p in (ROOT / "halfbyte").rglob("*")
             if p.suffix in (".h", ".hpp", ".cpp", ".cu", ".cuh")]
    for path in files:
        text = path.read_text()
        name = path.relative_to(ROOT)
        for include in INCLUDE.findall(text):
            if why := check_include(path, include):
                problems.append(f'{name}: #include "{include}": {why}')
        if (lines := text.count("\n")) > MAX_LINES:
            problems.append(f"{name}: {lines} lines, at most {MAX_LINES}")
    print("\n".join(problems) or f"layering: {len(files)} files, no violation")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
