"""Synthetic grade-school word problems with worked steps and a final answer.

The small model in this folder exists so that quantization can be judged on a
real task.  That needs problems whose answers can be checked exactly and held-out
problems that the model cannot have seen.  Both come from one rule here:

* A problem is a chain of single arithmetic steps ("3*5=15", "14+15=29").
* `Problem.key` is that chain with the operands of + and * sorted, so the wording,
  the names and the objects do not enter it.
* A hash of the key decides the split.  Training draws reject every held-out key
  and evaluation draws reject every training key, so no chain of numbers that is
  evaluated was ever trained on, in any wording.

(A longer training problem can still contain a held-out shorter chain as its
first steps; whole chains are what the split keeps apart.)

Only `random.Random.random()` is used for drawing: unlike `choice` or `randrange`
its sequence for a seed is guaranteed to stay the same across Python versions.

Example: python3 models/problems.py --split eval --count 3 --seed 7
"""

from __future__ import annotations

import argparse
import random
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# One chain in HELDOUT_MODULUS is held out for evaluation.
HELDOUT_MODULUS = 16
# How hard the task is.  These values leave a model of 6 million parameters wrong a few times
# in a hundred, mostly on products of long numbers written down in one step: a task it solves
# always would hide what quantization costs.
MAX_RESULT = 99_999
LARGE_SHARE = 0.5
LARGE_FACTOR = 199
# The seed and size of the evaluation set behind every reported figure.
EVAL_SEED = 20_000
EVAL_COUNT = 500

NAMES_HE = ("Tom", "Ben", "Sam", "Max", "Leo", "Omar")
NAMES_SHE = ("Anna", "Mia", "Zoe", "Lily", "Nina", "Ruth")
NAMES = NAMES_HE + NAMES_SHE
THINGS = (
    "apples", "books", "cards", "coins", "cookies", "eggs", "flowers", "marbles",
    "oranges", "pencils", "shells", "stamps", "stickers", "stones", "tickets", "toys",
)  # fmt: skip

_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


@dataclass(frozen=True)
class Template:
    """One wording, how its numbers are drawn and how they combine.

    `draws` holds one kind per number a, b, c, d: n(umber), f(actor) or s(mall factor).
    `plan` lists the steps; a letter is a drawn number, a digit the result of that step.
    """

    name: str
    text: str
    draws: str
    plan: str


