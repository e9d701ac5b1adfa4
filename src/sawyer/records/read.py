"""The one reader: files -> records, with every problem named. `check` and training share it, so they never disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sawyer.errors import DataError
from sawyer.records.fields import Unfit
from sawyer.records.formats import FORMATS, LEFT_OUT, Want, prompt_in, shape_of, take
from sawyer.records.pairs import join, pairs
from sawyer.records.problems import Problem
from sawyer.records.rows import RawRow, documents, expand, raw_rows
from sawyer.records.types import Demonstration, Labelled, Message, Pair, Prompt, Record, ScoredAnswers, Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What was read: `records` (texts where text was wanted), the shapes taken, and what was left out or looked odd."""

    records: tuple[Any, ...]
    format: str  # the shapes' names, for the user
    skipped: tuple[Problem, ...]  # none of them fatal
    files: tuple[str, ...]
    unread: Mapping[str, int]  # path of a field -> rows in which it holds something and was not read

    @property
    def told_skipped(self) -> str:
        """How many rows were left out or looked odd, by kind with the first few of each; empty when none was."""
        kinds: dict[str, list[str]] = {}
        for problem in self.skipped:
            kinds.setdefault(problem.kind, []).append(Path(problem.where).name)
        return "; ".join(
            f"{len(found):,} {'row' if len(found) == 1 else 'rows'}: {kind} ({named(found)})" for kind, found in kinds.items()
        )


def named(places: Sequence[str], most: int = 3) -> str:
    """The first few different places, and that there are more."""
    shown = list(dict.fromkeys(places))[:most]
    return ", ".join(shown) + (", ..." if len(places) > len(shown) else "")


@dataclass(slots=True)
class Scan:
    """A reading in progress: records that are good, problems of all kinds, and where each record was first seen."""

    records: list[Any] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    shapes: dict[str, None] = field(default_factory=dict)
    seen: dict[Any, Where] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)
    single: dict[tuple[Message, ...], list[ScoredAnswers]] = field(default_factory=dict)  # answers judged a row each, by prompt


def read(paths: str | Sequence[str], *, want: Want, columns: Mapping[str, str] | None = None) -> Read:
    """Read all of `paths` (files or patterns) as what is wanted.

    `columns` maps their names to ours, e.g. `{"query": "prompt", "reply": "response"}`. Raises DataError when a file cannot be
    used: it names the first problem and how many there are, `sawyer check` lists them all.
    """
    files = expand(paths)
    scan = Scan()
    fatal: list[tuple[str, Problem]] = []
    for path in files:
        known = len(scan.problems)
        scan_file(path, want, columns or {}, scan)
        fatal += [(path, problem) for problem in scan.problems[known:] if problem.fatal]
    finish(scan)
    if fatal:
        path, first = fatal[0]
        more = f" (and {len(fatal) - 1:,} more {'problem' if len(fatal) == 2 else 'problems'})" if len(fatal) > 1 else ""
        raise DataError(
            f"{first.message}{more}",
            where=first.where,
            why="a row that was misread or dropped in silence would change what the model learns",
            todo=f"{first.todo}; `sawyer check {path}` lists all",
        )
    if not scan.records:
        raise DataError(
            "no row can be used" + (f": {scan.problems[0].message}" if scan.problems else ""),
            where=scan.problems[0].where if scan.problems else files[0],
            expected="at least one good row",
            todo=f"`sawyer check {files[0]}` says what is wrong with each",
        )
    return Read(
        records=tuple(scan.records),
        format=" + ".join(scan.shapes),
        skipped=tuple(scan.problems),
        files=tuple(files),
        unread=scan.unread,
    )


def scan_file(path: str, want: Want, columns: Mapping[str, str], scan: Scan) -> None:
    """Add one file's records and problems to the scan. A duplicate is left out; so is what cannot teach what is wanted."""
    if want == "text":
        scan.shapes["text"] = None
        scan.records += list(documents(path, scan.problems))
        return
    known = len(scan.problems)
    rows = rows_of(path, columns, scan.problems)
    model = next((row.value for row in rows if isinstance(row.value, Mapping) and shape_of(row.value, want)), {})
    for row in rows:
        where = Where(file=path, line=row.line)
        try:
            taken = take(row.value, where, want, model)
            scan.shapes[taken.shape] = None
            scan.unread.update(taken.unread)
            scan.problems += [_problem(where, note, fatal=False) for note in taken.notes]
            for record in taken.records:
                _keep(record, scan, joins=taken.joins)
        except Unfit as unfit:
            scan.problems.append(_problem(where, unfit, fatal=unfit.kind not in LEFT_OUT))
    scan.problems[known:] = in_order(scan.problems[known:], path)


