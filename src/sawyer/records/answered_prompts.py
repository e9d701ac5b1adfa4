"""Rows with answers: read one by one, to be scored and written again as they were; and judged prompts as rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sawyer.records.data_files import expand
from sawyer.records.formats import read_row
from sawyer.records.judged_formats import BOTH_BAD, RATER, WEIGHT
from sawyer.records.problems import Problem, Unfit
from sawyer.records.read import mapped_rows
from sawyer.records.record_types import JudgedPrompt, Prompt, Record, Where, prompt_in, responses_of

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

    def in_row_form(self, values: Sequence[Value]) -> Any:
        """One value for each of `answers` in the row's own form: a single answer's value as it is, a pair's as
        {"chosen", "rejected"}, several answers' as a list; of a row that is several records, a list of these."""
        rest, forms = iter(values), list[Any]()
        for record in self.records:
            mine = [next(rest) for _ in responses_of(record)]
            if self.joins or not isinstance(record, JudgedPrompt):
                forms.append(mine[0])
            else:
                forms.append({"chosen": mine[0], "rejected": mine[1]} if record.is_pair else mine)
        return forms[0] if len(forms) == 1 else forms


def read_answers(
    paths: str | Sequence[str], problems: list[Problem], *, columns: Mapping[str, str] | None = None
) -> Iterator[AnsweredPrompt]:
    """The rows of `paths` (files or patterns) that hold answers: responses, scored answers or pairs, any format that training
    reads. Other rows are left out and appended to `problems`. Raises DataError for a file that cannot be read."""
    for path in expand(paths):
        for row, value in mapped_rows(path, columns or {}, problems):
            where = Where(file=path, line=row.line)
            try:
                output = read_row(value, where, "answers")
                yield AnsweredPrompt(row=row.value, records=output.records, joins=output.joins)
            except Unfit as unfit:
                problems.append(unfit.at(where))


def scored_row(record: JudgedPrompt) -> dict[str, Any]:
    """GPT-4-LLM's format; a conversation of several turns goes under `prompt` as a list of messages. Beside it stand the rater,
    `both_bad` and the judgement's weight, where they are not the defaults."""
    turns = record.prompt.messages
    prompt: dict[str, Any] = (
        {"user_input": record.prompt.text}
        if len(turns) == 1
        else {"prompt": [{"role": turn.role, "content": turn.content} for turn in turns]}
    )
    answers = [{"response": a.response, "score": a.score, "source": a.source} for a in record.answers]
    row = prompt | {"responses_and_scores": answers}
    row |= {RATER: record.rater} if record.rater else {}
    row |= {BOTH_BAD: True} if record.both_bad else {}
    return row | ({WEIGHT: record.weight} if record.weight != 1 else {})


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
