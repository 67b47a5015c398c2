"""Exact match of the shipped model with the Python package's quantized linears, in one table.

Quantizes the model with the program, ModelOpt's convention and the recorded input scales, and loads it
with halfbyte.load_quantized: NVFP4 weights; NVFP4 weights and activations with a scale a tensor, from
the record, and with a scale a row, from the row itself. Products are halfbyte.gemm's.

Also says whether the logits are the same bits with every norm and SiLU · mul fused with the
quantization after it as unfused: the model with halfbyte's operators in their places, its graph run
with and without halfbyte.compile's pass.

  PYTHONPATH=bindings/python HALFBYTE_LIBRARY=build/lib/libhalfbyte.so \\
    python3 models/evaluate_package.py build/bin/halfbyte models/arith-llama-6m --json OUT.json
"""

from __future__ import annotations

import datetime
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

import halfbyte
from evaluate import (comparison_options, describe_device, evaluate, load_model,
                      load_tokenizer)
from problems import EVAL_SEED, evaluation_problems

ROWS = {
    "BF16": None,
    "NVFP4 weights": {"activations": None},
    "NVFP4 weights and activations, tensor scales": {"activations": "tensor"},
    "NVFP4 weights and activations, row scales": {"activations": "row"},
}


class Norm(torch.nn.Module):
    """A Llama norm as halfbyte's operator, with the same rounding."""

    def __init__(self, norm: torch.nn.Module) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return halfbyte.rmsnorm(x, self.weight, eps=self.eps, rounding="huggingface")


class Mlp(torch.nn.Module):
    """A Llama MLP whose activation is halfbyte's operator."""

    def __init__(self, mlp: torch.nn.Module) -> None:
        super().__init__()
        self.gate, self.up, self.down = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate_up = torch.cat([self.gate(x), self.up(x)], dim=-1)
        return self.down(halfbyte.silu_mul(gate_up, rounding="huggingface"))


def with_operators(model: torch.nn.Module) -> torch.nn.Module:
    for layer in model.model.layers:
        layer.input_layernorm = Norm(layer.input_layernorm)
        layer.post_attention_layernorm = Norm(layer.post_attention_layernorm)
        layer.mlp = Mlp(layer.mlp)
    return model


def through_graph(model: torch.nn.Module, ids: torch.Tensor, rewrite: Callable) -> torch.Tensor:
    """The logits of the model's graph, rewritten, run operator by operator."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor.decomposition import select_decomp_table

    def compile_graph(gm: torch.fx.GraphModule, inputs: list) -> torch.fx.GraphModule:
        rewrite(gm.graph)
        gm.recompile()
        return gm

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=compile_graph, decompositions=select_decomp_table())
    with torch.no_grad():
        run = torch.compile(lambda i: model(i, use_cache=False).logits, backend=backend)
        return run(ids)


def fused_is_unfused(model: torch.nn.Module, ids: torch.Tensor) -> tuple[bool, int]:
    """Whether the logits are equal bit for bit, and how many operators the pass fused."""
    from halfbyte.compile import FusionPass

    fusion = FusionPass()
    unfused = through_graph(model, ids, lambda graph: None)
    fused = through_graph(model, ids, fusion)
    return torch.equal(fused, unfused), len(fusion.fusions)


def quantized(program: Path, model: Path, folder: Path) -> Path:
    out = folder / "nvfp4"
    amax = model / "activation_amax.json"
    subprocess.run([program, "quantize", model, out, "--format", "nvfp4", "--convention",
                    "modelopt", "--activation-amax", amax], check=True, capture_output=True)
    return out


def main() -> None:
    options = comparison_options(__doc__.splitlines()[0])
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    problems = evaluation_problems(options.count, EVAL_SEED)
    tokenizer = load_tokenizer(options.model)
    rows, equal = [], {}
    with tempfile.TemporaryDirectory(prefix="halfbyte-evaluate.") as folder:
        directory = quantized(options.program, options.model, Path(folder))
        for name, load in ROWS.items():
            model = load_model(options.model, torch.bfloat16, device)
            if load is not None:
                model = halfbyte.load_quantized(model, directory, **load)
            result = evaluate(model, tokenizer, problems)
            rows.append({"model": name, **result})
            print(f"{name}: exact match {result['correct']}/{result['n']} = "
                  f"{result['exact_match']:.3f}, answer NLL {result['answer_nll']:.5f}", flush=True)
            if load is not None and load["activations"]:
                ids = tokenizer(problems[0].prompt, return_tensors="pt")["input_ids"].to(device)
                same, count = fused_is_unfused(with_operators(model), ids)
                equal[load["activations"]] = {"bit_equal": same, "fused": count}
                print(f"  logits fused and unfused bit-equal: {same}, {count} fusions", flush=True)
    if options.json:
        document = {"schema": 1, "model": options.model.name, "device": describe_device(device),
                    "rows": rows, "fused_logits": equal,
                    "command": shlex.join(["python3", *sys.argv]),
                    "date": datetime.date.today().isoformat(), "torch": torch.__version__,
                    "transformers": transformers.__version__}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
