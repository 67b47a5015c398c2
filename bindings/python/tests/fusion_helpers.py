"""Running the fusion pass on the graph that inductor would see, and that graph as it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.decomposition import select_decomp_table

from halfbyte.compile import FusionPass

H = 64


def graph_backend(found: FusionPass, counted: dict[str, int]) -> Callable:
    def compile_graph(gm: torch.fx.GraphModule, inputs: list) -> Callable:
        gm.graph.eliminate_dead_code()
        found(gm.graph)
        for node in gm.graph.nodes:
            if node.op == "call_function":
                target = node.args[0] if "auto_functionalized" in str(node.target) else node.target
                counted[str(target)] = counted.get(str(target), 0) + 1
        gm.recompile()
        return gm

    return aot_autograd(
        fw_compiler=compile_graph,
        decompositions=select_decomp_table(),
        keep_inference_input_mutations=True,  # as inductor asks for it
    )


def run(function: Callable, *inputs: torch.Tensor, dynamic: bool = False) -> tuple:
    """(outputs of the compiled function, its fusions, how often each target is called). Tensors that
    the function updates are cloned first."""
    torch._dynamo.reset()
    found, counted = FusionPass(), {}
    with torch.no_grad():
        backend = graph_backend(found, counted)
        compiled = torch.compile(function, fullgraph=True, backend=backend, dynamic=dynamic)
        outputs = compiled(*(t.clone() for t in inputs))
    return outputs, found.fusions, counted


def random(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close_codes(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """At least 99.9% of the codes are equal: y differs by at most an ulp, seldom, where the sum's
    order or rsqrt differ."""
    halves = [torch.stack([t & 15, t >> 4]) for t in (actual, expected)]
    assert actual.shape == expected.shape
    assert (halves[0] == halves[1]).double().mean() >= 0.999


def assert_one_ulp(actual: torch.Tensor, expected: torch.Tensor) -> None:
    steps = torch.nextafter(expected.abs(), torch.tensor(torch.inf, dtype=expected.dtype))
    error = (actual.double() - expected.double()).abs()
    assert (error <= (steps - expected.abs()).double()).all()


