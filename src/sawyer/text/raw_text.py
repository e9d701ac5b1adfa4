"""A text by itself, without a template: as its tokenizer puts it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sawyer.text.encoding import Row


def plain_row(tokenizer: Any, text: str, context: int) -> Row:
    """The ids of a text with what its tokenizer puts around one ([CLS] and [SEP], a BOS, nothing), as every other program
    that calls the tokenizer gets them; longer than `context` it is cut, the special tokens kept.

    A text of no token at all is read as the token that ends one. Nothing is trained.
    """
    ids = tokenizer(text, verbose=False)["input_ids"]
    cut = len(ids) > context
    if cut:
        ids = tokenizer(text, verbose=False, truncation=True, max_length=context)["input_ids"]
    if not ids:
        ends = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
        ids = [next(token for token in ends if token is not None)]
    return Row(ids=tuple(ids), loss_mask=(False,) * len(ids), prompt_length=len(ids), cut=cut)


def windows(texts: Sequence[str], tokenizer: Any, length: int) -> list[Row]:
    """All texts end to end, an EOS after each, cut into windows of `length` tokens; the unfilled last one is left out."""
    stream: list[int] = []
    for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]:
        stream += [*ids, tokenizer.eos_token_id]
    trained = (False, *[True] * (length - 1))
    cuts = range(0, len(stream) - length + 1, length)
    return [Row(ids=tuple(stream[cut : cut + length]), loss_mask=trained, prompt_length=1, cut=False) for cut in cuts]
