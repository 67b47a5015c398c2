"""FusionPass: finds the quantizations of a graph and fuses each with what makes its input."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.fx import Graph, Node

from halfbyte import _library
from halfbyte.compile import _match
from halfbyte.compile._graph import (
    AUTO,
    aten,
    below_views,
    bound,
    depends,
    dtype,
    insert,
    insert_item,
    is_call,
    is_dead_after,
    items,
    residual_bases,
    value,
)

log = logging.getLogger("halfbyte.compile")
_OPS = torch.ops.halfbyte
_OPTIONS = ("format", "layout", "second_layout", "scale", "scale_rule", "mx_rule")
_GROUPS = ("row_offsets", "scale_row_offsets", "scale_rows")
_VLLM = ("halfbyte_vllm.scaled_fp4_quant.default", "_C.scaled_fp4_quant.default")
_DEFAULTS = {
    argument.name: argument.default_value
    for argument in _OPS.quantize.default._schema.arguments
    if argument.has_default_value()
}


@dataclass(frozen=True)
class Fusion:
    """One fused operator in a compiled graph."""

    operator: str  # "rmsnorm_quantize" or "silu_mul_quantize"
    source: str  # "operator" or "plain": what the fused operator stands for
    format: str
    rounding: str
    residual: bool  # with the add before the norm
    normed: bool  # the normalised tensor is an output too
    node: str  # the quantization's name in the graph

    def __str__(self) -> str:
        extras = ["residual"] * self.residual + ["normed"] * self.normed
        what = ", ".join([self.format, f"{self.rounding} rounding", *extras])
        return f"{self.operator} ({what}) from {self.source} code at {self.node}"


@dataclass
class Sink:
    """A quantization: the node, its input, and halfbyte.quantize's arguments for the rest."""

    node: Node
    input: Node
    arguments: dict[str, Any]
    vllm: bool = False


class FusionPass(CustomGraphPass):
    """See halfbyte.compile. `fusions` grows with every graph that is compiled."""

    def __init__(self) -> None:
        self.fusions: list[Fusion] = []

    def uuid(self) -> str:
        """The same for the same code and numerics: inductor's cache key."""
        digest = hashlib.sha256()
        for path in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(path.read_bytes())
        digest.update(f"{_library.version()} {_library.numerics_version()}".encode())
        return f"halfbyte.compile {digest.hexdigest()[:32]}"

    def __call__(self, graph: Graph) -> None:
        _merge_equal(graph)
        fused = [fusion for node in list(graph.nodes) if (fusion := _fuse(graph, node))]
        if not fused:
            return
        from torch._inductor.pattern_matcher import stable_topological_sort

        stable_topological_sort(graph)
        graph.eliminate_dead_code()
        graph.lint()
        for fusion in fused:
            log.info("fused %s", fusion)
        self.fusions += fused


def _sink(node: Node) -> Sink | None:
    """`node` if it quantizes, as its input is by now."""
    sink = None
    if is_call(node, _OPS.quantize.default):
        arguments = bound(node)
        sink = Sink(node, arguments.pop("x"), arguments)
    elif node.op == "call_function" and str(node.target) in _VLLM:
        arguments = bound(node)
        if dtype(arguments["input_scale"]) == torch.float32:
            layout = "128x4" if arguments["is_sf_swizzled_layout"] else "linear"
            rest = {**_DEFAULTS, "global_scale": arguments["input_scale"], "layout": layout}
            sink = Sink(node, arguments["input"], rest, vllm=True)
    return sink


def _merge_equal(graph: Graph) -> None:
    """One node for quantizations of the same tensor under the same arguments (q, k, v)."""
    seen: dict[tuple, Node] = {}
    for node in list(graph.nodes):
        if is_call(node, _OPS.quantize.default):
            first = seen.setdefault((node.args, tuple(sorted(node.kwargs.items()))), node)
            if first is not node:
                node.replace_all_uses_with(first)
                graph.erase_node(node)


def _fuse(graph: Graph, node: Node) -> Fusion | None:
    sink = _sink(node)
    if sink is None or sink.arguments["scale_rule"] != "kernel":
        return None
    y, views = below_views(sink.input)
    elsewhere = _used_elsewhere([y, *views], sink.node)
    norm = _match.norm(y)
    if norm is not None:
        if any(sink.arguments[name] is not None for name in _GROUPS):
            return None
        return _fuse_norm(graph, sink, norm, views, elsewhere)
    silu = _match.silu_mul(y)
    if silu is not None and not elsewhere:
        return _fuse_silu_mul(graph, sink, silu, views)
    return None


def _used_elsewhere(chain: list[Node], sink: Node) -> bool:
    return any(user is not sink and user not in chain for node in chain for user in node.users)


