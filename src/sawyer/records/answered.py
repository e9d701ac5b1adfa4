"""Rows of a file with the answers in them, one by one: what is to be judged and given back as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sawyer.records.formats import FORMATS, Unfit, prompt_in, shape_of
from sawyer.records.problems import Problem
from sawyer.records.read import EXPECTED
from sawyer.records.rows import expand, raw_rows
from sawyer.records.types import Demonstration, Pair, Prompt, Record, Where, responses_of

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A row as its file has it, and the records that it is read as."""

    row: Mapping[str, Any]
    records: tuple[Record, ...]

    @property
    def answers(self) -> list[tuple[Prompt, str]]:
        """Every (prompt, response) of the row, in order."""
        return [(prompt_in(record), response) for record in self.records for response in responses_of(record)]

    def placed(self, values: Sequence[Value]) -> Any:
        """One value for each of `answers` in the row's own form: a single answer's value as it is, a pair's as
        {"chosen", "rejected"}, several answers' as a list; of a row that is several records, a list of these."""
        rest, found = list(values), []
        for record in self.records:
            mine, rest = rest[: len(responses_of(record))], rest[len(responses_of(record)) :]
            found.append(_shaped(record, mine))
        return found[0] if len(found) == 1 else found


def answered(
    paths: str | Sequence[str], problems: list[Problem], *, columns: Mapping[str, str] | None = None
) -> Iterator[Answered]:
    """The rows of `paths` (files or patterns) that hold answers: responses, scored answers or pairs, any shape that training
    reads. What is no such row is left out and appended to `problems`. Raises DataError for a file that cannot be read."""
    names = columns or {}

    def ours(value: Mapping[str, Any]) -> dict[str, Any]:
        kept = {name: item for name, item in value.items() if name not in names}
        return kept | {names[name]: item for name, item in value.items() if name in names}

    def is_row(value: Mapping[str, Any]) -> bool:
        return any(shape.fits(ours(value)) for shape in FORMATS)

    for path in expand(paths):
        for row in raw_rows(path, problems, is_row, names):
            where = Where(file=path, line=row.line)
            try:
                yield Answered(row=row.value, records=_records(row.value, ours, where))
            except Unfit as unfit:
                problems.append(
                    Problem(
                        where=f"{where}:{unfit.field}", kind=unfit.kind, message=unfit.message, todo=unfit.todo, fatal=False
                    )
                )


def _records(value: Any, ours: Any, where: Where) -> tuple[Record, ...]:
    if not isinstance(value, Mapping):
        raise Unfit("row", "type", f"a row is a {type(value).__name__}, not an object", "use one object a row")
    row = ours(value)
    shape = shape_of(row, "answers")
    if shape is None:
        given = ", ".join(repr(name)[1:-1][:40] for name in list(row)[:12]) or "nothing"
        raise Unfit("row", "shape", f"a row with {given} holds no answer", f"expected {EXPECTED['answers']}")
    found = tuple(record for record in shape.read(row, where) if not isinstance(record, Unfit))
    if not any(responses_of(record) for record in found):
        raise Unfit("row", "missing", "the row holds no answer", "give it a response")
    return found


def _shaped(record: Record, values: Sequence[Value]) -> Any:
    match record:
        case Demonstration():
            return values[0]
        case Pair():
            return {"chosen": values[0], "rejected": values[1]}
        case _:
            return list(values)
