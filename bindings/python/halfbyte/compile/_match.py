"""What computes a value: an RMSNorm or a SiLU · mul, by an operator or in plain PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node

from halfbyte.compile._graph import (
    AUTO,
    AUTO_V1,
    aten,
    below_views,
    bound,
    dtype,
    given,
    is_call,
    residual_bases,
    source,
    value,
    written,
)

_OPS = torch.ops.halfbyte
_CONVERT = torch.ops.prims.convert_element_type.default
_TYPES = (torch.float32, torch.float16, torch.bfloat16)
_SPLITS = (aten.split.Tensor, aten.split_with_sizes.default)


@dataclass
class Norm:
    y: Node
    x: Node
    weight: Node
    eps: float
    rounding: str
    bias: bool
    plain: bool
    # Where an operator updates a residual: the call in functional form, which of its values the
    # updated residual is, and what names the residual's memory in such a call.
    call: Node | None = None
    updated: int = 0
    bases: dict[str, Any] = field(default_factory=dict)


@dataclass
class SiluMul:
    y: Node
    gate_up: Node | tuple[Node, Node]  # one tensor, or two products [M, I]
    options: dict[str, Any]  # interleave, clamp, alpha, up_bias, rounding
    plain: bool
    views: list[Node] = field(default_factory=list)  # the reshapes of a product


def norm(y: Node) -> Norm | None:
    if is_call(y, _OPS.rmsnorm.default):
        a = bound(y)
        if a["residual"] is not None:
            return None
        return Norm(y, a["x"], a["weight"], a["eps"], a["rounding"], a["bias"], False)
    call = source(y, AUTO, AUTO_V1)
    if call is None:
        return _plain_norm(y)
    a, name = call.kwargs, str(call.args[0])
    if name == "halfbyte.rmsnorm.default" and y.args[1] == 0 and call.target is AUTO:
        found = Norm(y, a["x"], a["weight"], a["eps"], a["rounding"], a["bias"], False)
        if a["_all_bases"]:
            found.call, found.updated = call, 1
            found.bases = {key: a[key] for key in a if key.startswith("_")}
        return found
    if name == "_C.rms_norm.default" and written(call, "result") == y.args[1]:
        return Norm(y, a["input"], a["weight"], a["epsilon"], "huggingface", False, False)
    if name == "_C.fused_add_rms_norm.default" and written(call, "input") == y.args[1]:
        x, residual = given(call, "input"), given(call, "residual")
        if x is None or residual is None:
            return None
        found = Norm(y, x, a["weight"], a["epsilon"], "huggingface", False, False, call)
        found.updated, found.bases = written(call, "residual"), residual_bases(residual)
        return found
    return None


def _plain_norm(y: Node) -> Norm | None:
    kind = dtype(y)
    if kind not in _TYPES:
        return None
    inner, rounding = y, "float32"
    if kind != torch.float32:
        inner = _unconverted(y, kind)
        if inner is None:  # cast before the weight, or not at all
            return _norm_cast_first(y, kind)
    return _weighted(y, inner, kind, rounding)


def _weighted(y: Node, product: Node, kind: torch.dtype, rounding: str) -> Norm | None:
    """product = fp32 (x * rstd) * w'."""
    if not is_call(product, aten.mul.Tensor):
        return None
    for scaled, factor in (product.args, product.args[::-1]):
        found = _normalised(scaled, kind)
        weight = _weight(factor, kind)
        if found and weight and _is_weight(weight[0], found[0]):
            return Norm(y, found[0], weight[0], found[1], rounding, weight[1], True)
    return None


def _norm_cast_first(y: Node, kind: torch.dtype) -> Norm | None:
    """y = w * T(x * rstd), w of type T."""
    if not is_call(y, aten.mul.Tensor):
        return None
    for weight, cast in (y.args, y.args[::-1]):
        inner = _unconverted(cast, kind)
        found = _normalised(inner, kind) if inner is not None else None
        if found and dtype(weight) == kind and _is_weight(weight, found[0]):
            return Norm(y, found[0], weight, found[1], "huggingface", False, True)
    return None


def _unconverted(node: Any, to: torch.dtype) -> Node | None:
    """What a cast from fp32 to a half type casts."""
    if is_call(node, _CONVERT) and node.args[1] == to and dtype(node.args[0]) == torch.float32:
        return node.args[0]
    return None


def _widened(node: Any, kind: torch.dtype) -> Node | None:
    """The tensor of type `kind` that `node` is, in fp32."""
    if kind == torch.float32:
        return node if dtype(node) == kind else None
    if is_call(node, _CONVERT) and node.args[1] == torch.float32 and dtype(node.args[0]) == kind:
        return node.args[0]
    return None


