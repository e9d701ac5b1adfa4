"""`sawyer check`: every problem of the files, as training would meet them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sawyer.errors import DataError
from sawyer.records.data_files import TEXT_SUFFIXES, expand, suffix_of
from sawyer.records.enough_data import insufficient
from sawyer.records.formats import Want, purpose
from sawyer.records.problems import Problem
from sawyer.records.read import MAX_BAD_ROWS, TOO_MANY, Scan, finish, in_order, rows_of, scan_file, too_many_bad
from sawyer.records.record_types import Message, Prompt, Record, prompt_in, responses_of

# Tokens of a prompt alone, or (given an answer) of both as training would see them.
Length = Callable[[Prompt, str | None], int]
# Rows that a model's template cannot render, as bad rows.
Unrenderable = Callable[[Sequence[Record]], Sequence[Problem]]
LOOKED_AT = 100  # rows that tell what a file is for


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """One file: what it was taken for, how many records it gives, all its problems."""

    file: str
    want: Want
    format: str
    records: int
    problems: tuple[Problem, ...]
    unread: Mapping[str, int]  # column, or path of a field, -> the rows in which it was not read

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
    want: Want | None = None,
    held_out: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    length: Length | None = None,
    context: int | None = None,
    find_unrenderable: Unrenderable | None = None,
    max_bad_rows: float = MAX_BAD_ROWS,
) -> list[FileReport]:
    """Read every file as training would, as `want`; without it a file's purpose is told by its rows: comparisons,
    demonstrations, labels or prompts.

    `held_out` files are read too, and a prompt that is also in one of `paths` is a leak. `length` counts tokens for a
    model that reads `context` of them, `unrenderable` names the rows that its template cannot render. Raises DataError for a
    file that is not there.
    """
    asked = _Asked(
        want=want,
        columns=columns or {},
        length=length,
        context=context,
        find_unrenderable=find_unrenderable,
        max_bad_rows=max_bad_rows,
    )
    reports, records, prompts = [], dict[Want, list[Record]](), dict[tuple[Message, ...], str]()
    for path in expand(list(paths)):
        report, found = _check(path, asked)
        reports.append(report)
        records.setdefault(report.want, []).extend(found)
        for record in found:
            prompts.setdefault(prompt_in(record).messages, str(prompt_in(record).where))
    reports = [_with_whole(report, records.pop(report.want, []), asked) for report in reversed(reports)][::-1]
    for path in expand(list(held_out)) if held_out else []:
        report, found = _check(path, asked)
        leaks = tuple(
            Problem(
                where=f"{prompt.where}:prompt",
                kind="leak",
                message=f"the prompt is also in the training file ({prompts[prompt.messages]})",
                todo="remove it from one of the two: a model is not tested on what it has seen",
                fatal=True,
            )
            for prompt in map(prompt_in, found)
            if prompt.messages in prompts
        )
        reports.append(replace(report, problems=report.problems + leaks))
    return reports


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a check is asked to look at."""

    want: Want | None
    columns: Mapping[str, str]
    length: Length | None
    context: int | None
    find_unrenderable: Unrenderable | None
    max_bad_rows: float


def _check(path: str, asked: _Asked) -> tuple[FileReport, list[Record]]:
    scan = Scan()
    want: Want = asked.want or "prompts"
    try:
        want = asked.want or _purpose(path, asked.columns)
        scan_file(path, want, asked.columns, scan, asked.max_bad_rows)
        finish(scan)
        if want != "text":
            _as_a_model_reads(path, scan, asked)
    except DataError as error:
        message, todo = error.given.removeprefix(f"{error.where}: "), error.todo
        scan.problems.append(Problem(where=error.where or path, kind="file", message=message, todo=todo, fatal=True))
    report = FileReport(
        file=path,
        want=want,
        format=" + ".join(scan.shapes),
        records=len(scan.records),
        problems=tuple(in_order(scan.problems, path)),
        unread=dict(scan.unread),
    )
    return report, [record for record in scan.records if not isinstance(record, str)]


def _as_a_model_reads(path: str, scan: Scan, asked: _Asked) -> None:
    """Rows that the template cannot render are left out, those that are too long are named."""
    if asked.find_unrenderable is not None and (found := asked.find_unrenderable(scan.records)):
        problems = [problem for problem in scan.problems if problem.kind != TOO_MANY]
        problems += [replace(problem, fatal=False, bad=True) for problem in found]
        scan.problems = too_many_bad(path, problems, scan.rows[path], asked.max_bad_rows)
        places = {problem.where for problem in found}
        scan.records = [record for record in scan.records if str(prompt_in(record).where) not in places]
    if asked.length is not None and asked.context is not None:
        for record in scan.records:
            scan.problems += _too_long(record, asked.length, asked.context)


def _with_whole(report: FileReport, records: Sequence[Record], asked: _Asked) -> FileReport:
    """The last file of its purpose, with what is wrong with all of them together."""
    problem = insufficient(records, report.want)
    if asked.length is not None and asked.context is not None and records:
        if all(asked.length(prompt_in(record), None) >= asked.context for record in records):
            message = f"no prompt leaves room for an answer in the {asked.context:,} tokens that the model reads"
            todo = "give shorter prompts, or a model that reads more"
            problem = Problem(where=report.file, kind="long", message=message, todo=todo, fatal=True)
    return report if problem is None else replace(report, problems=(problem, *report.problems))


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
