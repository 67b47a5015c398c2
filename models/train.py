"""Trains the small arithmetic model from nothing and writes its Hugging Face directory.

Everything the result depends on is in this folder and in the command line: the problems
come from `problems.generate(seed, "train")`, the weights from torch's seeded initializer,
the order of the batches from a seeded permutation.  Two runs on one kind of GPU agree as
far as its atomics and library versions let them.

Weights are kept in float32 while training (bfloat16 autocast for the matrix products) and
rounded to BF16 once, at the end: the BF16 file is the reference that quantization starts from.

Example: python3 models/train.py --out models/arith-llama-6m
A check of the pipeline on a CPU in seconds:
  python3 models/train.py --out /tmp/m --steps 20 --batch 32 --problems 2000 --layers 1
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from pathlib import Path

# The worker processes are the parallelism; the tokenizer's own threads do not survive a fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from problems import generate
from word_tokenizer import BOS_ID, EOS_ID, PAD_ID, build_tokenizer, save_tokenizer, vocabulary

CHUNK = 20_000
# Holds the longest problem; encode_chunk checks it.
LENGTH = 104


def model_config(layers: int) -> LlamaConfig:
    """A Llama of 6 million parameters whose matrix dimensions are all multiples of 64.

    Five wide layers rather than eight narrow ones: the deeper MLP products look more like
    those of real models, and the recorded activations stay small.
    """
    return LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=256,
        intermediate_size=1280,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )


def encode_chunk(task: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """(seed, count) to token ids [count, LENGTH] and (prompt, total) lengths [count, 2]."""
    seed, count = task
    tokenizer = build_tokenizer()
    stream = generate(seed, "train")
    chosen = [next(stream) for _ in range(count)]
    prompts = tokenizer.encode_batch_fast([p.prompt for p in chosen])
    solutions = tokenizer.encode_batch_fast(
        [p.solution for p in chosen], add_special_tokens=False
    )
    rows = []
    lengths = []
    for prompt, solution in zip(prompts, solutions):
        ids = prompt.ids + solution.ids + [EOS_ID]
        if len(ids) > LENGTH:
            raise ValueError(f"a problem of {len(ids)} tokens does not fit {LENGTH}")
        lengths.append((len(prompt.ids), len(ids)))
        rows.append(bytes(ids) + bytes([PAD_ID]) * (LENGTH - len(ids)))
    ids = torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).view(count, LENGTH)
    return ids, torch.tensor(lengths, dtype=torch.uint8)


def training_set(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` encoded training problems, the same whatever the number of processes."""
    # A stream's seed is its chunk's number, offset so that seeds of neighbouring runs differ.
    tasks = [
        (seed * 1_000_003 + start, min(CHUNK, count - start)) for start in range(0, count, CHUNK)
    ]
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        parts = pool.map(encode_chunk, tasks, chunksize=1)
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def rate_at(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then a cosine down to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def parameter_groups(model: torch.nn.Module, decay: float) -> list[dict]:
    """Weight decay for matrices only; norm gains have no reason to shrink."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    gains = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": gains, "weight_decay": 0.0}]


def train(model: LlamaForCausalLM, options: argparse.Namespace, device: torch.device) -> float:
    """Runs the optimizer and returns the mean loss of the last hundred steps."""
    ids, lengths = training_set(options.problems, options.seed)
    print(f"{len(ids)} training problems, mean length {lengths[:, 1].float().mean():.1f}")
    ids, lengths = ids.to(device), lengths.to(device)
    positions = torch.arange(LENGTH, device=device)
    fused = device.type == "cuda"
    optimizer = torch.optim.AdamW(
        parameter_groups(model, options.decay), lr=0.0, betas=(0.9, 0.95), fused=fused
    )
    run = torch.compile(model) if options.compile else model
    shuffle = torch.Generator().manual_seed(options.seed)
    order = torch.randperm(len(ids), generator=shuffle).to(device)
    cursor = 0
    recent: list[torch.Tensor] = []
    started = time.perf_counter()
    for step in range(options.steps):
        if cursor + options.batch > len(order):
            order = torch.randperm(len(ids), generator=shuffle).to(device)
            cursor = 0
        rows = order[cursor : cursor + options.batch]
        cursor += options.batch
        batch = ids[rows].long()
        span = lengths[rows].long()
        # Only the solution is learned: the question's numbers are random, so predicting them
        # would spend capacity on noise.
        learned = (positions >= span[:, :1]) & (positions < span[:, 1:])
        labels = torch.where(learned, batch, -100)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, options.steps, options.rate, options.warmup)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            # Padding is on the right, where causal attention never sees it: no mask needed.
            loss = run(input_ids=batch, labels=labels, use_cache=False).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent = [*recent[-99:], loss.detach()]
        if (step + 1) % options.report == 0 or step + 1 == options.steps:
            mean = torch.stack(recent).mean().item()
            seconds = time.perf_counter() - started
            print(f"step {step + 1} loss {mean:.5f} seconds {seconds:.1f}", flush=True)
    return torch.stack(recent).mean().item()


def save(model: LlamaForCausalLM, directory: Path) -> None:
    """The Hugging Face directory, with the config spelled so that transformers 4 and 5 read it."""
    directory.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        do_sample=False,
        max_new_tokens=64,
    )
    model.to(torch.bfloat16).save_pretrained(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    # transformers 5 writes "dtype" and "rope_parameters"; older readers know these names.
    config["torch_dtype"] = "bfloat16"
    config["rope_theta"] = 10000.0
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_tokenizer(directory)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train the arithmetic model and write its Hugging Face directory.",
        epilog="example: python3 models/train.py --out models/arith-llama-6m",
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--problems", type=int, default=4_000_000)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--warmup", type=int, default=400)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=int, default=500, help="steps between printed lines")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=torch.cuda.is_available(),
        help="use torch.compile (default: on a GPU)",
    )
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    model = LlamaForCausalLM(model_config(options.layers)).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    started = time.perf_counter()
    loss = train(model, options, device)
    seconds = time.perf_counter() - started
    save(model, options.out)
    print(f"{parameters} parameters, {options.steps} steps, loss {loss:.5f}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
