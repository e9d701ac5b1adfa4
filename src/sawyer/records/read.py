"""The one reader: files -> records, with every problem named. `check` and training share it, so they never disagree."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any
from weakref import WeakValueDictionary

from sawyer.errors import DataError
from sawyer.records.data_files import expand
from sawyer.records.fields import Unfit, is_bookkeeping
from sawyer.records.formats import FORMATS, LEFT_OUT, Want, read_row, shape_of
from sawyer.records.problems import EXPECTED_KINDS, Problem
from sawyer.records.record_types import (
    Answer,
    Demonstration,
    JudgedPrompt,
    Labelled,
    Message,
    Prompt,
    Record,
    Where,
    prompt_in,
    responses_of,
)
from sawyer.records.row_reading import RawRow, documents, raw_rows

# How an answer's end is written in the markers of the usual templates and tokenizers.
TYPED_ENDS = (
    *("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<|eom_id|>", "</s>", "<eos>"),
    *("<end_of_turn>", "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "[EOS]"),
)
MAX_BAD_ROWS = 0.01  # share of a file's rows
TOO_MANY = "bad rows"
MOST_BAD = 0.5  # a file with more bad rows than good ones is not what it is taken for: to raise the limit is no advice


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Read:
    """What was read: `records` (texts where text was wanted), the shapes taken, and what was left out or looked odd."""

    records: tuple[Any, ...]
    format: str  # the shapes' names, for the user
    skipped: tuple[Problem, ...]  # none of them fatal
    files: tuple[str, ...]
    rows: Mapping[str, int]  # file -> rows that it holds, bad ones included
    unread: Mapping[str, int]  # path of a field -> rows in which it holds something and was not read

    @property
    def warning(self) -> str:
        """What the files' owner should act on: bad rows, which are left out, and what looks odd; by kind with the first few
        places of each. Empty where there is nothing."""
        told = _kinds_in_words(problem for problem in self.skipped if problem.bad or problem.kind not in EXPECTED_KINDS)
        left = len({problem.where for problem in self.skipped if problem.bad})
        of = f"{left:,} of {sum(self.rows.values()):,} rows cannot be used and {'is' if left == 1 else 'are'} left out: "
        return of * bool(left) + told

    def remarks(self, *, without: Collection[str] = ()) -> str:
        """What is as it is in any large file, for the plan's line: rows that say nothing to learn, counted by kind, and the
        columns that are not read. Begins with "; ", or is empty. `without`: kinds that the caller counts itself."""
        expected = (problem for problem in self.skipped if not problem.bad and problem.kind in EXPECTED_KINDS)
        kinds = Counter(problem.kind for problem in expected if problem.kind not in without)
        twice = kinds.pop("duplicate", 0)
        told = [f"{twice:,} {'duplicate' if twice == 1 else 'duplicates'} left out"] if twice else []
        told += [f"{count:,} {kind}" for kind, count in kinds.items()]
        unread = unread_in_words(self.unread, prompts=isinstance(self.records[0], Prompt))
        return "".join(f"; {words}" for words in (", ".join(told), unread) if words)

    @property
    def told_skipped(self) -> str:
        """Both in one line: all that was left out, looked odd or was not read. Empty where everything was read."""
        return "; ".join(words for words in (self.warning, self.remarks().removeprefix("; ")) if words)


def _kinds_in_words(problems: Iterable[Problem]) -> str:
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    return "; ".join(_kind_in_words(kind, found) for kind, found in kinds.items())


def _kind_in_words(kind: str, found: Sequence[Problem]) -> str:
    places = named([Path(problem.where).name for problem in found])
    return f"{kind} ({places}): {found[0].message}" if len(found) == 1 else f"{len(found):,} rows: {kind} ({places})"


def _rows_in_words(count: int) -> str:
    return f"{count:,} {'row' if count == 1 else 'rows'}"


def unread_in_words(unread: Mapping[str, int], *, most: int = 8, prompts: bool = False) -> str:
    """The columns and fields that are not read, with the rows in which they stand; the most frequent first, and last those that
    only say which row it is or where it comes from. Of `prompts`, reward functions that take rows still see them."""
    ordered = sorted(unread.items(), key=lambda item: (is_bookkeeping(item[0]), -item[1]))
    if not ordered:
        return ""
    counts = {count for _, count in ordered}
    if len(counts) == 1:
        names, rows = ", ".join(name for name, _ in ordered[:most]), f" (in {_rows_in_words(counts.pop())})"
    else:
        names, rows = ", ".join(f"{name} ({count:,})" for name, count in ordered[:most]), ""
    unread_by = "not in the prompt, for reward functions alone" if prompts else "not read"
    return f"{unread_by}: {names}{f' and {len(ordered) - most:,} more' if len(ordered) > most else ''}{rows}"


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
    prompts: dict[tuple[Message, ...], Prompt] = field(default_factory=dict)  # where prompts are wanted: the first of its turns
    single: dict[tuple[Message, ...], list[JudgedPrompt]] = field(default_factory=dict)  # answers judged a row each, by prompt
    rows: dict[str, int] = field(default_factory=dict)  # file -> all its rows
    unread: Counter[str] = field(default_factory=Counter)


def read(
    paths: str | Sequence[str],
    *,
    want: Want,
    columns: Mapping[str, str] | None = None,
    max_bad_rows: float | None = MAX_BAD_ROWS,
) -> Read:
    """Read all of `paths` (files or patterns) as what is wanted.

    `columns` maps their names to ours, e.g. `{"query": "prompt", "reply": "response"}`. A row that cannot be used is left out
    and named; more than the share `max_bad_rows` of a file's rows refuse it (one is let pass in any file, unless it is 0).
    None: every row must be good, and no setting changes that. Raises DataError when a file cannot be used: it names the first
    problem and how many there are, `sawyer check` lists them all. `check` reads by the same `scan_file`. Whether all that a
    stage reads is enough to learn from is not asked here: the stages, the plan and `check` ask `insufficient`.

    What somebody still holds is not read again, unless a file has changed: a run looks at its files before its first stage
    reads them, and a large one takes minutes.
    """
    files = expand(paths)
    stamps = tuple((path, stamp.st_size, stamp.st_mtime_ns) for path in files for stamp in (Path(path).stat(),))
    key = (stamps, want, tuple((columns or {}).items()), max_bad_rows)
    known = _held.get(key)
    if known is None:
        known = _held[key] = _read(files, want, columns or {}, max_bad_rows)
    return known


_held: WeakValueDictionary[Any, Read] = WeakValueDictionary()  # what was read and is still in use


def _read(files: Sequence[str], want: Want, columns: Mapping[str, str], max_bad_rows: float | None) -> Read:
    scan = Scan()
    for path in files:
        known = len(scan.problems)
        scan_file(path, want, columns, scan, max_bad_rows)
        if fatal := [problem for problem in scan.problems[known:] if problem.fatal]:
            raise _refusal(path, fatal[0], scan.problems[known:])
    finish(scan)
    if not scan.records:
        first = next(iter(scan.problems), None)
        raise DataError(
            "no row can be used" + (f": {first.message}" if first is not None else ""),
            where=first.where if first is not None else files[0],
            expected="at least one good row",
            todo=f"{first.todo}; `sawyer check {files[0]}` lists all" if first is not None else "name a file with rows",
        )
    return Read(
        records=tuple(scan.records),
        format=" + ".join(scan.shapes),
        skipped=tuple(scan.problems),
        files=tuple(files),
        rows=dict(scan.rows),
        unread=dict(scan.unread),
    )


def leave_out(found: Read, problems: Sequence[Problem], max_bad_rows: float | None) -> Read:
    """What was read without the rows that these problems name, which are bad rows like others. Raises DataError where they
    are too many of a file, or all."""
    if not problems:
        return found
    bad = [replace(problem, fatal=False, bad=True) for problem in problems]
    for path in found.files:
        mine = [problem for problem in (*found.skipped, *bad) if problem.where.startswith(f"{path}:")]
        ordered = too_many_bad(path, mine, found.rows[path], max_bad_rows)
        if ordered and ordered[0].fatal:
            raise _refusal(path, ordered[0], ordered)
    places = {problem.where for problem in problems}
    records = tuple(record for record in found.records if str(prompt_in(record).where) not in places)
    if not records:
        raise DataError(bad[0].message, where=bad[0].where, expected="at least one good row", todo=bad[0].todo)
    return replace(found, records=records, skipped=(*found.skipped, *bad))


def once_each(found: Read) -> Read:
    """Prompts that were read, each conversation once, for what never looks at a row's other fields: rows that differ in those
    alone are duplicates then."""
    firsts: dict[tuple[Message, ...], Prompt] = {}
    again = []
    for prompt in found.records:
        first = firsts.setdefault(prompt.messages, prompt)
        if first is not prompt:
            told = f"the same prompt as {_place(first.where, prompt.where)}; left out"
            again.append(_note(prompt.where, "row", "duplicate", told, "remove it"))
    return replace(found, records=tuple(firsts.values()), skipped=(*found.skipped, *again)) if again else found


def _refusal(path: str, first: Problem, problems: Sequence[Problem]) -> DataError:
    """Why a file is refused; where its bad rows are too many, the first of them is shown."""
    if first.kind == TOO_MANY:
        row = next(problem for problem in problems if problem.bad)
        given, where, todo = f"{row.message}; {first.message}", row.where, first.todo
    else:
        fatal = sum(problem.fatal for problem in problems)
        more = f" (and {fatal - 1:,} more {'problem' if fatal == 2 else 'problems'})" if fatal > 1 else ""
        given, where, todo = f"{first.message}{more}", first.where, first.todo
    return DataError(
        given,
        where=where,
        why="a row that was misread or dropped in silence would change what the model learns",
        todo=f"{todo}; `sawyer check {path}` lists all",
    )


def scan_file(path: str, want: Want, columns: Mapping[str, str], scan: Scan, max_bad_rows: float | None = MAX_BAD_ROWS) -> None:
    """Add one file's records and problems to the scan. A duplicate is left out; so is what cannot teach what is wanted."""
    known = len(scan.problems)
    if want == "text":
        scan.shapes["text"] = None
        texts = list(documents(path, scan.problems))
        scan.records += texts
        scan.rows[path] = len(texts)
        return
    rows = rows_of(path, columns, scan.problems)
    total = len(rows) + len({problem.where for problem in scan.problems[known:] if problem.bad})
    scan.rows[path] = total
    before = len(scan.records)
    model = next((row.value for row in rows if isinstance(row.value, Mapping) and shape_of(row.value, want)), {})
    for row in rows:
        where = Where(file=path, line=row.line)
        try:
            parsed = read_row(row.value, where, want, model)
            scan.shapes[parsed.shape] = None
            scan.unread.update(parsed.unread)
            scan.problems += [_problem(where, note) for note in parsed.notes]
            for record in parsed.records:
                _keep(record, scan, joins=parsed.joins)
        except Unfit as unfit:
            scan.problems.append(_problem(where, unfit, bad=unfit.kind not in LEFT_OUT))
    scan.problems += _typed_ends(scan.records[before:])
    scan.problems[known:] = too_many_bad(path, scan.problems[known:], total, max_bad_rows)


