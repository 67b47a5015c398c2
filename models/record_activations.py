"""Records what the model's norms and linears really see, for kernels and quantizers to test on.

`activations.safetensors` (BF16, [rows, hidden]):
  <norm module>.input     the norm's input
  <norm module>.x         the branch output just added to the residual stream, and
  <norm module>.residual  the stream before that addition, so that input = x + residual in
                          BF16, bit for bit.  The first norm reads the embedding: no addends.
`activation_amax.json`: linear module name -> largest magnitude of its input, over more problems.

Problems run one at a time, so no recorded row belongs to a padding token; the rows are the
tokens of consecutive held-out problems with their reference solutions.

Example: python3 models/record_activations.py models/arith-llama-6m
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from evaluate import describe_device, load_model, load_tokenizer
from problems import EVAL_SEED, Problem, evaluation_problems

ROWS = 256
AMAX_PROBLEMS = 200


def encoded(
    tokenizer: transformers.PreTrainedTokenizerBase, problems: Iterable[Problem]
) -> list[torch.Tensor]:
    """One [1, tokens] tensor per problem: question and reference solution."""
    return [
        torch.tensor([tokenizer(p.prompt + p.solution)["input_ids"]]) for p in problems
    ]


def norm_sources(layers: int) -> dict[str, tuple[str, str] | None]:
    """Norm -> (module that produces x, norm whose input is the residual), in network order."""
    sources: dict[str, tuple[str, str] | None] = {"model.layers.0.input_layernorm": None}
    for i in range(layers):
        before = f"model.layers.{i}.input_layernorm"
        between = f"model.layers.{i}.post_attention_layernorm"
        after = f"model.layers.{i + 1}.input_layernorm" if i + 1 < layers else "model.norm"
        sources[between] = (f"model.layers.{i}.self_attn.o_proj", before)
        sources[after] = (f"model.layers.{i}.mlp.down_proj", between)
    return sources


@torch.inference_mode()
def record_norms(
    model: torch.nn.Module, sequences: list[torch.Tensor], rows: int
) -> dict[str, torch.Tensor]:
    """The tensors of activations.safetensors, on the CPU."""
    sources = norm_sources(model.config.num_hidden_layers)
    inputs: dict[str, list[torch.Tensor]] = defaultdict(list)
    outputs: dict[str, list[torch.Tensor]] = defaultdict(list)
    modules = dict(model.named_modules())
    handles = []
    for norm, source in sources.items():
        handles.append(
            modules[norm].register_forward_pre_hook(
                lambda _, args, name=norm: inputs[name].append(args[0][0].cpu())
            )
        )
        if source:
            handles.append(
                modules[source[0]].register_forward_hook(
                    lambda _, args, out, name=source[0]: outputs[name].append(out[0].cpu())
                )
            )
    seen = 0
    for ids in sequences:
        if seen >= rows:
            break
        model(input_ids=ids.to(model.device), use_cache=False)
        seen += ids.shape[1]
    for handle in handles:
        handle.remove()
    if seen < rows:
        raise ValueError(f"only {seen} tokens for {rows} rows: give more problems")

    tensors: dict[str, torch.Tensor] = {}
    for norm, source in sources.items():
        tensors[f"{norm}.input"] = torch.cat(inputs[norm])[:rows].clone()
        if source:
            tensors[f"{norm}.x"] = torch.cat(outputs[source[0]])[:rows].clone()
            tensors[f"{norm}.residual"] = torch.cat(inputs[source[1]])[:rows].clone()
    return tensors


@torch.inference_mode()
def record_amax(model: torch.nn.Module, sequences: list[torch.Tensor]) -> dict[str, float]:
    """Linear module name -> largest magnitude of its input."""
    amax: dict[str, torch.Tensor] = {}

    def remember(name: str, value: torch.Tensor) -> None:
        largest = value.abs().max().float()
        amax[name] = torch.maximum(amax[name], largest) if name in amax else largest

    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: remember(name, args[0]))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    for ids in sequences:
        model(input_ids=ids.to(model.device), use_cache=False)
    for handle in handles:
        handle.remove()
    return {name: value.item() for name, value in amax.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Record norm inputs and linear input magnitudes of the BF16 model.",
        epilog="example: python3 models/record_activations.py models/arith-llama-6m",
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, help="directory to write to (default: the model's)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--amax-problems", type=int, default=AMAX_PROBLEMS)
    options = parser.parse_args()

    device = torch.device(options.device)
    model = load_model(options.model, torch.bfloat16, device)
    problems = evaluation_problems(options.amax_problems)
    sequences = encoded(load_tokenizer(options.model), problems)
    tensors = record_norms(model, sequences, options.rows)
    amax = record_amax(model, sequences)

    out = options.out or options.model
    metadata = {
        "model": options.model.name,
        "device": describe_device(device),
        "problem_seed": str(EVAL_SEED),
        "rows": str(options.rows),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    save_file(tensors, out / "activations.safetensors", metadata=metadata)
    (out / "activation_amax.json").write_text(json.dumps(amax, indent=2) + "\n")
    print(f"{len(tensors)} tensors of {options.rows} rows, {len(amax)} linears, to {out}")


if __name__ == "__main__":
    main()
