"""Files -> raw rows with the line each begins on. Knows .json, .jsonl, .csv, .tsv, .parquet, .txt, .md, each also .gz."""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import os.path
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sawyer.errors import DataError
from sawyer.records.problems import Problem

ROW_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
TEXT_SUFFIXES = (".txt", ".md")
BINARY = (b"\x1f\x8b", b"PAR1", b"PK\x03\x04", b"\x89PNG", b"%PDF", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
DECODER = json.JSONDecoder()
SPACE = re.compile(r"[ \t\r\n]*")
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """A row as the file has it: an object (or a bare text), and the line it begins on, counted from 1 (Parquet: its number)."""

    line: int
    value: Any


def expand(patterns: str | Sequence[str]) -> list[str]:
    """File names of paths and patterns, in order, each once. A pattern without a match is a DataError that names it."""
    found: dict[str, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        is_pattern = glob.has_magic(pattern) and not os.path.isfile(pattern)
        matches = sorted(glob.glob(pattern, recursive=True)) if is_pattern else [pattern]
        files = [match for match in matches if os.path.isfile(match)]
        if not files:
            what = "is a folder" if os.path.isdir(pattern) else "there is no such file"
            raise DataError(
                what,
                where=pattern,
                expected="a file, or a pattern such as data/*.jsonl that matches one",
                todo="check the path; it is taken from the folder the command runs in",
            )
        found |= dict.fromkeys(files)
    if not found:
        raise DataError("no file is named", expected="at least one data file", todo="name a file or a pattern")
    return list(found)


def suffix_of(path: str) -> str:
    """The ending that tells the format, without .gz: data/A.JSON.gz -> .json."""
    name = Path(path)
    return Path(name.stem).suffix.lower() if name.suffix.lower() == ".gz" else name.suffix.lower()


def raw_rows(
    path: str,
    problems: list[Problem],
    is_row: Callable[[Mapping[str, Any]], bool],
    columns: Collection[str] = (),
) -> Iterator[RawRow]:
    """The rows of one file. What cannot be read is appended to `problems`; the rows before and (in line formats) after it
    still come. `is_row` tells a row from an object around all rows, in a JSON file that holds one object. `columns` are the
    names by which a table's columns are asked for: numbers alone stand for columns counted from 1, of one without a header."""
    before, rows = len(problems), 0
    for row in _rows(path, problems, is_row, columns):
        rows += 1
        yield row
    if not rows and len(problems) == before:
        problems.append(_fatal(path, "empty file", "the file has no rows", "name a file with rows"))


def _rows(
    path: str, problems: list[Problem], is_row: Callable[[Mapping[str, Any]], bool], columns: Collection[str]
) -> Iterator[RawRow]:
    suffix = suffix_of(path)
    if suffix not in ROW_SUFFIXES + TEXT_SUFFIXES:
        known = ", ".join((*ROW_SUFFIXES, *TEXT_SUFFIXES))
        problems.append(
            _fatal(path, "format", f"{suffix or 'no ending'} is not known", f"use one of {known}, or these with .gz")
        )
        return
    if suffix == ".parquet":
        yield from _parquet(path)
        return
    text = _text(path, problems)
    if not text.strip():
        problems.append(_fatal(path, "empty file", "the file is empty", "name a file with rows"))
    elif suffix in (".csv", ".tsv"):
        yield from _table(path, text, "\t" if suffix == ".tsv" else ",", problems, columns)
    elif suffix in TEXT_SUFFIXES:
        yield from (RawRow(line=i, value=line) for i, line in enumerate(text.split("\n"), 1) if line.strip())
    else:
        yield from _json(path, text, problems, is_row)


def documents(path: str, problems: list[Problem]) -> Iterator[str]:
    """The paragraphs of a text file, cut at blank lines."""
    text = _text(path, problems)
    if not text.strip():
        problems.append(_fatal(path, "empty file", "the file is empty", "name a file with text"))
    for block in text.replace("\r\n", "\n").split("\n\n"):
        if block.strip():
            yield block.strip()


def _bytes(path: str) -> bytes:
    try:
        content = Path(path).read_bytes()
        return gzip.decompress(content) if path.lower().endswith(".gz") else content
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"cannot be read: {error}",
            where=path,
            expected="a readable file, whole",
            todo="check the file and its rights, or copy it again",
        ) from error


def _text(path: str, problems: list[Problem]) -> str:
    """A file as text. Lines that are not UTF-8 or hold NUL bytes are problems; the rest of them is kept."""
    content = _bytes(path)
    sample = content[:4096].translate(None, b"\t\n\r\f\x1b")
    controls = sum(byte < 32 for byte in sample)
    utf_16 = content.startswith(UTF_16)
    if utf_16 or content.startswith(BINARY) or (controls >= 8 and controls > len(sample) / 20):
        raise DataError(
            "the file is in UTF-16" if utf_16 else "a binary file under a text file's name",
            where=path,
            expected="text in UTF-8",
            todo="save it as UTF-8" if utf_16 else "unpack or convert it, or give it its right ending (.gz, .parquet)",
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        for number, line in enumerate(content.split(b"\n"), 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = f"byte {line[error.start]:#04x} is not UTF-8"
                problems.append(_fatal(f"{path}:{number}", "encoding", byte, "save the file as UTF-8"))
        text = content.decode("utf-8-sig", errors="replace")
    if "\0" in text:
        for number, words in enumerate(text.split("\n"), 1):
            if "\0" in words:
                problems.append(_fatal(f"{path}:{number}", "NUL", "a NUL byte", "remove it; the file may be damaged"))
        text = text.replace("\0", "")
    return text


def _json(path: str, text: str, problems: list[Problem], is_row: Callable[[Mapping[str, Any]], bool]) -> Iterator[RawRow]:
    """An array of rows, an object around one, a single row, or a row a line: told by the text, since endings lie."""
    start = _skip(text, 0)
    if text[start] == "[":
        end = yield from _array(path, text, start, problems)
        if end is not None and _skip(text, end) < len(text):
            problems.append(_broken(path, text, json.JSONDecodeError("more text after the closing ]", text, _skip(text, end))))
        return
    try:
        value, end = DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        if suffix_of(path) == ".json" and not _is_json(text[start:].split("\n", 2)[1:2]):
            problems.append(_broken(path, text, error))
        else:
            yield from _json_lines(path, text, problems)
        return
    more = _skip(text, end)
    if more < len(text) and "\n" in text[start:end]:
        problems.append(_broken(path, text, json.JSONDecodeError("more text after the first object", text, more)))
    elif more < len(text):
        yield from _json_lines(path, text, problems)
    elif isinstance(value, dict) and not is_row(value) and (inner := _only_array(text, start)) is not None:
        yield from _array(path, text, inner, problems)
    else:
        yield RawRow(line=1 + text.count("\n", 0, start), value=value)


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
            problems.append(_broken(path, line, error, line=number, last=number == len(lines)))


def _array(path: str, text: str, start: int, problems: list[Problem]) -> Generator[RawRow, None, int | None]:
    """The values of the array that begins at `start`, one by one, so that each has its line; returns where it ends."""
    line, counted = 1, 0
    try:
        place = _skip(text, start + 1)
        while text[place] != "]":
            line, counted = line + text.count("\n", counted, place), place
            value, end = DECODER.raw_decode(text, place)
            yield RawRow(line=line, value=value)
            place = _skip(text, end)
            if text[place] == ",":
                place = _skip(text, place + 1)
                if text[place] == "]":
                    raise json.JSONDecodeError("a comma after the last row", text, place)
            elif text[place] != "]":
                raise json.JSONDecodeError("expected , or ] after a row", text, place)
    except (ValueError, IndexError, RecursionError) as error:
        problems.append(_broken(path, text, error, line=None if isinstance(error, json.JSONDecodeError) else line))
        return None
    return place + 1


def _only_array(text: str, start: int) -> int | None:
    """Where the one array of objects begins in the (sound) object at `start`; None if it holds none, or several."""
    found = []
    place = _skip(text, start + 1)
    while text[place] != "}":
        _, place = DECODER.raw_decode(text, place)
        begins = _skip(text, _skip(text, place) + 1)
        value, place = DECODER.raw_decode(text, begins)
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            found.append(begins)
        place = _skip(text, place)
        place = _skip(text, place + 1) if text[place] == "," else place
    return found[0] if len(found) == 1 else None


def _skip(text: str, place: int) -> int:
    """The next place that is not white space to JSON; the text's length where there is none."""
    match = SPACE.match(text, place)
    return match.end() if match else place


def _broken(path: str, text: str, error: Exception, *, line: int | None = None, last: bool = True) -> Problem:
    """The problem of JSON that cannot be read; `line` is told by the error where it is None. Cut off or wrong?"""
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


def _table(path: str, text: str, separator: str, problems: list[Problem], columns: Collection[str]) -> Iterator[RawRow]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] | None = None
    begins, lines = 1, text.count("\n") + 1
    try:
        for cells in reader:
            line, begins = begins, reader.line_num + 1
            if not cells or (len(cells) == 1 and cells[0].isspace()):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                if _by_number(columns, header):
                    header = [str(number + 1) for number in range(len(cells))]
                    yield RawRow(line=line, value=dict(zip(header, cells, strict=True)))
                    continue
                for name in (name for name, count in Counter(header).items() if name and count > 1):
                    problems.append(
                        _fatal(f"{path}:{line}:{name}", "columns", f"two columns are called `{name}`", "rename one")
                    )
            elif len(cells) == len(header):
                yield RawRow(line=line, value=dict(zip(header, cells, strict=True)))
            else:
                last = begins > lines and len(cells) < len(header)  # the text does not end with a line break
                kind, what = ("truncated", "the last line is cut off: ") if last else ("columns", "")
                todo = "copy the file again" if last else "quote cells that hold the separator"
                problems.append(_fatal(f"{path}:{line}", kind, f"{what}{len(cells)} cells under {len(header)} columns", todo))
    except csv.Error as error:
        cut = "unexpected end" in str(error)
        message = "a quote that opens in this row is never closed" if cut else str(error)
        todo = "close the quote, or copy the file again" if cut else 'write a quote inside a quoted cell as ""'
        problems.append(_fatal(f"{path}:{begins}", "truncated" if cut else "broken table", message, todo))


def _by_number(columns: Collection[str], first: Sequence[str]) -> bool:
    """Whether the first row is data: all columns are asked for by number, and it does not hold those numbers as names."""
    return bool(columns) and all(name.isdecimal() for name in columns) and not set(columns) <= set(first)


def _parquet(path: str) -> Iterator[RawRow]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            "Parquet needs pyarrow, which is not installed",
            where=path,
            expected="pyarrow beside SAWYER",
            todo="pip install pyarrow, or convert the file to .jsonl",
        ) from error
    content = _bytes(path)
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(io.BytesIO(content)).iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                number += 1
                yield RawRow(line=number, value=value)
    except (OSError, ValueError, EOFError, OverflowError, pyarrow.ArrowException) as error:
        what = f"row {number + 1} or a later one cannot be read" if number else "not a Parquet file"
        raise DataError(
            f"{what} ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
            where=path,
            expected="a whole Parquet file",
            todo="copy or write the file again",
        ) from error


def _fatal(where: str, kind: str, message: str, todo: str) -> Problem:
    return Problem(where=where, kind=kind, message=message, todo=todo, fatal=True)
