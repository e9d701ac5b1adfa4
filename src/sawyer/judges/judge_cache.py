"""Every answer that a judge gave, in a file: an interruption loses none, and none costs twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from sawyer.errors import JudgeError, RunError
from sawyer.judges.chat_endpoint import JudgeReply
from sawyer.judges.judge_prompts import Messages, as_rows
from sawyer.judges.judge_settings import JudgeSettings

APPLICATION, VERSION = 0x5341574A, 1  # "SAWJ"; SQLite keeps both in the file's head
COLUMNS = "text, refusal, finish, prompt_tokens, completion_tokens, seconds"


class JudgeCache:
    """Replies by what was asked. Each is on the disk before `put` returns. Safe to use from several threads.

    Raises JudgeError for a file that is none of these, RunError where the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30.0)
            self._check_file()
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, model TEXT NOT NULL, text TEXT NOT NULL, "
                "refusal TEXT NOT NULL, finish TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, "
                "completion_tokens INTEGER NOT NULL, seconds REAL NOT NULL, time REAL NOT NULL)"
            )

    def __enter__(self) -> JudgeCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._database.close()

    def get(self, key: str) -> JudgeReply | None:
        """The reply to what was asked under `key`."""
        with self._errors(), self._lock:
            row = self._database.execute(f"SELECT {COLUMNS} FROM replies WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        text, refusal, finish, prompt_tokens, completion_tokens, seconds = row
        return JudgeReply(
            text=text,
            refusal=refusal,
            finish=finish,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            seconds=seconds,
        )

    def put(self, key: str, model: str, reply: JudgeReply) -> None:
        """Keep a reply."""
        # SQLite stores no lone surrogates.
        text, refusal = (words.encode("utf-8", "replace").decode() for words in (reply.text, reply.refusal))
        counts = (reply.prompt_tokens, reply.completion_tokens, reply.seconds, time.time())
        with self._errors(), self._lock:
            self._database.execute(
                "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (key, model, text, refusal, reply.finish, *counts),
            )

    def __len__(self) -> int:
        with self._errors(), self._lock:
            return int(self._database.execute("SELECT COUNT(*) FROM replies").fetchone()[0])

    def _check_file(self) -> None:
        """Refuse another program's file, and one of a later version."""
        application, version, tables = (
            int(self._database.execute(query).fetchone()[0])
            for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT COUNT(*) FROM sqlite_master")
        )
        if not tables and not application:
            self._database.execute(f"PRAGMA application_id = {APPLICATION}")
            self._database.execute(f"PRAGMA user_version = {VERSION}")
        elif (application, version) != (APPLICATION, VERSION):
            raise JudgeError(
                f"{self.path} is no file with a judge's answers of this version",
                expected="a file that this version of sawyer made, or none",
                todo="move the file away, or name another one",
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            words = str(error)
            if "not a database" in words or "malformed" in words:
                raise JudgeError(
                    f"{self.path} is damaged or no database: {words}",
                    why="the judge's answers in it cannot be read",
                    todo="move the file away; what it held then costs again",
                ) from error
            raise RunError(
                f"{self.path} cannot be written: {words}",
                why="a judge's answer that is not stored would cost again",
                todo="free some space, or end the other program that holds the file; then run the same command again",
            ) from error
        except OSError as error:
            raise RunError(
                f"{error.filename or self.path} cannot be written: {error.strerror or error}",
                expected="a folder that this user may write to",
                todo="name another path, or change the folder's permissions",
            ) from error


def call_key(settings: JudgeSettings, messages: Messages) -> str:
    """A hash of all that decides a reply: address, model, sampling and messages, which contain the rubric."""
    content = [settings.endpoint, settings.model, settings.temperature, settings.max_tokens, as_rows(messages)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
