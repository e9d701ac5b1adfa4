"""Splits by a hash of the prompt: one prompt never straddles, and a file that grows keeps its split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from sawyer.records.record_types import Prompt, Record, prompt_in

R = TypeVar("R", bound=Record)


def bucket(prompt: Prompt) -> float:
    """A number in [0, 1) that depends on the prompt's turns alone; the same on every machine."""
    text = "\x1e".join(f"{message.role}\x1f{message.content}" for message in prompt.messages)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def split(records: Sequence[R], eval_fraction: float) -> tuple[tuple[R, ...], tuple[R, ...]]:
    """(train, held out): the share `eval_fraction` of all prompts there could be is kept back."""
    is_held_out = [bucket(prompt_in(record)) < eval_fraction for record in records]
    train = tuple(record for record, out in zip(records, is_held_out, strict=True) if not out)
    return train, tuple(record for record, out in zip(records, is_held_out, strict=True) if out)
