"""gemm, prepared weights, Linear, load_quantized: against fp64 products, and bit by bit against one
another. The CUDA cases use prepared weights and method="exact"."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fusion_helpers import run
from helpers import same

import halfbyte

OPS = torch.ops.halfbyte


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def weights(format: str, n: int = 48, k: int = 128) -> halfbyte.QuantizedTensor:
    scale = "computed" if format == "nvfp4" else "tensor"
    return halfbyte.quantize(random(n, k, seed=5), format=format, scale=scale)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """A bf16 result and fp32 sums of some hundred terms: 2^-8 of the result, and of the largest sum
    a little for where terms cancel."""
    if not actual.numel():
        return
    error = (actual.double() - expected).abs()
    assert (error <= expected.abs() * 2**-8 + expected.abs().max() * 1e-5).all()


def on(device: str, packed: tuple) -> tuple:
    moved = (t.to(device) if isinstance(t, torch.Tensor) else t for t in packed)
    return type(packed)(*moved)


@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
@pytest.mark.parametrize("shape", [(5, 128), (2, 3, 128), (0, 128)])
def test_products(device: str, shape: tuple[int, ...], format: str) -> None:
    x, w = random(*shape).to(device), on(device, weights(format))
    bias = random(48, seed=2, dtype=torch.float32).to(device)
    prepared = halfbyte.prepare_weights(w)
    options = {} if format == "mxfp4" else {"scale": "row", "layout": "128x4"}
    packed = halfbyte.quantize(x, format=format, **options)
    wide = w.dequantize(torch.float32).double()
    for a, values in ((x, x), (packed, packed.dequantize(torch.float32))):
        exact = halfbyte.gemm(a, prepared, bias=bias, method="exact")
        close(exact, values.double() @ wide.T + bias.double())
        assert exact.dtype == torch.bfloat16 and exact.shape == (*shape[:-1], 48)
        if device == "cpu":
            same(halfbyte.gemm(a, w, bias=bias), exact)
        else:  # the same bits, and the fast methods near them
            same(exact, halfbyte.gemm(on("cpu", a) if a is packed else a.cpu(),
                                      on("cpu", prepared), bias=bias.cpu()))  # fmt: skip
            close(halfbyte.gemm(a, prepared, bias=bias), values.double() @ wide.T + bias.double())
    assert halfbyte.gemm(x, prepared, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
def test_fp8(device: str, format: str) -> None:
    """Both operands in E4M3, four bits each: 3% in norm of normal values, here twice that."""
    x, w = random(40, 128).to(device), on(device, weights(format))
    prepared = halfbyte.prepare_weights(w)
    if device == "cpu":
        with pytest.raises(ValueError, match="auto or exact"):
            halfbyte.gemm(x, prepared, method="fp8")
        return
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no FP8 tensor cores")
    wide = w.dequantize(torch.float32).double()
    packed = halfbyte.quantize(x, format=format)
    for a, values in ((x, x), (packed, packed.dequantize(torch.float32))):
        for b in (prepared, w):
            exact = values.double() @ wide.T
            error = halfbyte.gemm(a, b, method="fp8").double() - exact
            assert error.norm() <= 0.06 * exact.norm()


@pytest.mark.parametrize("format", ["nvfp4", "mxfp4"])
def test_prepared_and_back(device: str, format: str) -> None:
    w = on(device, weights(format))
    back = halfbyte.unprepare_weights(halfbyte.prepare_weights(w))
    same(back.codes, w.codes)
    same(back.scales, w.scales)
    prepared = halfbyte.prepare_weights(w)
    torch.library.opcheck(OPS.prepare_weights.default, (w.codes, w.scales, format))
    torch.library.opcheck(OPS.unprepare_weights.default, (prepared.data, 48, 128, format))


def test_groups() -> None:
    x, g = random(9, 64), torch.tensor([1.0, 4.0])
    stack = random(2, 32, 64, seed=1)
    parts = [halfbyte.quantize(stack[e]) for e in range(2)]
    b = parts[0]._replace(
        codes=torch.stack([p.codes for p in parts]), scales=torch.stack([p.scales for p in parts])
    )
    offsets = torch.tensor([0, 4, 9], dtype=torch.int32)
    groups = halfbyte.RowGroups(offsets, offsets, 9)
    packed = halfbyte.quantize(x, g, groups=groups)
    for a in (x, packed):
        c = halfbyte.gemm(a, b, groups=groups)
        for e, rows in ((0, slice(0, 4)), (1, slice(4, 9))):
            one = x[rows] if a is x else halfbyte.quantize(x[rows], g[e])
            same(c[rows], halfbyte.gemm(one, parts[e]))


def test_operator(device: str) -> None:
    x, prepared = random(4, 128).to(device), halfbyte.prepare_weights(on(device, weights("nvfp4")))
    packed = halfbyte.quantize(x)
    options = {"prepared_rows": 48, "method": "exact"}
    cases = [
        ((x, prepared.data), {**options, "b_decode_scale": prepared.decode_scale}),
        ((packed.codes, prepared.data, None, packed.scales), {**options, "dtype": torch.float32}),
    ]
    for inputs, options in cases:
        torch.library.opcheck(OPS.gemm.default, inputs, options)
        expected = OPS.gemm(*inputs, **options)
        wide = torch.zeros(4, 96, dtype=expected.dtype, device=device)
        options.pop("dtype", None)
        OPS.gemm.out(*inputs, **options, c=wide[:, 48:])  # any row stride
        same(wide[:, 48:].contiguous(), expected)
        torch.library.opcheck(OPS.gemm.out, inputs, {**options, "c": torch.empty_like(expected)})


def test_pair(device: str) -> None:
    w = [on(device, halfbyte.quantize(random(48, 128, seed=i), scale="computed")) for i in (1, 2)]
    (first, second), bias = map(halfbyte.prepare_weights, w), random(48).to(device)
    for a in (random(2, 3, 128).to(device), halfbyte.quantize(random(5, 128).to(device))):
        packed = isinstance(a, halfbyte.QuantizedTensor)
        inputs = (a.codes, first.data, None, a.scales) if packed else (a, first.data)
        options = {
            "b_decode_scale": first.decode_scale, "prepared_rows": 48, "method": "exact",
            "second_b": second.data, "second_b_decode_scale": second.decode_scale,
            "second_bias": bias, "second_prepared_rows": 48,
        }  # fmt: skip
        torch.library.opcheck(OPS.gemm_pair.default, inputs, options)
        both = OPS.gemm_pair(*inputs, **options)
        same(both[..., :48].contiguous(), halfbyte.gemm(a, first, method="exact"))
        same(both[..., 48:].contiguous(), halfbyte.gemm(a, second, bias=bias, method="exact"))


def test_linear(device: str) -> None:
    w, bias = on(device, weights("nvfp4")), random(48).to(device)
    x, g = random(2, 3, 128).to(device), torch.tensor([8.0], device=device)
    for activations, scale, a in [
        (None, None, x),
        ("row", None, halfbyte.quantize(x, scale="row")),
        ("tensor", g, halfbyte.quantize(x, g)),
    ]:
        layer = halfbyte.Linear(
            w, bias, activations=activations, input_scale=scale, method="exact"
        )
        same(layer(x), halfbyte.gemm(a, layer.weights, bias=bias, method="exact"))
        assert "in_features=128, out_features=48, nvfp4" in repr(layer)
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        same(compiled(x), layer(x))
    if device == "cpu":
        plain = halfbyte.Linear(w, bias, prepare=False)
        same(plain(x), halfbyte.Linear(w, bias)(x))


def test_linear_refuses() -> None:
    w = weights("nvfp4")
    with pytest.raises(ValueError, match="activations: expected None, 'row' or 'tensor', got 'x'"):
        halfbyte.Linear(w, activations="x")
    with pytest.raises(ValueError, match="input_scale: expected a tensor"):
        halfbyte.Linear(w, activations="tensor")
    with pytest.raises(ValueError, match="weights: expected nvfp4 or mxfp4"):
        halfbyte.Linear(halfbyte.quantize(random(4, 64), format="fp8", scale="row"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": random(4, 64)}, "b: expected 32 bytes a row"),
        ({"a": random(4, 128).float()}, "gemm: a: expected"),
        ({"bias": torch.ones(3)}, "gemm: bias: expected"),
        ({"method": "x"}, "gemm: method: expected one of auto, exact"),
        ({"dtype": torch.int32}, "gemm: c: expected"),
        ({"a": halfbyte.quantize(random(4, 128), format="mxfp4")}, "gemm: a: expected nvfp4"),
    ],
)
def test_gemm_refuses(change: dict, message: str) -> None:
    arguments = {"a": random(4, 128), "b": weights("nvfp4"), **change}
    with pytest.raises(ValueError, match=message):
        halfbyte.gemm(**arguments)


def write_checkpoint(model: torch.nn.Module, folder: Path, convention: str) -> None:
    """The model with every linear but the last quantized, in a convention's names."""
    from safetensors.torch import save_file

    tensors = {}
    for name, tensor in model.state_dict().items():
        module = name.removesuffix(".weight")
        if not name.endswith("proj.weight"):
            tensors[name] = tensor.clone()
            continue
        packed = halfbyte.quantize(tensor.detach(), scale="computed")
        scales = packed.scales.view(torch.float8_e4m3fn)
        if convention == "modelopt":
            tensors |= {name: packed.codes, f"{module}.weight_scale": scales,
                        f"{module}.weight_scale_2": packed.decode_scale.reshape(()),
                        f"{module}.input_scale": torch.tensor(4 / 2688)}  # fmt: skip
        else:
            tensors |= {f"{module}.weight_packed": packed.codes, f"{module}.weight_scale": scales,
                        f"{module}.weight_global_scale": packed.global_scale}  # fmt: skip
    half = len(tensors) // 2
    names = list(tensors)
    files = {"a.safetensors": names[:half], "b.safetensors": names[half:]}
    for file, part in files.items():
        save_file({n: tensors[n].contiguous() for n in part}, folder / file)
    index = {"weight_map": {n: file for file, part in files.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def small_model() -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=64, attn_implementation="eager",
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).bfloat16().eval()


@pytest.mark.parametrize("convention", ["modelopt", "compressed-tensors"])
def test_load_quantized(tmp_path: Path, convention: str) -> None:
    pytest.importorskip("safetensors")
    model = small_model()
    write_checkpoint(model, tmp_path, convention)
    ids = torch.arange(12).reshape(1, 12)
    expected = small_model()
    for name, module in expected.named_modules():
        if name.endswith("proj"):
            packed = halfbyte.quantize(module.weight.detach(), scale="computed")
            module.weight.data = packed.dequantize()
    loaded = halfbyte.load_quantized(small_model(), tmp_path, activations=None)
    layer = loaded.model.layers[0].mlp.up_proj
    assert isinstance(layer, halfbyte.Linear) and layer.activations is None
    assert isinstance(loaded.lm_head, torch.nn.Linear)
    with torch.no_grad():
        logits, wanted = loaded(ids).logits.float(), expected(ids).logits.float()
    # W4A16 and bf16 products of the same values: rounded apart a layer.
    assert (logits - wanted).norm() <= 0.02 * wanted.norm()
    declared = halfbyte.load_quantized(small_model(), tmp_path)
    layer = declared.model.layers[0].self_attn
    if convention == "modelopt":
        assert layer.q_proj.activations == "tensor"
        assert layer.q_proj.input_scale is layer.v_proj.input_scale
    else:
        assert layer.q_proj.activations is None
    with torch.no_grad():
        rows = halfbyte.load_quantized(small_model(), tmp_path, activations="row")(ids).logits
    assert torch.nn.functional.cosine_similarity(rows.float(), wanted, dim=-1).min() > 0.9


def test_load_quantized_refuses(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    write_checkpoint(small_model(), tmp_path, "modelopt")
    with pytest.raises(ValueError, match="expected a layer .*, got none"):
        halfbyte.load_quantized(torch.nn.Linear(4, 4), tmp_path)
    other = small_model()
    other.model.layers[0].mlp.up_proj = torch.nn.Linear(64, 32, bias=False)
    with pytest.raises(ValueError, match=r"up_proj: expected shape \[32, 64\], got \[128, 64\]"):
        halfbyte.load_quantized(other, tmp_path)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ValueError, match="expected b.safetensors"):
        halfbyte.load_quantized(small_model(), tmp_path)


def test_compiled_model_is_fused(tmp_path: Path) -> None:
    """A quantized Llama under the pass: every norm before q, k, v and gate, up is fused; fused and
    unfused custom operators' logits would be equal, plain norms differ in last places."""
    write_checkpoint(small_model(), tmp_path, "modelopt")
    model = halfbyte.load_quantized(small_model(), tmp_path, activations="row")
    ids = torch.arange(12).reshape(1, 12)
    outputs, fusions, counted = run(lambda i: model(i, use_cache=False).logits, ids)
    norms = [f for f in fusions if f.operator == "rmsnorm_quantize"]
    assert len(norms) == 4 and sum(f.residual for f in norms) == 3
    assert len(fusions) == 6 and counted["halfbyte.gemm_pair.default"] == 2
    assert counted["halfbyte.quantize.default"] == 2  # before each o_proj
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
    assert torch.nn.functional.cosine_similarity(
        outputs.float(), expected.float(), dim=-1
    ).min() > 0.99
