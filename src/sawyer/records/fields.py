"""One row's fields: which of them are read, what they must be, and the errors where they are not."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sawyer.records.problems import Unfit


class Fields(Mapping[str, Any]):
    """A row, or an object inside it, that notes which of its fields are read. To look whether a field is there reads nothing.

    Example: of `{"prompt": "Up?", "id": 7}`, once `row["prompt"]` was taken, `unread()` is `["id"]`.
    """

    __slots__ = ("_inner", "_read", "_repeats", "_values")

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values, self._read, self._repeats = values, set[str](), set[str]()
        self._inner: list[tuple[str, Fields]] = []

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        self._read.add(name)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self._values else default

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def peek(self, name: str) -> Any:
        """A field's value without reading it; None where there is none."""
        return self._values.get(name)

    def inside(self, path: str, values: Mapping[str, Any]) -> Fields:
        """An object inside a field that was read; its unread fields are reported below `path`, such as `messages[].weight`."""
        inner = Fields(values)
        self._inner.append((path, inner))
        return inner

    def repeats(self, name: str) -> None:
        """Note that a field says again what was read elsewhere: it is not read, and nothing of it is lost."""
        self._repeats.add(name)

    @property
    def others(self) -> dict[str, Any]:
        """The fields that were not read, as they are."""
        return {name: value for name, value in self._values.items() if name not in self._read}

    def unread(self) -> list[str]:
        """Where something stands that was not read, each path once. A field that repeats one that was read is none of them."""
        others = self.others
        texts = [v for name in self._read if isinstance(v := self._values[name], list | str)] if others else []
        with_content = ((name, v) for name, v in others.items() if name not in self._repeats and not _is_nothing(v))
        paths = {name: None for name, v in with_content if not is_among(v, texts)}
        for path, inner in self._inner:
            paths |= dict.fromkeys(f"{path}.{name}" for name in inner.unread())
        return list(paths)


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value) or (isinstance(value, str) and value.isspace())


def is_among(value: Any, values: Sequence[Any]) -> bool:
    """Whether a text or a list is one of the values."""
    try:
        return isinstance(value, list | str) and value in values
    except RecursionError:  # nested without end: no copy of what was read
        return False


# Fields that identify a row or name its origin: no format reads them, and a warning about them would only be noise.
BOOKKEEPING = frozenset(
    "id uid uuid idx index prompt_id question_id conversation_id message_id row_id hash sha256 source source_id dataset origin "
    "category categories subcategory topic tags split language lang model model_name url license created_at created_date "
    "timestamp tstamp user_id name is_seed_task cluster difficulty turns num_turns num_responses".split()
)


def is_bookkeeping(path: str) -> bool:
    """Whether an unread field only says which row it is or where it comes from: `id`, `source`, `messages[].name`."""
    return path.rpartition(".")[2].lower() in BOOKKEEPING


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Problems inside `name` are reported by their whole path: `messages[1].content`."""
    try:
        yield
    except Unfit as unfit:
        path = f"{name}.{unfit.field}"
        todo = f"mend `{path}`" if "columns:" in unfit.todo else unfit.todo  # those name columns, not what is in them
        raise Unfit(path, unfit.kind, unfit.message, todo) from None


def first_field(row: Fields, names: Sequence[str]) -> str:
    """Which of the names the row uses: the first that has a value, else the first that is there."""
    there = ""
    for name in names:
        if row.peek(name) is not None:
            return name
        if not there and name in row:
            there = name
    return there or names[0]


def has_any(row: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether one of the names is there."""
    for name in names:  # a loop: every shape asks this of every row
        if name in row:
            return True
    return False


def type_in_words(value: Any) -> str:
    """What a value is, in words."""
    names = {"NoneType": "nothing", "dict": "an object", "list": "a list", "int": "a number", "float": "a number"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")


def text_of(row: Mapping[str, Any], field: str, *, may_be_empty: bool = False) -> str:
    """A field that must be text, without outer white space."""
    return _text_value(row, field, may_be_empty).strip()


def answer_of(row: Mapping[str, Any], field: str, *, may_be_empty: bool = False) -> str:
    """An answer's text as it is but for white space at its end: leading spaces are part of it, as indented code shows."""
    return _text_value(row, field, may_be_empty).rstrip()


def _text_value(row: Mapping[str, Any], field: str, may_be_empty: bool) -> str:
    value = row.get(field)
    if value is None:
        raise Unfit(field, "missing", f"there is no `{field}`")
    if not isinstance(value, str):
        raise Unfit(field, "type", f"`{field}` is {type_in_words(value)}, not text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unfit(field, "encoding", f"`{field}` holds half of a character (a lone surrogate)", "write it anew") from None
    if not may_be_empty and (not value or value.isspace()):
        raise Unfit(field, "empty", f"`{field}` is empty")
    return value


def list_of(row: Mapping[str, Any], field: str) -> list[Any]:
    """A field that must be a list with something in it."""
    value = row.get(field)
    if value is None:
        raise Unfit(field, "missing", f"there is no `{field}`")
    if not isinstance(value, list):
        raise Unfit(field, "type", f"`{field}` is {type_in_words(value)}, not a list")
    if not value:
        raise Unfit(field, "empty", f"`{field}` is empty")
    return value


def number_of(row: Mapping[str, Any], field: str) -> float | None:
    """A score: a finite number, or None where the row has none."""
    value = row.get(field)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise Unfit(field, "score", f"`{field}` is {reprlib.repr(value)}, not a finite number", f"make `{field}` a number")
    return number
