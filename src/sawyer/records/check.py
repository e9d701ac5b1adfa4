"""`sawyer check`: every problem of the files, as training would meet them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sawyer.errors import DataError
from sawyer.records.formats import Want, prompt_in, purpose
from sawyer.records.problems import Problem
from sawyer.records.read import Scan, finish, in_order, rows_of, scan_file
from sawyer.records.rows import TEXT_SUFFIXES, expand, suffix_of
from sawyer.records.types import Message, Prompt, Record, responses_of

# Tokens of a prompt alone, or (given an answer) of both as training would see them.
Length = Callable[[Prompt, str | None], int]
LOOKED_AT = 100  # rows that tell what a file is for


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """One file: what it was taken for, how many records it gives, all its problems."""

    file: str
    want: Want
    format: str
    records: int
    problems: tuple[Problem, ...]

    @property
    def refused(self) -> bool:
        """Whether training would refuse the file."""
        return any(problem.fatal for problem in self.problems) or self.records == 0

    @property
    def counts(self) -> Mapping[str, int]:
        """Kind of problem -> how often."""
        return Counter(problem.kind for problem in self.problems)


def check(
    paths: Sequence[str],
    *,
    held_out: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    length: Length | None = None,
    context: int | None = None,
) -> list[FileReport]:
    """Read every file as training would. A file's purpose is told by its rows: comparisons, demonstrations, labels or prompts.

    `held_out` files are read too, and a prompt that is also in one of `paths` is a leak. `length` counts tokens for a
    model that reads `context` of them. Raises DataError for a file that is not there.
    """
    reports, prompts = [], dict[tuple[Message, ...], str]()
    for path in expand(list(paths)):
        report, found = _check(path, columns or {}, length, context)
        reports.append(report)
        for prompt in found:
            prompts.setdefault(prompt.messages, str(prompt.where))
    for path in expand(list(held_out)) if held_out else []:
        report, found = _check(path, columns or {}, length, context)
        leaks = tuple(
            Problem(
                where=f"{prompt.where}:prompt",
                kind="leak",
                message=f"the prompt is also in the training file ({prompts[prompt.messages]})",
                todo="remove it from one of the two: a model is not tested on what it has seen",
                fatal=True,
            )
            for prompt in found
            if prompt.messages in prompts
        )
        reports.append(replace(report, problems=report.problems + leaks))
    return reports


def _check(
    path: str, columns: Mapping[str, str], length: Length | None, context: int | None
) -> tuple[FileReport, list[Prompt]]:
    scan = Scan()
    want: Want = "prompts"
    try:
        want = _purpose(path, columns)
        scan_file(path, want, columns, scan)
        finish(scan)
    except DataError as error:
        message, todo = error.given.removeprefix(f"{error.where}: "), error.todo
        scan.problems.append(Problem(where=error.where or path, kind="file", message=message, todo=todo, fatal=True))
    if length is not None and context is not None:
        for record in scan.records:
            scan.problems += _too_long(record, length, context)
    report = FileReport(
        file=path,
        want=want,
        format=" + ".join(scan.shapes),
        records=len(scan.records),
        problems=tuple(in_order(scan.problems, path)),
    )
    return report, [prompt_in(record) for record in scan.records]


def _too_long(record: Record, length: Length, context: int) -> list[Problem]:
    """A prompt that leaves no room for an answer, or answers whose end the model cannot read."""
    prompt = prompt_in(record)
    tokens = length(prompt, None)
    if tokens >= context:
        message = f"the prompt has {tokens:,} tokens, the model reads {context:,}"
        todo = "shorten it; training leaves it out"
        return [Problem(where=f"{prompt.where}:prompt", kind="long", message=message, todo=todo, fatal=False)]
    cut = sum(length(prompt, answer) > context for answer in responses_of(record))
    if not cut:
        return []
    told = "an answer goes" if cut == 1 else f"{cut} answers go"
    message = f"{told} beyond the {context:,} tokens that the model reads"
    todo = "shorten it; training cuts its end off"
    return [Problem(where=f"{prompt.where}:response", kind="long", message=message, todo=todo, fatal=False)]


def _purpose(path: str, columns: Mapping[str, str]) -> Want:
    """What the file is for: the richest use of most of its first rows."""
    if suffix_of(path) in TEXT_SUFFIXES:
        return "prompts"
    return purpose([row.value for row in rows_of(path, columns, [])[:LOOKED_AT]])
