"""Labelled texts: what a classifier learns from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sawyer.records.fields import Fields, Unfit, first_field, has_any, text_of, type_in_words
from sawyer.records.record_types import Labelled, Record, Where

TEXTS = ("text", "sentence")  # what is classified


def is_labelled(row: Mapping[str, Any]) -> bool:
    """Whether the row holds a text and its label, or its labels."""
    return has_any(row, TEXTS) and has_any(row, ("label", "labels"))


def read_labelled(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """A text with its one `label`, or with the list of those that apply (`labels`)."""
    text = text_of(row, first_field(row, TEXTS))
    many = row.peek("labels") is not None or "label" not in row
    if many and row.peek("label") is not None:
        raise Unfit("labels", "type", "the row has `label` and `labels`", "keep one of the two")
    yield Labelled(text=text, labels=_labels(row) if many else (_label(row.get("label"), "label"),), many=many, where=where)


def _labels(row: Fields) -> tuple[str, ...]:
    """A list of labels; a cell of a table holds it as JSON."""
    given = row.get("labels")
    if isinstance(given, str) and given.lstrip().startswith("["):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise Unfit("labels", "type", "`labels` is not a list in JSON", 'write it as ["one", "other"]') from None
    if given is None:
        raise Unfit("labels", "missing", "there is no `labels`", "give the list of labels; [] where none applies")
    if not isinstance(given, list):
        told = 'write ["one", "other"], or call a single label `label`'
        raise Unfit("labels", "type", f"`labels` is {type_in_words(given)}, not a list", told)
    return tuple(dict.fromkeys(_label(item, f"labels[{place}]") for place, item in enumerate(given)))


def _label(value: Any, field: str) -> str:
    """A class by its name. A whole number is a name, and so are true and false; another number is a score, no class."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as tables with a gap write whole numbers
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        raise Unfit(field, "type", f"`{field}` is {value!r}, which is no class", "give a name or a whole number")
    return text_of(Fields({field: value}), field)
