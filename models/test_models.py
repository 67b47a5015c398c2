"""The generator's promises, and that the stored model directory is what the README says.

Quick and on the CPU.  The generator's tests need nothing but Python; the model's tests are
skipped without torch, transformers and safetensors.

Example: python3 -m pytest models/test_models.py
"""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
MODEL = HERE / "arith-llama-6m"
MIB = 1 << 20
sys.path.insert(0, str(HERE))

import problems  # noqa: E402


@pytest.fixture(scope="module")
def libraries():
    """torch and transformers, or a skip that names what is missing."""
    for name in ("torch", "transformers", "safetensors"):
        pytest.importorskip(name, reason=f"the model's tests need {name}")
    import torch
    import transformers

    # One thread: see evaluate.py's --threads.
    torch.set_num_threads(1)
    return torch, transformers


@pytest.fixture(scope="module")
def loaded(libraries):
    """The model and its tokenizer on the CPU in BF16."""
    torch, _ = libraries
    from evaluate import load_model, load_tokenizer

    return load_model(MODEL, torch.bfloat16, torch.device("cpu")), load_tokenizer(MODEL)


@pytest.fixture(scope="module")
def weights(libraries):
    from safetensors.torch import load_file

    return load_file(MODEL / "model.safetensors")


@pytest.fixture(scope="module")
def activations(libraries):
    from safetensors.torch import load_file

    return load_file(MODEL / "activations.safetensors")


def test_training_draws_share_no_chain_with_the_evaluation_set():
    evaluated = {p.key for p in problems.evaluation_problems()}
    assert len(evaluated) == problems.EVAL_COUNT
    trained = {p.key for p in islice(problems.generate(1, "train"), 200_000)}
    assert len(trained) > 100_000
    assert not trained & evaluated


def test_the_split_is_disjoint_by_construction():
    """The hash of the key decides alone, whatever the seed, so the splits cannot meet."""
    for seed in range(5):
        assert all(problems.is_held_out(p.key) for p in problems.take(200, seed, "eval"))
        assert not any(problems.is_held_out(p.key) for p in problems.take(2000, seed, "train"))


def test_the_key_ignores_wording_and_operand_order():
    plan = "b*c a+1"
    one = problems.work_out(plan, {"a": 14, "b": 3, "c": 5})
    two = problems.work_out(plan, {"a": 14, "b": 5, "c": 3})
    assert one[0] == ["3*5=15", "14+15=29"]
    assert two[0] == ["5*3=15", "14+15=29"]
    assert one[1] == two[1] == ["3*5", "14+15"]
    names = {problems.render(problems.TEMPLATES[0], {"a": 14, "b": 3, "c": 5}, n, "Ben", "eggs")
             for n in problems.NAMES}  # fmt: skip
    assert len(names) == len(problems.NAMES)


def test_the_steps_are_right():
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    for problem in problems.take(5000, 3, "train") + problems.take(2000, 3, "eval"):
        given = {int(w) for w in problem.question.replace(".", " ").replace(",", " ").split()
                 if w.isdigit()}  # fmt: skip
        results = set()
        for step in problem.steps:
            left, result = step.split("=")
            sign = next(c for c in left if c in operations)
            x, y = (int(part) for part in left.split(sign))
            assert {x, y} <= given | results, "a step uses a number that nothing gave"
            assert operations[sign](x, y) == int(result)
            assert 1 <= int(result) <= problems.MAX_RESULT
            results.add(int(result))
        assert problem.answer == int(problem.steps[-1].split("=")[1])
        assert problems.parse_answer(problem.solution) == problem.answer


def test_a_seed_fixes_the_problems():
    """Reported figures name a seed; this pins what that seed means."""
    assert problems.take(50, 9, "train") == problems.take(50, 9, "train")
    assert problems.take(50, 9, "train") != problems.take(50, 10, "train")
    first = problems.evaluation_problems(1)[0]
    assert (first.template, first.steps, first.answer) == (
        "shelves",
        ("173*3=519", "519*9=4671"),
        4671,
    )


