"""Fewer tokens than a model could read: `max_tokens` of a stage."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from sawyer.text.text_pair import RewardEncoder

C = TypeVar("C", bound=RewardEncoder)


def limit_tokens(prompt_encoder: C, max_tokens: int | None) -> C:
    """The same codec for rows of at most `max_tokens` tokens; None leaves the model's context as the limit."""
    if max_tokens is None:
        return prompt_encoder
    return replace(prompt_encoder, context=min(prompt_encoder.context, max_tokens))  # type: ignore[type-var]  # every reader is a dataclass
