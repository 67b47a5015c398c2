"""`halfbyte op gemm_silu_mul_quantize`. Run by cli_test.py."""

import math

from cli_gemm_cases import ONE_E4M3, ONE_E8M0, random_codes
from cli_support import USAGE, CliTest, bf16, f32, u8

GPT_OSS = ["interleave=1", "clamp=7", "alpha=1.702", "up_bias=1"]


class GemmSiluMul(CliTest):
    M, N, K = 3, 128, 64

    def tensors(self, one=ONE_E4M3, block=16, **more):
        return {"a_codes": u8([self.M, self.K // 2], random_codes(1, self.M, self.K)),
                "a_scales": u8([self.M, self.K // block], [one] * (self.M * self.K // block)),
                "b_codes": u8([self.N, self.K // 2], random_codes(2, self.N, self.K)),
                "b_scales": u8([self.N, self.K // block], [one] * (self.N * self.K // block)), **more}

    def two(self, tensors, product, epilogue, dtype="bf16", given=None):
        """gemm, then silu_mul_quantize."""
        c = self.op("gemm", tensors, f"out={dtype}", *product)["c"]
        return self.op("silu_mul_quantize", {"gate_up": c, **(given or {})}, *epilogue)

    def test_is_the_two_in_sequence(self):
        scaled = self.tensors(a_decode_scale=f32(0.1, 0.2, 0.3), b_global_scale=f32(20.0),
                              bias=f32(*[math.sin(i) for i in range(self.N)]))
        sixteen = {**scaled, "a": bf16([self.M, self.K], [math.cos(i) for i in range(self.M * self.K)])}
        for name in ("a_codes", "a_scales", "a_decode_scale"):
            del sixteen[name]
        mxfp4 = self.tensors(ONE_E8M0, 32)
        for tensors, product in ((scaled, []), (sixteen, ["a=bf16"]), (mxfp4, ["a=mxfp4", "b=mxfp4"])):
            for dtype, epilogue in (("bf16", ["scale=row"]), ("fp16", ["format=mxfp4", "layout=8x4"]),
                                    ("fp32", [*GPT_OSS, "format=fp8", "scale=row"]),
                                    ("bf16", ["interleave=8", "scale=computed", "layout=128x4",
                                              "second_layout=linear"])):
                with self.subTest(product=product, epilogue=epilogue):
                    fused = self.op("gemm_silu_mul_quantize", tensors, f"dtype={dtype}", *product,
                                    *epilogue)
                    self.assertEqual(fused, self.two(tensors, product, epilogue, dtype))
        g = {"global_scale": f32(3.5)}
        for backend in ("ref", "cpu"):
            fused = self.op("gemm_silu_mul_quantize", {**scaled, **g}, extra=["--backend", backend])
            self.assertEqual(fused, self.two(scaled, [], [], given=g))

    def test_refusals(self):
        good = self.tensors()
        name = "gemm_silu_mul_quantize"
        self.op(name, {}, code=USAGE, says=["'b_codes'"])
        self.op(name, good, "plan=fp8", code=USAGE, says=["method", "auto or exact"])
        self.op(name, good, "dtype=fp8", code=USAGE, says=["dtype", "bf16|fp16|fp32"])
        self.op(name, good, "scale_rule=te", code=USAGE, says=["scale_rule"])
        self.op(name, {**good, "bias": f32(1)}, code=USAGE, says=["bias", "128"])
        self.op(name, {**good, "c": f32(1)}, code=USAGE, says=["'c'"])
        odd = {**good, "b_codes": u8([33, 32], bytes(33 * 32)), "b_scales": u8([33, 4], bytes(132))}
        self.op(name, odd, code=USAGE, says=["b.rows", "2I", "33"])
