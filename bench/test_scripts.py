"""The scripts of bench/: that they run and agree; never how fast anything is."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent
PNG = b"\x89PNG\r\n\x1a\n"


def plot(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, BENCH / "plot.py", *map(str, arguments)],
                          capture_output=True, text=True, check=False)


def sample(residual: bool) -> dict:
    rows = [{"name": f"{m}x{h}", "m": m, "h": h, "dtype": "bf16", "residual": residual,
             "backend": "cuda", "fused_us": 2 + m * h / 1e6, "unfused_us": None,
             "floor_us": 1 + m * h / 1.2e6, "bytes": m * h * 3}
            for m in (1, 16, 1024) for h in (2048, 8192)]
    return {"schema": 1, "op": "rmsnorm_quantize", "device": "a device", "date": "2026-11-21",
            "format": "nvfp4", "layout": "128x4", "rows": rows}


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot_of_a_sample(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    for residual in (False, True):
        (tmp_path / f"{residual}.json").write_text(json.dumps(sample(residual)))
    out = tmp_path / f"roofline.{ending}"
    result = plot(tmp_path / "False.json", tmp_path / "True.json", "-o", out)
    assert result.returncode == 0, result.stderr
    assert out.read_bytes().startswith(PNG if ending == "png" else b"<?xml")


def test_plot_of_committed_results(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = [path for path in sorted((BENCH / "results").glob("*.json"))
               if all("fused_us" in row for row in json.loads(path.read_text()).get("rows", [{}]))]
    assert results
    for path in results:
        out = tmp_path / "one.png"
        result = plot(path, "-o", out)
        assert result.returncode == 0, result.stderr
        assert out.read_bytes().startswith(PNG)
        out.unlink()


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"schema": 2, "rows": []}',
                                  '{"schema": 1, "rows": [{"floor_us": 1, "fused_us": 1}]}',
                                  '{"schema": 1, "rows": []}'])
def test_plot_refuses_what_is_no_result(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    result = plot(tmp_path / "x.json", "-o", tmp_path / "x.png")
    assert result.returncode == 2
    assert "plot.py: " in result.stderr
    assert not (tmp_path / "x.png").exists()


def script(name: str):
    pytest.importorskip("torch")
    sys.path.insert(0, str(BENCH))
    module = importlib.import_module(name)
    sys.path.remove(str(BENCH))
    return module


@pytest.fixture
def torch_cpu():
    return script("torch_cpu")


@pytest.fixture
def torch_cuda():
    return script("torch_cuda")


@pytest.fixture
def gemm_peers():
    return script("gemm_peers")


def test_torch_encoders_round_as_e2m1(torch_cpu) -> None:
    import torch
    midpoints = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    below, above = (torch.nextafter(midpoints, torch.full((), end)) for end in (0.0, 9.0))
    codes = torch.arange(7)
    at_tie = codes + codes % 2  # to the even one
    ends = torch.tensor([0.0, 1e-40, 6.0, 7.0, 1e30, torch.inf])
    values = torch.cat([below, midpoints, above, ends])
    expected = torch.cat([codes, at_tie, codes + 1, torch.tensor([0, 0, 7, 7, 7, 7])])
    for name, encode in torch_cpu.ENCODERS.items():
        assert torch.equal(encode(values).long(), expected), name


def test_torch_packers_put_the_first_code_low(torch_cpu) -> None:
    import torch
    codes = torch.arange(16, dtype=torch.uint8).reshape(2, 8)
    expected = torch.tensor([[0x10, 0x32, 0x54, 0x76], [0x98, 0xBA, 0xDC, 0xFE]],
                            dtype=torch.uint8)
    for name, pack in torch_cpu.PACKERS.items():
        assert torch.equal(pack(codes), expected), name


def test_torch_gives_what_halfbyte_gives(torch_cpu) -> None:
    pytest.importorskip("halfbyte")
    ours = torch_cpu.halfbyte_function()
    for residual in (False, True):
        theirs = torch_cpu.variant("compare+strided")
        codes, scales = torch_cpu.equal_share(theirs, ours, 8, 256, residual)
        # A row is summed in another order: a norm one bf16 step away may move a code or a scale.
        assert codes > 99 and scales > 98


def test_decoder_block_runs_and_agrees(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "out.json"
    command = [sys.executable, BENCH / "decoder_block.py", "--model", "tiny", "--m", "4",
               "--device", "cpu", "--variants", "eager,pass", "--json", out]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [(r["what"], r["variant"]) for r in rows] == [
        (what, variant) for variant in ("eager", "pass") for what in ("block", "norm", "silu")]


def test_a_graph_has_20_ms_of_launches_and_rotates_over_three_times_the_l2() -> None:
    timing = script("cuda_timing")
    assert [timing.launches_of(us) for us in (0, 3, 1000, 1500, 20_000, 10**6)] == [20, 20, 20, 13, 1, 1]
    l2 = 60 << 20
    assert [timing.copies_of(size, l2) for size in (1, 9 << 20, 90 << 20, 1 << 30)] == [20, 20, 2, 2]
    assert timing.copies_of(30 << 20, l2) == 6


def test_results_are_written_as_json(tmp_path: Path) -> None:
    timing = script("cuda_timing")
    report = {"schema": 1, "rows": [{"name": "a", "us": 1.5}, {"name": "b"}]}
    timing.write(tmp_path / "x.json", report)
    assert json.loads((tmp_path / "x.json").read_text()) == report


def test_torch_tiles_scales_as_128x4(torch_cuda) -> None:
    import torch
    scales = torch.randint(1, 256, (130, 6), dtype=torch.uint8)
    tiled = torch_cuda.tile_scales(scales)
    assert tiled.shape == (256, 8)
    expected = torch.zeros(256 * 8, dtype=torch.uint8)
    for m in range(130):
        for k in range(6):
            tile = (m // 128 * 2 + k // 4) * 512
            expected[tile + m % 32 * 16 + m % 128 // 32 * 4 + k % 4] = scales[m, k]
    assert torch.equal(tiled.flatten(), expected)


def test_named_shapes_of_the_peers(torch_cuda) -> None:
    shapes = torch_cuda.named_shapes()
    assert len({shape.name for shape in shapes}) == 12
    assert {shape.m for shape in shapes} == {1, 16, 128, 1024, 4096, 16384}
    assert torch_cuda.parse_shape("16x8192+residual") == (16, 8192, True)
    for text in ("16", "16x8", "0x16", "16x16+", "x16"):
        with pytest.raises(Exception, match="expected MxH"):
            torch_cuda.parse_shape(text)


def test_rmsnorm_peers_agree_with_halfbyte(torch_cuda) -> None:
    pytest.importorskip("halfbyte")

    def fused(inputs):  # the function as written, not compiled; check() asserts what agrees
        function = torch_cuda.plain("compare")
        return torch_cuda.fused_candidates(inputs, ()) | {
            "plain": lambda index: function(*inputs.one(index), inputs.global_scale)}

    for residual in (False, True):
        shape = torch_cuda.Shape(130, 256, residual)
        found = torch_cuda.check(shape, "cpu", fused, fused=True)
        assert found["halfbyte"] == {"equal_codes_percent": 100, "equal_scales_percent": 100}
        assert found["plain"]["equal_codes_percent"] > 99
        norms = torch_cuda.check(shape, "cpu", lambda inputs: torch_cuda.norm_candidates(inputs, None),
                                 fused=False)
        assert {"halfbyte_norm", "torch_norm"} <= norms.keys()


def test_rmsnorm_peers_summary(torch_cuda) -> None:
    def row(name: str, compiled: float) -> dict:
        return {"name": name, "times": {"halfbyte": {"us": 2.0}, "compiled_round": {"us": compiled},
                                        "max_autotune_compare": {"us": 9.0},
                                        "halfbyte_norm": {"us": 2.0}, "torch_norm": {"us": 4.0}}}

    rows = [row("1x16", 5.0), row("2x16", 8.0)]
    lines = torch_cuda.summary(rows).splitlines()
    assert lines == [
        "torch.compile over rmsnorm_quantize: geometric mean 3.16, least 2.50 at 1x16; 3 asked: "
        "1 of 2 met, missed: 1x16 2.50",
        "torch's rms_norm over rmsnorm: geometric mean 2.00, least 2.00 at 1x16"]
    assert "| 1x16 | 2.0 | 5.0 (compiled_round) | 2.50 | 2.0 | nan |" in torch_cuda.table(rows)


def test_gemm_peers_table_and_targets(gemm_peers) -> None:
    def row(m: int, **us: float) -> dict:
        return {"name": f"{m}x64x32", "m": m, "n": 64, "k": 32,
                "times": {name: {"us": value} for name, value in us.items()}}

    rows = [row(1, w4a4_auto=2, humming=4, bf16=8), row(8, w4a4_auto=2, humming=2, bf16=8),
            row(256, w4a4_auto=10, bf16=9)]
    assert gemm_peers.table(rows, ("w4a4_auto", "fp8", "humming")).splitlines() == [
        "w4a4_auto / humming, µs", "",
        "| N x K | M = 1 | M = 8 |", "| --- | --- | --- |", "| 64 x 32 | 2.0 / 4.0 | 2.0 / 2.0 |", "",
        "| N x K | M = 256 |", "| --- | --- |", "| 64 x 32 | 10.0 / - |"]
    assert gemm_peers.targets(rows, "w4a4_auto") == [
        ["w4a4_auto", "humming", "M = 1 to 8", "1.6", "1 of 2", "1.41", "1.00 at 8x64x32"],
        ["w4a4_auto", "bf16", "M = 1 to 8", "3", "2 of 2", "4.00", "4.00 at 1x64x32"],
        ["w4a4_auto", "bf16", "M >= 1", "0.9", "3 of 3", "2.43", "0.90 at 256x64x32"]]
    assert gemm_peers.targets(rows, "w4a16_auto") == []
    with pytest.raises(Exception, match="expected NxK"):
        gemm_peers.parse_shapes("64x30")


def test_gemm_peers_runs_and_agrees(tmp_path: Path) -> None:
    pytest.importorskip("halfbyte")
    out = tmp_path / "out.json"
    command = [sys.executable, BENCH / "gemm_peers.py", "--shapes", "64x128,48x64", "--m", "1,5",
               "--device", "cpu", "--no-humming", "--replays", "1", "--skip-over", "1e9", "--json", out]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(out.read_text())
    assert [row["name"] for row in report["rows"]] == ["1x64x128", "5x64x128", "1x48x64", "5x48x64"]
    assert {"w4a4_exact", "w4a16_auto", "w4a4_quantize", "bf16"} <= report["rows"][0]["times"].keys()
    assert "fp8" not in report["rows"][0]["times"]
    assert "w4a4_dequantize" in report["refused"]
