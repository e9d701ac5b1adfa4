"""Paths and patterns -> files; a file -> its bytes or text: unpacked (.gz, .zst), never more than memory holds."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape, glob, has_magic
from pathlib import Path
from typing import IO, Any

from sawyer.errors import DataError
from sawyer.records.problems import Problem

ROW_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")
TEXT_SUFFIXES = (".txt", ".md")
CELL_SUFFIXES = (".csv", ".tsv", ".parquet", ".arrow")  # whose columns may hold a list as JSON: they have no other way
PACKED_SUFFIXES = (".gz", ".zst")
BINARY = (b"\x1f\x8b", b"PAR1", b"ARROW1", b"PK\x03\x04", b"\x89PNG", b"%PDF", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
PIECE = 1 << 24  # bytes read at once
# Bytes of memory that a byte of a file takes at least once it is rows. Measured on JSON lines: 3.2 for rows of 3,600 bytes,
# 5.6 of 370, 14 of 90, hence 3 a byte and some 950 a row. What surely does not fit is refused at once.
MEMORY_A_BYTE = 3
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A file's text. `damaged`: its lines with bytes that are no UTF-8 or NUL; they are named, and rows on them left out."""

    text: str
    bad_lines: frozenset[int]


def expand(patterns: str | Sequence[str]) -> list[str]:
    """File names of paths and patterns, in order, each once; of a folder that `datasets` saved, its Arrow files.

    A pattern without a match is a DataError that names it.
    """
    files: dict[str, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        files |= dict.fromkeys(_files_of(pattern))
    if not files:
        raise DataError("no file is named", expected="at least one data file", todo="name a file or a pattern")
    return list(files)


def suffix_of(path: str) -> str:
    """The file name's ending, which decides the format, without .gz or .zst: data/A.JSON.gz -> .json."""
    name = Path(path)
    return Path(name.stem).suffix.lower() if name.suffix.lower() in PACKED_SUFFIXES else name.suffix.lower()


def _files_of(pattern: str) -> list[str]:
    if os.path.isfile(pattern):
        return [pattern]
    if os.path.isdir(pattern):
        return _dataset_files(pattern)
    files: list[str] = []
    for match in _matches(pattern) if has_magic(pattern) else []:
        if os.path.isfile(match):
            files.append(match)
        elif os.path.isdir(match) and (Path(match) / "state.json").is_file():
            files += _dataset_files(match)
    if not files:
        raise _no_file(pattern)
    return files


def _matches(pattern: str) -> list[str]:
    """What a pattern matches, sorted. `**` enters each folder once: links may lead to the folder that they lie in."""
    head, deep, tail = pattern.partition("**")
    if not deep or not tail.startswith(os.sep) or (head and not head.endswith(os.sep)):
        return sorted(glob(pattern))  # elsewhere two stars are one
    paths: dict[str, None] = {}
    tops = _matches(head) if has_magic(head) else [head]
    seen: set[tuple[int, int]] = set()
    for top in tops:
        for folder, inside, _ in os.walk(top or os.curdir, followlinks=True):
            status = os.stat(folder)
            again = (status.st_dev, status.st_ino) in seen
            seen.add((status.st_dev, status.st_ino))
            inside[:] = [] if again else [name for name in inside if not name.startswith(".")]
            if not again:
                path = os.path.join(top, os.path.relpath(folder, top or os.curdir)) if folder != (top or os.curdir) else top
                paths |= dict.fromkeys(_matches(os.path.join(escape(path), tail.lstrip(os.sep))))
    return sorted(paths)


def _dataset_files(folder: str) -> list[str]:
    """The Arrow files of a folder that `datasets`' save_to_disk wrote."""
    path = Path(folder)
    splits = sorted(child.name for child in path.iterdir() if (child / "state.json").is_file()) if os.access(path, 5) else []
    arrows = sorted(str(file) for file in path.glob("*.arrow"))
    if (path / "state.json").is_file() and arrows:
        return arrows
    if splits:
        raise DataError(
            f"is a folder with the splits {', '.join(splits)}",
            where=folder,
            expected="one of them",
            why="a test split among the training data would make every figure look better than it is",
            todo=f"name {' or '.join(str(path / split) for split in splits)}",
        )
    endings = sorted({file.suffix for file in path.iterdir() if suffix_of(file.name) in ROW_SUFFIXES + TEXT_SUFFIXES})
    raise DataError(
        "is a folder",
        where=folder,
        expected="a file, a pattern such as data/*.jsonl that matches one, or a folder that datasets' save_to_disk wrote",
        todo=f"name its files: {path / ('*' + endings[0])}" if endings else "check the path; no data file lies in it",
    )


def _no_file(pattern: str) -> DataError:
    is_data = suffix_of(pattern) in ROW_SUFFIXES + TEXT_SUFFIXES
    if os.path.exists(pattern):
        return DataError(
            "is a device or a pipe, not a file",
            where=pattern,
            expected="a file whose size is known, and that can be read again",
            todo="write what comes out of it to a file first, and name that",
        )
    if "://" in pattern or (HUB_ID.fullmatch(pattern) and not is_data and not os.path.exists(pattern.split("/")[0])):
        name = "/".join(pattern.rstrip("/").split("/")[-2:])
        file = f"{name.split('/')[-1]}.parquet"
        load = f"from datasets import load_dataset; load_dataset({name!r}, split='train').to_parquet({file!r})"
        fetch = (
            "download it, and name the file" if is_data else f'`pip install datasets`, `python -c "{load}"`, then name {file}'
        )
        return DataError(
            "there is no such file; a data set of a hub is not fetched by itself",
            where=pattern,
            expected="a file on this machine",
            why="a run must not depend on what somebody else may change tomorrow",
            todo=fetch,
        )
    return DataError(
        "there is no such file",
        where=pattern,
        expected="a file, or a pattern such as data/*.jsonl that matches one",
        todo="check the path; it is relative to the folder the command runs in",
    )


def need_pyarrow(path: str, what: str) -> Any:
    """pyarrow, imported when a file needs it. Raises DataError where it is not installed."""
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(
            f"{what} needs pyarrow, which is not installed",
            where=path,
            expected="pyarrow beside SAWYER",
            todo="pip install pyarrow, or convert the file to .jsonl",
        ) from error
    return pyarrow


def memory_free() -> int:
    """Bytes of memory that this process may still take: the machine's, or its control group's where that has fewer."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").split("\n")
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return 1 << 62  # a system that does not say: no limit
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        return max(0, min(free, limit - int((group / "memory.current").read_text(encoding="ascii"))))
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return free


def check_size(path: str, size: int, *, is_unpacked: bool = False) -> None:
    """Raise DataError where a file of `size` bytes would not fit into memory as rows."""
    free = memory_free()
    if size * MEMORY_A_BYTE > free:
        holds = f"unpacks to more than {size / 1e9:.1f} GB" if is_unpacked else f"holds {size / 1e9:.1f} GB"
        raise DataError(
            f"{holds}: about {size * MEMORY_A_BYTE / 1e9:.0f} GB of memory as rows, and {free / 1e9:.1f} GB are free",
            where=path,
            expected="files that fit into memory together",
            todo="cut a part off and name that (`head -n 100000 FILE.jsonl > part.jsonl`), or take a machine with more memory",
        )


def content_of(path: str) -> bytes:
    """All bytes of a file, unpacked. Raises DataError where it cannot be read, is no text though its name says so, or is more
    than memory holds: unpacking ends as soon as it is too much."""
    limit = memory_free() // MEMORY_A_BYTE
    pieces: list[bytes] = []
    try:
        if Path(path).suffix.lower() not in PACKED_SUFFIXES:
            check_size(path, os.path.getsize(path))
        with _open(path) as file:
            while piece := file.read(PIECE):
                if not pieces and suffix_of(path) not in (".parquet", ".arrow"):
                    _check_text(path, piece)
                pieces.append(piece)
                if sum(map(len, pieces)) > limit:
                    check_size(path, sum(map(len, pieces)), is_unpacked=True)
        return b"".join(pieces)
    except (OSError, EOFError, ValueError, zlib.error, MemoryError) as error:
        raise DataError(
            f"cannot be read: {error or type(error).__name__}",
            where=path,
            expected="a readable file, whole",
            todo="check the file and its rights, or copy it again",
        ) from error


def _open(path: str) -> IO[bytes] | Any:
    suffix = Path(path).suffix.lower()
    if suffix == ".zst":
        pyarrow = need_pyarrow(path, "A .zst file")
        return pyarrow.CompressedInputStream(pyarrow.OSFile(path), "zstd")
    return gzip.open(path) if suffix == ".gz" else open(path, "rb")


def _check_text(path: str, start: bytes) -> None:
    sample = start[:4096].translate(None, b"\t\n\r\f\x1b")
    controls = sum(byte < 32 for byte in sample)
    utf_16 = start.startswith(UTF_16)
    if utf_16 or start.startswith(BINARY) or (controls >= 8 and controls > len(sample) / 20):
        raise DataError(
            "the file is in UTF-16" if utf_16 else "a binary file under a text file's name",
            where=path,
            expected="text in UTF-8",
            todo="save it as UTF-8" if utf_16 else "unpack or convert it, or give it its right ending (.gz, .zst, .parquet)",
        )


def text_of_file(path: str, problems: list[Problem], *, by_rows: bool) -> Text:
    """A file as text. Lines that are not UTF-8 or hold NUL bytes are problems: of the rows on them, or (`by_rows` False) of
    the file; the rest of them is kept."""
    content = content_of(path)
    bad_lines: set[int] = set()

    def tell(number: int, kind: str, message: str, todo: str) -> None:
        bad_lines.add(number)
        where = f"{path}:{number}"
        problems.append(Problem(where=where, kind=kind, message=message, todo=todo, fatal=not by_rows, bad=by_rows))

    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        for number, line in enumerate(content.split(b"\n"), 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                tell(number, "encoding", f"byte {line[error.start]:#04x} is not UTF-8", "save the file as UTF-8")
        text = content.decode("utf-8-sig", errors="replace")
    if "\0" in text:
        for number, words in enumerate(text.split("\n"), 1):
            if "\0" in words:
                tell(number, "NUL", "a NUL byte", "remove it; the file may be damaged")
        text = text.replace("\0", "")
    return Text(text=text, bad_lines=frozenset(bad_lines) if by_rows else frozenset())