@pytest.mark.parametrize(
    "text,answer",
    [("1+2=3\nanswer: 3", 3), ("answer: 4\nanswer: 5", 4), ("answer: x", None), ("", None)],
)
def test_parse_answer(text, answer):
    assert problems.parse_answer(text) == answer


def test_the_tokenizer_is_lossless_and_current(loaded):
    from word_tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID, vocabulary

    _, tokenizer = loaded
    assert tokenizer.get_vocab() == vocabulary()
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert ids == (PAD_ID, BOS_ID, EOS_ID)
    for problem in problems.take(200, 4, "eval"):
        text = problem.prompt + problem.solution
        encoded = tokenizer(text)["input_ids"]
        assert encoded[0] == BOS_ID and UNK_ID not in encoded
        assert tokenizer.decode(encoded, skip_special_tokens=True) == text


def test_the_weights_fit_the_promise(libraries, weights):
    torch, _ = libraries
    assert (MODEL / "model.safetensors").stat().st_size < 16 * MIB
    assert sum(w.numel() for w in weights.values()) <= 7_000_000
    for name, tensor in weights.items():
        assert tensor.dtype == torch.bfloat16, name
        assert all(d % 64 == 0 for d in tensor.shape), (name, tuple(tensor.shape))
        assert torch.isfinite(tensor).all(), name


def test_the_directory_is_a_llama(loaded):
    model, _ = loaded
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.config.vocab_size % 64 == 0
    assert model.config.num_attention_heads % model.config.num_key_value_heads == 0


def test_exact_match_on_held_out_problems(loaded):
    from evaluate import evaluate

    result = evaluate(*loaded, problems.evaluation_problems(40))
    assert result["exact_match"] >= 0.8, result


def test_the_stored_evaluation_meets_the_requirement():
    result = json.loads((MODEL / "evaluation.json").read_text())
    assert result["n"] == problems.EVAL_COUNT and result["seed"] == problems.EVAL_SEED
    assert result["dtype"] == "bfloat16"
    assert result["exact_match"] >= 0.90


def test_the_addends_sum_to_the_norm_inputs(libraries, loaded, activations):
    torch, _ = libraries
    from record_activations import ROWS, norm_sources

    assert (MODEL / "activations.safetensors").stat().st_size < 4 * MIB
    hidden = loaded[0].config.hidden_size
    expected = set()
    for norm, source in norm_sources(loaded[0].config.num_hidden_layers).items():
        kinds = ("input", "x", "residual") if source else ("input",)
        expected |= {f"{norm}.{kind}" for kind in kinds}
        if source:
            total = activations[f"{norm}.x"] + activations[f"{norm}.residual"]
            assert torch.equal(total, activations[f"{norm}.input"]), norm
    assert set(activations) == expected
    for name, tensor in activations.items():
        assert tensor.dtype == torch.bfloat16 and tensor.shape == (ROWS, hidden), name


def test_the_activations_come_from_this_model(libraries, loaded, activations):
    """Run again on the CPU: the embedding rows exactly, the rest up to BF16's rounding."""
    torch, _ = libraries
    from record_activations import ROWS, encoded, record_norms

    model, tokenizer = loaded
    again = record_norms(model, encoded(tokenizer, problems.evaluation_problems(8)), ROWS)
    assert {n: t.shape for n, t in again.items()} == {n: t.shape for n, t in activations.items()}
    first = "model.layers.0.input_layernorm.input"
    assert torch.equal(again[first], activations[first])
    for name, tensor in again.items():
        recorded = activations[name].float()
        error = (tensor.float() - recorded).norm() / recorded.norm()
        assert error < 0.05, (name, float(error))


def test_every_linear_has_an_amax(loaded):
    model, _ = loaded
    linears = {n for n, m in model.named_modules() if type(m).__name__ == "Linear"}
    amax = json.loads((MODEL / "activation_amax.json").read_text())
    assert set(amax) == linears
    assert all(value > 0 for value in amax.values())
