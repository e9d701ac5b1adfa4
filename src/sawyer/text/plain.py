"""A text by itself, without a template: as its tokenizer puts it."""

from __future__ import annotations

from typing import Any

from sawyer.text.encode import Row


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
    return Row(ids=tuple(ids), trained=(False,) * len(ids), prompt_length=len(ids), cut=cut)
