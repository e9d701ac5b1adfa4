"""The SQLite file of the votes: its schema, its transactions, and what SQLite refuses in words."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sawyer.errors import RatingError, RunError
from sawyer.runs.atomic_files import refuse_link

APPLICATION_ID = 0x53415752  # "SAWR"
SCHEMA_VERSION = 1
BUSY_SECONDS = 30.0  # how long one program waits for another one's transaction
NO_SHARED_MEMORY = frozenset((sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL))
SIDE_FILES = ("-wal", "-shm", "-journal")  # that SQLite puts beside the file

# Texts are JSON in ASCII: NUL and halves of characters come back as they were. A vote is never changed: a rater who thinks
# again adds a revision, and the assignment points to its last one.
SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE prompts (number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, messages TEXT NOT NULL);
CREATE TABLE answers (number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, content TEXT NOT NULL);
CREATE TABLE items (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, prompt INTEGER NOT NULL REFERENCES prompts, answers TEXT NOT NULL,
  round INTEGER NOT NULL, uncertainty REAL);
CREATE TABLE raters (
  number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, name_key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
  link_key TEXT NOT NULL UNIQUE);
CREATE TABLE assignments (
  number INTEGER PRIMARY KEY AUTOINCREMENT, item INTEGER NOT NULL REFERENCES items, rater INTEGER NOT NULL REFERENCES raters,
  method TEXT NOT NULL, answer_order TEXT NOT NULL, pick TEXT NOT NULL, leased_at REAL NOT NULL,
  first_vote INTEGER REFERENCES votes, last_vote INTEGER REFERENCES votes);
CREATE INDEX assignments_of_rater ON assignments (rater, first_vote);
CREATE INDEX assignments_of_item ON assignments (item);
CREATE TABLE votes (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, assignment INTEGER NOT NULL REFERENCES assignments,
  revision INTEGER NOT NULL, choice TEXT NOT NULL, seconds REAL NOT NULL, rewrite TEXT NOT NULL, note TEXT NOT NULL,
  timestamp REAL NOT NULL, UNIQUE (assignment, revision));
"""