def _fuse_norm(
    graph: Graph, sink: Sink, norm: _match.Norm, views: list[Node], normed: bool
) -> Fusion | None:
    a = sink.arguments
    scales = (a["global_scale"], a["decode_scale"])
    if normed and depends(scales, norm.y):
        return None
    if norm.call is not None and depends(scales, norm.call):
        return None
    options = [norm.eps, norm.rounding, norm.bias, normed, *(a[name] for name in _OPTIONS)]
    x, residual = norm.x, None
    operands = _match.residual_add(x) if norm.plain else None
    if operands is not None and not depends((*scales, norm.weight), x):
        for keep, overwrite in (operands, operands[::-1]):
            if is_dead_after(overwrite, x):
                x, residual = keep, overwrite
                break
    with graph.inserting_before(sink.node):
        if norm.call is not None:  # an operator that updates its residual already
            fused = _insert_updating(graph, x, norm.weight, scales, options, norm.bases)
            for node in items(norm.call).get(norm.updated, ()):
                node.replace_all_uses_with(insert_item(graph, fused, 7))
        elif residual is not None:
            bases = residual_bases(residual)
            fused = _insert_updating(graph, x, norm.weight, scales, options, bases)
            norm.x.replace_all_uses_with(insert_item(graph, fused, 7))
        else:
            arguments = (x, norm.weight, None, *scales, *options)
            fused = insert(graph, _OPS.rmsnorm_quantize.default, arguments)
        if normed:
            norm.y.replace_all_uses_with(insert_item(graph, fused, 6))
        _replace_outputs(graph, sink, fused, views)
    with_residual = residual is not None or norm.call is not None
    kind = "plain" if norm.plain else "operator"
    return Fusion("rmsnorm_quantize", kind, a["format"], norm.rounding, with_residual, normed,
                  sink.node.name)  # fmt: skip


def _insert_updating(
    graph: Graph, x: Node, weight: Node, scales: tuple, options: list, bases: dict
) -> Node:
    """rmsnorm_quantize that updates a residual, in functional form: inductor turns it into the
    operator itself, in place, without a copy where the residual is dead."""
    target = _OPS.rmsnorm_quantize.default
    names = [argument.name for argument in target._schema.arguments][5:]
    kwargs = {
        "x": x,
        "weight": weight,
        "global_scale": scales[0],
        "decode_scale": scales[1],
        **dict(zip(names, options, strict=True)),
        **bases,
    }
    node = graph.call_function(AUTO, (target,), kwargs)
    fakes = torch.fx.map_arg((x, weight, scales), value)
    with value(x).fake_mode:
        outputs = target(fakes[0], fakes[1], None, *fakes[2], *options)
        updated = [torch.empty_like(value(base)) for base in bases["_all_bases"]]
    node.meta["val"] = (*outputs, *updated)
    return node


def _fuse_silu_mul(
    graph: Graph, sink: Sink, silu: _match.SiluMul, views: list[Node]
) -> Fusion:
    a, o = sink.arguments, silu.options
    with graph.inserting_before(sink.node):
        gate_up = silu.gate_up
        if isinstance(gate_up, tuple):
            gate_up = _side_by_side(graph, *gate_up)
            views = views or silu.views
        arguments = (gate_up, a["global_scale"], a["decode_scale"], o["interleave"], o["clamp"],
                     o["alpha"], o["up_bias"], o["rounding"], *(a[n] for n in _OPTIONS),
                     *(a[n] for n in _GROUPS))  # fmt: skip
        fused = insert(graph, _OPS.silu_mul_quantize.default, arguments)
        _replace_outputs(graph, sink, fused, views)
    kind = "plain" if silu.plain else "operator"
    return Fusion("silu_mul_quantize", kind, a["format"], o["rounding"], False, False,
                  sink.node.name)  # fmt: skip


def _side_by_side(graph: Graph, gate: Node, up: Node) -> Node:
    """[gate, up] along the last dimension, without a copy."""
    if not is_call(gate, _OPS.gemm.default):  # inductor writes each product to its half
        return insert(graph, aten.cat.default, ([gate, up], 1))
    first, second = bound(gate), bound(up)
    first.update({f"second_{name}": second[name] for name in _match.PAIRED})
    return insert(graph, _OPS.gemm_pair.default, (first.pop("a"), first.pop("b")), first)


def _replace_outputs(graph: Graph, sink: Sink, fused: Node, views: list[Node]) -> None:
    """The quantization's outputs by the fused operator's, in the shapes they had: the leading
    dimensions of the reshape that came last, or vLLM's two dimensions."""
    leading = [-1] if sink.vllm else list(views[0].args[1])[:-1] if views else None
    tiled = {1: sink.arguments["layout"], 2: sink.arguments["second_layout"]}
    for index, nodes in items(sink.node).items():
        new = insert_item(graph, fused, index)
        kind = dtype(nodes[0])
        if kind != dtype(new):  # vLLM's scales
            new = insert(graph, aten.view.dtype, (new, kind))
        if leading is not None and index < 3 and tiled.get(index, "linear") == "linear":
            shape = [*leading, value(new).shape[-1]]
            new = insert(graph, aten.reshape.default, (new, shape))
        for node in nodes:
            node.replace_all_uses_with(new)
            graph.erase_node(node)
    graph.erase_node(sink.node)
