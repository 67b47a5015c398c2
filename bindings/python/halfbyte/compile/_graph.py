"""Reading and writing nodes of a post-grad graph."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Graph, Node

aten = torch.ops.aten
VIEWS = (aten.reshape.default, aten.view.default, aten._unsafe_view.default)
AUTO = torch.ops.higher_order.auto_functionalized_v2
AUTO_V1 = torch.ops.higher_order.auto_functionalized  # what vLLM asks for


def is_call(node: Any, *targets: Any) -> bool:
    return isinstance(node, Node) and node.op == "call_function" and node.target in targets


def value(node: Node) -> torch.Tensor:
    """The fake tensor that the node gives."""
    return node.meta["val"]


def dtype(node: Any) -> torch.dtype | None:
    found = node.meta.get("val") if isinstance(node, Node) else None
    return found.dtype if isinstance(found, torch.Tensor) else None


def bound(node: Node) -> dict[str, Any]:
    """The arguments of a call of an operator by name, defaults filled in."""
    schema = node.target._schema.arguments
    named = {a.name: a.default_value for a in schema if a.has_default_value()}
    named.update(zip((a.name for a in schema), node.args, strict=False))
    return {**named, **node.kwargs}


def source(node: Any, *targets: Any) -> Node | None:
    """The node whose output `node` takes apart, if that calls one of `targets`."""
    if is_call(node, operator.getitem) and is_call(node.args[0], *targets):
        return node.args[0]
    return None


def given(call: Node, argument: str) -> Node | None:
    """What an operator in functional form is given to write to, if that is a whole tensor."""
    if call.target is AUTO_V1:
        return call.kwargs[argument]
    index = call.kwargs.get(f"_{argument}_base_index")
    viewed = any(key.startswith(f"_{argument}_s") for key in call.kwargs)  # _size, _slice_dim ..
    return None if index is None or viewed else call.kwargs["_all_bases"][index]


def written(call: Node, argument: str) -> int | None:
    """Which value of an operator in functional form, that returns nothing, is `argument` after it."""
    if call.target is AUTO:
        index = call.kwargs.get(f"_{argument}_base_index")
        return None if index is None or given(call, argument) is None else 1 + index
    schema = call.args[0]._schema.arguments
    mutable = [a.name for a in schema if a.alias_info is not None and a.alias_info.is_write]
    return 1 + mutable.index(argument)


def residual_bases(residual: Node) -> dict[str, Any]:
    """A whole tensor as the residual of rmsnorm_quantize in functional form."""
    return {"_residual_base_index": 0, "_residual_alias": True, "_all_bases": [residual]}


def items(node: Node) -> dict[int, list[Node]]:
    """The getitem users of a node that gives several values; all its users are such."""
    found: dict[int, list[Node]] = {}
    for user in node.users:
        found.setdefault(user.args[1], []).append(user)
    return found


def below_views(node: Node) -> tuple[Node, list[Node]]:
    """The node under `node`'s reshapes that keep the last dimension, and those reshapes."""
    views = []
    while is_call(node, *VIEWS):
        inner = node.args[0]
        if dtype(inner) is None or value(inner).shape[-1:] != value(node).shape[-1:]:
            break
        views.append(node)
        node = inner
    return node, views


def depends(nodes: Iterable[Any], on: Node) -> bool:
    """Whether one of `nodes` is computed from `on`."""
    stack = [node for node in nodes if isinstance(node, Node)]
    seen: set[Node] = set()
    while stack:
        node = stack.pop()
        if node is on:
            return True
        if node not in seen:
            seen.add(node)
            stack.extend(node.all_input_nodes)
    return False


def is_dead_after(node: Node, user: Node) -> bool:
    """Whether `node` may be overwritten by `user`'s result: nothing else reads its memory, which a
    kernel of this graph wrote; or it is an input that this graph overwrites so at its end."""
    if not value(node).is_contiguous():
        return False
    if node.op == "placeholder":
        others = set(node.users) - {user}
        return len(others) == 1 and is_call(copy := others.pop(), aten.copy_.default) and (
            copy.args[:2] == (node, user)
        )
    while True:
        if node.op != "call_function" or set(node.users) != {user}:
            return False
        if not is_call(node, *VIEWS):
            maker = node.args[0] if node.target is operator.getitem else node
            return not getattr(maker.target, "is_view", False)  # split, slice, permute ..
        user, node = node, node.args[0]


def insert(graph: Graph, target: Any, args: tuple, kwargs: dict | None = None) -> Node:
    """A call of a functional operator, with its fake value."""
    node = graph.call_function(target, args, kwargs or {})
    fakes = torch.fx.map_arg((args, kwargs or {}), lambda n: n.meta["val"])
    tensors = [t for t in torch.utils._pytree.tree_leaves(fakes) if isinstance(t, torch.Tensor)]
    with tensors[0].fake_mode:
        node.meta["val"] = target(*fakes[0], **fakes[1])
    return node


def insert_item(graph: Graph, node: Node, index: int) -> Node:
    item = graph.call_function(operator.getitem, (node, index))
    item.meta["val"] = node.meta["val"][index]
    return item