class RatingDatabase:
    """One connection, guarded by a lock: for any number of threads. Other programs may read and write the same file."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self.lock, self._connection = path, threading.RLock(), connection
        self._is_writing = False

    @classmethod
    def open(cls, path: Path, *, create: bool, vfs: str | None = None) -> RatingDatabase:
        """The file at `path`, made if need be and `create` says so; readable by its owner alone, as it holds names and keys.

        `vfs` names one of SQLite's ways to the file system. Raises RatingError for a file that is no store of votes or a newer
        one, RunError for a link, and where the system refuses.
        """
        path = path.absolute()  # a name such as ":memory:" means something to SQLite
        for file in (path, *(path.with_name(path.name + end) for end in SIDE_FILES)):
            refuse_link(file)
        if not path.exists() and not create:
            raise RatingError(f"there are no votes: {path} does not exist", todo="judge some answers first: `sawyer rate`")
        with storage_errors(path):
            is_new = create and _create_private(path)
            if not stat.S_ISREG(path.stat().st_mode):
                raise RunError(f"{path} is no plain file", expected="a file of votes, or none", todo="move it away")
            _make_private(path)
            connection = sqlite3.connect(
                f"{path.as_uri()}?vfs={vfs}" if vfs else path,
                uri=vfs is not None,
                timeout=BUSY_SECONDS,
                isolation_level=None,  # every transaction is begun and committed by `transaction`
                check_same_thread=False,  # the lock stands for it
            )
        database = cls(path, connection)
        try:
            with storage_errors(path):
                database._check_kind(create)
                database._set_up(create)
                if is_new:
                    _sync_folder(path.parent)
        except BaseException:
            connection.close()
            raise
        return database

    def _check_kind(self, create: bool) -> None:
        self._connection.execute("BEGIN")  # one moment's state: another program may make the tables just now
        try:
            application, version, tables = (
                self._connection.execute(sql).fetchone()[0]
                for sql in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_schema")
            )
        finally:
            self._connection.execute("ROLLBACK")
        if not tables and not application and not version:
            if not create:
                raise RatingError(f"there are no votes: {self.path} is empty", todo="judge some answers first: `sawyer rate`")
            return
        if application != APPLICATION_ID:
            raise RatingError(
                f"{self.path} is another program's database",
                expected="votes that `sawyer rate` stored",
                todo="name another file, or move it away",
            )
        if version > SCHEMA_VERSION:
            raise RatingError(
                f"{self.path} was written by a newer sawyer: version {version} of its tables",
                expected=f"version {SCHEMA_VERSION} at most",
                todo="update this installation: pip install --upgrade sawyer",
            )

    def _set_up(self, create: bool) -> None:
        mode = self._choose_journal()
        # A commit is on the disk before it returns. Without WAL it takes EXTRA: with FULL alone, a power cut can bring back the
        # deleted journal, and with it the state before the commit.
        self._connection.execute(f"PRAGMA synchronous={'FULL' if mode == 'wal' else 'EXTRA'}")
        self._connection.execute("PRAGMA fullfsync=ON")  # macOS: through the disk's own cache
        self._connection.execute("PRAGMA foreign_keys=ON")
        if not create or self.value("PRAGMA user_version"):
            return
        with self.transaction():
            if not self.value("PRAGMA user_version"):  # another program may have made the tables meanwhile
                for statement in filter(str.strip, SCHEMA.split(";")):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
                self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _choose_journal(self) -> str:
        """Write-ahead logging, with which readers and the writer do not wait for each other; where the file system has no
        shared memory for it (network folders), the journal that every file system takes."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                mode: str = self._connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # opens the shared memory
                return mode
            except sqlite3.OperationalError as error:
                if _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() < deadline:
                    time.sleep(0.01)  # two programs open a new file at once: SQLite does not wait in this one place
                    continue
                if _code(error) not in NO_SHARED_MEMORY:
                    raise
                break
        mode = self._connection.execute("PRAGMA journal_mode=DELETE").fetchone()[0]
        return str(mode)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: committed and on the disk when the block ends, rolled back when it raises.

        An inner block is part of the outer one. Raises RuntimeError inside `snapshot`, whose end would undo it.
        """
        with self.lock, storage_errors(self.path):
            connection = self._connection
            if self._is_writing:
                yield connection
                return
            if connection.in_transaction:
                raise RuntimeError("a write inside a block that reads one moment's state")
            connection.execute("BEGIN IMMEDIATE")
            self._is_writing = True
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._is_writing = False

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """One moment's state for all queries of the block. It may stand inside a transaction."""
        with self.lock, storage_errors(self.path):
            is_inside = self._connection.in_transaction
            if not is_inside:
                self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                if not is_inside:
                    self._roll_back()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # a full disk may have ended it
            self._connection.execute("ROLLBACK")

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first value of a query's first row; None where there is no row."""
        with self.lock, storage_errors(self.path):
            row = self._connection.execute(sql, parameters).fetchone()
        return row[0] if row else None

    def close(self) -> None:
        """Close the file; what SQLite put beside it goes."""
        with self.lock, contextlib.suppress(sqlite3.Error):
            self._connection.close()


def _create_private(path: Path) -> bool:
    """Make the file for its owner alone. False where it exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o600))
    except FileExistsError:
        return False
    return True


def _make_private(path: Path) -> None:
    """Of a file that was copied, the permissions again. SQLite gives the files beside it the same."""
    with contextlib.suppress(OSError):  # somebody else's file: it is opened as it is
        if os.name != "nt" and path.stat().st_mode & 0o077:
            path.chmod(0o600)


def _sync_folder(folder: Path) -> None:
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 where Python raised it."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system refuse into a RunError: nothing of the transaction is stored then."""
    try:
        yield
    except sqlite3.Error as error:
        raise _storage_error(path, error) from error
    except OSError as error:
        raise RunError(
            f"{error.filename or path} cannot be opened: {error.strerror or error}",
            expected="a folder that this user may write to",
            todo="change the permissions, or name another file",
        ) from error


def _storage_error(path: Path, error: sqlite3.Error) -> RunError:
    code = _code(error)
    if code == sqlite3.SQLITE_FULL:
        return RunError(
            f"the disk is full: {path} could not be written",
            why="what was sent last is not stored; all earlier votes are",
            todo="free some space; the page sends what was not stored again",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL):
        return RunError(
            f"another program has been writing to {path} for {BUSY_SECONDS:g} seconds",
            why="nothing was stored meanwhile; all earlier votes are",
            todo="close the program that has the file open (a database browser?), then try again",
        )
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return RunError(
            f"{path} is damaged, or no store of votes ({error})",
            expected="votes that `sawyer rate` stored",
            todo="restore it from a copy, or move it away; `sqlite3 FILE .recover` saves what can be read",
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return RunError(
            f"{path} cannot be written: {error}",
            expected="a file and a folder that this user may write to",
            todo="change their permissions, or copy the file elsewhere and name the copy",
        )
    return RunError(
        f"{path} cannot be read or written: {error}",
        why="nothing of the last request is stored; all earlier votes are",
        todo="look whether the disk is full or failing, then try again",
    )
