"""The model's tokenizer: whole words, single digits, lossless, and tiny.

The vocabulary is closed: exactly the words that `problems` can write, each with and
without its leading space where both occur, and every digit alone, so that numbers
are spelled out the way the arithmetic is done.  The pieces of a text join back to the
text itself, which keeps decoding free of clean-up rules.  Anything else is `<unk>`.

The embedding has more rows than there are words (a multiple of 64 is what FP4 matrix
kernels want), so the padding rows get names too and no id is left without a token.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from problems import every_wording

PIECE = r" ?[A-Za-z]+|[0-9]|.|\n"
PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(4)
SPECIALS = (PAD, BOS, EOS, UNK)
VOCABULARY_MULTIPLE = 64


def vocabulary() -> dict[str, int]:
    """Token to id: the special tokens, the words in sorted order, then the padding rows."""
    words = sorted({piece for text in every_wording() for piece in re.findall(PIECE, text)})
    tokens = [*SPECIALS, *words]
    while len(tokens) % VOCABULARY_MULTIPLE:
        tokens.append(f"<unused{len(tokens)}>")
    return {token: index for index, token in enumerate(tokens)}


def build_tokenizer() -> Tokenizer:
    """The `tokenizers` object; it puts <s> before a text and nothing after it."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)]
    )
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def save_tokenizer(directory: Path) -> None:
    """tokenizer.json and tokenizer_config.json, readable by transformers 4 and 5."""
    build_tokenizer().save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": UNK,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 256,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
