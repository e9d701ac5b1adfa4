"""Errors are compared by their fields, not by their prose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from sawyer.errors import SawyerError


@contextmanager
def raises_with(kind: type[SawyerError], **words: str | Sequence[str]) -> Iterator[None]:
    """The block raises `kind`, and each named field (`given`, `expected`, `why`, `todo`, `where`) has these key words.

    Example: `with raises_with(DataError, where="rows.jsonl:7:label", given="'rare'", todo=["give more rows", "'rare'"]): ...`
    """
    with pytest.raises(kind) as caught:
        yield
    for field, expected in words.items():
        text = getattr(caught.value, field)
        for word in [expected] if isinstance(expected, str) else expected:
            assert word in text, f"{field} has no {word!r}: {text}"
