"""rope, rope_ and rope_table: values, transformers, torch.compile, refusals."""

from __future__ import annotations

import math
import shutil

import pytest
import torch

import halfbyte

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
STYLES = ["neox", "gptj"]


def sample(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


def definition(
    x: torch.Tensor,
    positions: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    style: str = "neox",
    rope_offset: int = 0,
    inverse: bool = False,
) -> torch.Tensor:
    """docs/numerics.md once more: eager fp32 operations, each rounded by itself."""
    half = cos.shape[1]
    c, s = cos[positions][:, None], sin[positions][:, None]
    if inverse:
        s = -s
    y = x.clone()
    part = y[..., rope_offset : rope_offset + 2 * half]
    a, b = (part[..., :half], part[..., half:])
    if style == "gptj":
        a, b = part[..., 0::2], part[..., 1::2]
    fa, fb = a.float(), b.float()
    rotated_a, rotated_b = fa * c - fb * s, fa * s + fb * c
    a.copy_(rotated_a)
    b.copy_(rotated_b)
    return y


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    torch.testing.assert_close(actual.cpu(), expected.cpu(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_is_the_definition(
    device: str, dtype: torch.dtype, style: str, inverse: bool, wide: bool
) -> None:
    cos, sin = halfbyte.rope_table(50, 64)
    positions = torch.tensor([7, 0, 49, 7, 3], dtype=torch.int64 if wide else torch.int32)
    x = sample(5, 3, 96, dtype=dtype)
    expected = definition(x, positions, cos, sin, style, 16, inverse)
    on_device = [t.to(device) for t in (x, positions, cos, sin)]
    options = {"style": style, "rope_dim": 64, "rope_offset": 16, "inverse": inverse}
    same(halfbyte.rope(*on_device, **options), expected)
    same(on_device[0], x)
    version = on_device[0]._version
    assert halfbyte.rope_(*on_device, **options) is on_device[0]
    same(on_device[0], expected)
    assert on_device[0]._version > version


def test_strides(device: str) -> None:
    cos, sin = (t.to(device) for t in halfbyte.rope_table(9, 32))
    positions = torch.tensor([8, 1, 4], device=device)
    qkv = sample(3, 3, 4, 32, dtype=torch.bfloat16).to(device)
    untouched = qkv.clone()
    q = qkv[:, 0]
    expected = halfbyte.rope(q.contiguous(), positions, cos, sin)
    same(halfbyte.rope(q, positions, cos, sin), expected)
    halfbyte.rope_(q, positions, cos, sin)
    same(qkv[:, 0], expected)
    same(qkv[:, 1:], untouched[:, 1:])
    transposed = sample(4, 3, 32).to(device).transpose(0, 1)  # [heads, M, D] as [M, heads, D]
    expected = halfbyte.rope(transposed.contiguous(), positions, cos, sin)
    same(halfbyte.rope(transposed, positions, cos, sin), expected)
    cache = torch.cat((cos, sin), dim=1)  # one buffer for both, as vLLM has it
    same(halfbyte.rope(transposed, positions, cache[:, :16], cache[:, 16:]), expected)


def test_nothing_to_do(device: str) -> None:
    cos, sin = (t.to(device) for t in halfbyte.rope_table(9, 32))
    positions = torch.empty(0, dtype=torch.int32, device=device)
    x = torch.empty(0, 4, 32, device=device)
    assert halfbyte.rope(x, positions, cos, sin).shape == x.shape
    assert halfbyte.rope_(x, positions, cos, sin) is x
    assert halfbyte.rope_table(0, 8)[0].shape == (0, 4)


@pytest.mark.gpu
def test_positions_out_of_range_on_a_gpu() -> None:
    cos, sin = (t.cuda() for t in halfbyte.rope_table(9, 32))
    x = sample(4, 2, 32, dtype=torch.float16).cuda()
    positions = torch.tensor([3, -1, 9, 1 << 40], device="cuda")
    y = halfbyte.rope(x, positions, cos, sin)
    same(y[1:], x[1:])
    same(y[:1], halfbyte.rope(x[:1], positions[:1], cos, sin))
    halfbyte.rope_(x, positions, cos, sin)
    same(x, y)


# transformers -------------------------------------------------------------------------------------

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
# What each rope type is given: transformers' name and parameters, our theta apart.
SCALINGS = [
    ("default", 10000.0, {}),
    ("default", 500000.0, {}),
    ("linear", 10000.0, {"factor": 4.0}),
    ("llama3", 500000.0, {**LLAMA3, "original_max_position_embeddings": 8192}),
    ("llama3", 500000.0, {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 8192}),
    ("llama3", 10000.0, {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 1.5,
                         "original_max_position_embeddings": 64}),
    ("yarn", 10000.0, {"factor": 4.0, "original_max_position_embeddings": 4096}),
    ("yarn", 10000.0, {"factor": 40.0, "original_max_position_embeddings": 4096,
                       "mscale": 0.707, "mscale_all_dim": 1.3}),
    ("yarn", 10000.0, {"factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 0.707}),
    ("yarn", 150000.0, {"factor": 32.0, "original_max_position_embeddings": 4096,
                        "truncate": False}),  # gpt-oss
    ("yarn", 1000000.0, {"factor": 2.5, "original_max_position_embeddings": 32768,
                         "beta_fast": 20.0, "beta_slow": 2.0, "attention_factor": 0.9}),
    ("yarn", 10000.0, {"factor": 8.0, "original_max_position_embeddings": 100}),
    ("yarn", 10000.0, {"factor": 8.0, "original_max_position_embeddings": 4}),
    ("yarn", 10000.0, {"factor": 0.5, "original_max_position_embeddings": 4096}),
]  # fmt: skip


def llama(kind: str, theta: float, parameters: dict, head_dim: int = 128):
    """transformers' Llama rotary embedding with such a configuration."""
    transformers = pytest.importorskip("transformers")
    modeling = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = transformers.LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        head_dim=head_dim,
        rope_parameters={"rope_type": kind, "rope_theta": theta, **parameters},
    )
    return modeling.LlamaRotaryEmbedding(config), modeling.apply_rotary_pos_emb


def table(positions: int, rope_dim: int, kind: str, theta: float, parameters: dict):
    options = dict(parameters)
    if "original_max_position_embeddings" in options:
        options["original_max_position"] = options.pop("original_max_position_embeddings")
    scaling = "none" if kind == "default" else kind
    return halfbyte.rope_table(positions, rope_dim, theta=theta, scaling=scaling, **options)


@pytest.mark.parametrize(("kind", "theta", "parameters"), SCALINGS, ids=str)
def test_table_is_that_of_transformers(kind: str, theta: float, parameters: dict) -> None:
    """transformers computes frequencies in fp32: theta^(2i/d) carries the rounding of 2i/d times
    ln(theta) * 2i/d < 14, and a few operations more, so 20 roundings of 2^-24 bound the relative
    difference. Ours, read back from row 1, adds those of cos and sin: 2 more. The angle at a
    position has that error times the angle, and transformers rounds cos and sin once again."""
    embedding, _ = llama(kind, theta, parameters)
    cos, sin = (t.double() for t in table(4096, 128, kind, theta, parameters))
    scale = embedding.attention_scaling
    assert math.isclose(float(torch.hypot(cos[1, 0], sin[1, 0])), scale, rel_tol=4 * 2**-24)
    frequency = torch.atan2(sin[1], cos[1])
    expected = embedding.inv_freq.double()
    torch.testing.assert_close(frequency, expected, rtol=22 * 2**-24, atol=0)

    positions = torch.arange(4096)
    their_cos, their_sin = embedding(torch.ones(1), positions[None])
    angle = positions.double()[:, None] * expected
    bound = scale * (angle * 22 * 2**-24 + 2 * 2**-24)
    assert ((cos - their_cos[0, :, :64].double()).abs() <= bound).all()
    assert ((sin - their_sin[0, :, :64].double()).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotation_is_that_of_transformers(device: str, dtype: torch.dtype) -> None:
    """transformers in fp32 rounds each product and the sum, as here, so with the same tables the
    bits are equal; in bf16 and fp16 it rounds the products to that type, and the tables before, so
    there its fp32 result is rounded."""
    embedding, apply = llama("default", 500000.0, {})
    positions = torch.tensor([5, 0, 1000, 17, 4000, 3, 3])
    q, k = sample(7, 4, 128, dtype=dtype), sample(7, 2, 128, dtype=dtype, seed=1)
    their_cos, their_sin = embedding(torch.ones(1), torch.arange(4096)[None])
    cos, sin = their_cos[0, :, :64].to(device), their_sin[0, :, :64].to(device)
    expected_q, expected_k = apply(
        q.float()[None],
        k.float()[None],
        their_cos[:, positions],
        their_sin[:, positions],
        unsqueeze_dim=2,
    )
    for x, expected in ((q, expected_q), (k, expected_k)):
        y = halfbyte.rope(x.to(device), positions.to(device), cos, sin)
        same(y, expected[0].to(dtype))


def test_table_values() -> None:
    cos, sin = halfbyte.rope_table(1000, 64, theta=500000.0)
    angle = torch.arange(1000).double()[:, None] * 500000.0 ** (-torch.arange(32).double() / 32)
    # Rounded once from fp64 where the last bits of pow may differ: equal but for near ties.
    assert (cos != angle.cos().float()).sum() <= 3 and (sin != angle.sin().float()).sum() <= 3
    assert torch.equal(cos[0], torch.ones(32)) and torch.equal(sin[0], torch.zeros(32))


# torch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("operator", ["rope", "rope_"])
def test_opcheck(device: str, operator: str, style: str) -> None:
    cos, sin = (t.to(device) for t in halfbyte.rope_table(9, 32))
    for shape in ((3, 2, 64), (0, 2, 64)):
        x = torch.randn(shape, dtype=torch.bfloat16, device=device)
        positions = torch.arange(shape[0], device=device)
        options = {"style": style, "rope_dim": 32, "rope_offset": 8}
        target = getattr(torch.ops.halfbyte, operator).default
        torch.library.opcheck(target, (x, positions, cos, sin), options)
        if shape[0]:  # opcheck cannot copy an empty slice
            part = x[..., :32]
            torch.library.opcheck(target, (part, positions, cos, sin), {"inverse": True})


def attention_inputs(qkv, positions, cos, sin):
    """A piece of a decoder: q in place in its slice, k in a tensor of its own."""
    q, k, v = qkv.unbind(1)
    halfbyte.rope_(q, positions, cos, sin)
    return q * 2 + halfbyte.rope(k, positions, cos, sin) * v


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(device: str, backend: str, dynamic: bool) -> None:
    if backend == "inductor" and device == "cpu" and not shutil.which("g++"):
        pytest.skip("inductor needs a C++ compiler")
    torch._dynamo.reset()
    compiled = torch.compile(attention_inputs, fullgraph=True, backend=backend, dynamic=dynamic)
    cos, sin = (t.to(device) for t in halfbyte.rope_table(64, 32))
    for tokens in (5, 9):
        qkv = torch.randn(tokens, 3, 2, 32, device=device)
        copy = qkv.clone()
        positions = torch.arange(tokens, device=device) * 3
        expected = attention_inputs(qkv, positions, cos, sin)
        same(compiled(copy, positions, cos, sin), expected)
        same(copy, qkv)


def test_inference_mode() -> None:
    cos, sin = halfbyte.rope_table(9, 32)
    with torch.inference_mode():
        x = torch.ones(2, 2, 32)
        y = halfbyte.rope(x, torch.tensor([1, 8]), cos, sin)
        same(halfbyte.rope_(x, torch.tensor([1, 8]), cos, sin), y)


X, P = torch.ones(4, 2, 32), torch.tensor([0, 8, 2, 3])
COS, SIN = halfbyte.rope_table(9, 32)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X[0], P, COS, SIN), {}, r"rope: x: expected shape \[M, heads, D\], got \[2, 32\]"),
        ((X.double(), P, COS, SIN), {}, r"rope: x: expected .*, got torch.float64"),
        ((X.int(), P, COS, SIN), {}, r"rope: x: expected fp32, fp16 or bf16, got i32"),
        ((X, P[:3], COS, SIN), {}, r"rope: positions: expected shape \[4\], got \[3\]"),
        ((X, P.float(), COS, SIN), {}, r"rope: positions: expected i32 or i64, got fp32"),
        ((X, P + 1, COS, SIN), {}, r"rope: positions: .* 0 to 8 .*, got 9 at index 1"),
        ((X, P - 1, COS, SIN), {}, r"rope: positions: .* 0 to 8 .*, got -1 at index 0"),
        ((X, P, COS[:, :8], SIN), {}, r"rope: cos: expected shape \[P, 16\]"),
        ((X, P, COS, SIN[:5]), {}, r"rope: sin: expected shape \[9, 16\], got \[5, 16\]"),
        ((X, P, COS.half(), SIN), {}, r"rope: cos: expected fp32, got fp16"),
        ((X, P, COS, SIN), {"style": "llama"}, r"rope: style: expected one of neox, gptj"),
        ((X, P, COS, SIN), {"rope_dim": 0}, r"rope: rope_dim: expected .*, got 0"),
        ((X, P, COS, SIN), {"rope_dim": 31}, r"rope: rope_dim: expected an even .*, got 31"),
        ((X, P, COS, SIN), {"rope_offset": 1}, r"rope: rope_offset: expected 0 to 0 .*, got 1"),
    ],
)
def test_refusals(arguments: tuple, options: dict, message: str) -> None:
    x, *rest = arguments
    before = x.clone()
    with pytest.raises(ValueError, match=message):
        halfbyte.rope(x, *rest, **options)
    with pytest.raises(ValueError, match=message):
        halfbyte.rope_(x, *rest, **options)
    assert torch.equal(x, before)


def test_an_expanded_tensor_is_not_updated_in_place() -> None:
    x = torch.ones(4, 1, 32).expand(4, 2, 32)
    assert halfbyte.rope(x, P, COS, SIN).shape == (4, 2, 32)
    with pytest.raises(ValueError, match="rope: y: expected rows that do not overlap"):
        halfbyte.rope_(x, P, COS, SIN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rope_dim": 7}, r"rope_table: expected positions >= 0 and an even rope_dim"),
        ({"positions": -1}, r"rope_table: expected positions >= 0"),
        ({"theta": 1.0}, r"rope_table: theta: expected a finite value > 1"),
        ({"scaling": "dynamic"}, r"rope_table: scaling: expected one of none, linear, .*'dynamic'"),
        ({"factor": 2.0}, r"rope_table: factor: expected none \(scaling none\)"),
        ({"scaling": "linear"}, r"rope_table: factor: expected a finite value > 0 .*, got none"),
        ({"scaling": "linear", "factor": -1.0}, r"rope_table: factor: expected .*, got -1"),
        ({"scaling": "linear", "factor": 2.0, "mscale": 1.0}, r"rope_table: mscale: expected none"),
        ({"truncate": False}, r"rope_table: truncate: expected true \(scaling none\)"),
    ],
)
def test_table_refusals(options: dict, message: str) -> None:
    arguments = {"positions": 4, "rope_dim": 8, **options}
    with pytest.raises(ValueError, match=message):
        halfbyte.rope_table(**arguments)
