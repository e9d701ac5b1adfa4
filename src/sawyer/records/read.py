"""The one reader: files -> records, with every problem named. `check` and training share it, so they never disagree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sawyer.errors import DataError
from sawyer.records.formats import ACCEPTED, Unfit, Want, prompt_in, shape_of, single
from sawyer.records.pairs import pairs
from sawyer.records.problems import Problem
from sawyer.records.rows import documents, expand, raw_rows
from sawyer.records.types import Demonstration, Pair, Prompt, Record, ScoredAnswers, Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What was read: `records` (texts where text was wanted), the shapes taken, and what was left out or looked odd."""

    records: tuple[Any, ...]
    format: str  # the shapes' names, for the user
    skipped: tuple[Problem, ...]  # none of them fatal
    files: tuple[str, ...]


@dataclass(slots=True)
class Scan:
    """A reading in progress: records that are good, problems of all kinds."""

    records: list[Any] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    shapes: dict[str, None] = field(default_factory=dict)


def read(paths: str | Sequence[str], *, want: Want, columns: Mapping[str, str] | None = None) -> Read:
    """Read all of `paths` (files or patterns) as what is wanted.

    `columns` maps their names to ours, e.g. `{"query": "prompt", "reply": "response"}`. Raises DataError when a file cannot be
    used: it names the first problem and how many there are, `sawyer check` lists them all.
    """
    files = expand(paths)
    scan = Scan()
    for path in files:
        scan_file(path, want, columns or {}, scan)
    fatal = [problem for problem in scan.problems if problem.fatal]
    if fatal:
        more = f" (and {len(fatal) - 1:,} more problems)" if len(fatal) > 1 else ""
        raise DataError(
            f"{fatal[0].message}{more}", where=fatal[0].where, todo=f"{fatal[0].todo}; `sawyer check {files[0]}` lists all"
        )
    if not scan.records:
        raise DataError("no row can be used", where=files[0], todo=f"see `sawyer check {files[0]}`")
    return Read(records=tuple(scan.records), format=" + ".join(scan.shapes), skipped=tuple(scan.problems), files=tuple(files))


def scan_file(path: str, want: Want, columns: Mapping[str, str], scan: Scan) -> None:
    """Add one file's records and problems to the scan. A duplicate is left out; so is what cannot teach what is wanted."""
    if want == "text":
        scan.shapes["text"] = None
        scan.records += list(documents(path, scan.problems))
        return
    before = len(scan.records)
    for row in raw_rows(path, scan.problems):
        where = Where(file=path, line=row.line)
        try:
            scan.records += _records(row.value, where, want, columns, scan)
        except Unfit as unfit:
            scan.problems.append(
                Problem(
                    where=f"{where}:{unfit.field}",
                    kind=unfit.kind,
                    message=unfit.message,
                    todo=unfit.todo,
                    fatal=unfit.kind != "tied",
                )
            )
    scan.records[before:] = list(_useful(scan.records[before:], scan.problems))


def _records(value: Any, where: Where, want: Want, columns: Mapping[str, str], scan: Scan) -> Iterator[Record]:
    if isinstance(value, str) and want == "prompts":
        scan.shapes["lines of text"] = None
        if value.strip():
            yield single(value.strip(), where)
        return
    if not isinstance(value, Mapping):
        raise Unfit(
            "row", "type", f"a row is a {type(value).__name__}, not an object", "use one object with named fields a row"
        )
    named = {columns.get(name, name): item for name, item in value.items()}
    shape = shape_of(named, want)
    if shape is None:
        given = ", ".join(str(name) for name in value) or "nothing"
        raise Unfit(
            "row",
            "shape",
            f"a row with {given} is none of the shapes that give {want}",
            f"expected {EXPECTED[want]}; other names go into `columns:`",
        )
    found = list(shape.read(named, where))
    scan.shapes[shape.name] = None
    for record in found:
        yield prompt_in(record) if want == "prompts" else record


EXPECTED: Mapping[str, str] = {
    "prompts": "lines of text, or prompt | instruction | question | text",
    "demonstrations": "instruction (input) output | prompt completion | question answer | messages | conversations",
    "scored": "user_input with responses_and_scores, or OpenAssistant trees",
    "pairs": "prompt chosen rejected, or Human/Assistant transcripts",
    "comparisons": "user_input with responses_and_scores, OpenAssistant trees, or prompt chosen rejected",
}
assert EXPECTED.keys() == ACCEPTED.keys()


def _useful(records: Sequence[Record], problems: list[Problem]) -> Iterator[Record]:
    """Each record once; a scored one that has no pair is named (it stays: somebody may score it later)."""
    seen: dict[Any, Where] = {}
    for record in records:
        key = identity(record)
        where = prompt_in(record).where
        if key in seen:
            problems.append(_note(where, "duplicate", f"the same as line {seen[key].line}; left out", "remove it"))
            continue
        seen[key] = where
        if isinstance(record, ScoredAnswers):
            _judgeable(record, problems)
        yield record


def _judgeable(record: ScoredAnswers, problems: list[Problem]) -> None:
    scored = [answer for answer in record.answers if answer.score is not None]
    if len(scored) < len(record.answers):
        missing = len(record.answers) - len(scored)
        problems.append(_note(record.where, "unscored", f"{missing} answers have no score", "score them, or leave them out"))
    if len(scored) == 1:
        problems.append(_note(record.where, "one answer", "a single scored answer has nothing to compare with", "add another"))
    elif scored and not pairs(record)[0]:
        problems.append(
            _note(record.where, "tied", "all scores of the prompt are equal: no pair to learn from", "judge more finely")
        )


def identity(record: Record) -> Any:
    """What makes two records the same row."""
    prompt = prompt_in(record).messages
    match record:
        case Prompt():
            return prompt
        case Demonstration():
            return prompt, record.response
        case ScoredAnswers():
            return prompt, tuple((answer.response, answer.score) for answer in record.answers)
        case Pair():
            return prompt, record.chosen, record.rejected


def _note(where: Where, kind: str, message: str, todo: str) -> Problem:
    return Problem(where=str(where), kind=kind, message=message, todo=todo, fatal=False)


Length = Callable[[Prompt], int]
