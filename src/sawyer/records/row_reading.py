"""Files -> raw rows with the line each begins on: JSON, tables, lines of text, Parquet and Arrow, each also packed.

What is a row and what is the file: in formats with a row a line (.jsonl, .tsv, .txt) a line that cannot be read is a bad
row, and so is a row of a table with too many or too few cells. A file that ends in the middle, JSON that breaks inside an
array, a quote that is never closed are the file's: which rows are missing cannot be known.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sawyer.errors import DataError
from sawyer.records.arrow_files import columnar_rows
from sawyer.records.data_files import ROW_SUFFIXES, TEXT_SUFFIXES, Text, suffix_of, text_of_file
from sawyer.records.problems import Problem

DECODER = json.JSONDecoder()
SPACE = re.compile(r"[ \t\r\n]*")
LONGEST_CELL = 2**31 - 1  # characters; Python's own limit is 131,072


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """A row as the file has it: an object (or a bare text), and the line it begins on, counted from 1. Where rows have no lines
    (Parquet, Arrow, a JSON array that lies on one line) it is the row's number."""

    line: int
    value: Any
    last: int = 0  # the line it ends on; 0: the same


def raw_rows(
    path: str,
    problems: list[Problem],
    is_row: Callable[[Mapping[str, Any]], bool],
    columns: Collection[str] = (),
) -> Iterator[RawRow]:
    """The rows of one file. What cannot be read is appended to `problems`; the rows before and (in line formats) after it
    still come. `is_row` tells a row from an object around all rows, in a JSON file that holds one object. `columns` are the
    names that the user's `columns:` has: numbers alone stand for columns counted from 1, of one without a header."""
    before, rows = len(problems), 0
    try:
        for row in _rows_by_suffix(path, problems, is_row, columns):
            rows += 1
            yield row
    except MemoryError as error:
        raise DataError(
            f"row {rows + 1:,} and those after it do not fit into memory",
            where=path,
            expected="files that fit into memory together",
            todo="cut a part off and name that, or take a machine with more memory",
        ) from error
    if not rows and len(problems) == before:
        problems.append(_fatal(path, "empty file", "the file has no rows", "name a file with rows"))


def _rows_by_suffix(
    path: str, problems: list[Problem], is_row: Callable[[Mapping[str, Any]], bool], columns: Collection[str]
) -> Iterator[RawRow]:
    suffix = suffix_of(path)
    if suffix not in ROW_SUFFIXES + TEXT_SUFFIXES:
        suffixes = ", ".join((*ROW_SUFFIXES, *TEXT_SUFFIXES))
        todo = f"use one of {suffixes}, or these with .gz or .zst"
        problems.append(_fatal(path, "format", f"{suffix or 'no ending'} is not known", todo))
        return
    if suffix in (".parquet", ".arrow"):
        yield from (RawRow(line=number, value=value) for number, value in enumerate(columnar_rows(path), 1))
        return
    before = len(problems)
    text_file = text_of_file(path, problems, by_rows=True)
    text = text_file.text
    if not text.strip():
        problems.append(_fatal(path, "empty file", "the file is empty", "name a file with rows"))
    elif suffix == ".csv":
        yield from _sound(_csv(path, text, problems, columns), text_file)
    elif suffix == ".tsv":
        yield from _sound(_tsv(path, text, problems, columns), text_file)
    elif suffix in TEXT_SUFFIXES:
        lines = (RawRow(line=i, value=line) for i, line in enumerate(text.split("\n"), 1) if line.strip())
        yield from _sound(lines, text_file)
    else:
        if _on_one_line(text):  # the damage has no line of its own, so it is the file's
            problems[before:] = [replace(problem, fatal=True, bad=False) for problem in problems[before:]]
        yield from _sound(_json(path, text, problems, is_row), text_file)


def _sound(rows: Iterator[RawRow], text: Text) -> Iterator[RawRow]:
    """Without the rows on damaged lines, which are named already."""
    if not text.bad_lines:
        return rows
    return (row for row in rows if text.bad_lines.isdisjoint(range(row.line, max(row.line, row.last) + 1)))


def documents(path: str, problems: list[Problem]) -> Iterator[str]:
    """The paragraphs of a text file, cut at blank lines."""
    text = text_of_file(path, problems, by_rows=False).text
    if not text.strip():
        problems.append(_fatal(path, "empty file", "the file is empty", "name a file with text"))
    for block in text.replace("\r\n", "\n").split("\n\n"):
        if block.strip():
            yield block.strip()


