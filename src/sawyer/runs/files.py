"""Files that are whole or not there: written beside their place and renamed into it, a folder's marker last."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sawyer.errors import RunError

MARKER = ".complete"  # the last file written into a folder: without it the folder is not what it looks like
NEW, OLD = ".new", ".old"


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Whatever the system refuses while `path` is written, as a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        raise _refused(path, error) from error
    except RuntimeError as error:
        # torch's archive writer wraps a failed write in a RuntimeError of its own and loses the system's number.
        if "PytorchStreamWriter" not in str(error) and "file write failed" not in str(error):
            raise
        raise _full(path, str(error).splitlines()[0]) from error
    except Exception as error:
        # safetensors has its own class, with the system's words in it.
        if type(error).__name__ != "SafetensorError" or "No space left" not in str(error):
            raise
        raise _full(path, str(error).splitlines()[0]) from error


def _refused(path: Path, error: OSError) -> RunError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return _full(path, error.strerror or "no space")
    return RunError(
        f"{error.filename or path} cannot be written: {error.strerror or error}",
        expected="a folder that this user may write to",
        todo="name another `out:`, or mend the folder's permissions",
    )


def _full(path: Path, words: str) -> RunError:
    return RunError(
        f"the disk is full: {path} could not be written ({words})",
        why="what was saved before is intact, what came since is lost",
        todo="free some space, then run the same command again",
    )


def write_text(path: Path, text: str) -> None:
    """Replace a file whole. Raises RunError, the old one untouched, when it cannot be written."""
    beside = path.with_name(f".{path.name}{NEW}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file whole; numbers that JSON does not know become text."""
    write_text(path, json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """The value with nan and infinities, which JSON does not know, as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inside) for key, inside in value.items()}
    return [plain(inside) for inside in value] if isinstance(value, list | tuple) else value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a journal file; none where there is no file. A last line that is still being written is left out.

    Raises RunError for a line that is no row.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
        rows = [json.loads(line) for line in lines[:-1] if line]
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    if not all(isinstance(row, dict) for row in rows):
        raise damaged(path, ValueError("a line is no JSON object"))
    return rows


def damaged(path: Path, error: Exception) -> RunError:
    """A file of a run that is not as the run wrote it."""
    return RunError(
        f"{path} cannot be read ({str(error).splitlines()[0]})",
        expected="the file as the run wrote it",
        why="half the facts would mislead",
        todo="restore the file, or move it away: what is not there is left out",
    )


@contextlib.contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Fill a new folder, then put it in the place of `folder`: seen from outside there is the old one or the new, whole.

    Raises RunError, the old folder untouched, when the disk refuses; any other error passes, the old folder untouched too.
    """
    new, old = folder.with_name(f".{folder.name}{NEW}"), folder.with_name(f".{folder.name}{OLD}")
    with disk_errors(folder):
        try:
            recover(folder)
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            yield new
            _seal(new)
            if folder.exists():
                folder.replace(old)
            new.replace(folder)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            recover(folder)
            shutil.rmtree(new, ignore_errors=True)
            raise


def is_complete(folder: Path) -> bool:
    """Whether `folder` was written to its end by `replace_folder`."""
    return (folder / MARKER).is_file()


def recover(folder: Path) -> None:
    """Finish what a kill cut short in `replace_folder`: between its two renames only the old folder is whole."""
    old = folder.with_name(f".{folder.name}{OLD}")
    if old.exists() and not folder.exists():
        old.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def recover_all(root: Path) -> None:
    """`recover` for every folder below `root`, and unfinished ones are removed."""
    for old in sorted(root.rglob(f".*{OLD}")):
        recover(old.with_name(old.name[1 : -len(OLD)]))
    for new in sorted(root.rglob(f".*{NEW}")):
        shutil.rmtree(new, ignore_errors=True) if new.is_dir() else new.unlink(missing_ok=True)


def hash_files(paths: Iterable[str | Path], *, salt: str = "") -> str:
    """One hash of the files' content and names, in the given order, and of `salt`. A file that is not there counts as such."""
    digest = hashlib.sha256(salt.encode())
    for path in map(Path, paths):
        digest.update(f"\0{path}\0".encode("utf-8", "backslashreplace"))
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def hash_folder(folder: Path) -> str:
    """One hash of all that lies in a folder, wherever the folder is."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder)} {content}\n".encode())
    return digest.hexdigest()[:32]


def _seal(folder: Path) -> None:
    """All content on the disk first, then the marker: a power cut must not leave a marked folder of empty files."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    with (folder / MARKER).open("w") as file:
        file.write("all of this folder is written\n")
        file.flush()
        os.fsync(file.fileno())