def in_order(problems: Sequence[Problem], path: str) -> list[Problem]:
    """A file's problems as they stand in it; what concerns the whole file comes first."""
    return sorted(problems, key=lambda problem: int(problem.where[len(path) + 1 :].partition(":")[0] or 0))


def rows_of(path: str, columns: Mapping[str, str], problems: list[Problem]) -> list[RawRow]:
    """The rows of a file under our names. A column that is mapped to a name wins over one that is called so."""

    def ours(value: Mapping[str, Any]) -> dict[str, Any]:
        kept = {name: item for name, item in value.items() if name not in columns}
        return kept | {columns[name]: item for name, item in value.items() if name in columns}

    def is_row(value: Mapping[str, Any]) -> bool:
        return any(shape.fits(ours(value)) for shape in FORMATS)

    rows = raw_rows(path, problems, is_row, columns)
    if not columns:
        return list(rows)
    return [RawRow(line=row.line, value=ours(row.value) if isinstance(row.value, Mapping) else row.value) for row in rows]


def finish(scan: Scan) -> None:
    """When all files are read: answers judged a row each become one record a prompt, and what has no pair is named."""
    firsts = {id(records[0]): records for records in scan.single.values()}
    for place, record in enumerate(scan.records):
        if not isinstance(record, ScoredAnswers):
            continue
        if id(record) in firsts:
            scan.records[place], again = join(firsts[id(record)])
            if again:
                answers = "an answer was" if again == 1 else f"{again} answers were"
                told = f"{answers} judged more than once and differently: the mean counts"
                scan.problems.append(_note(record.where, "score", "judged twice", told, "keep the right score"))
        scan.problems += _judgeable(scan.records[place])


def _keep(record: Record, scan: Scan, *, joins: bool) -> None:
    """Each record once; a scored one that has no pair is named (it stays: somebody may score it later)."""
    key, where = identity(record), prompt_in(record).where
    if key in scan.seen:
        told = f"the same as {_place(scan.seen[key], where)}; left out"
        scan.problems.append(_note(where, "row", "duplicate", told, "remove it"))
        return
    scan.seen[key] = where
    if joins and isinstance(record, ScoredAnswers):
        same = scan.single.setdefault(record.prompt.messages, [])
        same.append(record)
        if len(same) > 1:
            return
    scan.records.append(record)
    if isinstance(record, Labelled) and not record.many:
        first = scan.seen.setdefault(("labelled", record.text), where)
        if first is not where:
            told = f"the same text has another label in {_place(first, where)}; both are kept"
            scan.problems.append(_note(where, "label", "contradiction", told, "keep the right one"))


def _place(first: Where, here: Where) -> str:
    return f"line {first.line}" if first.file == here.file else str(first)


def _judgeable(record: ScoredAnswers) -> Iterator[Problem]:
    where = record.where
    scores = [answer.score for answer in record.answers if answer.score is not None]
    if missing := len(record.answers) - len(scores):
        told = "1 answer has" if missing == 1 else f"{missing} answers have"
        yield _note(where, "score", "unscored", f"{told} no score", "score them, or leave them out")
    if len(scores) == 1:
        yield _note(where, "score", "one answer", "a single scored answer has nothing to compare with", "add another")
    elif scores and not pairs(record)[0]:
        yield _note(where, "score", "tied", "all scores of the prompt are equal: no pair to learn from", "judge more finely")


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
        case Labelled():
            return prompt, frozenset(record.labels)


def _problem(where: Where, unfit: Unfit, *, fatal: bool) -> Problem:
    return Problem(where=f"{where}:{unfit.field}", kind=unfit.kind, message=unfit.message, todo=unfit.todo, fatal=fatal)


def _note(where: Where, field: str, kind: str, message: str, todo: str) -> Problem:
    return _problem(where, Unfit(field, kind, message, todo), fatal=False)
