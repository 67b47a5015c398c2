#!/usr/bin/env python3
"""The command line program, end to end: exit codes, messages, files, bits worked out by hand.

Run: python3 tests/cli_test.py BUILD_DIR [unittest arguments]
"""

import json
import os
import pathlib
import subprocess
import sys
import unittest

import cli_support
from cli_bench_cases import Bench  # noqa: F401 (unittest finds it here)
from cli_gemm_cases import Gemm  # noqa: F401
from cli_gemm_silu_mul_cases import GemmSiluMul  # noqa: F401
from cli_op_cases import OtherOperators, Quantize, Refusals  # noqa: F401 (unittest finds them here)
from cli_op_rope_cases import Rope  # noqa: F401
from cli_silu_mul_cases import SiluMul  # noqa: F401
from cli_support import DATA, USAGE, CliTest


class Program(CliTest):
    def test_help_everywhere_with_an_example(self):
        for command in ([], ["quantize"], ["dequantize"], ["convert"], ["inspect"], ["compare"], ["op"],
                        ["bench"], ["doctor"]):
            result = self.run_program(*command, "--help")
            self.assertIn("Example:", result.stdout)

    def test_version(self):
        self.assertRegex(self.run_program("--version").stdout, r"^halfbyte \d+\.\d+\.\d+\n$")

    def test_wrong_commands(self):
        self.assertIn("got none", self.run_program(code=USAGE).stderr)
        self.assertIn("'frobnicate'", self.run_program("frobnicate", code=USAGE).stderr)
        self.run_program("doctor", "--frobnicate", code=USAGE)

    def test_doctor(self):
        self.assertIn("level", self.run_program("doctor").stdout)
        report = json.loads(self.run_program("doctor", "--json").stdout)
        self.assertEqual(report["schema"], 1)
        self.assertIn(report["cpu"]["level"], report["cpu"]["levels"])
        self.assertEqual(report["cpu"]["levels"][0], "reference")
        self.assertEqual(report["cpu"]["threads"], 2)
        self.assertEqual(report["cuda"]["found"], bool(report["cuda"]["devices"]))
        self.assertEqual(report["cuda"]["found"], report["cuda"]["reason"] is None)
        self.assertEqual(set(report["libraries"]), {"cuBLASLt", "NCCL"})

    def test_doctor_level(self):
        result = self.run_program("doctor", env={"HALFBYTE_CPU_LEVEL": "reference"})
        self.assertIn("level reference", result.stdout)
        result = self.run_program("doctor", env={"HALFBYTE_CPU_LEVEL": "v9"})
        self.assertIn("HALFBYTE_CPU_LEVEL=v9 is ignored", result.stderr)

    def test_full_disk_is_an_error(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("no /dev/full")
        with open("/dev/full", "w") as full:
            result = subprocess.run([cli_support.program(), "doctor"], stdout=full,
                                    stderr=subprocess.PIPE)
        self.assertEqual(result.returncode, DATA)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: cli_test.py BUILD_DIR [unittest arguments]")
    path = pathlib.Path(sys.argv.pop(1)).resolve() / "bin" / "halfbyte"
    if not path.exists():
        sys.exit(f"{path}: not built")
    cli_support.set_program(path)
    unittest.main()
