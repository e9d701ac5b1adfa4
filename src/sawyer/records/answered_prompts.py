"""Rows of a file with the answers in them, one by one: what is to be judged and given back as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sawyer.records.data_files import expand
from sawyer.records.fields import Unfit
from sawyer.records.formats import FORMATS, read_row
from sawyer.records.problems import Problem
from sawyer.records.record_types import JudgedPrompt, Prompt, Record, Where, prompt_in, responses_of
from sawyer.records.row_reading import raw_rows

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredPrompt:
    """A row as its file has it, and the records that it is read as."""

    row: Mapping[str, Any]
    records: tuple[Record, ...]
    joins: bool = False  # one judged answer, as its row has it

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
            found.append(mine[0] if self.joins else _shaped(record, mine))
        return found[0] if len(found) == 1 else found


def answered(
    paths: str | Sequence[str], problems: list[Problem], *, columns: Mapping[str, str] | None = None
) -> Iterator[AnsweredPrompt]:
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
                parsed = read_row(ours(row.value) if isinstance(row.value, Mapping) else row.value, where, "answers")
                yield AnsweredPrompt(row=row.value, records=parsed.records, joins=parsed.joins)
            except Unfit as unfit:
                problems.append(
                    Problem(
                        where=f"{where}:{unfit.field}", kind=unfit.kind, message=unfit.message, todo=unfit.todo, fatal=False
                    )
                )


def _shaped(record: Record, values: Sequence[Value]) -> Any:
    if not isinstance(record, JudgedPrompt):
        return values[0]
    return {"chosen": values[0], "rejected": values[1]} if record.is_pair else list(values)
