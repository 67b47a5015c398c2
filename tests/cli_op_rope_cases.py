"""`halfbyte op rope`: bits worked out by hand, and what is refused. Run by cli_test.py."""

import struct

from cli_support import USAGE, CliTest, bf16, floats, unpack_f32


def i32(*values):
    return ("I32", [len(values)], struct.pack(f"<{len(values)}i", *values))


def i64(*values):
    return ("I64", [len(values)], struct.pack(f"<{len(values)}q", *values))


def heads(tokens):
    """fp32 [M, heads, D] of nested lists."""
    flat = [x for token in tokens for head in token for x in head]
    return ("F32", [len(tokens), len(tokens[0]), len(tokens[0][0])],
            struct.pack(f"<{len(flat)}f", *flat))


# Row 0 leaves a head as it is, row 1 is a quarter turn, row 2 of a half and a quarter.
COS = floats([[1.0, 1.0], [0.0, 0.0], [0.5, 2.0]])
SIN = floats([[0.0, 0.0], [1.0, 1.0], [0.25, -1.0]])


def call(x, positions, **changed):
    return {"x": x, "positions": positions, "cos": COS, "sin": SIN, **changed}


class Rope(CliTest):
    def test_styles_by_hand(self):
        x = heads([[[1, 2, 3, 4]], [[3, 5, -7, 9]], [[1, 2, 3, 4]]])
        out = self.op("rope", call(x, i64(2, 1, 0)))
        self.assertEqual(set(out), {"x"})
        self.assertEqual(out["x"][:2], ("F32", [3, 1, 4]))
        self.assertEqual(unpack_f32(out["x"]), [-0.25, 8, 1.75, 6, 7, -9, 3, 5, 1, 2, 3, 4])
        out = self.op("rope", call(x, i32(2, 1, 0)), "style=gptj")
        self.assertEqual(unpack_f32(out["x"]), [0, 1.25, 10, 5, -5, 3, -9, -7, 1, 2, 3, 4])
        out = self.op("rope", call(x, i32(2, 2, 2)), "style=gptj", "inverse=1")
        self.assertEqual(unpack_f32(out["x"])[:4], [1, 0.75, 2, 11])

    def test_there_and_back(self):
        x = heads([[[3, 5, -7, 9], [1, 2, 4, 8]]])
        for style in ("neox", "gptj"):
            there = self.op("rope", call(x, i32(1)), f"style={style}")
            back = self.op("rope", call(there["x"], i32(1)), f"style={style}", "inverse=1")
            self.assertEqual(back["x"], x)

    def test_part_of_a_head(self):
        x = bf16([1, 1, 8], [1, 2, 3, 5, -7, 9, 7, 8])
        out = self.op("rope", call(x, i32(1)), "rope_dim=4", "rope_offset=2")
        self.assertEqual(out["x"], bf16([1, 1, 8], [1, 2, 7, -9, 3, 5, 7, 8]))

    def test_every_backend_gives_the_same(self):
        x = heads([[[1, 2, 3, 4]] * 5])
        for backend in ("auto", "ref"):
            out = self.op("rope", call(x, i32(2)), extra=["--backend", backend])
            self.assertEqual(unpack_f32(out["x"]), [-0.25, 8, 1.75, 6] * 5)

    def test_refusals(self):
        x = heads([[[1, 2, 3, 4]]])
        self.op("rope", call(x, i32(3)), code=USAGE,
                says=["positions", "0 to 2", "3 at index 0"])
        self.op("rope", call(x, i64(-1)), code=USAGE, says=["positions", "-1 at index 0"])
        self.op("rope", call(x, floats([[0.0]])), code=USAGE, says=["positions", "fp32"])
        self.op("rope", call(floats([[1, 2, 3, 4]]), i32(0)), code=USAGE,
                says=["x", "[M, heads, D]"])
        self.op("rope", call(x, i32(0)), "rope_dim=3", code=USAGE, says=["rope_dim", "3"])
        self.op("rope", call(x, i32(0)), "rope_dim=0", code=USAGE, says=["rope_dim", "0"])
        self.op("rope", call(x, i32(0)), "rope_offset=1", code=USAGE, says=["rope_offset", "1"])
        self.op("rope", call(x, i32(0)), "rope_dim=2", code=USAGE, says=["cos", "[P, 1]"])
        self.op("rope", call(x, i32(0)), "style=llama", code=USAGE, says=["neox|gptj", "'llama'"])
        self.op("rope", {"x": x, "positions": i32(0), "cos": COS}, code=USAGE, says=["'sin'"])
