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
from sawyer.records.fields import is_bookkeeping
from sawyer.records.formats import FORMATS, LEFT_OUT, Want, format_of, read_row
from sawyer.records.problems import EXPECTED_KINDS, Problem, Unfit
from sawyer.records.record_types import (
    Answer,
    Demonstration,
    JudgedPrompt,
    LabelledText,
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
MOST_BAD = 0.5  # a file with more bad rows than good ones is another kind of file: raising the limit would not help


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Read:
    """What was read: `records` (texts where text was wanted), the formats, and what was left out or looked odd."""

    records: tuple[Any, ...]
    format: str  # the formats' names, for the user
    problems: tuple[Problem, ...]  # none of them fatal
    files: tuple[str, ...]
    rows: Mapping[str, int]  # file -> its number of rows, bad ones included
    unread: Mapping[str, int]  # path of a field -> rows in which it holds something and was not read

    @property
    def warning(self) -> str:
        """What the files' owner should act on: bad rows, which are left out, and what looks odd; by kind with the first few
        places of each. Empty where there is nothing."""
        kinds: dict[str, list[Problem]] = {}
        for problem in self.problems:
            if problem.bad or problem.kind not in EXPECTED_KINDS:
                kinds.setdefault(problem.kind, []).append(problem)
        bad = len({problem.where for problem in self.problems if problem.bad})
        of = f"{bad:,} of {sum(self.rows.values()):,} rows cannot be used and {'is' if bad == 1 else 'are'} left out: "
        return of * bool(bad) + "; ".join(_kind_text(kind, problems) for kind, problems in kinds.items())

    def remarks(self, *, without: Collection[str] = ()) -> str:
        """What any large file has, for the plan's line: rows that teach nothing, counted by kind, and the columns that are not
        read. Begins with "; ", or is empty. `without`: kinds that the caller counts itself."""
        expected = (problem for problem in self.problems if not problem.bad and problem.kind in EXPECTED_KINDS)
        kinds = Counter(problem.kind for problem in expected if problem.kind not in without)
        twice = kinds.pop("duplicate", 0)
        parts = [f"{twice:,} {'duplicate' if twice == 1 else 'duplicates'} left out"] if twice else []
        parts += [f"{count:,} {kind}" for kind, count in kinds.items()]
        unread = unread_in_words(self.unread, prompts=isinstance(self.records[0], Prompt))
        return "".join(f"; {words}" for words in (", ".join(parts), unread) if words)

    @property
    def told_skipped(self) -> str:
        """`warning` and `remarks` in one line. Empty where everything was read."""
        return "; ".join(words for words in (self.warning, self.remarks().removeprefix("; ")) if words)


def _kind_text(kind: str, problems: Sequence[Problem]) -> str:
    where = join_names([Path(problem.where).name for problem in problems])
    one = len(problems) == 1
    return f"{kind} ({where}): {problems[0].message}" if one else f"{len(problems):,} rows: {kind} ({where})"


def unread_in_words(unread: Mapping[str, int], *, most: int = 8, prompts: bool = False) -> str:
    """The columns and fields that are not read, with the rows in which they stand; the most frequent first, and last those that
    only say which row it is or where it comes from. Of `prompts`, reward functions that take rows still see them."""
    items = sorted(unread.items(), key=lambda item: (is_bookkeeping(item[0]), -item[1]))
    if not items:
        return ""
    counts = {count for _, count in items}
    if len(counts) == 1:
        count = counts.pop()
        names, rows = ", ".join(name for name, _ in items[:most]), f" (in {count:,} {'row' if count == 1 else 'rows'})"
    else:
        names, rows = ", ".join(f"{name} ({count:,})" for name, count in items[:most]), ""
    unread_by = "not in the prompt, for reward functions alone" if prompts else "not read"
    return f"{unread_by}: {names}{f' and {len(items) - most:,} more' if len(items) > most else ''}{rows}"


def join_names(where: Sequence[str], most: int = 3) -> str:
    """The first few different places, and that there are more."""
    names = list(dict.fromkeys(where))[:most]
    return ", ".join(names) + (", ..." if len(where) > len(names) else "")


@dataclass(slots=True)
class Scan:
    """A reading in progress: good records, problems of all kinds, and where each record was first seen."""

    records: list[Any] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    formats: dict[str, None] = field(default_factory=dict)
    seen: dict[Any, Where] = field(default_factory=dict)
    prompts: dict[tuple[Message, ...], Prompt] = field(default_factory=dict)  # where prompts are wanted: the first of its turns
    single: dict[tuple[Message, ...], list[JudgedPrompt]] = field(default_factory=dict)  # answers judged a row each, by prompt
    rows: dict[str, int] = field(default_factory=dict)  # file -> all its rows
    unread: Counter[str] = field(default_factory=Counter)
    judgements: Counter[Any] = field(default_factory=Counter)  # how often a file has the same judgement by the same rater


def read(
    paths: str | Sequence[str],
    *,
    want: Want,
    columns: Mapping[str, str] | None = None,
    max_bad_rows: float | None = MAX_BAD_ROWS,
) -> Read:
    """Read all of `paths` (files or patterns) as what is wanted.

    `columns` maps their names to ours, e.g. `{"query": "prompt", "reply": "response"}`. A row that cannot be used is left out
    and named; more than the share `max_bad_rows` of a file's rows refuse it (one may pass in any file, unless it is 0).
    None: every row must be good, and no setting changes that. Raises DataError when a file cannot be used: it names the first
    problem and how many there are, `sawyer check` lists them all. `check` reads by the same `scan_file`. Whether all that a
    stage reads is enough to learn from is another question: the stages, the plan and `check` ask `insufficient`.

    A result that is still in use is returned again, unless a file has changed: a run looks at its files before its first stage
    reads them, and a large one takes minutes.
    """
    files = expand(paths)
    stamps = tuple((path, stamp.st_size, stamp.st_mtime_ns) for path in files for stamp in (Path(path).stat(),))
    key = (stamps, want, tuple((columns or {}).items()), max_bad_rows)
    result = _results.get(key)
    if result is None:
        result = _results[key] = _read_files(files, want, columns or {}, max_bad_rows)
    return result


_results: WeakValueDictionary[Any, Read] = WeakValueDictionary()  # those in use


def _read_files(files: Sequence[str], want: Want, columns: Mapping[str, str], max_bad_rows: float | None) -> Read:
    scan = Scan()
    for path in files:
        before = len(scan.problems)
        scan_file(path, want, columns, scan, max_bad_rows)
        if fatal := [problem for problem in scan.problems[before:] if problem.fatal]:
            raise _refusal(path, fatal[0], scan.problems[before:])
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
        format=" + ".join(scan.formats),
        problems=tuple(scan.problems),
        files=tuple(files),
        rows=dict(scan.rows),
        unread=dict(scan.unread),
    )


