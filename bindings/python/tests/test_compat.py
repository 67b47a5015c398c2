"""The drop-in names: signatures, dtypes, shapes, values against halfbyte's own, refusals."""

from __future__ import annotations

import inspect

import definition
import pytest
import torch
from helpers import sample, same

import halfbyte
from halfbyte.compat import flashinfer, vllm

FP4, E4M3 = torch.float4_e2m1fn_x2, torch.float8_e4m3fn

# FlashInfer's own, at the commit of 2026-08-22.
SIGNATURES = {
    "rmsnorm_fp4quant": "input weight y_fp4=None block_scale=None global_scale=None eps=1e-06 "
    "block_size=16 scale_format=None is_sf_swizzled_layout=False enable_pdl=None",
    "add_rmsnorm_fp4quant": "input residual weight y_fp4=None block_scale=None global_scale=None "
    "eps=1e-06 block_size=16 scale_format=None is_sf_swizzled_layout=False "
    "output_both_sf_layouts=False block_scale_unswizzled=None enable_pdl=None y_out=None",
    "fp4_quantize": "input global_scale=None sf_vec_size=16 sf_use_ue8m0=False "
    "is_sf_swizzled_layout=True is_sf_8x4_layout=False is_global_scale_inversed=False "
    "enable_pdl=None backend='cuda'",
    "nvfp4_quantize": "a a_global_sf sfLayout=<SfLayout.layout_128x4: 0> do_shuffle=False "
    "sf_vec_size=16 enable_pdl=None backend='cuda' per_token_activation=False "
    "expanded_idx_to_permuted_idx=None",
    "nvfp4_batched_quantize": "a a_global_sf sf_vec_size=16",
    "scaled_fp4_grouped_quantize": "a mask a_global_sf",
    "mxfp4_quantize": "a backend='cuda' enable_pdl=None sfLayout=<SfLayout.layout_128x4: 0>",
    "mxfp4_dequantize": "a_fp4 a_sf sfLayout=<SfLayout.layout_128x4: 0>",
    "silu_and_mul": "input out=None enable_pdl=None",
    "silu_and_mul_nvfp4_quantize": "input global_scale sf_vec_size=16 is_sf_swizzled_layout=True "
    "is_sf_8x4_layout=False enable_pdl=None",
    "silu_and_mul_scaled_nvfp4_experts_quantize": "a mask a_global_sf",
    "block_scale_interleave": "unswizzled_sf",
    "e2m1_and_ufp8sf_scale_to_float": "e2m1_tensor ufp8_scale_tensor global_scale_tensor=None "
    "sf_vec_size=16 ufp8_type=1 is_sf_swizzled_layout=True is_sf_8x4_layout=False",
    "mm_fp4": "a b a_descale b_descale alpha=None out_dtype=torch.bfloat16 out=None block_size=16 "
    "use_8x4_sf_layout=False backend='auto' use_nvfp4=True enable_pdl=True",
    "rmsnorm": "input weight eps=1e-06 out=None enable_pdl=None",
    "fused_add_rmsnorm": "input residual weight eps=1e-06 enable_pdl=None",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    parameters = inspect.signature(getattr(flashinfer, name)).parameters.values()
    empty = inspect.Parameter.empty
    shown = [p.name if p.default is empty else f"{p.name}={p.default!r}" for p in parameters]
    assert " ".join(shown) == SIGNATURES[name]


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.uint8)


