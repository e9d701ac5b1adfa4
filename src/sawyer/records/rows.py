"""Files -> raw rows with the line each begins on. Knows .json, .jsonl, .csv, .tsv, .parquet, .txt, .md, each also .gz."""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sawyer.errors import DataError
from sawyer.records.problems import Problem

ROW_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
TEXT_SUFFIXES = (".txt", ".md")
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """A row as the file has it: an object (or a bare text), and the line it begins on, counted from 1."""

    line: int
    value: Any


def expand(patterns: str | Sequence[str]) -> list[str]:
    """File names of paths and patterns, in order, each once. A pattern without a match is a DataError that names it."""
    found: dict[str, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]
        files = [match for match in matches if Path(match).is_file()]
        if not files:
            what = "is a folder" if Path(pattern).is_dir() else "there is no such file"
            raise DataError(
                what,
                where=pattern,
                expected="a file, or a pattern such as data/*.jsonl that matches one",
                todo="check the path; it is taken from the folder the command runs in",
            )
        found |= dict.fromkeys(files)
    return list(found)


def raw_rows(path: str, problems: list[Problem]) -> Iterator[RawRow]:
    """The rows of one file. What cannot be read is appended to `problems`; the rows before and (in line formats) after it
    still come."""
    suffix = _suffix(path)
    if suffix == ".parquet":
        yield from _parquet(path)
        return
    text = _text(path, problems)
    if not text.strip():
        problems.append(_fatal(path, "empty file", "the file is empty", "name a file with rows"))
    elif suffix in (".jsonl", ".ndjson"):
        yield from _json_lines(path, text, problems)
    elif suffix == ".json":
        yield from _json(path, text, problems)
    elif suffix in (".csv", ".tsv"):
        yield from _table(path, text, "\t" if suffix == ".tsv" else ",", problems)
    elif suffix in TEXT_SUFFIXES:
        yield from (RawRow(line=i, value=line) for i, line in enumerate(text.splitlines(), 1) if line.strip())
    else:
        known = ", ".join((*ROW_SUFFIXES, *TEXT_SUFFIXES))
        problems.append(
            _fatal(path, "format", f"{suffix or 'no ending'} is not known", f"use one of {known}, or these with .gz")
        )


def documents(path: str, problems: list[Problem]) -> Iterator[str]:
    """The paragraphs of a text file, cut at blank lines."""
    text = _text(path, problems)
    if not text.strip():
        problems.append(_fatal(path, "empty file", "the file is empty", "name a file with text"))
    for block in text.replace("\r\n", "\n").split("\n\n"):
        if block.strip():
            yield block.strip()


def _suffix(path: str) -> str:
    name = Path(path)
    return Path(name.stem).suffix.lower() if name.suffix.lower() == ".gz" else name.suffix.lower()


def _text(path: str, problems: list[Problem]) -> str:
    try:
        content = Path(path).read_bytes()
        if path.lower().endswith(".gz"):
            content = gzip.decompress(content)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(
            f"cannot be read: {error}", where=path, expected="a readable file", todo="check the file and its rights"
        ) from error
    if content.startswith((b"\x1f\x8b", b"PAR1", b"PK\x03\x04", b"\x89PNG", b"%PDF")):
        raise DataError(
            "a binary file under a text file's name",
            where=path,
            expected="text in UTF-8",
            todo="unpack or convert it, or give it its right ending (.gz, .parquet)",
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        problems.append(
            Problem(
                where=f"{path}:{line}",
                kind="encoding",
                message=f"byte {content[error.start]:#04x} is not UTF-8",
                todo="save the file as UTF-8",
                fatal=True,
            )
        )
        text = content.decode("utf-8-sig", errors="replace")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        problems.append(_fatal(f"{path}:{line}", "NUL", "a NUL byte", "remove it; the file may be damaged"))
    return text


def _json_lines(path: str, text: str, problems: list[Problem]) -> Iterator[RawRow]:
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield RawRow(line=number, value=json.loads(line))
        except (ValueError, RecursionError) as error:
            last = number == len(lines)  # the text does not end with a line break: a copy broken off
            problems.append(
                _fatal(
                    f"{path}:{number}",
                    "truncated" if last else "broken JSON",
                    f"{'the last line is cut off' if last else 'not JSON'} ({error})",
                    "copy the file again" if last else "mend this line",
                )
            )


def _json(path: str, text: str, problems: list[Problem]) -> Iterator[RawRow]:
    """The objects of a top-level array one by one, so that each has its line; also an object that holds one array."""
    decoder = json.JSONDecoder()
    try:
        start = _skip(text, 0)
        if text[start] == "{":
            whole = json.loads(text)
            arrays = [value for value in whole.values() if isinstance(value, list)]
            rows = arrays[0] if len(arrays) == 1 and all(isinstance(row, dict) for row in arrays[0]) else [whole]
            yield from (RawRow(line=1, value=row) for row in rows)
            return
        if text[start] != "[":
            raise json.JSONDecodeError("expected an array of rows", text, start)
        place, line, counted = _skip(text, start + 1), 1, 0
        while text[place] != "]":
            line, counted = line + text.count("\n", counted, place), place
            value, place = decoder.raw_decode(text, place)
            yield RawRow(line=line, value=value)
            place = _skip(text, place)
            if text[place] == ",":
                place = _skip(text, place + 1)
            elif text[place] != "]":
                raise json.JSONDecodeError("expected , or ] after a row", text, place)
    except (ValueError, IndexError, RecursionError) as error:
        number = error.lineno if isinstance(error, json.JSONDecodeError) else text.count("\n") + 1
        ends = isinstance(error, IndexError) or (
            isinstance(error, json.JSONDecodeError) and error.pos >= len(text.rstrip()) - 1
        )
        message = error.msg if isinstance(error, json.JSONDecodeError) else "it ends in the middle"
        problems.append(
            _fatal(
                f"{path}:{number}",
                "truncated" if ends else "broken JSON",
                f"{'the file is cut off' if ends else 'not JSON'} ({message})",
                "copy the file again" if ends else "mend the text at or just before this line",
            )
        )


def _skip(text: str, place: int) -> int:
    while text[place] in " \t\r\n":
        place += 1
    return place


def _table(path: str, text: str, separator: str, problems: list[Problem]) -> Iterator[RawRow]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] | None = None
    begins = 1
    try:
        for cells in reader:
            if header is None:
                header = [cell.strip() for cell in cells]
            elif cells and len(cells) != len(header):
                problems.append(
                    _fatal(
                        f"{path}:{begins}",
                        "columns",
                        f"{len(cells)} cells under {len(header)} columns",
                        "quote cells that hold the separator",
                    )
                )
            elif cells:
                yield RawRow(line=begins, value=dict(zip(header, cells, strict=True)))
            begins = reader.line_num + 1
    except csv.Error as error:
        problems.append(_fatal(f"{path}:{begins}", "broken table", str(error), "look for a quote that is never closed"))


def _parquet(path: str) -> Iterator[RawRow]:
    import pyarrow.parquet

    try:
        source: Any = path
        if path.endswith(".gz"):
            source = io.BytesIO(gzip.decompress(Path(path).read_bytes()))
        table = pyarrow.parquet.read_table(source)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"not a Parquet file ({error})", where=path, todo="check the file") from error
    yield from (RawRow(line=number, value=row) for number, row in enumerate(table.to_pylist(), 1))


def _fatal(where: str, kind: str, message: str, todo: str) -> Problem:
    return Problem(where=where, kind=kind, message=message, todo=todo, fatal=True)