def _normalised(scaled: Any, kind: torch.dtype) -> tuple[Node, float] | None:
    """(x, eps) of x * rstd in fp32."""
    if is_call(scaled, aten.mul.Tensor):
        orders = (scaled.args, scaled.args[::-1])
    elif is_call(scaled, aten.div.Tensor):
        orders = (scaled.args,)
    else:
        return None
    for wide, factor in orders:
        x = _widened(wide, kind)
        if x is None or not isinstance(factor, Node):
            continue
        shifted = _under_root(factor, scaled.target is aten.div.Tensor)
        if not is_call(shifted, aten.add.Tensor, aten.add.Scalar) or shifted.kwargs:
            continue
        mean, eps = shifted.args
        if isinstance(eps, (int, float)) and eps >= 0 and _is_mean_of_squares(mean, x, kind):
            return x, float(eps)
    return None


def _under_root(factor: Node, divides: bool) -> Any:
    """v of rsqrt(v), v^-0.5, 1 / sqrt(v); for a divisor, of sqrt(v)."""
    if divides:
        return factor.args[0] if is_call(factor, aten.sqrt.default) else None
    if is_call(factor, aten.rsqrt.default):
        return factor.args[0]
    if is_call(factor, aten.pow.Tensor_Scalar) and factor.args[1] == -0.5:
        return factor.args[0]
    if is_call(factor, aten.reciprocal.default) and is_call(factor.args[0], aten.sqrt.default):
        return factor.args[0].args[0]
    return None


def _is_mean_of_squares(mean: Any, x: Node, kind: torch.dtype) -> bool:
    if not is_call(mean, aten.mean.dim) or mean.kwargs:
        return False
    squares, dims, keep = (*mean.args, False)[:3]
    if not keep or [d % value(x).dim() for d in dims] != [value(x).dim() - 1]:
        return False
    if is_call(squares, aten.pow.Tensor_Scalar) and squares.args[1] == 2:
        return _widened(squares.args[0], kind) is x
    if is_call(squares, aten.mul.Tensor):
        return all(_widened(factor, kind) is x for factor in squares.args)
    return False


def _weight(factor: Any, kind: torch.dtype) -> tuple[Node, bool] | None:
    """(weight, bias) of w' in fp32 arithmetic: w, or w + 1."""
    bias = False
    if is_call(factor, aten.add.Tensor, aten.add.Scalar) and not factor.kwargs:
        if dtype(factor) != torch.float32:  # 1 + w rounded to a half type
            return None
        first, second = factor.args
        if isinstance(first, Node) and isinstance(second, (int, float)) and second == 1:
            factor, bias = first, True
    if is_call(factor, _CONVERT) and factor.args[1] == torch.float32:
        factor = factor.args[0]
    if dtype(factor) not in (kind, torch.float32):
        return None
    return factor, bias


def _is_weight(weight: Any, x: Node) -> bool:
    return (
        isinstance(weight, Node)
        and value(weight).dim() == 1
        and value(weight).shape[0] == value(x).shape[-1]
        and value(weight).device == value(x).device
    )


def residual_add(x: Node) -> tuple[Node, Node] | None:
    """The operands of x = a + b, all of one type and shape."""
    if not is_call(x, aten.add.Tensor) or x.kwargs or len(x.args) != 2:
        return None
    for operand in x.args:
        if dtype(operand) != dtype(x) or value(operand).shape != value(x).shape:
            return None
    return None if x.args[0] is x.args[1] else x.args


_SILU = {"interleave": 0, "clamp": None, "alpha": 1.0, "up_bias": 0.0}


def silu_mul(y: Node) -> SiluMul | None:
    call = source(y, AUTO, AUTO_V1)
    if call is not None:
        name = str(call.args[0])
        if name == "_C.silu_and_mul.default" and written(call, "result") == y.args[1]:
            return SiluMul(y, call.kwargs["input"], {**_SILU, "rounding": "huggingface"}, False)
        return None
    if is_call(y, _OPS.silu_mul.default):
        a = bound(y)
        return SiluMul(y, a.pop("gate_up"), a, False)
    kind = dtype(y)
    if kind not in _TYPES:
        return None
    product, rounding = y, "huggingface"
    if kind != torch.float32:
        inner = _unconverted(y, kind)
        if inner is not None:
            product, rounding = inner, "float32"
    if not is_call(product, aten.mul.Tensor):
        return None
    for activated, up in (product.args, product.args[::-1]):
        if rounding == "float32" or kind == torch.float32:
            gate, up = _silu(activated, kind), _widened(up, kind)
        else:
            inner = _unconverted(activated, kind)
            gate = _silu(inner, kind) if inner is not None else _silu_operator(activated, kind)
        if gate is None or dtype(up) != kind or value(gate).shape != value(up).shape:
            continue
        gate_up = _halves(gate, up) or _products(gate, up)
        if gate_up is not None:
            views = below_views(up)[1] if isinstance(gate_up, tuple) else []
            return SiluMul(y, gate_up, {**_SILU, "rounding": rounding}, True, views)
    return None