@pytest.mark.parametrize("block_size", [16, 32])
@pytest.mark.parametrize("swizzled", [False, True])
@pytest.mark.parametrize("shape", [(5, 128), (2, 3, 128), (0, 128)])
def test_norms(device: str, shape: tuple[int, ...], swizzled: bool, block_size: int) -> None:
    x, weight = sample(*shape).to(device), sample(128, seed=1).to(device)
    options = {"block_size": block_size, "is_sf_swizzled_layout": swizzled}
    g = torch.tensor(3.0, dtype=torch.bfloat16, device=device)  # 0-dim, not fp32
    ours = {"layout": "128x4" if swizzled else "linear"}
    if block_size == 16:
        ours["global_scale"] = g.float()
    else:
        ours["format"] = "mxfp4"
    expected = halfbyte.rmsnorm_quantize(x, weight, **ours)
    y, scales = flashinfer.rmsnorm_fp4quant(x, weight, global_scale=g, **options)
    assert y.dtype == FP4 and scales.dtype == (E4M3 if block_size == 16 else torch.uint8)
    same(bytes_of(y), expected.codes)
    same(bytes_of(scales), expected.scales.reshape(-1) if swizzled else expected.scales)

    residual, other = sample(*shape, seed=2).to(device), sample(*shape, seed=2).to(device)
    both = halfbyte.rmsnorm_quantize(
        x, weight, other, second_layout="linear", normed=True, **{**ours, "layout": "128x4"}
    )
    y_fp4 = torch.full_like(expected.codes, 9)
    y_out = torch.full_like(x, 9)
    y, scales, linear = flashinfer.add_rmsnorm_fp4quant(
        x, residual, weight, y_fp4, global_scale=3.0, output_both_sf_layouts=True, y_out=y_out,
        **options,
    )  # fmt: skip
    assert y is y_fp4
    same(y_fp4, both.codes)
    same(bytes_of(scales), both.scales.reshape(-1))
    same(bytes_of(linear), both.scales_second)
    same(y_out, both.normed)
    same(residual, other)


def test_unfused_norms(device: str) -> None:
    x, weight, residual = (sample(6, 64, seed=i).to(device)[2:] for i in range(3))
    weight = weight[0].clone()
    h, y = residual.clone(), halfbyte.rmsnorm(x, weight)
    same(flashinfer.norm.rmsnorm(x, weight), y)
    out = torch.empty_like(x)
    assert flashinfer.norm.rmsnorm(x, weight, out=out) is out
    same(out, y)
    expected = halfbyte.rmsnorm(x, weight, h)
    flashinfer.norm.fused_add_rmsnorm(x, residual, weight)
    same(x, expected)
    same(residual, h)


@pytest.mark.parametrize("g", [2.0, torch.tensor([2.0]).half(), torch.tensor(2.0)], ids=str)
def test_fp4_quantize(device: str, g: float | torch.Tensor) -> None:
    x = sample(5, 48, dtype=torch.float16)
    codes, linear = definition.nvfp4(x, 2.0)
    x = x.to(device)
    for layout, options in [
        ("linear", {"is_sf_swizzled_layout": False}),
        ("128x4", {}),
        ("8x4", {"is_sf_8x4_layout": True}),
    ]:
        actual, scales = flashinfer.fp4_quantize(x, g, **options)
        same(actual, codes)
        same(scales, linear if layout == "linear" else definition.tiled(linear, layout))
        member = flashinfer.SfLayout[f"layout_{layout}"]
        same(flashinfer.nvfp4_quantize(x, g, sfLayout=member)[1], scales)
        mx = flashinfer.mxfp4_quantize(x[:, :32], sfLayout=member)
        ours = halfbyte.quantize(x[:, :32], format="mxfp4", layout=layout)
        same(mx[0], ours.codes)
        same(mx[1], ours.scales)
        same(flashinfer.mxfp4_dequantize(*mx, sfLayout=member), ours.dequantize(torch.float32))
        back = flashinfer.e2m1_and_ufp8sf_scale_to_float(actual, scales, 0.5, **options)
        same(back, halfbyte.dequantize(codes, linear, torch.tensor([2.0]), dtype=torch.float32))
    inverse = flashinfer.fp4_quantize(x, 0.5, is_global_scale_inversed=True)
    same(inverse[0], codes)
    column_major = flashinfer.fp4_quantize(x.t(), g)  # a [K, M] view of row-major [M, K]
    same(column_major[0], codes.t())
    same(flashinfer.block_scale_interleave(linear.to(device)),
         definition.tiled(linear, "128x4").reshape(-1))  # fmt: skip
    stacked = flashinfer.block_scale_interleave(torch.stack([linear, linear]).to(device))
    same(stacked, definition.tiled(linear, "128x4").reshape(-1).repeat(2))


