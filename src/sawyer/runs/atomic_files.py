"""Files that are whole or absent: written beside their path and renamed to it, a folder's marker last."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from glob import escape as glob_escape
from pathlib import Path
from typing import Any, TextIO

from sawyer.errors import RunError

MARKER = ".complete"  # the last file written into a folder: a folder without it was not finished
SEAL_LINE = "all of this folder is written\n"  # its first line; then a line with the checksum of each file
# Endings of what is being written, and of what is being replaced, beside its path. A run may lie among a user's own files, and
# leftovers are removed when the run is opened: no other program may use these names. A new file has a random part too: in a
# folder from somebody else, a link under a name that can be guessed would be written through.
NEW, OLD = ".sawyer-new", ".sawyer-old"
MAX_NAME = 100  # bytes of a file's name that its replacement's name keeps: systems allow 255
# On Unix: do not follow a link, and do not wait for a pipe.
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the system refuses while `path` is written into a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        raise _write_error(path, error) from error
    except Exception as error:
        # Libraries that write for us raise their own classes, with the system's error number in the text or lost.
        words = str(error)
        number = re.search(r"\(os error (\d+)\)", words)
        if number:  # safetensors and tokenizers
            raise _write_error(path, OSError(int(number[1]), os.strerror(int(number[1])))) from error
        if isinstance(error, RuntimeError) and ("PytorchStreamWriter" in words or "inline_container" in words):
            raise _full_disk(path, "torch's writer failed") from error
        raise


def _write_error(path: Path, error: OSError) -> RunError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return _full_disk(path, error.strerror or "no space")
    if error.errno == errno.ELOOP:
        return _foreign_path(path, "a link")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return RunError(
            f"{path} cannot be made: a file is in the way",
            expected="a path where a folder can be made",
            todo="name another path for it (`out:`, --out), or move the file away",
        )
    return RunError(
        f"{error.filename or path} cannot be written: {error.strerror or error}",
        expected="a folder that this user may write to",
        todo="name another path for it (`out:`, --out), or change the folder's permissions",
    )


def _full_disk(path: Path, words: str) -> RunError:
    return RunError(
        f"the disk is full: {path} could not be written ({words})",
        why="what was saved before is intact, the rest is lost",
        todo="free some space, then run the same command again",
    )


def _foreign_path(path: Path, what: str) -> RunError:
    return RunError(
        f"{path} is {what}",
        expected="a file or folder of the run",
        why="writing there would change something outside the run",
        todo="if the run is yours, replace it by what it points to; if somebody sent it, be careful with the rest of it",
    )


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole. Raises RunError, the old one untouched, when it cannot be written."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as file, disk_errors(path):
        file.write(text)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """Fill a new text file (UTF-8), which then replaces `path` as a whole; a link there is replaced, not followed.

    Raises RunError when the disk refuses; any other error passes. After either the old file is untouched.
    """
    beside = _beside(path)
    with disk_errors(path):
        # O_EXCL: it must not exist yet. The umask decides the permissions.
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o666)
        file = open(handle, "w", encoding="utf-8", errors="backslashreplace")
    with contextlib.suppress(OSError):
        lock(handle)  # so that `remove_leftovers` elsewhere does not take it for one
    try:
        try:
            yield file
            with disk_errors(path):
                file.flush()
                os.fsync(file.fileno())
        finally:
            with disk_errors(path):
                file.close()
        with disk_errors(path):
            beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def _beside(path: Path) -> Path:
    """An unguessable name beside `path`, for what will replace it."""
    return path.with_name(f".{_cut_name(path.name)}.{secrets.token_hex(8)}{NEW}")


def _cut_name(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:MAX_NAME])


def remove_leftovers(path: Path) -> None:
    """Remove what a killed process left of a new `path`; what a live process is writing stays."""
    for leftover in path.parent.glob(f".{glob_escape(_cut_name(path.name))}.*{NEW}"):
        _remove_unlocked(leftover)


def _remove_unlocked(new: Path) -> None:
    if new.is_file() and not new.is_symlink():
        try:
            handle = os.open(new, os.O_RDONLY | NO_FOLLOW)
        except OSError:
            return
        try:
            lock(handle)
        except OSError:
            return
        finally:
            os.close(handle)
    _remove(new)


def lock(handle: int) -> None:
    """Lock a file until it is closed, however the process ends. Raises OSError where another process has it, or none can."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        # A byte far behind the text: there no other process can read a locked byte.
        os.lseek(handle, 1_000_000, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        os.lseek(handle, 0, os.SEEK_SET)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def open_run_file(path: Path) -> int:
    """A handle on a run's file, created if need be, for reading and appending.

    Raises RunError for a link, a pipe or a device under its name, and where the system refuses.
    """
    with disk_errors(path):
        if path.is_symlink():  # for Windows, which has no O_NOFOLLOW
            raise _foreign_path(path, "a link")
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | NO_FOLLOW | getattr(os, "O_BINARY", 0), 0o666)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise _foreign_path(path, "no plain file")
        return handle