def _typed_ends(records: Sequence[Record]) -> list[Problem]:
    """Answers that end in a marker somebody typed. It is told once a file: where one has it, most have."""
    answers = [(record, answer.rstrip()) for record in records for answer in responses_of(record)]
    typed = [(record, answer) for record, answer in answers if answer.endswith(TYPED_ENDS)]
    if not typed:
        return []
    first, answer = typed[0]
    end = next(end for end in TYPED_ENDS if answer.endswith(end))
    message = f"{len(typed):,} of {len(answers):,} answers end in a typed `{end}`"
    todo = (
        "remove it: the end of an answer is written for you. Where it is the model's own end it is taken off, else it is text"
    )
    return [_note(prompt_in(first).where, "response", "typed end", message, todo)]


def too_many_bad(path: str, problems: Sequence[Problem], rows: int, share: float | None) -> list[Problem]:
    """A file's problems in order, behind one that refuses the file where more of its rows are bad than `share` lets pass; None
    lets none pass, and nobody is told to raise it."""
    ordered = in_order(problems, path)
    bad = list({problem.where: problem for problem in ordered if problem.bad}.values())
    if len(bad) <= (max(1, math.floor(share * rows + 1e-9)) if share else 0):
        return ordered
    needed = math.ceil(100 * len(bad) / rows) / 100
    mend, limit = bad[0].todo, f"max_bad_rows: {share:g} lets fewer pass" if share is not None else "none of them may be lost"
    if needed <= MOST_BAD and share is not None:
        mend = f"{mend}; or leave them out with max_bad_rows: {needed:g} (of a command: `--max-bad-rows {needed:g}`)"
    message = f"{len(bad):,} of {rows:,} rows cannot be used, and {limit}"
    return [Problem(where=path, kind=TOO_MANY, message=message, todo=mend, fatal=True), *ordered]


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

    rows = list(raw_rows(path, problems, is_row, columns))
    for name in columns:
        if rows and not any(isinstance(row.value, Mapping) and name in row.value for row in rows):
            message = f"no row has `{name}`, which `columns:` names"
            todo = "mend the name; in a table without a header every column is named by its number"
            problems.append(Problem(where=path, kind="columns", message=message, todo=todo, fatal=False))
    if not columns:
        return rows
    return [RawRow(line=row.line, value=ours(row.value) if isinstance(row.value, Mapping) else row.value) for row in rows]