def _on_one_line(text: str) -> bool:
    """Whether an array, or an object around one, lies on one line, so that its rows have numbers, not lines."""
    return "\n" not in text.strip() and "\r" not in text.strip()


def _json(path: str, text: str, problems: list[Problem], is_row: Callable[[Mapping[str, Any]], bool]) -> Iterator[RawRow]:
    """An array of rows, an object around one, a single row, or a row a line: by the text, since endings lie."""
    start = _skip(text, 0)
    if text[start] == "[":
        end = yield from _array(path, text, start, problems)
        if end is not None and _skip(text, end) < len(text):
            problems.append(
                _json_problem(path, text, json.JSONDecodeError("more text after the closing ]", text, _skip(text, end)))
            )
        return
    try:
        value, end = DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        if suffix_of(path) == ".json" and not _is_json(text[start:].split("\n", 2)[1:2]):
            problems.append(_json_problem(path, text, error))
        else:
            yield from _json_lines(path, text, problems)
        return
    more = _skip(text, end)
    if more < len(text) and "\n" in text[start:end]:
        problems.append(_json_problem(path, text, json.JSONDecodeError("more text after the first object", text, more)))
    elif more < len(text):
        yield from _json_lines(path, text, problems)
    elif isinstance(value, dict) and not is_row(value) and (inner := _only_array(text, start)) is not None:
        yield from _array(path, text, inner, problems)
    else:
        line = 1 + text.count("\n", 0, start)
        yield RawRow(line=line, value=value, last=line + text.count("\n", start, end))


def _is_json(lines: list[str]) -> bool:
    """Whether there is a line, and it is a JSON value by itself: then its file has a row a line."""
    try:
        return [json.loads(line) for line in lines] != []
    except (ValueError, RecursionError):
        return False


def _json_lines(path: str, text: str, problems: list[Problem]) -> Iterator[RawRow]:
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield RawRow(line=number, value=json.loads(line))
        except (ValueError, RecursionError) as error:
            problem = _json_problem(path, line, error, line=number, last=number == len(lines))
            problems.append(problem if problem.kind == "truncated" else replace(problem, fatal=False, bad=True))


def _array(path: str, text: str, start: int, problems: list[Problem]) -> Generator[RawRow, None, int | None]:
    """The values of the array that begins at `start`, one by one, so that each has its line; returns where it ends."""
    line, counted_to, number = 1, 0, 0
    by_number = _on_one_line(text)
    try:
        at = _skip(text, start + 1)
        while text[at] != "]":
            line, counted_to, number = line + text.count("\n", counted_to, at), at, number + 1
            value, end = DECODER.raw_decode(text, at)
            yield RawRow(line=number if by_number else line, value=value, last=line + text.count("\n", at, end))
            at = _skip(text, end)
            if text[at] == ",":
                at = _skip(text, at + 1)
                if text[at] == "]":
                    raise json.JSONDecodeError("a comma after the last row", text, at)
            elif text[at] != "]":
                raise json.JSONDecodeError("expected , or ] after a row", text, at)
    except (ValueError, IndexError, RecursionError) as error:
        known_line = None if isinstance(error, json.JSONDecodeError) else line
        problems.append(_json_problem(path, text, error, line=max(1, number) if by_number else known_line))
        return None
    return at + 1


def _only_array(text: str, start: int) -> int | None:
    """Where the one array of objects begins in the (sound) object at `start`; None if it holds none, or several."""
    starts = []
    at = _skip(text, start + 1)
    while text[at] != "}":
        _, at = DECODER.raw_decode(text, at)
        begins = _skip(text, _skip(text, at) + 1)
        value, at = DECODER.raw_decode(text, begins)
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            starts.append(begins)
        at = _skip(text, at)
        at = _skip(text, at + 1) if text[at] == "," else at
    return starts[0] if len(starts) == 1 else None


def _skip(text: str, at: int) -> int:
    """The next place that is not white space to JSON; the text's length where there is none."""
    match = SPACE.match(text, at)
    return match.end() if match else at


def _json_problem(path: str, text: str, error: Exception, *, line: int | None = None, last: bool = True) -> Problem:
    """The problem of JSON that cannot be read; `line` comes from the error where it is None. Cut off or wrong?"""
    cut = isinstance(error, IndexError)
    message = "it ends in the middle"
    if isinstance(error, json.JSONDecodeError):
        line = line or error.lineno
        message = f"{error.msg}, column {error.colno}"
        rest = text[error.pos :].rstrip()
        cut = rest[-1:] not in ("}", "]") and (len(rest) < 7 or error.msg.startswith("Unterminated string")) and last
        cut = cut and text.lstrip()[:1] in ("{", "[")
    elif isinstance(error, RecursionError):
        message = "nested too deep"
    elif cut:
        line = 1 + text.rstrip().count("\n")
    else:
        message = "a number with too many digits"
    where = f"{path}:{line or 1}"
    if cut:
        whole = "the last line" if suffix_of(path) != ".json" else "the file"
        return _fatal(where, "truncated", f"{whole} is cut off ({message})", "copy the file again, or remove what is cut off")
    return _fatal(where, "broken JSON", f"not JSON ({message})", "mend the text at or just before this line")


