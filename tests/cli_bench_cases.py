"""Cases of `halfbyte bench` for cli_test.py: what it accepts, checks and writes; never how fast."""

import json
import math

from cli_support import DATA, USAGE, CliTest, bf16, write_tensors

# Every operator of bench, with the rows of options that reach its kinds of tensors.
OPERATORS = {
    "quantize": [[], ["--format", "mxfp4", "--layout", "8x4", "--second-layout", "linear"],
                 ["--format", "fp8"], ["--format", "fp8", "--scale", "row"],
                 ["--scale", "computed", "--layout", "128x4"], ["--scale", "row"]],
    "dequantize": [[], ["--format", "mxfp4", "--layout", "128x4"], ["--format", "fp8"]],
    "amax": [[], ["--per", "row"]],
    "rmsnorm": [[], ["--residual"]],
    "rmsnorm_quantize": [[], ["--residual", "--normed", "--scale", "row", "--second-layout", "8x4"],
                         ["--scale", "computed"], ["--format", "fp8"]],
    "silu_mul": [[], ["--interleave", "8"]],
    "silu_mul_quantize": [[], ["--interleave", "1", "--scale", "row", "--layout", "128x4"],
                          ["--format", "mxfp4"]],
    "rope": [[], ["--head-dim", "32", "--style", "gptj"], ["--dtype", "fp16"]],
    "gemm": [[], ["--format", "mxfp4", "--weights", "prepared"], ["--layout", "8x4", "--dtype", "fp32"],
             ["--activations", "16bit", "--weights", "prepared", "--plan", "exact"]],
    "gemm_silu_mul_quantize": [[], ["--format", "mxfp4", "--weights", "prepared", "--interleave", "8"],
                               ["--format", "fp8", "--scale", "row", "--activations", "16bit"],
                               ["--scale", "computed", "--layout", "128x4", "--dtype", "fp32"]],
}
# They have an unfused path.
FUSED = {"rmsnorm_quantize", "silu_mul_quantize", "gemm_silu_mul_quantize"}
PRODUCTS = {"gemm": "3x5x64", "gemm_silu_mul_quantize": "3x64x64"}

ROW_FIELDS = {"name", "m", "h", "k", "activations", "weights", "plan", "dtype", "residual", "backend", "cpu_level", "threads", "format",
              "layout", "second_layout", "scale", "normed", "head_dim", "style", "interleave",
              "per", "fused_us", "unfused_us", "floor_us", "fused_min_us", "unfused_min_us",
              "floor_min_us", "floor", "ratio", "ratio_min", "bytes", "bytes_read",
              "bytes_written", "gb_per_s", "bits_equal", "checked_reference", "rows_referenced"}