def refuse_link(folder: Path) -> None:
    """Raises RunError where a folder's path is a link: what is written into it would land elsewhere."""
    if folder.is_symlink():
        raise _foreign_path(folder, "a link")


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file as a whole; nan and infinities become text."""
    write_text(path, json.dumps(json_safe(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def json_safe(value: Any) -> Any:
    """The value with nan and infinities, which JSON does not have, as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): json_safe(inside) for key, inside in value.items()}
    return [json_safe(inside) for inside in value] if isinstance(value, list | tuple) else value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a journal file; none where there is no file. A last line that is still being written is left out.

    Raises RunError for a line that is not a row.
    """
    if not path.exists():
        return []
    try:
        lines = read_plain_file(path).split(b"\n")
    except OSError as error:
        raise damage_error(path, error) from error
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], 1):
        if not line:
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise damage_error(path, ValueError(f"line {number}: {error}")) from error
        if not isinstance(row, dict):
            raise damage_error(path, ValueError(f"line {number} is no JSON object"))
        rows.append(row)
    return rows


def read_plain_file(path: Path) -> bytes:
    """A file's content. Raises OSError for a pipe or a device, which would never end."""
    if not path.is_file():
        raise OSError(errno.EINVAL, "no plain file")
    return path.read_bytes()


def damage_error(path: Path, error: Exception, todo: str = "") -> RunError:
    """The RunError for a file of a run that is not as the run wrote it."""
    words = str(error).strip().splitlines()
    return RunError(
        f"{path} cannot be read ({words[0] if words else type(error).__name__})",
        expected="the file as the run wrote it",
        why="half the facts would mislead",
        todo=todo or "restore the file, or move it away: what is not there is left out",
    )


@contextlib.contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Fill a new folder, which then replaces `folder`: at every moment a reader finds the old one or the new one, complete.

    Raises RunError when the disk refuses; any other error passes. After either the old folder is untouched.
    """
    new, old = _beside(folder), folder.with_name(f".{folder.name}{OLD}")
    with disk_errors(folder):
        try:
            recover(folder)
            new.mkdir(parents=True)
            yield new
            _seal(new)
            if os.path.lexists(folder):  # a link too: it is replaced, and its target stays
                folder.replace(old)
            new.replace(folder)
            _sync(folder.parent)
            _remove(old)
        except BaseException:
            recover(folder)
            _remove(new)
            raise


def _remove(path: Path) -> None:
    """Remove a folder, a file or a link, not a link's target. What cannot be removed is left."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def link(here: Path, target: Path) -> None:
    """Make `here` a link to `target`, or a copy where the system makes no links.

    An earlier link is replaced, a file or folder is left. Raises RunError where it cannot be written.
    """
    with disk_errors(here):
        here.parent.mkdir(parents=True, exist_ok=True)
        if here.is_symlink():
            here.unlink()
        if here.exists():
            return
        try:
            here.symlink_to(os.path.relpath(target.resolve(), here.parent.resolve()), target_is_directory=target.is_dir())
        except (OSError, ValueError):  # Windows without the right to link, or another drive
            if target.is_dir():
                with replace_folder(here) as folder:
                    shutil.copytree(target, folder, dirs_exist_ok=True)
            else:
                shutil.copy2(target, here)


