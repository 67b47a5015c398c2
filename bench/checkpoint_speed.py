"""Figures of the commands on checkpoints: speed against a read-and-write loop, memory, inspect.

  python3 bench/checkpoint_speed.py build/bin/halfbyte --out bench/results/DATE_checkpoints_DEVICE.json

Makes a synthetic sharded BF16 checkpoint (--gb, default 2) and a sparse NVFP4 folder (--sparse-gb,
default 100) under --work, measures, and deletes both. Needs the checkpoint's size four times in
free disk; run it on an idle machine. Everything is read from the page cache: the read-and-write loop
runs first and last, in the same run, over the same files.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import platform
import random
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

HIDDEN, INNER, KV = 4096, 14336, 1024
LAYER = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KV, HIDDEN),
         "self_attn.v_proj": (KV, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
         "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
         "mlp.down_proj": (HIDDEN, INNER)}
LAYER_BYTES = 2 * sum(n * k for n, k in LAYER.values())
CONFIG = {"model_type": "llama", "hidden_size": HIDDEN, "torch_dtype": "bfloat16"}


def write_shard(path: pathlib.Path, tensors: list, content) -> None:
    """tensors: (name, dtype, shape, bytes); content(file, bytes) writes a tensor's data."""
    header, at = {}, 0
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            content(file, tensor[3])


def write_folder(folder: pathlib.Path, shards: list, content, config: dict) -> None:
    folder.mkdir()
    index = {}
    for i, tensors in enumerate(shards, 1):
        name = f"model-{i:05}-of-{len(shards):05}.safetensors"
        write_shard(folder / name, tensors, content)
        index.update({tensor[0]: name for tensor in tensors})
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps(config))


def make_bf16(folder: pathlib.Path, gb: float) -> None:
    generator = random.Random(0)
    # 8 MB of normal BF16 numbers, from a different place for every piece.
    pool = b"".join(struct.pack("<f", generator.gauss(0, 0.02))[2:] for _ in range(1 << 20)) * 4

    def normal(file, size: int) -> None:
        while size > 0:
            start = generator.randrange(1 << 20) * 2
            piece = pool[start:start + min(size, 6 << 20)]
            file.write(piece)
            size -= len(piece)

    layers = max(1, round(gb * 1e9 / LAYER_BYTES))
    shards = [[(f"model.layers.{i}.{module}.weight", "BF16", [n, k], 2 * n * k)
               for module, (n, k) in LAYER.items()] for i in range(layers)]
    write_folder(folder, shards, normal, CONFIG)


