"""Tiny safetensors files and a runner of the program, for the tests of the command line. Standard library only."""

import json
import os
import pathlib
import struct
import subprocess
import tempfile
import unittest

OK, DATA, USAGE = 0, 1, 2

_program = pathlib.Path()


def set_program(path):
    global _program
    _program = path


def program():
    return _program


def f32(*values):
    return ("F32", [len(values)], struct.pack(f"<{len(values)}f", *values))


def u8(shape, values):
    return ("U8", shape, bytes(values))


def floats(rows):
    flat = [x for row in rows for x in row]
    return ("F32", [len(rows), len(rows[0])], struct.pack(f"<{len(flat)}f", *flat))


def bf16(shape, values):
    return ("BF16", shape, b"".join(struct.pack("<f", x)[2:] for x in values))


def write_tensors(path, tensors):
    """tensors: name -> (dtype, shape, bytes)."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_tensors(path):
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + length])
    header.pop("__metadata__", None)
    data = raw[8 + length:]
    return {name: (t["dtype"], t["shape"], data[t["data_offsets"][0]:t["data_offsets"][1]])
            for name, t in header.items()}


def unpack_f32(tensor):
    return list(struct.unpack(f"<{len(tensor[2]) // 4}f", tensor[2]))


class CliTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="halfbyte-cli.")
        self.addCleanup(self.folder.cleanup)
        self.root = pathlib.Path(self.folder.name)

    def run_program(self, *args, code=OK, env=None):
        environment = {**os.environ, "OMP_NUM_THREADS": "2", **(env or {})}
        result = subprocess.run([program(), *map(str, args)], capture_output=True, text=True,
                                env=environment, timeout=120)
        self.assertEqual(result.returncode, code, f"{args}\n{result.stdout}{result.stderr}")
        if code == OK:
            self.assertNotIn("error", result.stderr)
        else:
            self.assertTrue(result.stderr.startswith("halfbyte: error: "), result.stderr)
            self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        return result

    def op(self, name, tensors, *settings, code=OK, says=(), extra=()):
        """Runs an operator; its outputs, or None where it must fail (and write nothing)."""
        source, target = self.root / "in.safetensors", self.root / "out.safetensors"
        write_tensors(source, tensors)
        target.unlink(missing_ok=True)
        args = ["op", name, "--in", source, "--out", target, *extra]
        result = self.run_program(*args, *(["--set", *settings] if settings else []), code=code)
        for text in says:
            self.assertIn(text, result.stderr)
        if code == OK:
            return read_tensors(target)
        self.assertEqual(sorted(p.name for p in self.root.iterdir()), ["in.safetensors"])
        return None
