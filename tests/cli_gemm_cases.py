"""`halfbyte op gemm`. Run by cli_test.py."""

import random
import struct

from cli_support import USAGE, CliTest, bf16, f32, floats, u8, unpack_f32

E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
ONE_E4M3, ONE_E8M0 = 0x38, 127


def values(codes, columns):
    """The E2M1 values of rows of codes."""
    return [[E2M1[byte >> shift & 15] for byte in codes[row:row + columns // 2] for shift in (0, 4)]
            for row in range(0, len(codes), columns // 2)]


def random_codes(seed, rows, columns):
    generator = random.Random(seed)
    return bytes(generator.randrange(256) for _ in range(rows * columns // 2))


class Gemm(CliTest):
    M, N, K = 3, 5, 64

    def setUp(self):
        super().setUp()
        self.a, self.b = random_codes(1, self.M, self.K), random_codes(2, self.N, self.K)
        # Quarters of a sum of 64 products fit fp32: with scales of 1 any order gives the same.
        self.c = [sum(x * y for x, y in zip(row, column, strict=True))
                  for row in values(self.a, self.K) for column in values(self.b, self.K)]

    def tensors(self, one=ONE_E4M3, block=16, **more):
        return {"a_codes": u8([self.M, self.K // 2], self.a),
                "a_scales": u8([self.M, self.K // block], [one] * (self.M * self.K // block)),
                "b_codes": u8([self.N, self.K // 2], self.b),
                "b_scales": u8([self.N, self.K // block], [one] * (self.N * self.K // block)), **more}

    def gemm(self, tensors, *settings, **more):
        out = self.op("gemm", tensors, "out=fp32", *settings, **more)
        self.assertEqual(set(out), {"c"})
        self.assertEqual(out["c"][:2], ("F32", [self.M, self.N]))
        return unpack_f32(out["c"])

    def test_by_hand(self):
        self.assertEqual(self.gemm(self.tensors()), self.c)
        self.assertEqual(self.gemm(self.tensors(), "plan=exact"), self.c)
        for backend in ("ref", "cpu"):
            self.assertEqual(self.gemm(self.tensors(), extra=["--backend", backend]), self.c)
        mxfp4 = self.tensors(ONE_E8M0, 32)
        self.assertEqual(self.gemm(mxfp4, "a=mxfp4", "b=mxfp4"), self.c)

    def test_scales_and_bias(self):
        scaled = self.gemm(self.tensors(a_global_scale=f32(4.0), b_decode_scale=f32(8.0)))
        self.assertEqual(scaled, [2 * x for x in self.c])
        rows = self.gemm(self.tensors(a_decode_scale=f32(1.0, 2.0, 4.0), b_global_scale=f32(2.0)))
        self.assertEqual(rows, [x * (0.5, 1, 2)[i // self.N] for i, x in enumerate(self.c)])
        biased = self.gemm(self.tensors(bias=f32(1, 2, 3, 4, 5)))
        self.assertEqual(biased, [x + 1 + i % self.N for i, x in enumerate(self.c)])

    def test_sixteen_bit_input(self):
        tensors = self.tensors(a=bf16([self.M, self.K], [x for row in values(self.a, self.K)
                                                         for x in row]))
        for name in ("a_codes", "a_scales"):
            del tensors[name]
        self.assertEqual(self.gemm(tensors, "a=bf16"), self.c)
        self.op("gemm", tensors, "a=fp16", code=USAGE, says=["a:", "fp16", "bf16"])
        self.op("gemm", tensors, code=USAGE, says=["a_codes"])

    def test_layouts(self):
        tensors = self.tensors()
        padded = bytearray(512)
        for row in range(self.M):
            padded[row * 16:row * 16 + 4] = bytes([ONE_E4M3] * 4)
        tensors["a_scales"] = u8([512], padded)
        self.assertEqual(self.gemm(tensors, "a_layout=128x4"), self.c)
        self.op("gemm", tensors, code=USAGE, says=["a_scales"])

    def test_types_of_c(self):
        out = self.op("gemm", self.tensors())["c"]
        self.assertEqual(out[0], "BF16")
        out = self.op("gemm", self.tensors(), "out=fp16")["c"]
        self.assertEqual(out, ("F16", [self.M, self.N], struct.pack("<15e", *self.c)))

    def test_quantized_layer(self):
        """quantize, then gemm: the identity as weights gives back the dequantized activation."""
        x = floats([[(i * 7 % 23 - 11) / 4 + r for i in range(16)] for r in range(2)])
        packed = self.op("quantize", {"x": x}, "scale=row")
        identity = bytearray(16 * 8)
        for n in range(16):
            identity[n * 8 + n // 2] = 2 << (4 * (n % 2))
        out = self.op("gemm", {"a_codes": packed["codes"], "a_scales": packed["scales"],
                               "a_decode_scale": packed["row_scale"],
                               "b_codes": u8([16, 8], identity), "b_scales": u8([16], [ONE_E4M3] * 16)},
                      "out=fp32")
        back = self.op("dequantize", {"codes": packed["codes"], "scales": packed["scales"],
                                      "row_scale": packed["row_scale"]}, "dtype=fp32")
        self.assertEqual(unpack_f32(out["c"]), unpack_f32(back["x"]))

    def test_refusals(self):
        good = self.tensors()
        self.op("gemm", {}, code=USAGE, says=["'b_codes'"])
        self.op("gemm", good, "plan=fp8", code=USAGE, says=["method", "auto or exact"])
        self.op("gemm", good, "plan=fast", code=USAGE, says=["plan", "tensor_core"])
        self.op("gemm", good, "b=fp8", code=USAGE, says=["--set b", "nvfp4|mxfp4"])
        self.op("gemm", good, "a=mxfp4", code=USAGE, says=["a.format", "nvfp4", "mxfp4"])
        self.op("gemm", {**good, "a": bf16([1, 16], [0] * 16)}, code=USAGE, says=["a:"])
        self.op("gemm", {**good, "bias": f32(1)}, code=USAGE, says=["bias", "5"])
        self.op("gemm", {**good, "a_global_scale": f32(1), "a_decode_scale": f32(1)}, code=USAGE,
                says=["a_decode_scale"])
        self.op("gemm", {**good, "b_global_scale": f32(0)}, code=USAGE, says=["b_scale", "> 0"])
        self.op("gemm", {**good, "b_codes": u8([5, 16], bytes(80)), "b_scales": u8([5, 2], [56] * 10)},
                code=USAGE, says=["a:", "32"])
        self.op("gemm", {**self.tensors(ONE_E8M0, 32), "b_global_scale": f32(1)}, "a=mxfp4",
                "b=mxfp4", code=USAGE, says=["b_scale", "mxfp4"])
