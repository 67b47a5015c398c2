"""silu_mul and silu_mul_quantize: the definition, PyTorch's eager modules, fusion, refusals."""

from __future__ import annotations

import math

import definition
import pytest
import torch
from helpers import DTYPES, sample, same, same_packed
from test_operators import OPTIONS

import halfbyte

GPT_OSS = {"interleave": 1, "clamp": 7.0, "alpha": 1.702, "up_bias": 1.0}
ACTIVATIONS = [
    {},
    {"rounding": "huggingface"},
    {"interleave": 8, "clamp": 1.5},
    GPT_OSS,
    {**GPT_OSS, "rounding": "huggingface"},
]


def every_kind(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Ordinary values, and rows where exp overflows, gives subnormals, or meets Inf and NaN."""
    x = sample(*shape, dtype=dtype)
    x.view(-1, shape[-1])[-1] = sample(shape[-1], dtype=dtype, seed=4) * 30
    return x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", ACTIVATIONS, ids=str)
def test_is_the_definition(device: str, dtype: torch.dtype, options: dict) -> None:
    for shape in ((9, 160), (2, 5, 16), (1, 4112)):
        gate_up = every_kind(*shape, dtype=dtype)
        y = halfbyte.silu_mul(gate_up.to(device), **options)
        same(y, definition.silu_mul(gate_up, **options))
        fp8 = {"format": "fp8", "scale": "row", **options}
        assert halfbyte.silu_mul_quantize(gate_up.to(device), **fp8).codes.shape == y.shape


def ulps(actual: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """|actual - expected| in steps of expected's type there."""
    step = torch.nextafter(expected.abs(), torch.tensor(math.inf, dtype=expected.dtype))
    step = (step - expected.abs()).double()
    return (actual.double() - expected.double()).abs() / step


# PyTorch: y = T(T(silu(gate)) * up), silu(x) = x / (1 + exp(-x)) in fp32 with an exp of its own.
# Of silu that is a difference under 4.5 ulp of fp32: both exps are within 1 ulp of e^x, and each
# side has at most three roundings after it. In fp32 that is twice as many steps of y, which may be
# finer than those of silu, and the last rounding. Few elements of a half type see it: those where it
# crosses a rounding boundary, moving T(silu) by one step and y by at most two.
@pytest.mark.parametrize("dtype", DTYPES)
def test_is_eager_pytorch(device: str, dtype: torch.dtype) -> None:
    gate_up = (torch.randn(64, 2048, generator=torch.Generator().manual_seed(1)) * 2).to(dtype)
    gate, up = gate_up.to(device).chunk(2, dim=-1)
    expected = (torch.nn.functional.silu(gate) * up).cpu()
    actual = halfbyte.silu_mul(gate_up.to(device), rounding="huggingface").cpu()
    error = ulps(actual, expected)
    if dtype == torch.float32:
        assert error.max() <= 10
    else:
        assert error.max() <= 2
        # An error of 4.5 * 2^-24 of a value crosses one of the boundaries, eps / 2 of it apart.
        assert (error != 0).double().mean() < 9 * 2**-24 / (torch.finfo(dtype).eps / 2) + 1e-4


# gpt-oss as its modules write it, in fp32 (in a half type they round after every operation).
def test_is_gpt_oss(device: str) -> None:
    gate_up = torch.randn(33, 512, generator=torch.Generator().manual_seed(2)).to(device) * 5
    gate, up = gate_up[..., ::2].clamp(max=7.0), gate_up[..., 1::2].clamp(-7.0, 7.0)
    expected = ((up + 1) * (gate * torch.sigmoid(gate * 1.702))).cpu()
    actual = halfbyte.silu_mul(gate_up, **GPT_OSS).cpu()
    assert ulps(actual, expected).max() <= 10


@pytest.mark.parametrize("options", [*OPTIONS, {"scale": "computed"}], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_is_unfused(device: str, dtype: torch.dtype, options: dict[str, str]) -> None:
    gate_up = every_kind(2, 6, 192, dtype=dtype).to(device)
    for activation in ACTIVATIONS:
        fused = halfbyte.silu_mul_quantize(gate_up, **activation, **options)
        unfused = halfbyte.quantize(halfbyte.silu_mul(gate_up, **activation), **options)
        same_packed(fused, unfused)


@pytest.mark.gpu
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_gpu_is_cpu(activation: dict) -> None:
    for dtype in DTYPES:
        gate_up = every_kind(33, 320, dtype=dtype)
        same(
            halfbyte.silu_mul(gate_up.cuda(), **activation),
            halfbyte.silu_mul(gate_up, **activation),
        )


def test_strides(device: str) -> None:
    wide = sample(6, 192).to(device)
    same(halfbyte.silu_mul(wide[:, 32:160]), halfbyte.silu_mul(wide[:, 32:160].contiguous()))
    transposed = sample(3, 5, 64).to(device).transpose(0, 1)
    same(
        halfbyte.silu_mul_quantize(transposed).codes,
        halfbyte.silu_mul_quantize(transposed.contiguous()).codes,
    )


def test_global_scale(device: str) -> None:
    gate_up, g = sample(4, 64).to(device), torch.tensor([37.5])
    y = definition.silu_mul(gate_up.cpu())
    packed = halfbyte.silu_mul_quantize(gate_up, g)
    codes, scales = definition.nvfp4(y, 37.5)
    same(packed.codes, codes)
    same(packed.scales, scales)
    d = torch.tensor([0.03])
    same(
        halfbyte.silu_mul_quantize(gate_up, None, d, format="fp8").codes,
        halfbyte.quantize(y.to(device), None, d, format="fp8").codes,
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [(0, 128), (2, 0, 128)])
def test_no_rows(device: str, options: dict[str, str], shape: tuple[int, ...]) -> None:
    gate_up = torch.empty(shape, device=device)
    assert halfbyte.silu_mul(gate_up).shape == (*shape[:-1], 64)
    packed = halfbyte.silu_mul_quantize(gate_up, **options)
    assert packed.codes.shape[:-1] == shape[:-1] and packed.codes.numel() == 0


@pytest.mark.parametrize("shape", [(3, 128), (2, 3, 128), (0, 128), (128,)])
def test_opcheck(device: str, shape: tuple[int, ...]) -> None:
    gate_up = torch.randn(shape, dtype=torch.bfloat16, device=device)
    for activation in ACTIVATIONS:
        torch.library.opcheck(torch.ops.halfbyte.silu_mul.default, (gate_up,), activation)
    for options in [*OPTIONS, {"scale": "computed"}]:
        torch.library.opcheck(
            torch.ops.halfbyte.silu_mul_quantize.default, (gate_up,), {**GPT_OSS, **options}
        )


def block(gate_up: torch.Tensor) -> torch.Tensor:
    packed = halfbyte.silu_mul_quantize(gate_up * 2, scale="row", layout="128x4", **GPT_OSS)
    y = halfbyte.dequantize(
        packed.codes, packed.scales, decode_scale=packed.row_scale, layout="128x4",
        dtype=gate_up.dtype,
    )  # fmt: skip
    return y + halfbyte.silu_mul(gate_up)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(device: str, dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for rows in (5, 9):
        gate_up = torch.randn(rows, 128, dtype=torch.bfloat16, device=device)
        assert torch.equal(compiled(gate_up), block(gate_up))


X = torch.ones(4, 128)
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (X[:, :63], {}, r"gate_up: expected a last dimension 2I.*, got 63"),
        (torch.ones(()), {}, r"gate_up: expected at least one dimension"),
        (torch.ones(4, 0), {}, r"gate_up: expected a last dimension 2I.*, got 0"),
        (X.double(), {}, r"gate_up: expected .*, got torch.float64"),
        (X.int(), {}, r"gate_up: expected fp32, fp16 or bf16, got i32"),
        (torch.ones(128, 32).t(), {}, r"gate_up: expected a dense last dimension"),
        (X, {"interleave": 2}, r"interleave: expected 0 \(halves\), 1 or 8, got 2"),
        (X, {"interleave": 2**32}, r"interleave: expected 0 \(halves\), 1 or 8"),
        (X, {"clamp": 0.0}, r"clamp: expected a finite value > 0"),
        (X, {"clamp": 1e-60}, r"clamp: expected a finite value > 0"),
        (X, {"clamp": -7.0}, r"clamp: expected a finite value > 0"),
        (X, {"clamp": NAN}, r"clamp: expected a finite value > 0"),
        (X, {"clamp": 1e60}, r"clamp: expected a finite value > 0"),
        (X, {"alpha": INF}, r"alpha: expected a finite value"),
        (X, {"up_bias": NAN}, r"up_bias: expected a finite value"),
        (X, {"rounding": "x"}, r"rounding: expected one of float32, huggingface"),
    ],
)
def test_errors(x: torch.Tensor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match="silu_mul: " + message):
        halfbyte.silu_mul(x, **options)
    with pytest.raises(ValueError, match="silu_mul_quantize: " + message):
        halfbyte.silu_mul_quantize(x, **options)


def test_errors_of_the_quantization() -> None:
    with pytest.raises(ValueError, match=r"gate_up: .* 2I, I a multiple of 16, got 48"):
        halfbyte.silu_mul_quantize(X[:, :48])
    with pytest.raises(ValueError, match=r"gate_up: .* 2I, I a multiple of 32, got 96"):
        halfbyte.silu_mul_quantize(X[:, :96], format="mxfp4")
    with pytest.raises(ValueError, match=r"gate_up: .* 2I, I a multiple of 8"):
        halfbyte.silu_mul(X[:, :24], interleave=8)
    with pytest.raises(RuntimeError, match=r"silu_mul_quantize: scale_rule: expected kernel"):
        torch.ops.halfbyte.silu_mul_quantize(X, scale_rule="te")
    with pytest.raises(ValueError, match=r"silu_mul_quantize: format: expected one of nvfp4"):
        halfbyte.silu_mul_quantize(X, format="nvfp3")
    with pytest.raises(ValueError, match=r"silu_mul_quantize: global_scale: expected"):
        halfbyte.silu_mul_quantize(X, torch.zeros(1))
