"""`halfbyte op`: bits worked out by hand, and what is refused. Run by cli_test.py."""

import json
import math
import struct

from cli_support import (DATA, USAGE, CliTest, bf16, f32, floats, u8, unpack_f32,
                         write_tensors)

# amax 6 and g = 1: S = E4M3(6 * fl(1/6)) = 1.0, r = 1, so a code is the nearest E2M1 of x itself.
BLOCK = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.5, -1, -1.5, -2, -3, -4, -6, 0.25]
BLOCK_CODES = bytes([0x10, 0x32, 0x54, 0x76, 0xA9, 0xCB, 0xED, 0x0F])
ONE_E4M3 = 0x38


class Quantize(CliTest):
    def test_nvfp4_by_hand(self):
        out = self.op("quantize", {"x": floats([BLOCK])})
        self.assertEqual(set(out), {"codes", "scales"})
        self.assertEqual(out["codes"], ("U8", [1, 8], BLOCK_CODES))
        self.assertEqual(out["scales"], ("U8", [1], bytes([ONE_E4M3])))

    def test_every_backend_gives_the_same(self):
        for backend in ("auto", "ref", "cpu"):
            if backend == "cpu" and self.level() == "reference":
                continue
            out = self.op("quantize", {"x": floats([BLOCK])}, extra=["--backend", backend])
            self.assertEqual(out["codes"][2], BLOCK_CODES)

    def level(self):
        return json.loads(self.run_program("doctor", "--json").stdout)["cpu"]["level"]

    def test_leading_dimensions_fold(self):
        x = ("F32", [3, 2, 16], struct.pack("<96f", *(BLOCK * 6)))
        out = self.op("quantize", {"x": x})
        self.assertEqual(out["codes"], ("U8", [6, 8], BLOCK_CODES * 6))

    def test_global_scale_of_any_shape_of_one(self):
        for scale in (f32(1.0), ("F32", [], struct.pack("<f", 1.0)), f32(1.0, 1.0)):
            out = self.op("quantize", {"x": floats([BLOCK, BLOCK]), "global_scale": scale})
            self.assertEqual(out["codes"][2], BLOCK_CODES * 2)

    def test_layouts_and_their_padding(self):
        out = self.op("quantize", {"x": floats([BLOCK * 5] * 3)}, "layout=128x4",
                      "second_layout=8x4")
        self.assertEqual((len(out["scales"][2]), out["scales"][1]), (1024, [1024]))
        self.assertEqual(out["scales_second"][1], [64])
        for tensor, tile, row_bytes in ((out["scales"][2], 512, 16),
                                        (out["scales_second"][2], 32, 4)):
            expected = bytearray(2 * tile)
            for row in range(3):
                for k in range(5):
                    expected[k // 4 * tile + row * row_bytes + k % 4] = ONE_E4M3
            self.assertEqual(tensor, bytes(expected))

    def test_row_scale(self):
        out = self.op("quantize", {"x": floats([BLOCK, [2 * v for v in BLOCK]])}, "scale=row")
        self.assertEqual(set(out), {"codes", "scales", "row_scale"})
        d = [struct.unpack("<f", struct.pack("<f", a / 2688))[0] for a in (6, 12)]
        self.assertEqual(unpack_f32(out["row_scale"]), d)
        self.assertEqual(out["scales"][2], bytes([0x7E, 0x7E]))  # 448, the largest
        self.assertEqual(out["codes"][2], BLOCK_CODES * 2)

    def test_computed_scale(self):
        out = self.op("quantize", {"x": floats([BLOCK])}, "scale=computed")
        self.assertEqual(set(out), {"codes", "scales", "global_scale", "decode_scale"})
        self.assertEqual(unpack_f32(out["global_scale"]), [448.0])

    def test_mxfp4(self):
        out = self.op("quantize", {"x": floats([BLOCK * 2])}, "format=mxfp4")
        self.assertEqual(out["codes"][2], BLOCK_CODES * 2)
        self.assertEqual(out["scales"][2], bytes([127]))  # 2^0 >= 6 * fl(1/6)
        out = self.op("quantize", {"x": floats([[8.0] * 32])}, "format=mxfp4", "mx_rule=ocp_floor")
        self.assertEqual(out["scales"][2], bytes([128]))  # floor(log2 8) - 2 = 1

    def test_fp8(self):
        x = floats([[448.0, 1.0, -1.0, 0.0]])
        out = self.op("quantize", {"x": x, "decode_scale": f32(1.0)}, "format=fp8")
        self.assertEqual(out, {"codes": ("U8", [1, 4], bytes([0x7E, 0x38, 0xB8, 0]))})
        out = self.op("quantize", {"x": x}, "format=fp8", "scale=row")
        self.assertEqual(set(out), {"codes", "row_scale"})

    def test_no_rows(self):
        out = self.op("quantize", {"x": ("BF16", [0, 32], b"")}, "scale=row", "layout=128x4")
        self.assertEqual({name: t[1] for name, t in out.items()},
                         {"codes": [0, 16], "scales": [0], "row_scale": [0]})

    def test_report(self):
        write_tensors(self.root / "in.safetensors", {"x": floats([BLOCK])})
        result = self.run_program("op", "quantize", "--in", self.root / "in.safetensors", "--out",
                                  self.root / "out.safetensors", "--json")
        report = json.loads(result.stdout)
        self.assertEqual(report["schema"], 1)
        self.assertEqual([o["name"] for o in report["outputs"]], ["codes", "scales"])


class OtherOperators(CliTest):
    def test_dequantize_by_hand(self):
        codes, scales = u8([1, 8], BLOCK_CODES), u8([1], [ONE_E4M3])
        expected = BLOCK[:-1] + [0.0]  # 0.25 is a tie and went to 0
        out = self.op("dequantize", {"codes": codes, "scales": scales}, "dtype=fp32")
        self.assertEqual(out["x"][:2], ("F32", [1, 16]))
        self.assertEqual(unpack_f32(out["x"]), expected)
        for name, value in (("global_scale", 2.0), ("decode_scale", 0.5), ("row_scale", 0.5)):
            tensors = {"codes": codes, "scales": ("F8_E4M3", [1, 1], scales[2]), name: f32(value)}
            out = self.op("dequantize", tensors, "dtype=fp32")
            self.assertEqual(unpack_f32(out["x"]), [v / 2 for v in expected])
        out = self.op("dequantize", {"codes": codes, "scales": scales})
        self.assertEqual(out["x"], bf16([1, 16], expected))

    def test_dequantize_hidden_by_padding(self):
        codes = u8([2, 16], (BLOCK_CODES + bytes(8)) * 2)
        scales = bytearray(512)
        scales[0] = ONE_E4M3
        out = self.op("dequantize", {"codes": codes, "scales": u8([512], scales)}, "rows=1",
                      "columns=16", "layout=128x4", "dtype=fp32")
        self.assertEqual(unpack_f32(out["x"]), BLOCK[:-1] + [0.0])
        self.op("dequantize", {"codes": codes, "scales": u8([512], scales)}, "rows=3", code=USAGE,
                says=["--set rows"])
        self.op("dequantize", {"codes": codes, "scales": u8([512], scales)}, "columns=48",
                code=USAGE, says=["--set columns"])

    def test_dequantize_fp8(self):
        codes = ("F8_E4M3", [1, 4], bytes([0x7E, 0x38, 0xB8, 0]))
        out = self.op("dequantize", {"codes": codes, "decode_scale": f32(0.5)}, "format=fp8",
                      "dtype=fp32")
        self.assertEqual(unpack_f32(out["x"]), [224.0, 0.5, -0.5, 0.0])

    def test_dequantize_takes_one_scale(self):
        self.op("dequantize", {"codes": u8([1, 8], BLOCK_CODES), "scales": u8([1], [56]),
                               "global_scale": f32(1), "decode_scale": f32(1)},
                code=USAGE, says=["global_scale", "decode_scale"])

    def test_amax(self):
        x = floats([[1, -3, 2, 0], [0.5, 0, 0, -0.25]])
        self.assertEqual(unpack_f32(self.op("amax", {"x": x})["amax"]), [3])
        self.assertEqual(unpack_f32(self.op("amax", {"x": x}, "per=row")["amax"]), [3, 0.5])
        nan = floats([[1, math.nan, 2, 0]])
        self.assertTrue(math.isnan(unpack_f32(self.op("amax", {"x": nan})["amax"])[0]))

    def test_rmsnorm_by_hand(self):
        x, weight = floats([[2.0, -2.0] * 8]), f32(*[3.0] * 16)
        out = self.op("rmsnorm", {"x": x, "weight": weight}, "eps=0")  # rstd = 1/2
        self.assertEqual(set(out), {"normed"})
        self.assertEqual(unpack_f32(out["normed"]), [3.0, -3.0] * 8)
        out = self.op("rmsnorm", {"x": x, "weight": weight}, "eps=12")  # sqrt(4 + 12) = 4
        self.assertEqual(unpack_f32(out["normed"]), [1.5, -1.5] * 8)
        out = self.op("rmsnorm", {"x": x, "weight": weight}, "eps=0", "bias=1")
        self.assertEqual(unpack_f32(out["normed"]), [4.0, -4.0] * 8)

    def test_rmsnorm_residual(self):
        tensors = {"x": floats([[1.0] * 16]), "residual": floats([[-3.0] * 16]),
                   "weight": f32(*[1.0] * 16)}
        out = self.op("rmsnorm", tensors, "eps=0")
        self.assertEqual(unpack_f32(out["residual"]), [-2.0] * 16)
        self.assertEqual(unpack_f32(out["normed"]), [-1.0] * 16)

    def test_fused_equals_unfused(self):
        values = [math.sin(i * 0.7) * (1 + i % 5) for i in range(3 * 64)]
        x = bf16([3, 64], values)
        residual = bf16([3, 64], [math.cos(i) for i in range(3 * 64)])
        weight = bf16([64], [1 + i / 64 for i in range(64)])
        for settings in (["scale=row"], ["format=mxfp4", "layout=8x4"], ["format=fp8", "scale=row"],
                         ["scale=computed", "layout=128x4", "second_layout=linear"]):
            tensors = {"x": x, "residual": residual, "weight": weight}
            norm = ["rounding=huggingface", "eps=1e-5"]
            fused = self.op("rmsnorm_quantize", tensors, *norm, *settings, "normed=1")
            unfused = self.op("rmsnorm", tensors, *norm)
            self.assertEqual(fused["normed"], unfused["normed"])
            self.assertEqual(fused["residual"], unfused["residual"])
            quantized = self.op("quantize", {"x": unfused["normed"]}, *settings)
            for name, tensor in quantized.items():
                self.assertEqual(fused[name], tensor, name)
            self.assertEqual(set(fused), set(quantized) | {"normed", "residual"})

    def test_repeated_set(self):
        extra = ["--set", "scale=row", "--set", "layout=8x4"]
        out = self.op("quantize", {"x": floats([BLOCK])}, extra=extra)
        self.assertEqual(out["scales"][1], [32])
        self.assertIn("row_scale", out)


class Refusals(CliTest):
    def test_keys(self):
        x = {"x": floats([BLOCK])}
        self.op("quantize", x, "colour=red", code=USAGE, says=["'colour'", "format, layout"])
        self.op("quantize", x, "layout=16x4", code=USAGE,
                says=["layout", "linear|128x4|8x4", "'16x4'"])
        self.op("quantize", x, "layout", code=USAGE, says=["key=value", "'layout'"])
        self.op("quantize", x, "layout=8x4", "layout=8x4", code=USAGE, says=["again"])
        self.op("quantize", x, "eps=1", code=USAGE, says=["'eps'"])
        norm = {"x": floats([BLOCK]), "weight": f32(*[1.0] * 16)}
        for eps in ("", "x", "1e-6x", "-1", "nan"):
            self.op("rmsnorm", norm, f"eps={eps}", code=USAGE, says=["eps"])
        self.op("dequantize", {"codes": u8([1, 8], BLOCK_CODES)}, "rows=-1", code=USAGE,
                says=["rows"])

    def test_tensors(self):
        self.op("quantize", {}, code=USAGE, says=["in.safetensors", "'x'"])
        self.op("quantize", {"x": floats([BLOCK]), "y": f32(1)}, code=USAGE, says=["'y'"])
        self.op("rmsnorm", {"x": floats([BLOCK])}, code=USAGE, says=["'weight'"])
        self.op("dequantize", {"codes": u8([1, 8], BLOCK_CODES)}, code=USAGE, says=["scales"])

    def test_types_and_shapes(self):
        self.op("quantize", {"x": u8([1, 16], range(16))}, code=USAGE, says=["x", "u8"])
        self.op("quantize", {"x": ("F64", [2], bytes(16))}, code=USAGE, says=["x", "F64"])
        self.op("quantize", {"x": floats([[1.0] * 17])}, code=USAGE, says=["multiple of 16", "17"])
        self.op("quantize", {"x": ("F32", [], bytes(4))}, code=USAGE, says=["x"])
        self.op("rmsnorm", {"x": floats([BLOCK]), "weight": f32(1, 2)}, code=USAGE,
                says=["weight", "[2]"])

    def test_scales(self):
        x = floats([BLOCK])
        for bad in (0.0, -1.0, math.nan, math.inf):
            self.op("quantize", {"x": x, "global_scale": f32(bad)}, code=USAGE,
                    says=["global_scale"])
        self.op("quantize", {"x": floats([BLOCK * 2]), "global_scale": f32(1)}, "format=mxfp4",
                code=USAGE, says=["global_scale"])
        self.op("quantize", {"x": x, "global_scale": f32(1, 2, 3)}, code=USAGE,
                says=["global_scale", "[3]"])

    def test_operators(self):
        self.op("relu", {}, code=USAGE, says=["'relu'"])

    def test_backends(self):
        self.op("quantize", {"x": floats([BLOCK])}, code=USAGE, says=["tpu"],
                extra=["--backend", "tpu"])
        if not json.loads(self.run_program("doctor", "--json").stdout)["cuda"]["found"]:
            self.op("quantize", {"x": floats([BLOCK])}, code=DATA, says=["cuda"],
                    extra=["--backend", "cuda"])

    def test_files(self):
        absent, target = self.root / "absent", self.root / "out"
        result = self.run_program("op", "amax", "--in", absent, "--out", target, code=DATA)
        self.assertIn(str(absent), result.stderr)
        broken = self.root / "broken"
        broken.write_bytes(b"\xff" * 64)
        result = self.run_program("op", "amax", "--in", broken, "--out", target, code=DATA)
        self.assertIn(str(broken), result.stderr)
        write_tensors(self.root / "in", {"x": floats([BLOCK])})
        result = self.run_program("op", "amax", "--in", self.root / "in", "--out",
                                  self.root / "no" / "out", code=DATA)
        self.assertIn(str(self.root / "no"), result.stderr)
        self.run_program("op", "amax", "--in", self.root / "in", "--out", self.root / "in",
                         code=USAGE)
        self.assertFalse(target.exists())
