#!/usr/bin/env python3
"""Runs clang-tidy over the C++ sources of the tree, as many at once as there are processors.

    cmake/run_clang_tidy.py BUILD [--quick]    a configured build folder, for its compile_commands.json

--quick leaves out the path analysis (clang-analyzer-*), half of the time, the program and the tests'
support.

A *_cpu.cpp is compiled once a CPU level; one of its commands is enough.
"""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# GoogleTest's macros trip several checks.
SKIPPED = ("_test.cpp", "testing.cpp")
NOT_QUICK = ("/apps/", "/tests/", "/testing_")


def main() -> int:
    build = pathlib.Path(sys.argv[1]).resolve()
    quick = "--quick" in sys.argv[2:]
    checks = ["--checks=-clang-analyzer-*"] if quick else []
    commands = json.loads((build / "compile_commands.json").read_text())
    sources = sorted({c["file"] for c in commands
                      if c["file"].startswith(str(ROOT)) and c["file"].endswith(".cpp")
                      and not c["file"].endswith(SKIPPED)
                      and not (quick and any(part in c["file"] for part in NOT_QUICK))})

    def tidy(source: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["clang-tidy", "-p", str(build), "--quiet", *checks, source],
                              capture_output=True, text=True, check=False)

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for source, result in zip(sources, pool.map(tidy, sources)):
            if result.returncode != 0:
                failed += 1
                print(f"{os.path.relpath(source, ROOT)}\n{result.stdout}{result.stderr}")
    print(f"clang-tidy: {len(sources)} files, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