def leave_out(read_in: Read, problems: Sequence[Problem], max_bad_rows: float | None) -> Read:
    """What was read without the rows that these problems name, which are bad rows like others. Raises DataError where they
    are too many of a file, or all."""
    if not problems:
        return read_in
    bad = [replace(problem, fatal=False, bad=True) for problem in problems]
    everything = (*read_in.problems, *bad)
    for path in read_in.files:
        of_file = [problem for problem in everything if problem.where.startswith(f"{path}:")]
        in_file = too_many_bad(path, of_file, read_in.rows[path], max_bad_rows)
        if in_file and in_file[0].fatal:
            raise _refusal(path, in_file[0], in_file)
    bad_rows = {problem.where for problem in problems}
    records = tuple(record for record in read_in.records if str(prompt_in(record).where) not in bad_rows)
    if not records:
        raise DataError(bad[0].message, where=bad[0].where, expected="at least one good row", todo=bad[0].todo)
    return replace(read_in, records=records, problems=everything)


def once_each(read_in: Read) -> Read:
    """Prompts that were read, each conversation once, for uses that never look at a row's other fields: rows that differ in
    those alone are duplicates then."""
    firsts: dict[tuple[Message, ...], Prompt] = {}
    duplicates = []
    for prompt in read_in.records:
        first = firsts.setdefault(prompt.messages, prompt)
        if first is not prompt:
            message = f"the same prompt as {_first_seen(first.where, prompt.where)}; left out"
            duplicates.append(Unfit("row", "duplicate", message, "remove it").at(prompt.where))
    if not duplicates:
        return read_in
    return replace(read_in, records=tuple(firsts.values()), problems=(*read_in.problems, *duplicates))


def _refusal(path: str, first: Problem, problems: Sequence[Problem]) -> DataError:
    """Why a file is refused; where its bad rows are too many, with the first of them."""
    if first.kind == TOO_MANY:
        row = next(problem for problem in problems if problem.bad)
        message, where = f"{row.message}; {first.message}", row.where
    else:
        fatal = sum(problem.fatal for problem in problems)
        more = f" (and {fatal - 1:,} more {'problem' if fatal == 2 else 'problems'})" if fatal > 1 else ""
        message, where = f"{first.message}{more}", first.where
    return DataError(
        message,
        where=where,
        why="a row that was misread or dropped in silence would change what the model learns",
        todo=f"{first.todo}; `sawyer check {path}` lists all",
    )