def _csv(path: str, text: str, problems: list[Problem], columns: Collection[str]) -> Iterator[RawRow]:
    """A table whose cells may be quoted, and then hold separators and line breaks."""
    table: list[tuple[int, int, list[str]]] = []
    before = csv.field_size_limit(LONGEST_CELL)
    begins = 1
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
        for cells in reader:
            table.append((begins, reader.line_num, cells))
            begins = reader.line_num + 1
    except csv.Error as error:
        cut = "unexpected end" in str(error)
        message = "a quote that opens in this row is never closed" if cut else str(error)
        todo = "close the quote, or copy the file again" if cut else 'write a quote inside a quoted cell as ""'
        problems.append(_fatal(f"{path}:{begins}", "truncated" if cut else "broken table", message, todo))
    finally:
        csv.field_size_limit(before)  # it is the whole process's, and a program that calls us may have its own
    return _table_rows(path, table, text.count("\n") + 1, "quote cells that hold the separator", problems, columns)


def _separator(text: str) -> str:
    """A comma, unless the header has none but a semicolon (as where the comma is the decimal point) or a tab."""
    header = text.lstrip().split("\n", 1)[0]
    return "," if "," in header else ";" if ";" in header else "\t" if "\t" in header else ","


def _tsv(path: str, text: str, problems: list[Problem], columns: Collection[str]) -> Iterator[RawRow]:
    """A table without quoting: every line is a row and every tab a border, so that a quote is a character like others."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    table = [(number, number, line.split("\t") if line.strip(" ") else []) for number, line in enumerate(lines, 1)]
    for number, _, cells in table:
        if any(len(cell) > 2 and cell[0] == cell[-1] == '"' and '""' in cell[1:-1] for cell in cells):
            message = "a cell is quoted as in a .csv file; its quotes are read as text, since a .tsv file has no quoting"
            todo = "if it is a table with quoted cells, save it with commas as .csv"
            problems.append(Problem(where=f"{path}:{number}", kind="quotes", message=message, todo=todo, fatal=False))
    todo = "a .tsv file has no quoting: a cell with a tab or a line break needs a .csv or .jsonl file"
    return _table_rows(path, table, len(lines), todo, problems, columns)


def _table_rows(
    path: str,
    table: Sequence[tuple[int, int, list[str]]],
    lines: int,
    todo: str,
    problems: list[Problem],
    columns: Collection[str],
) -> Iterator[RawRow]:
    """Rows of cells (first line, last line, cells) under the names of the first of them."""
    header: list[str] | None = None
    for line, last, cells in table:
        if not cells or (len(cells) == 1 and cells[0].isspace()):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            if _by_number(columns, header):
                header = [str(number + 1) for number in range(len(cells))]
                yield RawRow(line=line, value=dict(zip(header, cells, strict=True)), last=last)
                continue
            for name in (name for name, count in Counter(header).items() if name and count > 1):
                problems.append(_fatal(f"{path}:{line}:{name}", "columns", f"two columns are called `{name}`", "rename one"))
        elif len(cells) == len(header):
            yield RawRow(line=line, value=dict(zip(header, cells, strict=True)), last=last)
        elif last >= lines and len(cells) < len(header):  # the text does not end with a line break
            message = f"the last line is cut off: {len(cells)} cells under {len(header)} columns"
            problems.append(_fatal(f"{path}:{line}", "truncated", message, "copy the file again"))
        else:
            message = f"{len(cells)} cells under {len(header)} columns"
            problems.append(Problem(where=f"{path}:{line}", kind="columns", message=message, todo=todo, fatal=False, bad=True))


def _by_number(columns: Collection[str], first: Sequence[str]) -> bool:
    """Whether the first row is data: the user names all columns by number, and it does not hold those numbers as names."""
    return bool(columns) and all(name.isdecimal() for name in columns) and not set(columns) <= set(first)


def _fatal(where: str, kind: str, message: str, todo: str) -> Problem:
    return Problem(where=where, kind=kind, message=message, todo=todo, fatal=True)
