#!/usr/bin/env python3
"""The command line program, end to end: exit codes, messages, files, bits worked out by hand.

Run: python3 tests/cli_test.py BUILD_DIR [unittest arguments]
"""

import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import unittest

import cli_support
from cli_bench_cases import Bench  # noqa: F401 (unittest finds it here)
from cli_op_cases import OtherOperators, Quantize, Refusals  # noqa: F401 (unittest finds them here)
from cli_op_rope_cases import Rope  # noqa: F401
from cli_silu_mul_cases import SiluMul  # noqa: F401
from cli_support import DATA, USAGE, CliTest, bf16, read_tensors, unpack_f32, write_tensors


class Program(CliTest):
    def test_help_everywhere_with_an_example(self):
        for command in ([], ["quantize"], ["op"], ["bench"], ["doctor"]):
            result = self.run_program(*command, "--help")
            self.assertIn("Example:", result.stdout)

    def test_version(self):
        self.assertRegex(self.run_program("--version").stdout, r"^halfbyte \d+\.\d+\.\d+\n$")

    def test_wrong_commands(self):
        self.assertIn("got none", self.run_program(code=USAGE).stderr)
        self.assertIn("'frobnicate'", self.run_program("frobnicate", code=USAGE).stderr)
        self.assertIn("not in this build yet", self.run_program("inspect", "x", code=USAGE).stderr)
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


class Checkpoints(CliTest):
    def make(self, **extra):
        source = self.root / "in"
        source.mkdir()
        (source / "config.json").write_text('{"model_type": "llama"}')
        (source / "tokenizer.json").write_text("{}")
        layer = "model.layers.0.self_attn."
        values = [math.sin(i) for i in range(8 * 32)]
        write_tensors(source / "model.safetensors", {
            "model.embed_tokens.weight": bf16([8, 32], values),
            layer + "q_proj.weight": bf16([8, 32], values),
            layer + "k_proj.weight": bf16([8, 32], [2 * v for v in values]),
            "model.norm.weight": bf16([32], values[:32]), **extra})
        return source

    def test_quantize(self):
        source, target = self.make(), self.root / "out"
        report = json.loads(self.run_program("quantize", source, target, "--json").stdout)
        self.assertEqual(report["schema"], 1)
        self.assertEqual(report["convention"], "modelopt")
        self.assertEqual(len(report["layers"]), 2)
        self.assertEqual(len({layer["decode_scale"] for layer in report["layers"]}), 1)
        self.assertEqual(report["tensors_kept"], 2)
        self.assertGreater(report["mean_sqnr_db"], 15)
        tensors = read_tensors(target / "model.safetensors")
        q = "model.layers.0.self_attn.q_proj."
        self.assertEqual(tensors[q + "weight"][:2], ("U8", [8, 16]))
        self.assertEqual(tensors[q + "weight_scale"][:2], ("F8_E4M3", [8, 2]))
        self.assertEqual(tensors[q + "weight_scale_2"][:2], ("F32", []))
        # The operator reads back what was written, and agrees on the error.
        back = self.op("dequantize", {"codes": tensors[q + "weight"],
                                      "scales": tensors[q + "weight_scale"],
                                      "decode_scale": tensors[q + "weight_scale_2"]}, "dtype=fp32")
        source_bits = read_tensors(source / "model.safetensors")[q + "weight"][2]
        original = [struct.unpack("<f", b"\0\0" + source_bits[i:i + 2])[0]
                    for i in range(0, len(source_bits), 2)]
        worst = max(abs(a - b) for a, b in zip(unpack_f32(back["x"]), original))
        self.assertEqual(next(layer for layer in report["layers"]
                              if layer["tensor"] == q + "weight")["max_abs_error"], worst)

    def test_table(self):
        result = self.run_program("quantize", self.make(), self.root / "out", "--ignore",
                                  "*.k_proj")
        self.assertIn("SQNR dB", result.stdout)
        self.assertIn("left as it was: model.layers.0.self_attn.k_proj", result.stdout)
        self.assertIn("warning", result.stderr)
        config = json.loads((self.root / "out" / "config.json").read_text())
        self.assertIn("model.layers.0.self_attn.k_proj", config["quantization_config"]["ignore"])

    def test_existing_output(self):
        source, target = self.make(), self.root / "out"
        self.run_program("quantize", source, target)
        self.assertIn("--force", self.run_program("quantize", source, target, code=USAGE).stderr)
        self.run_program("quantize", source, target, "--force", "--format", "mxfp4")
        self.assertIn("not quantized",
                      self.run_program("quantize", target, self.root / "two", code=DATA).stderr)
        self.assertEqual(sorted(p.name for p in self.root.iterdir()), ["in", "out"])

    def test_nothing_is_left_after_an_error(self):
        source = self.make(**{"a.down_proj.weight": bf16([1, 32], [math.nan] * 32)})
        result = self.run_program("quantize", source, self.root / "out", code=DATA)
        self.assertIn("a.down_proj.weight", result.stderr)
        self.assertIn("NaN", result.stderr)
        self.assertEqual([p.name for p in self.root.iterdir()], ["in"])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: cli_test.py BUILD_DIR [unittest arguments]")
    path = pathlib.Path(sys.argv.pop(1)).resolve() / "bin" / "halfbyte"
    if not path.exists():
        sys.exit(f"{path}: not built")
    cli_support.set_program(path)
    unittest.main()
