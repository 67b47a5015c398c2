#!/usr/bin/env python3
"""The commands on checkpoints, end to end: exit codes, files, bad input, full disks, kills.

Run: python3 tests/checkpoint_cli_test.py BUILD_DIR [unittest arguments]
"""

import json
import math
import os
import pathlib
import random
import resource
import signal
import struct
import subprocess
import sys
import time
import unittest

import cli_support
from cli_support import DATA, USAGE, CliTest, bf16, read_tensors, unpack_f32, write_tensors

Q, K = "model.layers.0.self_attn.q_proj.", "model.layers.0.self_attn.k_proj."
FIRST, SECOND = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))


class CheckpointTest(CliTest):
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

    def make_sharded(self, rows=8):
        """q and an embedding in one shard, k in the other."""
        source = self.root / "in"
        source.mkdir()
        (source / "config.json").write_text('{"model_type": "llama", "torch_dtype": "bfloat16"}')
        (source / "tokenizer.json").write_text("{}")
        (source / "pytorch_model.bin").write_text("other weights")
        values = [math.sin(i) for i in range(rows * 32)]
        shards = {FIRST: {"model.embed_tokens.weight": bf16([rows, 32], values),
                          Q + "weight": bf16([rows, 32], values)},
                  SECOND: {K + "weight": bf16([rows, 32], [2 * v for v in values])}}
        for name, tensors in shards.items():
            write_tensors(source / name, tensors)
        self.write_index(source, {t: name for name, tensors in shards.items() for t in tensors})
        return source

    @staticmethod
    def write_index(folder, weight_map):
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))

    def names(self):
        return sorted(p.name for p in self.root.iterdir())


