"""`halfbyte op silu_mul` and `silu_mul_quantize`. Run by cli_test.py."""

import math

from cli_support import USAGE, CliTest, bf16, f32, floats, unpack_f32


class SiluMul(CliTest):
    # alpha = 0: the sigmoid is 1/2.
    GATE = [2.0, -4.0, 6.0, 8.0, 0.0, 1.0, 2.0, -2.0]
    UP = [1.0, 2.0, -3.0, 4.0, 5.0, 6.0, 7.0, 8.0]

    def y(self, gate_up, *settings):
        out = self.op("silu_mul", {"gate_up": floats([gate_up])}, *settings)
        self.assertEqual(set(out), {"y"})
        self.assertEqual(out["y"][1], [1, 8])
        return unpack_f32(out["y"])

    def test_by_hand(self):
        halves = self.GATE + self.UP
        y = [g / 2 * u for g, u in zip(self.GATE, self.UP, strict=True)]
        self.assertEqual(self.y(halves, "alpha=0"), y)
        self.assertEqual(self.y(halves, "alpha=0", "interleave=8"), y)  # one group is two halves
        pairs = [v for pair in zip(self.GATE, self.UP, strict=True) for v in pair]
        self.assertEqual(self.y(pairs, "alpha=0", "interleave=1"), y)
        biased = [g / 2 * (u + 1) for g, u in zip(self.GATE, self.UP, strict=True)]
        self.assertEqual(self.y(halves, "alpha=0", "up_bias=1"), biased)
        clamped = [min(g, 3) / 2 * max(-3, min(u, 3))
                   for g, u in zip(self.GATE, self.UP, strict=True)]
        self.assertEqual(self.y(halves, "alpha=0", "clamp=3"), clamped)

    def test_is_silu(self):
        y = self.y([1.0] * 16)
        self.assertAlmostEqual(y[0], 1 / (1 + math.exp(-1)), delta=1e-7)  # a few ulp of 0.73
        swiglu = self.y([1.0] * 16, "alpha=1.702", "up_bias=1", "clamp=7", "interleave=1")
        self.assertAlmostEqual(swiglu[0], 2 / (1 + math.exp(-1.702)), delta=3e-7)

    def test_fused_equals_unfused(self):
        values = [math.sin(i * 0.7) * (1 + i % 5) for i in range(3 * 2 * 64)]
        gate_up = bf16([3, 128], values)
        gpt_oss = ["interleave=1", "clamp=7", "alpha=1.702", "up_bias=1", "rounding=huggingface"]
        for activation in ([], ["interleave=8"], gpt_oss):
            y = self.op("silu_mul", {"gate_up": gate_up}, *activation)["y"]
            self.assertEqual(y[:2], ("BF16", [3, 64]))
            for settings in (["scale=row"], ["format=mxfp4", "layout=8x4"],
                             ["format=fp8", "scale=row"],
                             ["scale=computed", "layout=128x4", "second_layout=linear"]):
                fused = self.op("silu_mul_quantize", {"gate_up": gate_up}, *activation, *settings)
                self.assertEqual(fused, self.op("quantize", {"x": y}, *settings))
        g = {"global_scale": f32(3.5)}
        self.assertEqual(self.op("silu_mul_quantize", {"gate_up": gate_up, **g}, *gpt_oss),
                         self.op("quantize", {"x": y, **g}))

    def test_refusals(self):
        x = {"gate_up": floats([[1.0] * 16])}
        self.op("silu_mul", {}, code=USAGE, says=["'gate_up'"])
        self.op("silu_mul", {"gate_up": f32(1, 2, 3)}, code=USAGE, says=["gate_up", "3"])
        self.op("silu_mul", {"gate_up": ("F32", [], bytes(4))}, code=USAGE, says=["gate_up"])
        self.op("silu_mul", {"gate_up": f32(1, 2, 3, 4)}, "interleave=8", code=USAGE,
                says=["gate_up", "multiple of 8"])
        self.op("silu_mul", x, "interleave=2", code=USAGE, says=["interleave", "0|1|8"])
        for clamp in ("0", "-1", "nan", "inf"):
            self.op("silu_mul", x, f"clamp={clamp}", code=USAGE, says=["clamp"])
        self.op("silu_mul", x, "alpha=inf", code=USAGE, says=["alpha"])
        self.op("silu_mul", x, "up_bias=nan", code=USAGE, says=["up_bias"])
        self.op("silu_mul_quantize", x, code=USAGE, says=["gate_up", "multiple of 16"])
        self.op("silu_mul_quantize", {"gate_up": floats([[1.0] * 32])}, "scale_rule=te",
                code=USAGE, says=["scale_rule"])