def scan_file(path: str, want: Want, columns: Mapping[str, str], scan: Scan, max_bad_rows: float | None = MAX_BAD_ROWS) -> None:
    """Add one file's records and problems to the scan. A duplicate is left out; so is what cannot teach what is wanted."""
    known_problems, known_records = len(scan.problems), len(scan.records)
    if want == "text":
        scan.formats["text"] = None
        scan.records += documents(path, scan.problems)
        scan.rows[path] = len(scan.records) - known_records
        return
    rows = rows_of(path, columns, scan.problems)
    scan.rows[path] = len(rows) + len({problem.where for problem in scan.problems[known_problems:] if problem.bad})
    example = next((row.value for row in rows if isinstance(row.value, Mapping) and format_of(row.value, want)), {})
    for row in rows:
        where = Where(file=path, line=row.line)
        try:
            output = read_row(row.value, where, want, example)
            scan.formats[output.format] = None
            scan.unread.update(output.unread)
            scan.problems += [note.at(where) for note in output.notes]
            for record in output.records:
                _add(record, scan, joins=output.joins)
        except Unfit as unfit:
            scan.problems.append(unfit.at(where, bad=unfit.kind not in LEFT_OUT))
    scan.problems += _typed_ends(scan.records[known_records:])
    scan.problems[known_problems:] = too_many_bad(path, scan.problems[known_problems:], scan.rows[path], max_bad_rows)


def _typed_ends(records: Sequence[Record]) -> list[Problem]:
    """Answers that end in a typed marker, as one problem a file: where one has it, most have."""
    answers = [(record, answer.rstrip()) for record in records for answer in responses_of(record)]
    with_end = [(record, answer) for record, answer in answers if answer.endswith(TYPED_ENDS)]
    if not with_end:
        return []
    first, answer = with_end[0]
    end = next(end for end in TYPED_ENDS if answer.endswith(end))
    message = f"{len(with_end):,} of {len(answers):,} answers end in a typed `{end}`"
    todo = (
        "remove it: the end of an answer is written for you. Where it is the model's own end it is taken off, else it is text"
    )
    return [Unfit("response", "typed end", message, todo).at(prompt_in(first).where)]


def too_many_bad(path: str, problems: Sequence[Problem], rows: int, share: float | None) -> list[Problem]:
    """A file's problems in order, behind one that refuses the file where more of its rows are bad than `share` lets pass; None
    lets none pass, and the advice is then not to raise it."""
    in_file = in_order(problems, path)
    bad = list({problem.where: problem for problem in in_file if problem.bad}.values())
    if len(bad) <= (max(1, math.floor(share * rows + 1e-9)) if share else 0):
        return in_file
    limit_needed = math.ceil(100 * len(bad) / rows) / 100
    mend, limit = bad[0].todo, f"max_bad_rows: {share:g} lets fewer pass" if share is not None else "none of them may be lost"
    if limit_needed <= MOST_BAD and share is not None:
        mend = (
            f"{mend}; or leave them out with max_bad_rows: {limit_needed:g} (of a command: `--max-bad-rows {limit_needed:g}`)"
        )
    message = f"{len(bad):,} of {rows:,} rows cannot be used, and {limit}"
    return [Problem(where=path, kind=TOO_MANY, message=message, todo=mend, fatal=True), *in_file]


def in_order(problems: Sequence[Problem], path: str) -> list[Problem]:
    """A file's problems as they stand in it; what concerns the whole file comes first."""
    return sorted(problems, key=lambda problem: int(problem.where[len(path) + 1 :].partition(":")[0] or 0))


def rows_of(path: str, columns: Mapping[str, str], problems: list[Problem]) -> list[RawRow]:
    """The rows of a file under our names."""
    rows = list(mapped_rows(path, columns, problems))
    for name in columns:
        if rows and not any(isinstance(row.value, Mapping) and name in row.value for row, _ in rows):
            message = f"no row has `{name}`, which `columns:` names"
            todo = "mend the name; in a table without a header every column is named by its number"
            problems.append(Problem(where=path, kind="columns", message=message, todo=todo))
    return [row if value is row.value else RawRow(line=row.line, value=value) for row, value in rows]


def mapped_rows(path: str, columns: Mapping[str, str], problems: list[Problem]) -> Iterator[tuple[RawRow, Any]]:
    """Each row of a file, and its value under our names. A column that is mapped to a name wins over one that is called so."""

    def rename(value: Any) -> Any:
        if not columns or not isinstance(value, Mapping):
            return value
        others = {name: item for name, item in value.items() if name not in columns}
        return others | {columns[name]: item for name, item in value.items() if name in columns}

    def is_row(value: Mapping[str, Any]) -> bool:
        return any(format.fits(rename(value)) for format in FORMATS)

    for row in raw_rows(path, problems, is_row, columns):
        yield row, rename(row.value)