def is_complete(folder: Path) -> bool:
    """Whether `folder` was written to its end by `replace_folder`."""
    return (folder / MARKER).is_file()


def recover(folder: Path) -> None:
    """Finish what a kill cut short in `replace_folder`: between its two renames only the old folder is whole."""
    old = folder.with_name(f".{folder.name}{OLD}")
    if os.path.lexists(old) and not os.path.lexists(folder):
        old.replace(folder)
    _remove(old)


def recover_all(root: Path) -> None:
    """`recover` every folder of the run in `root`, and remove what was left unfinished."""
    for old in _leftovers(root, OLD):
        recover(old.with_name(old.name[1 : -len(OLD)]))
    for new in _leftovers(root, NEW):
        _remove_unlocked(new)


def _leftovers(root: Path, suffix: str) -> list[Path]:
    return sorted(path for below in ("", "*/", "*/*/") for path in root.glob(f"{below}.*{suffix}"))


def remove_folder(folder: Path) -> None:
    """Remove a folder, its marker first, so that after a kill the rest does not look finished. Of a link only the link goes."""
    for path in (folder, folder.with_name(f".{folder.name}{OLD}")):
        if not path.is_symlink():
            (path / MARKER).unlink(missing_ok=True)
        _remove(path)


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
    """One hash of all that lies in a folder (or of one file), wherever it is; hidden files do not count."""
    return _hash_of(_checksums(folder))


def check_sealed(folder: Path, todo: str = "") -> str:
    """`hash_folder(folder)`, all of it read. Raises RunError where that is not what `replace_folder` wrote there.

    A folder (or a file) that somebody else wrote has no checksums and is taken as it is.
    """
    checksums = _checksums(folder)
    try:
        seal = read_plain_file(folder / MARKER).decode("utf-8", "replace") if is_complete(folder) else SEAL_LINE
    except OSError as error:
        raise damage_error(folder / MARKER, error, todo) from error
    expected = seal.removeprefix(SEAL_LINE)
    if seal == expected or (expected and expected != checksums):
        differences = sorted({*expected.splitlines()} ^ {*checksums.splitlines()})
        name = differences[0].rpartition(" ")[0] if seal != expected else MARKER
        raise damage_error(folder / name, ValueError("its content is not what was written there, by its checksum"), todo)
    return _hash_of(checksums)


def _checksums(folder: Path) -> str:
    """A line for each file of a folder: its name and the SHA-256 of its content."""
    lines = []
    for path in _inside(folder):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        name = str(path.relative_to(folder)).encode("utf-8", "backslashreplace").decode()
        lines.append(f"{name} {content}\n")
    return "".join(lines)


def _hash_of(checksums: str) -> str:
    return hashlib.sha256(checksums.encode()).hexdigest()[:32]


def stamp_folder(folder: Path) -> str:
    """A hash of the sizes and times of what `hash_folder` reads: while it stays, the content need not be read again."""
    facts = [(str(path.relative_to(folder)), (s := path.stat()).st_size, s.st_mtime_ns) for path in _inside(folder)]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _inside(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _seal(folder: Path) -> None:
    """All content on the disk first, then the marker: a power cut must not leave a marked folder of empty files.

    The marker has the checksums of what it stands for: damage that keeps sizes and times is found by them alone.
    """
    for path in folder.rglob("*"):
        _sync(path)
    with (folder / MARKER).open("w", encoding="utf-8") as file:
        file.write(SEAL_LINE + _checksums(folder))
        file.flush()
        os.fsync(file.fileno())
    _sync(folder)


def _sync(path: Path) -> None:
    """What is written of a file, or which names a folder holds, goes to the disk."""
    if path.is_dir() and os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
