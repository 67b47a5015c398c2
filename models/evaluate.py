"""Exact match of a model directory on the held-out word problems.

Works for any Hugging Face directory that speaks this task's tokenizer: the BF16 model, or
one whose weights went through a quantizer and back.  Greedy decoding with the KV cache, in
batches, then two figures:

* exact match: the share of problems whose final answer line is right;
* answer NLL: the mean negative log-likelihood (nats per token) of the reference solutions,
  which moves already when no answer flips yet.

Example:
  python3 models/evaluate.py models/arith-llama-6m --json models/arith-llama-6m/evaluation.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
from collections import Counter
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from problems import EVAL_COUNT, EVAL_SEED, Problem, evaluation_problems, parse_answer

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
MAX_NEW_TOKENS = 64


def load_model(directory: Path, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """The model in `dtype`; the keyword's name changed in transformers 4.56."""
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    keyword = "dtype" if version >= (4, 56) else "torch_dtype"
    model = AutoModelForCausalLM.from_pretrained(directory, **{keyword: dtype})
    return model.to(device).eval()


def load_tokenizer(directory: Path) -> transformers.PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(directory, padding_side="left")


@torch.inference_mode()
def complete(
    model: torch.nn.Module,
    tokenizer: transformers.PreTrainedTokenizerBase,
    prompts: list[str],
    batch: int,
) -> list[str]:
    """Greedy completions, in the prompts' order."""
    # Prompts of similar length share a batch, so that little of it is padding.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    completions = [""] * len(prompts)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        inputs = tokenizer([prompts[i] for i in rows], return_tensors="pt", padding=True)
        output = model.generate(
            input_ids=inputs["input_ids"].to(model.device),
            attention_mask=inputs["attention_mask"].to(model.device),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        generated = output[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
        for row, text in zip(rows, texts):
            completions[row] = text
    return completions


@torch.inference_mode()
def answer_nll(
    model: torch.nn.Module,
    tokenizer: transformers.PreTrainedTokenizerBase,
    problems: list[Problem],
    batch: int,
) -> float:
    """Nats per solution token (the end token included) under teacher forcing."""
    total, tokens = 0.0, 0
    for start in range(0, len(problems), batch):
        chunk = problems[start : start + batch]
        rows = []
        labels = []
        for problem in chunk:
            prompt = tokenizer(problem.prompt)["input_ids"]
            solution = tokenizer(problem.solution, add_special_tokens=False)["input_ids"]
            solution = [*solution, tokenizer.eos_token_id]
            rows.append(torch.tensor(prompt + solution))
            labels.append(torch.tensor([-100] * len(prompt) + solution))
        # Right padding needs no mask under causal attention.
        ids = torch.nn.utils.rnn.pad_sequence(
            rows, batch_first=True, padding_value=tokenizer.pad_token_id
        ).to(model.device)
        targets = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
        targets = targets.to(model.device)[:, 1:]
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        total += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
        ).item()
        tokens += int((targets != -100).sum())
    return total / tokens


def evaluate(
    model: torch.nn.Module,
    tokenizer: transformers.PreTrainedTokenizerBase,
    problems: list[Problem],
    batch: int = 128,
) -> dict:
    """Both figures and the correct answers by template."""
    completions = complete(model, tokenizer, [p.prompt for p in problems], batch)
    asked = Counter(p.template for p in problems)
    right = Counter(
        problem.template
        for problem, text in zip(problems, completions)
        if parse_answer(text) == problem.answer
    )
    return {
        "n": len(problems),
        "correct": sum(right.values()),
        "exact_match": sum(right.values()) / len(problems),
        "answer_nll": answer_nll(model, tokenizer, problems, batch),
        "by_template": {name: f"{right[name]}/{asked[name]}" for name in sorted(asked)},
    }


def describe_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def comparison_options(description: str) -> argparse.Namespace:
    """The command line of the scripts that quantize a model with the program and evaluate it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("program", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--count", type=int, default=EVAL_COUNT)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    return parser.parse_args()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Exact match of a Hugging Face model directory on held-out word problems.",
        epilog="example: python3 models/evaluate.py models/arith-llama-6m --device cpu",
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="its directory, if not the model's")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--count", type=int, default=EVAL_COUNT)
    parser.add_argument("--seed", type=int, default=EVAL_SEED)
    parser.add_argument("--batch", type=int, default=128)
    # At this model's size threads wait for one another longer than they work: on two busy
    # cores a second thread made decoding 20 times slower.
    parser.add_argument("--threads", type=int, default=1, help="of torch, on the CPU")
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    model = load_model(options.model, DTYPES[options.dtype], device)
    tokenizer = load_tokenizer(options.tokenizer or options.model)
    problems = evaluation_problems(options.count, options.seed)
    result = {
        "model": options.model.name,
        "dtype": options.dtype,
        "device": describe_device(device),
        **evaluate(model, tokenizer, problems, options.batch),
        "seed": options.seed,
        "command": shlex.join(["python3", *sys.argv]),
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(
        f"{result['model']} {result['dtype']} on {result['device']}: exact match "
        f"{result['correct']}/{result['n']} = {result['exact_match']:.3f}, "
        f"answer NLL {result['answer_nll']:.5f}"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