def _silu_operator(activated: Any, kind: torch.dtype) -> Node | None:
    if is_call(activated, aten.silu.default) and dtype(activated.args[0]) == kind:
        return activated.args[0]
    return None


def _silu(activated: Any, kind: torch.dtype) -> Node | None:
    """The gate of silu(gate) in fp32: g / (1 + exp(-g)) or g * sigmoid(g)."""
    if is_call(activated, aten.silu.default):
        return _widened(activated.args[0], kind)
    if is_call(activated, aten.div.Tensor):
        gate, below = activated.args
        if is_call(below, aten.add.Tensor, aten.add.Scalar) and below.args[1] == 1:
            power = below.args[0]
            if is_call(power, aten.exp.default) and is_call(power.args[0], aten.neg.default):
                same = _widened(power.args[0].args[0], kind)
                return same if same is not None and same is _widened(gate, kind) else None
    if is_call(activated, aten.mul.Tensor):
        for gate, sigmoid in (activated.args, activated.args[::-1]):
            if is_call(sigmoid, aten.sigmoid.default):
                same = _widened(sigmoid.args[0], kind)
                return same if same is not None and same is _widened(gate, kind) else None
    return None


def _halves(gate: Node, up: Node) -> Node | None:
    """The tensor whose last dimension's halves gate and up are."""
    if is_call(gate, aten.slice.Tensor) and is_call(up, aten.slice.Tensor):
        pieces = [_slice(gate), _slice(up)]
    else:
        pieces = [_piece(gate), _piece(up)]
    if None in pieces or pieces[0][0] is not pieces[1][0]:
        return None
    whole = pieces[0][0]
    width = value(whole).shape[-1]
    if not isinstance(width, int) or width % 2:
        return None
    wanted = [(0, width // 2), (width // 2, width)]
    return whole if [piece[1:] for piece in pieces] == wanted else None


def _slice(node: Node) -> tuple[Node, int, int] | None:
    whole, dim, start, end, step = (*node.args, *(0, None, None, 1)[len(node.args) - 1 :])[:5]
    last = value(whole).dim() - 1
    if dim % value(whole).dim() != last or step != 1:
        return None
    width = value(whole).shape[-1]
    return whole, start or 0, width if end is None else min(end, width)


def _piece(node: Node) -> tuple[Node, int, int] | None:
    """A piece of split or chunk, as the part of the whole that it is."""
    split = source(node, *_SPLITS)
    if split is None:
        return None
    whole, sizes, dim = (*split.args, 0)[:3]
    dim = split.kwargs.get("dim", dim)
    if dim % value(whole).dim() != value(whole).dim() - 1:
        return None
    if isinstance(sizes, int):
        start = node.args[1] * sizes
        return whole, start, start + value(node).shape[-1]
    start = sum(sizes[: node.args[1]])
    return whole, start, start + sizes[node.args[1]]


def _products(gate: Node, up: Node) -> tuple[Node, Node] | None:
    """Two matrix products that nothing else reads and that can be made side by side: torch's own,
    which inductor writes to their halves of one tensor, or halfbyte's of the same input."""
    bases = []
    for node in (gate, up):
        base, views = below_views(node)
        # The gate in fp32 may be read twice, by one conversion each.
        if any(len(n.users) != 1 and n is not gate for n in (*views, base)):
            return None
        bases.append(base)
    gate, up = bases
    if all(is_call(n, aten.mm.default, aten.addmm.default) for n in bases):
        return gate, up
    if all(is_call(n, _OPS.gemm.default) for n in bases) and value(gate).shape == value(up).shape:
        first, second = bound(gate), bound(up)
        if all(first[k] == second[k] for k in first if k not in PAIRED):
            return gate, up
    return None


# The arguments of gemm that the two products of gemm_pair have each.
PAIRED = ("b", "b_scales", "b_global_scale", "b_decode_scale", "bias", "prepared_rows")
