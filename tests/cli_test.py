#!/usr/bin/env python3
"""The command line program, end to end: exit codes, messages, files, bits worked out by hand.

Run: python3 tests/cli_test.py BUILD_DIR [unittest arguments]
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import unittest

import cli_support
from cli_op_cases import OtherOperators, Quantize, Refusals  # noqa: F401 (unittest finds them here)
from cli_support import DATA, USAGE, CliTest, bf16, write_tensors


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


class Bench(CliTest):
    def test_shapes(self):
        target = self.root / "figures.json"
        result = self.run_program("bench", "rmsnorm_quantize", "-j", "1", "--shapes", "1x64,3x128",
                                  "--residual", "--layout", "128x4", "--json", target)
        self.assertIn("bits equal", result.stdout)
        report = json.loads(target.read_text())
        self.assertEqual(report["schema"], 1)
        self.assertEqual([(r["m"], r["h"]) for r in report["rows"]], [(1, 64), (3, 128)])
        for row in report["rows"]:
            self.assertTrue(row["bits_equal"] and row["checked_reference"])
            self.assertGreater(row["fused_us"], 0)
            self.assertAlmostEqual(row["ratio"], row["fused_us"] / row["floor_us"])
        # x, weight and residual read; codes, padded scales and residual written.
        self.assertEqual(report["rows"][0]["bytes"], 128 + 128 + 128 + 32 + 512 + 128)

    def test_formats_and_shape_file(self):
        shapes = self.root / "shapes.json"
        shapes.write_text('{"rmsnorm_quantize": ["2x64", [1, 32]]}')
        for given, form, names in ((shapes, "mxfp4", ["2x64", "1x32"]), ("1x8", "fp8", ["1x8"])):
            result = self.run_program("bench", "rmsnorm_quantize", "-j", "1", "--shapes", given,
                                      "--format", form, "--dtype", "fp32", "--json", "-")
            rows = json.loads(result.stdout)["rows"]
            self.assertEqual([row["name"] for row in rows], names)
            self.assertTrue(all(row["bits_equal"] for row in rows))

    def test_model(self):
        values = [math.sin(i) for i in range(4 * 32)]
        x = bf16([4, 32], values)
        write_tensors(self.root / "model.safetensors",
                      {f"l.{i}.norm.weight": bf16([32], values[:32]) for i in (2, 10)})
        write_tensors(self.root / "activations.safetensors",
                      {"l.10.norm.input": x, "l.10.norm.x": x, "l.10.norm.residual": x,
                       "l.2.norm.input": x})
        result = self.run_program("bench", "rmsnorm_quantize", "-j", "1", "--model", self.root,
                                  "--json", "-")
        rows = json.loads(result.stdout)["rows"]
        self.assertEqual([(r["name"], r["residual"]) for r in rows],
                         [("l.2.norm", False), ("l.10.norm", True)])
        self.assertTrue(all(r["bits_equal"] for r in rows))

    def test_refusals(self):
        for args, says in ((["gemm"], "'gemm'"),
                           (["rmsnorm_quantize", "--shapes", "16"], "--shapes"),
                           (["rmsnorm_quantize", "--shapes", "0x16"], "--shapes"),
                           (["rmsnorm_quantize", "--shapes", "1x17"], "17"),
                           (["rmsnorm_quantize", "--dtype", "int8"], "int8"),
                           (["rmsnorm_quantize", "--model", "m", "--residual"], "--residual")):
            self.assertIn(says, self.run_program("bench", *args, code=USAGE).stderr)
        result = self.run_program("bench", "rmsnorm_quantize", "--model", self.root, code=DATA)
        self.assertIn("model.safetensors", result.stderr)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: cli_test.py BUILD_DIR [unittest arguments]")
    path = pathlib.Path(sys.argv.pop(1)).resolve() / "bin" / "halfbyte"
    if not path.exists():
        sys.exit(f"{path}: not built")
    cli_support.set_program(path)
    unittest.main()