def finish(scan: Scan) -> None:
    """When all files are read: answers judged a row each become one record a prompt, and what has no pair is named."""
    firsts = {id(records[0]): records for records in scan.single.values()}
    for i, record in enumerate(scan.records):
        if not isinstance(record, JudgedPrompt) or record.is_pair:
            continue
        if id(record) in firsts:
            scan.records[i], changed_scores = _merge(firsts[id(record)])
            if changed_scores:
                answers = "an answer was" if changed_scores == 1 else f"{changed_scores} answers were"
                message = f"{answers} judged more than once and differently: the mean counts"
                scan.problems.append(Unfit("score", "judged twice", message, "keep the right score").at(record.where))
        scan.problems += [note.at(record.where) for note in _judgement_problems(scan.records[i])]


def _merge(records: Sequence[JudgedPrompt]) -> tuple[JudgedPrompt, int]:
    """(the answers to one prompt as one record, how many were judged more than once and differently): the mean score counts.

    Example: records of one answer each, "a" 4, "b" 1, "a" 2 -> ("a" 3, "b" 1), 1.
    """
    by_text: dict[str, list[Answer]] = {}
    for record in records:
        for answer in record.answers:
            by_text.setdefault(answer.response, []).append(answer)
    answers, changed_scores = [], 0
    for same in by_text.values():
        scores = [answer.score for answer in same if answer.score is not None]
        answers.append(replace(same[0], score=fmean(scores) if scores else None))
        changed_scores += len(set(scores)) > 1
    return replace(records[0], answers=tuple(answers)), changed_scores


def _add(record: Record, scan: Scan, *, joins: bool) -> None:
    """Each record once; a judged one that has no pair is reported in the end (it stays, since it may be scored later)."""
    key, where = _row_key(record, scan), prompt_in(record).where
    if key in scan.seen:
        message = f"the same as {_first_seen(scan.seen[key], where)}; left out"
        scan.problems.append(Unfit("row", "duplicate", message, "remove it").at(where))
        return
    scan.seen[key] = where
    if joins and isinstance(record, JudgedPrompt):
        same = scan.single.setdefault(record.prompt.messages, [])
        same.append(record)
        if len(same) > 1:
            return
    scan.records.append(record)
    if isinstance(record, LabelledText) and not record.many:
        first = scan.seen.setdefault(("labelled", record.text), where)
        if first is not where:
            message = f"the same text has another label in {_first_seen(first, where)}; both are kept"
            scan.problems.append(Unfit("label", "contradiction", message, "keep the right one").at(where))


def _first_seen(first: Where, here: Where) -> str:
    """Where a row stood before: in the same file its name is enough, without the folders."""
    return f"{Path(first.file).name}:{first.line}" if first.file == here.file else str(first)


def _judgement_problems(record: JudgedPrompt) -> Iterable[Unfit]:
    pairs, count = record.pairs(), len(record.scores)
    if missing := len(record.answers) - count:
        message = "1 answer has no score" if missing == 1 else f"{missing} answers have no score"
        yield Unfit("score", "unscored", message, "score them, or leave them out")
    if count == 1:
        yield Unfit("score", "one answer", "a single scored answer has nothing to compare with", "add another")
    elif count and not pairs.preferences and not pairs.same_text:
        yield Unfit("score", "tied", "all scores of the prompt are equal: no pair to learn from", "judge more finely")


def _row_key(record: Record, scan: Scan) -> Any:
    """What makes two rows the same. Prompts may differ in the rest of their rows alone: only of those of the same turns that is
    compared, since it takes time."""
    messages = prompt_in(record).messages
    match record:
        case Demonstration():
            return messages, record.response
        case JudgedPrompt(is_pair=True):
            return messages, record.chosen, record.rejected
        case JudgedPrompt():
            answers = tuple((answer.response, answer.score) for answer in record.answers)
            if not record.rater:
                return messages, answers, record.weight
            # Raters agree, and one may judge twice: such rows are judgements of their own. A file that is named twice has none.
            judgement = (messages, answers, record.weight, record.rater)
            scan.judgements[record.where.file, judgement] += 1
            return *judgement, scan.judgements[record.where.file, judgement]
        case LabelledText():
            return messages, frozenset(record.labels)
        case Prompt():
            first = scan.prompts.setdefault(messages, record)
            if first is record:
                return messages
            scan.seen.setdefault((messages, _digest(first.fields)), first.where)
            return messages, _digest(record.fields)


def _digest(fields: Mapping[str, Any]) -> bytes:
    """What a reward function may read beside a prompt, bookkeeping aside, in a few bytes."""
    try:
        text = repr(_without_bookkeeping(fields) or "")
    except RecursionError:  # nested without end: it is like no other
        text = str(id(fields))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _without_bookkeeping(value: Any) -> Any:
    """A value without its bookkeeping and what is empty, and with its fields in one order."""
    if isinstance(value, Mapping):
        return {
            name: _without_bookkeeping(value[name])
            for name in sorted(value)
            if not (value[name] is None or is_bookkeeping(name))
        }
    return list(map(_without_bookkeeping, value)) if isinstance(value, list) else value