class Bench(CliTest):
    def bench(self, *args):
        return json.loads(self.run_program("bench", *args, "-j", "1", "--json", "-").stdout)

    def test_every_operator(self):
        help_text = self.run_program("bench", "--help").stdout
        for operator, cases in OPERATORS.items():
            self.assertIn(operator, help_text)
            for options in cases:
                with self.subTest(operator=operator, options=options):
                    shape = PRODUCTS.get(operator, "3x64")
                    report = self.bench(operator, "--shapes", shape, *options)
                    self.assertEqual(report["op"], operator)
                    (row,) = report["rows"]
                    self.assertEqual(set(row), ROW_FIELDS)
                    self.assertTrue(row["bits_equal"] and row["checked_reference"])
                    self.assertEqual(row["unfused_us"] is not None, operator in FUSED)
                    self.assertEqual(row["threads"], 1)
                    self.assertTrue(row["floor"].startswith("1 thread,"))  # -j holds for it too
                    for name in ("fused", "floor", *(["unfused"] if operator in FUSED else [])):
                        self.assertGreater(row[name + "_min_us"], 0)
                        self.assertLessEqual(row[name + "_min_us"], row[name + "_us"])
                    self.assertEqual(row["bytes"], row["bytes_read"] + row["bytes_written"])
                    self.assertAlmostEqual(row["gb_per_s"], row["bytes"] / row["fused_us"] / 1e3)

    def test_bytes(self):
        # What must be read and written, worked out by hand for M = 3, H = 64 (4 scales a row).
        for args, read, written in (
                (["quantize"], 384, 96 + 12),
                (["quantize", "--layout", "128x4", "--second-layout", "8x4"], 384, 96 + 512 + 32),
                (["quantize", "--scale", "computed", "--dtype", "fp32"], 768, 96 + 12 + 8),
                (["dequantize", "--layout", "128x4"], 96 + 12, 384),  # padding need not be read
                (["amax", "--per", "row"], 384, 12),
                (["rmsnorm", "--residual"], 2 * 384 + 128, 2 * 384),
                (["rmsnorm_quantize", "--format", "fp8", "--scale", "row", "--normed"],
                 384 + 128, 384 + 192 + 12),
                # x in place, a position and a row of each table a token
                (["rope", "--head-dim", "16"], 384 + 12 + 2 * 3 * 8 * 4, 384),
                # weights and activation, 5 columns of c
                (["gemm"], 5 * (32 + 4) + 3 * (32 + 4), 3 * 5 * 2),
                (["gemm", "--weights", "prepared", "--activations", "16bit"], 1152 + 384, 30),
                # 32 columns of y: codes and two scales a row
                (["gemm_silu_mul_quantize"], 64 * (32 + 4) + 3 * (32 + 4), 3 * (16 + 2)),
                (["silu_mul"], 768, 384),
                (["silu_mul_quantize", "--interleave", "8"], 768, 96 + 12)):
            (row,) = self.bench(*args, "--shapes", PRODUCTS.get(args[0], "3x64"))["rows"]
            self.assertEqual((row["bytes_read"], row["bytes_written"]), (read, written), args)

    def test_report(self):
        target = self.root / "figures.json"
        result = self.run_program("bench", "rmsnorm_quantize", "-j", "1", "--shapes", "1x64,3x128",
                                  "--residual", "--layout", "128x4", "--json", target)
        self.assertIn("bits equal", result.stdout)
        report = json.loads(target.read_text())
        self.assertEqual(report["schema"], 1)
        for field in ("halfbyte", "device", "method"):
            self.assertTrue(report[field])
        self.assertRegex(report["date"], r"^\d{4}-\d\d-\d\d$")
        self.assertIn("bench rmsnorm_quantize -j 1 --shapes 1x64,3x128", report["command"])
        self.assertEqual([(r["m"], r["h"]) for r in report["rows"]], [(1, 64), (3, 128)])
        for row in report["rows"]:
            self.assertTrue(row["bits_equal"] and row["checked_reference"])
            self.assertAlmostEqual(row["ratio"], row["fused_us"] / row["floor_us"])
        # x, weight and residual read; codes, padded scales and residual written.
        self.assertEqual(report["rows"][0]["bytes"], 128 + 128 + 128 + 32 + 512 + 128)

    def test_first_rows_of_a_large_tensor_are_referenced(self):
        (row,) = self.bench("amax", "--per", "row", "--shapes", "2049x512")["rows"]
        self.assertEqual((row["rows_referenced"], row["checked_reference"]), (2048, False))
        self.assertTrue(row["bits_equal"])

    def test_levels_and_backends(self):
        levels = json.loads(self.run_program("doctor", "--json").stdout)["cpu"]["levels"]
        for level in levels:
            (row,) = self.bench("amax", "--shapes", "2x64", "--cpu-level", level)["rows"]
            self.assertEqual((row["cpu_level"], row["backend"]), (level, "cpu"))
        (row,) = self.bench("rmsnorm_quantize", "--shapes", "2x64", "--backend", "ref")["rows"]
        self.assertEqual((row["cpu_level"], row["backend"]), (None, "ref"))

    def test_shape_files(self):
        shapes = self.root / "shapes.json"
        shapes.write_text('{"rmsnorm_quantize": ["2x64", [1, 32]],'
                          ' "shapes": {"m": [1, 2], "h": [32, 64]}}')
        for operator, given, form, names in (
                ("rmsnorm_quantize", shapes, "mxfp4", ["2x64", "1x32"]),
                ("quantize", shapes, "nvfp4", ["1x32", "1x64", "2x32", "2x64"]),
                ("rmsnorm_quantize", "1x8", "fp8", ["1x8"])):
            rows = self.bench(operator, "--shapes", given, "--format", form,
                              "--dtype", "fp32")["rows"]
            self.assertEqual([row["name"] for row in rows], names)
            self.assertTrue(all(row["bits_equal"] for row in rows))
        for text in ("{}", "[]", '["1y2"]', '[[1, 0]]', '{"m": [1], "h": ["x"]}', "no JSON"):
            shapes.write_text(text)
            result = self.run_program("bench", "amax", "--shapes", shapes, code=DATA)
            self.assertIn("shapes.json", result.stderr)

    def test_model(self):
        values = [math.sin(i) for i in range(4 * 32)]
        x = bf16([4, 32], values)
        write_tensors(self.root / "model.safetensors",
                      {f"l.{i}.norm.weight": bf16([32], values[:32]) for i in (2, 10)})
        write_tensors(self.root / "activations.safetensors",
                      {"l.10.norm.input": x, "l.10.norm.x": x, "l.10.norm.residual": x,
                       "l.2.norm.input": x})
        for operator in ("rmsnorm_quantize", "rmsnorm"):
            rows = self.bench(operator, "--model", self.root)["rows"]
            self.assertEqual([(r["name"], r["residual"]) for r in rows],
                             [("l.2.norm", False), ("l.10.norm", True)])
            self.assertTrue(all(r["bits_equal"] for r in rows))

    def test_explain(self):
        run = self.run_program("bench", "gemm", "--explain", "--shapes", "1x16x64,3x32x64")
        self.assertEqual([line.split(":")[0] for line in run.stdout.splitlines()], ["1x16x64", "3x32x64"])
        self.assertIn("exact", run.stdout)

    def test_refusals(self):
        for args, says in ((["rmsnorm", "--explain"], "--explain"), (["relu"], "'relu'"),
                           (["gemm", "--shapes", "1x4096"], "MxNxK"),
                           (["gemm", "--shapes", "1x16x8"], "columns"),
                           (["gemm", "--plan", "fp8", "--shapes", "1x16x16"], "method"),
                           (["amax", "--shapes", "1x16x16"], "MxH"),
                           (["amax", "--weights", "plain"], "--weights"),
                           (["rmsnorm_quantize", "--shapes", "16"], "--shapes"),
                           (["rmsnorm_quantize", "--shapes", ""], "--shapes"),
                           (["rmsnorm_quantize", "--shapes", "0x16"], "--shapes"),
                           (["rmsnorm_quantize", "--shapes", "1x17"], "17"),
                           (["rmsnorm_quantize", "--dtype", "int8"], "int8"),
                           (["rmsnorm_quantize", "--model", "m", "--residual"], "--residual"),
                           (["amax", "--layout", "8x4"], "--layout"),
                           (["quantize", "--residual"], "--residual"),
                           (["quantize", "--format", "mxfp4", "--scale", "row"], "mxfp4"),
                           (["quantize", "--model", "m"], "--model"),
                           (["rope", "--shapes", "1x64", "--head-dim", "24"], "--head-dim"),
                           (["silu_mul", "--interleave", "2"], "--interleave"),
                           (["amax", "--cpu-level", "v9"], "'v9'"),
                           (["amax", "--backend", "ref", "--cpu-level", "v3"], "--cpu-level")):
            self.assertIn(says, self.run_program("bench", *args, code=USAGE).stderr)
        result = self.run_program("bench", "rmsnorm_quantize", "--model", self.root, code=DATA)
        self.assertIn("model.safetensors", result.stderr)