def test_per_token(device: str) -> None:
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).to(device)
    x[3] = 0
    ours = halfbyte.quantize(x, scale="row", layout="128x4")
    codes, scales, rows = flashinfer.nvfp4_quantize(x, 1 / 2688, per_token_activation=True)
    same(codes, ours.codes)
    same(scales, ours.scales)
    same(rows, ours.row_scale)
    base = torch.tensor([2 / 2688], device=device)
    codes, scales, rows = flashinfer.nvfp4_quantize(x, base, per_token_activation=True)
    amax = x.abs().amax(dim=1)
    same(rows, torch.where(amax == 0, 1.0, amax * base))
    same(codes, halfbyte.quantize(x, 1 / rows).codes)


def test_exact_mode(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, g = sample(64, 256).to(device), torch.tensor([37.5])
    monkeypatch.setenv("FLASHINFER_DISABLE_FP4_QUANT_FAST_MATH", "1")
    codes, scales = flashinfer.fp4_quantize(x, g)
    ours = halfbyte.quantize(x, g, layout="128x4", scale_rule="te")
    same(codes, ours.codes)
    same(scales, ours.scales)


def test_batches_and_experts(device: str) -> None:
    x = sample(3, 5, 128).to(device)
    g, mask = torch.tensor([0.5, 1.0, 4.0]), torch.tensor([5, 2, 0], dtype=torch.int32)
    codes, scales = flashinfer.nvfp4_batched_quantize(x, g)
    assert codes.shape == (3, 5, 64) and scales.shape == (3, 128 * 8)
    for b in range(3):
        one = halfbyte.quantize(x[b], g[b].to(device), layout="128x4")
        same(codes[b], one.codes)
        same(scales[b], one.scales.reshape(-1))
    for function, own, columns in [
        (flashinfer.scaled_fp4_grouped_quantize, halfbyte.quantize, 128),
        (flashinfer.silu_and_mul_scaled_nvfp4_experts_quantize, halfbyte.silu_mul_quantize, 64),
    ]:
        codes, scales = function(x, mask.to(device), g.to(device))
        blocks = -(-columns // 64) * 4
        assert codes.shape == (5, columns // 2, 3) and codes.dtype == torch.uint8
        assert scales.shape == (32, 4, 1, 4, blocks // 4, 3) and scales.dtype == E4M3
        physical = scales.view(torch.uint8).permute(5, 2, 4, 0, 1, 3).reshape(3, -1)
        for b in range(3):
            count = int(mask[b])
            one = own(x[b, :count], g[b].to(device), layout="128x4")
            same(codes[:count, :, b], one.codes)
            assert not codes[count:, :, b].any()
            if count:
                same(physical[b], one.scales.reshape(-1))
            else:
                assert not physical[b].any()


def test_activation(device: str) -> None:
    x = sample(2, 3, 128).to(device)
    same(flashinfer.silu_and_mul(x), halfbyte.silu_mul(x))
    out = torch.empty(2, 3, 64, dtype=x.dtype, device=device)
    assert flashinfer.silu_and_mul(x, out) is out
    same(out, halfbyte.silu_mul(x))
    codes, scales = flashinfer.silu_and_mul_nvfp4_quantize(x, 3.0)
    ours = halfbyte.silu_mul_quantize(x, torch.tensor([3.0]), layout="128x4")
    same(codes, ours.codes.reshape(6, 32))
    same(scales, ours.scales)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w: flashinfer.rmsnorm_fp4quant(x, w, block_size=8), "block_size: expected 16 or"),
        (lambda x, w: flashinfer.rmsnorm_fp4quant(x, w, scale_format="ue8m0"), "scale_format"),
        (lambda x, w: flashinfer.rmsnorm_fp4quant(x[0], w), "input: expected 2 or 3 dim"),
        (lambda x, w: flashinfer.rmsnorm_fp4quant(x, w[:32]), "weight: expected"),
        (lambda x, w: flashinfer.rmsnorm_fp4quant(x, w, block_scale=w), "block_scale: expected 16"),
        (lambda x, w: flashinfer.add_rmsnorm_fp4quant(x, x, w, y_out=w), "y_out: expected"),
        (lambda x, w: flashinfer.add_rmsnorm_fp4quant(x, x, w), "residual: .*overlap"),
        (lambda x, w: flashinfer.fp4_quantize(x, 1.0, sf_use_ue8m0=True), "sf_use_ue8m0"),
        (lambda x, w: flashinfer.fp4_quantize(x, 1.0, backend="x"), "backend: expected"),
        (lambda x, w: flashinfer.fp4_quantize(x[:, :20], 1.0), "x: expected a last dim"),
        (lambda x, w: flashinfer.fp4_quantize(x, 0.0), "global_scale: expected a finite"),
        (lambda x, w: flashinfer.block_scale_interleave(x), "unswizzled_sf: expected uint8"),
        (lambda x, w: vllm.scaled_fp4_quant(x, w[:1], padded_n=63), "padded_n: expected"),
    ],
)
def test_refusals(call, message: str) -> None:
    for kind in (AssertionError, ValueError):
        with pytest.raises(kind, match=message):
            call(torch.ones(4, 64), torch.ones(64))


def test_not_implemented() -> None:
    x = torch.ones(4, 64)
    with pytest.raises(NotImplementedError, match="do_shuffle"):
        flashinfer.nvfp4_quantize(x, 1.0, do_shuffle=True)
    with pytest.raises(NotImplementedError, match="sf_vec_size: expected 16 or 32, got 8"):
        flashinfer.fp4_quantize(x, 1.0, sf_vec_size=8)


def test_compiles(device: str) -> None:
    def block(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> tuple:
        y, scales = flashinfer.add_rmsnorm_fp4quant(x * 2, residual, weight)
        return y.view(torch.uint8), scales.view(torch.uint8), flashinfer.fp4_quantize(x)[0], residual + 1

    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    x, weight, residual = (sample(3, 64, seed=i).to(device) for i in range(3))
    mine = residual.clone()
    for actual, expected in zip(
        compiled(x, weight[0], mine), block(x, weight[0], residual), strict=True
    ):
        same(actual, expected)
    same(mine, residual)


OPS = torch.ops.halfbyte_vllm


def test_products(device: str) -> None:
    """As their libraries' examples write it; exact: one order of every sum."""
    a, b = (torch.randn(n, 128).bfloat16().to(device) for n in (5, 48))
    ga, gb = (2688 / t.float().abs().max() for t in (a, b))
    alpha = 1.0 / (ga * gb)
    ours = halfbyte.gemm(
        halfbyte.quantize(a, ga)._replace(global_scale=None, decode_scale=alpha.reshape(1)),
        halfbyte.quantize(b, gb)._replace(global_scale=None),
    )
    b_fp4, b_sf = flashinfer.nvfp4_quantize(b, gb)
    for layout, small in ((flashinfer.SfLayout.layout_128x4, False),
                          (flashinfer.SfLayout.layout_8x4, True)):  # fmt: skip
        a_fp4, a_sf = flashinfer.nvfp4_quantize(a, ga, sfLayout=layout)
        out = torch.empty(5, 48, dtype=torch.bfloat16, device=device)
        got = flashinfer.mm_fp4(
            a_fp4, b_fp4.T, a_sf, b_sf.T, alpha, torch.bfloat16, out, use_8x4_sf_layout=small
        )
        assert got is out
        same(out, ours)
    a_sf = flashinfer.nvfp4_quantize(a, ga)[1]
    got = vllm.cutlass_scaled_fp4_mm(
        a_fp4, b_fp4, a_sf.view(E4M3), b_sf.view(torch.int32), alpha.reshape(1), torch.bfloat16
    )
    same(got, ours)
    torch.library.opcheck(
        OPS.cutlass_scaled_fp4_mm.default, (got, a_fp4, b_fp4, a_sf, b_sf, alpha.reshape(1))
    )
    a_mx, b_mx = flashinfer.mxfp4_quantize(a), flashinfer.mxfp4_quantize(b)
    got = flashinfer.mm_fp4(
        a_mx[0], b_mx[0].T, a_mx[1], b_mx[1].T, 0.5, torch.float32, block_size=32, use_nvfp4=False
    )
    mx = [halfbyte.quantize(t, format="mxfp4") for t in (a, b)]
    same(got, halfbyte.gemm(*mx, dtype=torch.float32) * 0.5)
    with pytest.raises(AssertionError, match="b: expected column-major"):
        flashinfer.mm_fp4(a_fp4, b_fp4.T.contiguous(), a_sf, b_sf.T)


def test_vllm_operators(device: str) -> None:
    x, weight = torch.randn(5, 128).half().to(device), torch.rand(128).half().to(device)
    g = torch.tensor([3.0], device=device)
    for swizzled in (False, True):
        layout = "128x4" if swizzled else "linear"
        ours = halfbyte.quantize(x, g, layout=layout)
        codes, scales = OPS.scaled_fp4_quant(x, g, swizzled)
        assert scales.dtype == (torch.int32 if swizzled else torch.uint8)
        same(codes, ours.codes)
        same(scales.view(torch.uint8), ours.scales)
        codes, scales = vllm.scaled_fp4_quant(x, g, swizzled)
        assert scales.dtype == E4M3
        same(scales.view(torch.uint8), ours.scales)
        padded = torch.nn.functional.pad(x, (0, 32))
        ours = halfbyte.quantize(padded, g, layout=layout)
        out = vllm.create_fp4_output_tensors(5, 128, x.device, swizzled, padded_n=160)
        OPS.scaled_fp4_quant.out(x, g, swizzled, output=out[0], output_scale=out[1])
        same(out[0], ours.codes)
        same(out[1].view(torch.uint8), ours.scales)
        same(vllm.scaled_fp4_quant(x, g, swizzled, padded_n=160)[0], ours.codes)
        torch.library.opcheck(OPS.scaled_fp4_quant.default, (x, g, swizzled))
        outputs = {"output": out[0], "output_scale": out[1]}
        torch.library.opcheck(OPS.scaled_fp4_quant.out, (x, g, swizzled), outputs)
    residual, other = torch.randn(5, 128).half().to(device), None
    for operator, ours, width, arguments in [
        (OPS.silu_and_mul_nvfp4_quant, halfbyte.silu_mul_quantize, 64, (x, g)),
        (OPS.rms_norm_nvfp4_quant, halfbyte.rmsnorm_quantize, 128, (x, weight, g, 1e-5)),
        (OPS.fused_add_rms_norm_nvfp4_quant, halfbyte.rmsnorm_quantize, 128,
         (x, residual, weight, g, 1e-5)),
    ]:  # fmt: skip
        out = vllm.create_fp4_output_tensors(5, width, x.device, True)
        torch.library.opcheck(operator.default, (*out, *arguments))
        other = residual.clone()
        operator(*out, *arguments)
        options = {"layout": "128x4", "rounding": "huggingface", "global_scale": g}
        if width == 128:
            options.update(weight=weight, eps=1e-5, residual=other if len(arguments) == 5 else None)
        expected = ours(x, **options)
        same(out[0], expected.codes)
        same(out[1].view(torch.uint8), expected.scales)
        same(residual, other if len(arguments) == 5 else residual)


def test_register_torch_ops() -> None:
    library = torch.library.Library("halfbyte_other", "DEF")
    library.define("rms_norm_nvfp4_quant(Tensor x) -> Tensor")
    names = vllm.register_torch_ops("halfbyte_other")
    assert "rms_norm_nvfp4_quant" not in names and "scaled_fp4_quant.out" in names
    assert vllm.register_torch_ops("halfbyte_other") == []
    x, g = torch.randn(4, 64), torch.ones(1)
    same(
        torch.ops.halfbyte_other.scaled_fp4_quant(x, g, True)[0],
        halfbyte.quantize(x, g).codes,
    )