TEMPLATES: tuple[Template, ...] = (
    Template(
        "bags",
        "{N} has {a} {T}. {He} buys {b} bags with {c} {T} each."
        " How many {T} does {he} have?",
        "nff", "b*c a+1",
    ),
    Template(
        "gift",
        "{N} had {a} {T}. {M} gave {him} {b} more and {he} lost {c}."
        " How many {T} does {N} have now?",
        "nnn", "a+b 1-c",
    ),
    Template(
        "boxes",
        "{N} has {a} {T}. {He} fills {b} boxes with {c} {T} each."
        " How many {T} are left?",
        "nff", "b*c a-1",
    ),
    Template(
        "club",
        "There are {a} girls and {b} boys in a club. Each child gets {c} {T}."
        " How many {T} do they get in all?",
        "nnf", "a+b 1*c",
    ),
    Template(
        "market",
        "{N} had {a} {T}, kept {b} and sold the others for {c} dollars each."
        " How many dollars did {he} get?",
        "nnf", "a-b 1*c",
    ),
    Template(
        "shelves",
        "A shop has {a} shelves. Each shelf holds {b} boxes with {c} {T} each."
        " How many {T} are in the shop?",
        "ffs", "a*b 1*c",
    ),
    Template(
        "pages",
        "{N} read {a} pages on Monday and {b} pages more than that on Friday."
        " How many pages did {he} read in all?",
        "nn", "a+b a+1",
    ),
    Template(
        "times",
        "{N} has {a} {T}. {M} has {b} times as many."
        " How many {T} do they have together?",
        "nf", "a*b a+1",
    ),
    Template(
        "orders",
        "{N} buys {a} bags with {b} {T} each and {c} boxes with {d} {T} each."
        " How many {T} does {he} buy?",
        "ffff", "a*b c*d 1+2",
    ),
    Template(
        "trade",
        "{N} sells {a} toys for {b} dollars each and then buys {c} books for {d} dollars"
        " each. How many dollars are left?",
        "ffff", "a*b c*d 1-2",
    ),
    Template(
        "picking",
        "{N} picked {a} {T} on Monday and {b} on Friday. {M} picked {c} times as many."
        " Then {M} lost {d}. How many {T} does {M} have?",
        "nnfn", "a+b 1*c 2-d",
    ),
    Template(
        "wages",
        "{N} earns {a} dollars each day for {b} days and finds {c} dollars. Then {he}"
        " spends {d} dollars. How many dollars does {he} have?",
        "ffnn", "a*b 1+c 2-d",
    ),
    Template(
        "stock",
        "A shop had {a} {T}. It got {b} on Monday and {c} on Friday. It sold {d} in all."
        " How many {T} are in the shop now?",
        "nnnn", "a+b 1+c 2-d",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A question, the worked steps that answer it, and the answer."""

    template: str
    question: str
    steps: tuple[str, ...]
    answer: int
    key: str

    @property
    def prompt(self) -> str:
        """What the model is given."""
        return self.question + "\n"

    @property
    def solution(self) -> str:
        """What the model is to write after the prompt."""
        return "\n".join(self.steps) + f"\nanswer: {self.answer}"


def _span(rng: random.Random, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


def _draw(kind: str, rng: random.Random) -> int:
    """Small numbers with a share of large ones."""
    large = rng.random() < LARGE_SHARE
    if kind == "n":
        return _span(rng, 100, 999) if large else _span(rng, 2, 99)
    if kind == "f":
        return _span(rng, 13, LARGE_FACTOR) if large else _span(rng, 2, 12)
    return _span(rng, 2, 9)


def work_out(plan: str, numbers: dict[str, int]) -> tuple[list[str], list[str], int] | None:
    """Steps as written, steps with sorted operands, and the answer.

    None when a result leaves 1..MAX_RESULT: such numbers are drawn again.
    """
    values = dict(numbers)
    steps: list[str] = []
    canonical: list[str] = []
    result = 0
    for index, (left, operation, right) in enumerate(plan.split(), start=1):
        x, y = values[left], values[right]
        result = _OPERATIONS[operation](x, y)
        if not 1 <= result <= MAX_RESULT:
            return None
        values[str(index)] = result
        steps.append(f"{x}{operation}{y}={result}")
        if operation != "-" and x > y:
            x, y = y, x
        canonical.append(f"{x}{operation}{y}")
    return steps, canonical, result


def is_held_out(key: str) -> bool:
    """Whether a chain belongs to the evaluation split; CRC-32 is fixed for all time."""
    return zlib.crc32(key.encode()) % HELDOUT_MODULUS == 0


def render(template: Template, numbers: dict[str, int], name: str, other: str, thing: str) -> str:
    """The question's text."""
    he = name in NAMES_HE
    return template.text.format(
        N=name, M=other, T=thing, He="He" if he else "She", he="he" if he else "she",
        him="him" if he else "her", **numbers,
    )  # fmt: skip


def generate(seed: int, split: str) -> Iterator[Problem]:
    """An endless stream of problems of one split ('train' or 'eval'), fixed by the seed."""
    if split not in ("train", "eval"):
        raise ValueError(f"split must be 'train' or 'eval', not {split!r}")
    want_held_out = split == "eval"
    rng = random.Random(seed)
    while True:
        # The template is drawn once and the numbers until they fit it, so that every
        # template is equally frequent however often its numbers are rejected.
        template = TEMPLATES[int(rng.random() * len(TEMPLATES))]
        while True:
            numbers = {n: _draw(kind, rng) for n, kind in zip("abcd", template.draws)}
            worked = work_out(template.plan, numbers)
            if worked is None:
                continue
            steps, canonical, answer = worked
            key = ";".join(canonical)
            if is_held_out(key) == want_held_out:
                break
        first = int(rng.random() * len(NAMES))
        other = (first + _span(rng, 1, len(NAMES) - 1)) % len(NAMES)
        thing = THINGS[int(rng.random() * len(THINGS))]
        question = render(template, numbers, NAMES[first], NAMES[other], thing)
        yield Problem(template.name, question, tuple(steps), answer, key)


def take(count: int, seed: int, split: str) -> list[Problem]:
    """The first `count` problems of a stream."""
    stream = generate(seed, split)
    return [next(stream) for _ in range(count)]


def evaluation_problems(count: int = EVAL_COUNT, seed: int = EVAL_SEED) -> list[Problem]:
    """The held-out problems that reported figures use, each chain once."""
    chosen: dict[str, Problem] = {}
    for problem in generate(seed, "eval"):
        chosen.setdefault(problem.key, problem)
        if len(chosen) == count:
            return list(chosen.values())
    raise AssertionError("generate() never ends")


_ANSWER = re.compile(r"^answer: (\d+)$", re.MULTILINE)


def parse_answer(text: str) -> int | None:
    """The number of the (first) answer line in a model's output, None without one."""
    match = _ANSWER.search(text)
    return int(match.group(1)) if match else None


def every_wording() -> Iterator[str]:
    """Prompts and solutions that together use every word the generator can write."""
    numbers = {"a": 1, "b": 2, "c": 3, "d": 4}
    for template in TEMPLATES:
        for index, name in enumerate(NAMES):
            yield render(template, numbers, name, NAMES[index - 1], THINGS[0]) + "\n"
        for thing in THINGS:
            yield render(template, numbers, NAMES[0], NAMES[1], thing) + "\n"
    yield "0123456789+-*=\nanswer: 0"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Print generated word problems with their worked answers.",
        epilog="example: python3 models/problems.py --split eval --count 3 --seed 7",
    )
    parser.add_argument("--split", choices=("train", "eval"), default="train")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for problem in take(options.count, options.seed, options.split):
        print(f"[{problem.template}] {problem.prompt}{problem.solution}\n")


if __name__ == "__main__":
    main()
