"""bench/plot.py and bench/torch_cpu.py: that they run and agree; never how fast anything is."""

from __future__ import annotations

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
               if all("floor_us" in row for row in json.loads(path.read_text()).get("rows", [{}]))]
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


@pytest.fixture
def torch_cpu():
    pytest.importorskip("torch")
    sys.path.insert(0, str(BENCH))
    import torch_cpu
    sys.path.remove(str(BENCH))
    return torch_cpu


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