class Checkpoints(CheckpointTest):
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

    def test_shards_there_and_back(self):
        source, target, back = self.make_sharded(), self.root / "q", self.root / "back"
        result = self.run_program("quantize", source, target, "--report", self.root / "r.json")
        self.assertIn("pytorch_model.bin", result.stderr)
        report = json.loads((self.root / "r.json").read_text())
        self.assertEqual(report["schema"], 1)
        self.assertEqual({layer["decode_scale"] for layer in report["layers"]},
                         {report["layers"][0]["decode_scale"]})  # fused, though in two shards
        for key in ("sqnr_db", "max_abs_error", "zero_code_share", "saturated_scale_share",
                    "bytes_before", "bytes_after"):
            self.assertIn(key, report["layers"][0])
        self.assertGreater(report["peak_memory_bytes"], 0)
        index = json.loads((target / "model.safetensors.index.json").read_text())
        self.assertEqual(index["weight_map"][K + "weight_scale_2"], SECOND)
        self.assertEqual(sorted(p.name for p in target.iterdir()),
                         sorted(["config.json", "hf_quant_config.json", "tokenizer.json", FIRST,
                                 SECOND, "model.safetensors.index.json"]))
        self.run_program("dequantize", target, back, "--dtype", "fp16")
        config = json.loads((back / "config.json").read_text())
        self.assertEqual(config, {"model_type": "llama", "torch_dtype": "float16"})
        self.assertEqual(read_tensors(back / SECOND)[K + "weight"][:2], ("F16", [8, 32]))
        self.run_program("compare", source, source)
        result = self.run_program_any("compare", source, target, "--json")
        self.assertEqual(result.returncode, DATA)
        compared = {t["tensor"]: t for t in json.loads(result.stdout)["tensors"]}
        self.assertTrue(compared["model.embed_tokens.weight"]["equal_bits"])
        self.assertAlmostEqual(compared[Q + "weight"]["sqnr_db"],
                               next(layer["sqnr_db"] for layer in report["layers"]
                                    if layer["tensor"] == Q + "weight"))

    def run_program_any(self, *args):
        return subprocess.run([cli_support.program(), *map(str, args)], capture_output=True,
                              text=True, timeout=120)

    def test_convert_and_activations(self):
        source, amax = self.make_sharded(), self.root / "amax.json"
        amax.write_text(json.dumps({Q[:-1]: 3.0, K[:-1]: 5.0}))
        self.run_program("quantize", source, self.root / "a", "--activation-amax", amax,
                         "--convention", "compressed-tensors")
        tensors = read_tensors(self.root / "a" / FIRST)
        self.assertEqual(unpack_f32(tensors[Q + "input_global_scale"]),
                         unpack_f32(("F32", [1], struct.pack("<f", 2688 / 5))))
        for name, convention in (("b", "modelopt"), ("c", "compressed-tensors"), ("d", "modelopt")):
            self.run_program("convert", self.root / chr(ord(name) - 1), self.root / name,
                             "--convention", convention)
        self.run_program("compare", self.root / "b", self.root / "d")
        amax.write_text(json.dumps({Q[:-1]: 3.0}))
        result = self.run_program("quantize", source, self.root / "x", "--activation-amax", amax,
                                  code=DATA)
        self.assertIn(K[:-1], result.stderr)

    def test_inspect(self):
        target = self.root / "q"
        self.run_program("quantize", self.make_sharded(), target)
        report = json.loads(self.run_program("inspect", target, "--json").stdout)
        self.assertEqual(report["formats"]["nvfp4 modelopt"]["tensors"], 2)
        self.assertEqual(report["sampled_blocks"], report["total_blocks"])
        # K is 32 here: the one thing to find.
        self.assertEqual([f["kind"] for f in report["findings"]], ["block_alignment"])
        self.assertIn("block_alignment", self.run_program("inspect", target).stdout)

    def test_bad_folders(self):
        source = self.make_sharded()
        good = (source / SECOND).read_bytes()
        index = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]

        def refused(says):
            for command in (["quantize", source, self.root / "q"],
                            ["dequantize", source, self.root / "q"],
                            ["convert", source, self.root / "q", "--convention", "modelopt"],
                            ["inspect", source], ["compare", source, source]):
                self.assertIn(says, self.run_program(*command, code=DATA).stderr)
            self.assertEqual(self.names(), ["in"])

        (source / SECOND).unlink()
        refused(SECOND)
        (source / SECOND).write_bytes(good[:-1])
        refused(SECOND)
        (source / SECOND).write_bytes((source / FIRST).read_bytes())
        refused("in one shard")
        (source / SECOND).write_bytes(good)
        self.write_index(source, {**index, "absent.weight": FIRST})
        refused("absent.weight")
        self.write_index(source, {**index, K + "weight": "../" + SECOND})
        refused("the name of a file")


class Disks(CheckpointTest):
    ROWS = 8192  # 512 kB a tensor

    def limited(self, bytes_, *args):
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))
        return subprocess.run([cli_support.program(), *map(str, args)], capture_output=True,
                              text=True, timeout=120, preexec_fn=limit)

    def test_a_write_that_fails(self):
        source = self.make_sharded(self.ROWS)
        for limit in (4096, 100_000, 500_000):
            result = self.limited(limit, "quantize", source, self.root / "q")
            self.assertEqual(result.returncode, DATA)
            self.assertIn("File too large", result.stderr)
            self.assertEqual(self.names(), ["in"])

    def mount(self, options):
        folder = self.root / "disk"
        folder.mkdir()
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder],
                              capture_output=True)
        if made.returncode != 0:
            self.skipTest("no right to mount a tmpfs")
        self.addCleanup(subprocess.run, ["umount", folder], check=True)
        return folder

    def test_a_disk_without_room(self):
        source, disk = self.make_sharded(self.ROWS), self.mount("size=256k")
        for command in (["quantize"], ["quantize", "--force"]):
            result = self.run_program(command[0], source, disk / "q", *command[1:], code=DATA)
            self.assertIn("disk space: expected at least", result.stderr)
        single = self.run_program("quantize", source / FIRST, disk / "q.safetensors", code=DATA)
        self.assertIn("disk space", single.stderr)
        self.assertEqual(list(disk.iterdir()), [])

    def test_a_disk_that_fills_up_on_the_way(self):
        # Room for the bytes, but only for so many files: the check before cannot know.
        source, disk = self.make_sharded(self.ROWS), self.mount("size=16m,nr_inodes=4")
        result = self.run_program("quantize", source, disk / "q", code=DATA)
        self.assertIn("No space left on device", result.stderr)
        self.assertEqual(list(disk.iterdir()), [])