def make_sparse_nvfp4(folder: pathlib.Path, gb: float, experts: int) -> None:
    """Holes instead of data, but for the fp32 scales, which are zero too: all is suspicious."""
    def hole(file, size: int) -> None:
        file.seek(size, os.SEEK_CUR)
        file.truncate()

    def weight(module: str, n: int, k: int) -> list:
        return [(module + ".weight", "U8", [n, k // 2], n * k // 2),
                (module + ".weight_scale", "F8_E4M3", [n, k // 16], n * k // 16),
                (module + ".weight_scale_2", "F32", [], 4)]

    shards, total = [], 0
    while total < gb * 1e9:
        i = len(shards)
        if experts:
            modules = {f"mlp.experts.{e}.{p}": (2048, 7168) if p != "down_proj" else (7168, 2048)
                       for e in range(experts) for p in ("gate_proj", "up_proj", "down_proj")}
        else:
            modules = LAYER
        shards.append([t for name, (n, k) in modules.items()
                       for t in weight(f"model.layers.{i}.{name}", n, k)])
        total += sum(tensor[3] for tensor in shards[-1])
    write_folder(folder, shards, hole,
                 {**CONFIG, "quantization_config": {"quant_method": "modelopt",
                                                    "quant_algo": "W4A16_NVFP4"}})


def read_and_write(source: pathlib.Path, target: pathlib.Path) -> float:
    """Seconds of copying every shard through one 8 MB buffer."""
    buffer = memoryview(bytearray(8 << 20))
    target.mkdir()
    start = time.monotonic()
    for shard in sorted(source.glob("*.safetensors")):
        with shard.open("rb", buffering=0) as read, \
                (target / shard.name).open("wb", buffering=0) as write:
            while count := read.readinto(buffer):
                write.write(buffer[:count])
    seconds = time.monotonic() - start
    shutil.rmtree(target)
    return seconds


def run(*args: object) -> dict:
    """Wall seconds, and the peak memory that the program reports of itself (VmHWM)."""
    start = time.monotonic()
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    seconds = time.monotonic() - start
    peak = re.search(r"peak memory ([0-9.]+) (kB|MB|GB)", done.stdout)
    if not peak:
        raise SystemExit(f"{args}: {done.stderr}")
    unit = {"kB": 1e-3, "MB": 1, "GB": 1e3}[peak[2]]
    return {"seconds": seconds, "peak_rss_mb": float(peak[1]) * unit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--gb", type=float, default=2)
    parser.add_argument("--sparse-gb", type=float, default=100)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()))
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="halfbyte-speed.", dir=options.work))
    program, source = options.program, work / "bf16"
    rows = []

    def measure(name: str, *args: object, bytes_: int, clean: pathlib.Path | None = None) -> dict:
        runs = []
        for i in range(options.repeat):
            if clean and clean.exists():
                shutil.rmtree(clean)
            runs.append(run(program, *args))
        seconds = statistics.median(r["seconds"] for r in runs)
        row = {"name": name, "seconds": seconds, "mb_per_s": bytes_ / 1e6 / seconds,
               "peak_rss_mb": max(r["peak_rss_mb"] for r in runs),
               "of_read_and_write": None, "command": " ".join(map(str, args))}
        rows.append(row)
        print(f"{name}: {seconds:.2f} s, {row['mb_per_s']:.0f} MB/s, "
              f"peak {row['peak_rss_mb']:.1f} MB", flush=True)
        return row

    try:
        make_bf16(source, options.gb)
        size = sum(p.stat().st_size for p in source.glob("*.safetensors"))
        loops = [read_and_write(source, work / "copy") for _ in range(options.repeat)]
        for form, convention in (("nvfp4", "modelopt"), ("nvfp4", "compressed-tensors"),
                                 ("mxfp4", "compressed-tensors")):
            measure(f"quantize {form} {convention}", "quantize", source, work / "q", "--format",
                    form, "--convention", convention, bytes_=size, clean=work / "q")
        shutil.rmtree(work / "q")
        run(program, "quantize", source, work / "q")
        measure("dequantize nvfp4", "dequantize", work / "q", work / "back", bytes_=size,
                clean=work / "back")
        shutil.rmtree(work / "back")
        measure("convert", "convert", work / "q", work / "ct", "--convention",
                "compressed-tensors", bytes_=size * 9 // 32, clean=work / "ct")
        measure("compare", "compare", source, work / "q", bytes_=size + size * 9 // 32)
        loops += [read_and_write(source, work / "copy") for _ in range(options.repeat)]
        loop = size / 1e6 / statistics.median(loops)
        for row in rows:
            row["of_read_and_write"] = row["mb_per_s"] / loop
        print(f"read-and-write loop: {loop:.0f} MB/s; " + ", ".join(
            f"{row['name']} {100 * row['of_read_and_write']:.0f} %" for row in rows))
        for name, experts in (("dense", 0), ("256 experts", 256)):
            make_sparse_nvfp4(work / "sparse", options.sparse_gb, experts)
            apparent = sum(p.stat().st_size for p in (work / "sparse").iterdir())
            measure(f"inspect {apparent / 1e9:.0f} GB sparse, {name}", "inspect", work / "sparse",
                    bytes_=apparent)
            shutil.rmtree(work / "sparse")
    finally:
        shutil.rmtree(work)
    if options.out:
        model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                      if line.startswith("model name")), platform.machine())
        document = {"schema": 1, "device": f"{model}, {os.cpu_count()} threads",
                    "date": datetime.date.today().isoformat(),
                    "command": " ".join(["python3", *sys.argv]), "checkpoint_bytes": size,
                    "method": f"median of {options.repeat} runs, page cache; memory: VmHWM of the "
                              "process, mapped pages included",
                    "read_and_write_mb_per_s": loop,
                    "read_and_write_seconds": loops, "rows": rows}
        options.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
