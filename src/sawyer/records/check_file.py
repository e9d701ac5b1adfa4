"""`sawyer check`: every problem of the files, as training would meet them, and whether their rows together teach anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sawyer.errors import DataError
from sawyer.records.data_files import TEXT_SUFFIXES, expand, suffix_of
from sawyer.records.formats import Want, purpose
from sawyer.records.problems import Problem
from sawyer.records.read import MAX_BAD_ROWS, TOO_MANY, Scan, finish, in_order, rows_of, scan_file, too_many_bad
from sawyer.records.record_types import JudgedPrompt, LabelledText, Message, Prompt, Record, prompt_in, responses_of

# Tokens of a prompt alone, or (given an answer) of both as training would see them.
Length = Callable[[Prompt, str | None], int]
# Rows that a model's template cannot render, as bad rows.
FindUnrenderable = Callable[[Sequence[Record]], Sequence[Problem]]
PURPOSE_ROWS = 100  # rows that decide what a file is for


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """One file: what it was read as, how many records it gives, all its problems."""

    file: str
    want: Want
    format: str
    records: int
    problems: tuple[Problem, ...]
    unread: Mapping[str, int]  # column, or path of a field, -> the rows in which it was not read

    @property
    def is_refused(self) -> bool:
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
    find_unrenderable: FindUnrenderable | None = None,
    max_bad_rows: float = MAX_BAD_ROWS,
) -> list[FileReport]:
    """Read every file as training would, as `want`; without it a file's rows decide its purpose: comparisons, demonstrations,
    labels or prompts.

    `held_out` files are read too, and a prompt that is also in one of `paths` is a leak. `length` counts tokens for a
    model that reads `context` of them, `find_unrenderable` names the rows that its template cannot render. Raises DataError for
    a file that is not there.
    """

    def scan(path: str) -> tuple[FileReport, list[Record]]:
        return _scan(
            path, want, columns or {}, find_unrenderable, length if context is not None else None, context, max_bad_rows
        )

    reports, records, prompts = [], dict[Want, list[Record]](), dict[tuple[Message, ...], str]()
    for path in expand(list(paths)):
        report, of_file = scan(path)
        reports.append(report)
        records.setdefault(report.want, []).extend(of_file)
        for record in of_file:
            prompts.setdefault(prompt_in(record).messages, str(prompt_in(record).where))
    for i, report in reversed(list(enumerate(reports))):  # what is wrong with all rows of a purpose goes to its last file
        together = records.pop(report.want, [])
        if together and (problem := _no_room(report.file, together, length, context) or insufficient(together, report.want)):
            reports[i] = replace(report, problems=(problem, *report.problems))
    for path in expand(list(held_out)) if held_out else []:
        report, of_file = scan(path)
        leaks = tuple(
            Problem(
                where=f"{prompt.where}:prompt",
                kind="leak",
                message=f"the prompt is also in the training file ({prompts[prompt.messages]})",
                todo="remove it from one of the two: a model is not tested on what it has seen",
                fatal=True,
            )
            for prompt in map(prompt_in, of_file)
            if prompt.messages in prompts
        )
        reports.append(replace(report, problems=report.problems + leaks))
    return reports


def _scan(
    path: str,
    want_or_none: Want | None,
    columns: Mapping[str, str],
    find_unrenderable: FindUnrenderable | None,
    length: Length | None,
    context: int | None,
    max_bad_rows: float,
) -> tuple[FileReport, list[Record]]:
    scan, want = Scan(), want_or_none or "prompts"
    try:
        want = want_or_none or _purpose(path, columns)
        scan_file(path, want, columns, scan, max_bad_rows)
        finish(scan)
        if want != "text" and find_unrenderable is not None and (unrenderable := find_unrenderable(scan.records)):
            problems = [problem for problem in scan.problems if problem.kind != TOO_MANY]
            problems += [replace(problem, fatal=False, bad=True) for problem in unrenderable]
            scan.problems = too_many_bad(path, problems, scan.rows[path], max_bad_rows)
            bad_rows = {problem.where for problem in unrenderable}
            scan.records = [record for record in scan.records if str(prompt_in(record).where) not in bad_rows]
        if want != "text" and length is not None and context is not None:
            for record in scan.records:
                scan.problems += _too_long(record, length, context)
    except DataError as error:
        message = error.given.removeprefix(f"{error.where}: ")
        scan.problems.append(Problem(where=error.where or path, kind="file", message=message, todo=error.todo, fatal=True))
    report = FileReport(
        file=path,
        want=want,
        format=" + ".join(scan.formats),
        records=len(scan.records),
        problems=tuple(in_order(scan.problems, path)),
        unread=dict(scan.unread),
    )
    return report, [record for record in scan.records if not isinstance(record, str)]


def _no_room(file: str, records: Sequence[Record], length: Length | None, context: int | None) -> Problem | None:
    if length is None or context is None or any(length(prompt_in(record), None) < context for record in records):
        return None
    message = f"no prompt leaves room for an answer in the {context:,} tokens that the model reads"
    return Problem(
        where=file, kind="long", message=message, todo="give shorter prompts, or a model that reads more", fatal=True
    )


def _too_long(record: Record, length: Length, context: int) -> list[Problem]:
    """A prompt that leaves no room for an answer, or answers whose end the model cannot read."""
    prompt = prompt_in(record)
    tokens = length(prompt, None)
    if tokens >= context:
        message = f"the prompt has {tokens:,} tokens, the model reads {context:,}"
        todo = "shorten it; training leaves it out"
        return [Problem(where=f"{prompt.where}:prompt", kind="long", message=message, todo=todo)]
    cut = sum(length(prompt, answer) > context for answer in responses_of(record))
    if not cut:
        return []
    message = f"{'an answer goes' if cut == 1 else f'{cut} answers go'} beyond the {context:,} tokens that the model reads"
    todo = "shorten it; training cuts its end off"
    return [Problem(where=f"{prompt.where}:response", kind="long", message=message, todo=todo)]


def _purpose(path: str, columns: Mapping[str, str]) -> Want:
    """What the file is for: the richest use of most of its first rows."""
    if suffix_of(path) in TEXT_SUFFIXES:
        return "prompts"
    return purpose([row.value for row in rows_of(path, columns, [])[:PURPOSE_ROWS]])


def insufficient(records: Sequence[Record], want: Want) -> Problem | None:
    """Why these good rows, read as `want`, teach nothing together; None where they do.

    Labels: written one way, and of two classes at least. Comparisons: two answers to a prompt of which one is better.
    """
    texts = [record for record in records if isinstance(record, LabelledText)]
    if texts:
        return _mixed_labels(texts) or _one_class(texts)
    judgements = [record for record in records if isinstance(record, JudgedPrompt)]
    if not judgements or want not in ("comparisons", "scored", "pairs"):
        return None
    if any(pairs.preferences or pairs.same_text for pairs in (record.pairs() for record in judgements)):
        return None
    message = "no prompt has two answers with different scores: a reward model learns from differences alone"
    todo = "score the answers, or name another file"
    return Problem(where=judgements[0].where.file, kind="no pair", message=message, todo=todo, fatal=True)


def _mixed_labels(records: Sequence[LabelledText]) -> Problem | None:
    first = records[0]
    other = next((record for record in records if record.many != first.many), None)
    if other is None:
        return None
    return Problem(
        where=f"{other.where}:{'labels' if other.many else 'label'}",
        kind="labels",
        message=f"one row has `label`, another `labels`: {first.where} and this one, which need different losses",
        todo="write every row the same way: one label in each, or a list in each",
        fatal=True,
    )


def _one_class(records: Sequence[LabelledText]) -> Problem | None:
    kinds = {frozenset(record.labels) for record in records}
    labels = sorted({label for record in records for label in record.labels})
    if len(labels) > 1 and len(kinds) > 1:
        return None
    if len(kinds) > 1:  # `[]` in some rows and the one label in others
        what = f"the label {labels[0]!r} or none"
    else:
        what = f"the label {labels[0]!r} alone" if len(labels) == 1 else f"the same labels ({', '.join(labels) or 'none'})"
    return Problem(
        where=str(records[0].where),
        kind="one class",
        message=f"all {len(records):,} rows have {what}: a model that always gives it is always right, and learns nothing",
        todo="give rows of another class; for `toxic` or not, call the label yes and no",
        fatal=True,
    )