class Kills(CheckpointTest):
    KILLS = int(os.environ.get("HALFBYTE_TEST_KILLS", "50"))

    def contents(self, folder):
        return {p.name: p.read_bytes() for p in folder.iterdir()}

    def kill(self, generator, longest, *args):
        """Runs the program for a random time; True if it was done before."""
        process = subprocess.Popen([cli_support.program(), *map(str, args)],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(generator.uniform(0, longest))
        process.kill()
        return process.wait() == 0

    def test_killed_at_random_moments(self):
        generator, source = random.Random(7), self.make_sharded(16384)
        wanted, target = self.root / "wanted", self.root / "q"
        start = time.monotonic()
        self.run_program("quantize", source, wanted)
        longest = (time.monotonic() - start) * 1.2
        expected, killed = self.contents(wanted), 0
        for _ in range(self.KILLS):
            killed += not self.kill(generator, longest, "quantize", source, target)
            if target.exists():  # whole or not at all
                self.assertEqual(self.contents(target), expected)
                subprocess.run(["rm", "-r", target], check=True)
            self.assertLessEqual(len(self.names()), 3)  # at most one staging folder is left
        print(f"\n{killed} of {self.KILLS} runs were killed before their end", file=sys.stderr)
        self.assertGreater(killed, 0)
        self.run_program("quantize", source, target)  # resumes cleanly: nothing is in the way
        self.assertEqual(self.contents(target), expected)
        self.assertEqual(self.names(), ["in", "q", "wanted"])

    def test_killed_while_replacing(self):
        generator, source = random.Random(8), self.make_sharded(16384)
        old, new, target = self.root / "old", self.root / "new", self.root / "q"
        self.run_program("quantize", source, old)
        self.run_program("quantize", source, new, "--format", "mxfp4")
        both = [self.contents(old), self.contents(new)]
        self.run_program("quantize", source, target)
        start = time.monotonic()
        self.run_program("quantize", source, target, "--force")
        longest = (time.monotonic() - start) * 1.2
        for i in range(self.KILLS // 4):
            self.kill(generator, longest, "quantize", source, target, "--force", "--format",
                      ("nvfp4", "mxfp4")[i % 2])
            self.assertIn(self.contents(target), both)
        self.run_program("quantize", source, target, "--force")
        self.assertEqual(self.names(), ["in", "new", "old", "q"])

    def test_killed_on_a_single_file(self):
        generator, source = random.Random(9), self.make_sharded(16384) / FIRST
        wanted, target = self.root / "wanted", self.root / "q.safetensors"
        start = time.monotonic()
        self.run_program("quantize", source, wanted)
        longest = (time.monotonic() - start) * 1.2
        for _ in range(self.KILLS // 4):
            self.kill(generator, longest, "quantize", source, target, "--force")
            if target.exists():
                self.assertEqual(target.read_bytes(), wanted.read_bytes())
        self.run_program("quantize", source, target, "--force")
        self.assertEqual(target.read_bytes(), wanted.read_bytes())
        self.assertEqual(self.names(), ["in", "q.safetensors", "wanted"])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: checkpoint_cli_test.py BUILD_DIR [unittest arguments]")
    path = pathlib.Path(sys.argv.pop(1)).resolve() / "bin" / "halfbyte"
    if not path.exists():
        sys.exit(f"{path}: not built")
    cli_support.set_program(path)
    unittest.main()
