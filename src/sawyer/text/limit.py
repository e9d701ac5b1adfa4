"""Fewer tokens than a model could read: `max_tokens` of a stage."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from sawyer.text.pair import Reader

C = TypeVar("C", bound=Reader)


def limited(codec: C, max_tokens: int | None) -> C:
    """The same codec for rows of at most `max_tokens` tokens; None leaves the model's context as the limit."""
    if max_tokens is None:
        return codec
    return replace(codec, context=min(codec.context, max_tokens))  # type: ignore[type-var]  # every reader is a dataclass