def finish(scan: Scan) -> None:
    """When all files are read: answers judged a row each become one record a prompt, and what has no pair is named."""
    firsts = {id(records[0]): records for records in scan.single.values()}
    for place, record in enumerate(scan.records):
        if not isinstance(record, JudgedPrompt) or record.is_pair:
            continue
        if id(record) in firsts:
            scan.records[place], again = _merged(firsts[id(record)])
            if again:
                answers = "an answer was" if again == 1 else f"{again} answers were"
                told = f"{answers} judged more than once and differently: the mean counts"
                scan.problems.append(_note(record.where, "score", "judged twice", told, "keep the right score"))
        scan.problems += _judgeable(scan.records[place])


def _merged(records: Sequence[JudgedPrompt]) -> tuple[JudgedPrompt, int]:
    """(the answers to one prompt as one record, how many were judged more than once and differently): the mean score counts.

    Example: records of one answer each, "a" 4, "b" 1, "a" 2 -> ("a" 3, "b" 1), 1.
    """
    judged: dict[str, list[Answer]] = {}
    for record in records:
        for answer in record.answers:
            judged.setdefault(answer.response, []).append(answer)
    answers, differing = [], 0
    for same in judged.values():
        scores = [answer.score for answer in same if answer.score is not None]
        answers.append(replace(same[0], score=fmean(scores) if scores else None))
        differing += len(set(scores)) > 1
    return replace(records[0], answers=tuple(answers)), differing


