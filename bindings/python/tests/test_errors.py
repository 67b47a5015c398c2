"""What is refused, and what the message says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import halfbyte

X = torch.ones(4, 64)
W = torch.ones(64)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X[:, :60],), {}, r"quantize: x: expected .* multiple of 16 .*, got 60"),
        ((X[:, :48],), {"format": "mxfp4"}, r"quantize: x: expected .* multiple of 32 .*, got 48"),
        ((torch.ones(()),), {}, r"quantize: x: expected at least one dimension"),
        ((torch.ones(4, 0),), {}, r"quantize: x: expected a last dimension .*, got 0"),
        ((X.double(),), {}, r"quantize: x: expected .*, got torch.float64"),
        ((X.int(),), {}, r"quantize: x: expected fp32, fp16 or bf16, got i32"),
        ((torch.ones(64, 32).t(),), {}, r"quantize: x: expected a dense last dimension"),
        ((X,), {"format": "nvfp3"}, r"quantize: format: expected one of nvfp4, .*, got 'nvfp3'"),
        ((X,), {"layout": "4x4"}, r"quantize: layout: expected one of linear, .*, got '4x4'"),
        ((X,), {"second_layout": "x"}, r"quantize: second_layout: expected .*, got 'x'"),
        ((X,), {"second_layout": ""}, r"quantize: second_layout: expected .*, got ''"),
        ((X,), {"format": "fp8", "scale": "row", "second_layout": "8x4"}, r"second_layout: .*fp8"),
        ((X,), {"scale": "block"}, r"quantize: scale: expected one of tensor, .*, got 'block'"),
        ((X,), {"scale_rule": "x"}, r"quantize: scale_rule: expected one of kernel, te"),
        ((X,), {"mx_rule": "x"}, r"quantize: mx_rule: expected one of round_up, ocp_floor"),
        ((X, torch.zeros(1)), {}, r"quantize: global_scale: expected a finite scale > 0"),
        ((X, torch.tensor([torch.inf])), {}, r"quantize: global_scale: expected a finite"),
        ((X, torch.ones(3)), {}, r"quantize: global_scale: expected shape \[1\] or \[4\]"),
        ((X, torch.ones(1).bfloat16()), {}, r"quantize: global_scale: expected fp32, got bf16"),
        ((X, torch.ones(1)), {"format": "mxfp4"}, r"global_scale: .*mxfp4 has no global scale"),
        ((X, torch.ones(1)), {"scale": "row"}, r"quantize: global_scale: expected no tensor"),
        ((X, None, torch.ones(1)), {}, r"quantize: decode_scale: expected no tensor"),
        ((X,), {"format": "fp8"}, r"quantize: decode_scale: expected a tensor"),
        ((X,), {"format": "fp8", "scale": "row", "layout": "8x4"}, r"quantize: layout: .*fp8"),
        ((X,), {"format": "mxfp4", "scale_rule": "te"}, r"quantize: scale_rule: .*mxfp4"),
        ((X,), {"mx_rule": "ocp_floor"}, r"quantize: mx_rule: expected round_up"),
    ],
)
def test_quantize(arguments: tuple, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        halfbyte.quantize(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X, W[:32]), {}, r"rmsnorm_quantize: weight: expected .*64"),
        ((X, W.half()), {}, r"rmsnorm_quantize: weight: expected .*, got fp16"),
        ((X, W, X[:2]), {}, r"rmsnorm_quantize: residual: expected shape \[4, 64\]"),
        ((X, W, X.half()), {}, r"rmsnorm_quantize: residual: expected fp32, got fp16"),
        ((X, W), {"eps": -1.0}, r"rmsnorm_quantize: eps: expected"),
        ((X, W), {"eps": float("nan")}, r"rmsnorm_quantize: eps: expected"),
        ((X, W), {"rounding": "x"}, r"rmsnorm_quantize: rounding: expected one of float32"),
    ],
)
def test_rmsnorm_quantize(arguments: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        halfbyte.rmsnorm_quantize(*arguments, **options)


def test_nothing_is_written() -> None:
    residual = torch.ones(4, 64)
    with pytest.raises(ValueError, match="global_scale"):
        halfbyte.rmsnorm_quantize(X, W, residual, torch.zeros(1))
    assert (residual == 1).all()
    with pytest.raises(ValueError, match="residual"):  # an expanded residual cannot be updated
        halfbyte.rmsnorm_quantize(X, W, torch.ones(64).expand(4, 64))


def test_dequantize() -> None:
    packed = halfbyte.quantize(X)
    codes, scales = packed.codes, packed.scales
    one = torch.ones(1)
    with pytest.raises(ValueError, match="dequantize: decode_scale: expected at most one of"):
        halfbyte.dequantize(codes, scales, one, one)
    with pytest.raises(ValueError, match=r"dequantize: scales: expected .*16 elements"):
        halfbyte.dequantize(codes, scales[:2])
    with pytest.raises(ValueError, match="dequantize: scales: expected"):
        halfbyte.dequantize(codes)
    with pytest.raises(ValueError, match="dequantize: format: expected one of nvfp4"):
        halfbyte.dequantize(codes, scales, format="x")
    with pytest.raises(ValueError, match="dequantize: layout: expected one of linear"):
        halfbyte.dequantize(codes, scales, layout="x")
    with pytest.raises(ValueError, match="dequantize: dtype: expected float32"):
        halfbyte.dequantize(codes, scales, dtype=torch.int32)
    with pytest.raises(ValueError, match="dequantize: codes: expected u8, got fp32"):
        halfbyte.dequantize(codes.float(), scales)


@pytest.mark.gpu
def test_devices() -> None:
    with pytest.raises(ValueError, match="weight: expected a tensor on cuda:0, got cpu"):
        halfbyte.rmsnorm_quantize(X.cuda(), W)
    with pytest.raises(ValueError, match="global_scale: expected a tensor on cpu"):
        halfbyte.quantize(X, torch.ones(1).cuda())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.skipif(bool(halfbyte.cuda_architectures()), reason="this build has CUDA")
def test_cuda_tensor_without_cuda_build() -> None:
    with pytest.raises(NotImplementedError, match="no CUDA"):
        halfbyte.quantize(X.cuda())


def test_library_not_found(tmp_path: os.PathLike) -> None:
    if os.path.exists(os.path.join(os.path.dirname(halfbyte.__file__), "libhalfbyte.so")):
        pytest.skip("installed with its library")
    environment = {**os.environ, "HALFBYTE_LIBRARY": str(tmp_path / "none.so")}
    result = subprocess.run(
        [sys.executable, "-c", "import halfbyte"], env=environment, capture_output=True, text=True
    )
    assert "ImportError: halfbyte: cannot load its library" in result.stderr
    assert "none.so" in result.stderr