def _keep(record: Record, scan: Scan, *, joins: bool) -> None:
    """Each record once; a scored one that has no pair is named (it stays: somebody may score it later)."""
    key, where = _row_key(record, scan), prompt_in(record).where
    if key in scan.seen:
        told = f"the same as {_place(scan.seen[key], where)}; left out"
        scan.problems.append(_note(where, "row", "duplicate", told, "remove it"))
        return
    scan.seen[key] = where
    if joins and isinstance(record, JudgedPrompt):
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
    """Where a row stood before: in the same file its name is enough, without the folders."""
    return f"{Path(first.file).name}:{first.line}" if first.file == here.file else str(first)


def _judgeable(record: JudgedPrompt) -> Iterator[Problem]:
    where = record.where
    found = record.pairs()
    count = len(record.scores)
    if missing := len(record.answers) - count:
        told = "1 answer has" if missing == 1 else f"{missing} answers have"
        yield _note(where, "score", "unscored", f"{told} no score", "score them, or leave them out")
    if count == 1:
        yield _note(where, "score", "one answer", "a single scored answer has nothing to compare with", "add another")
    elif count and not found.decided and not found.same_text:
        yield _note(where, "score", "tied", "all scores of the prompt are equal: no pair to learn from", "judge more finely")


def identity(record: Record) -> Any:
    """What makes two records the same row."""
    prompt = prompt_in(record).messages
    match record:
        case Prompt():
            return prompt
        case Demonstration():
            return prompt, record.response
        case JudgedPrompt(is_pair=True):
            return prompt, record.chosen, record.rejected
        case JudgedPrompt():
            return prompt, tuple((answer.response, answer.score) for answer in record.answers)
        case Labelled():
            return prompt, frozenset(record.labels)


def _row_key(record: Record, scan: Scan) -> Any:
    """What makes two rows the same. Prompts may differ in the rest of their rows alone: of those of the same turns that is
    looked at, and of no others, since it takes time."""
    if not isinstance(record, Prompt):
        return identity(record)
    first = scan.prompts.setdefault(record.messages, record)
    if first is record:
        return record.messages
    scan.seen.setdefault((record.messages, _digest(first.fields)), first.where)
    return record.messages, _digest(record.fields)


def _digest(fields: Mapping[str, Any]) -> bytes:
    """What a reward function may read beside a prompt, bookkeeping aside, in a few bytes."""
    try:
        telling = repr(_telling(fields) or "")
    except RecursionError:  # nested without end: it is like no other
        telling = str(id(fields))
    return hashlib.blake2b(telling.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _telling(value: Any) -> Any:
    """A value without its bookkeeping and what is empty, and with its fields in one order."""
    if isinstance(value, Mapping):
        return {name: _telling(value[name]) for name in sorted(value) if not (value[name] is None or is_bookkeeping(name))}
    return list(map(_telling, value)) if isinstance(value, list) else value


def _problem(where: Where, unfit: Unfit, *, bad: bool = False) -> Problem:
    place = f"{where}:{unfit.field}"
    return Problem(where=place, kind=unfit.kind, message=unfit.message, todo=unfit.todo, fatal=False, bad=bad)


def _note(where: Where, field: str, kind: str, message: str, todo: str) -> Problem:
    return _problem(where, Unfit(field, kind, message, todo))
