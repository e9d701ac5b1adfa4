"""A run that is cut off at a word of its journal, in every way in which a run may end early."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

from sawyer.errors import Interrupted
from sawyer.runs import Listener

Row = dict[str, Any]


class Cut:
    """A listener that cuts the run off at the journal's word number `at` of one stage, and never again."""

    def __init__(self, stage: str, at: int, how: str) -> None:
        self.stage, self.at, self.how = stage, at, how
        self.words, self.happened = 0, False

    def __call__(self, kind: str, row: Row) -> None:
        if row.get("stage") != self.stage:
            return
        self.words += 1
        if self.words != self.at or self.happened:
            return
        self.happened = True
        if self.how == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.how == "twice":
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        else:
            raise SystemExit("killed")  # nobody catches it: no state is saved, the manifest says that the stage is at work


class Kept:
    """A listener that keeps what lies on the disk as each word of one stage is said: what a run leaves that is lost there.

    No `finally` and no `except` of the run has come by then, as where the system kills a process or the power fails. `words`
    are those before which something was written: at the others the same would be gone on with again. `state` alone: what
    counts is what the stage goes on from, not its journal, which is cut back to that.
    """

    def __init__(self, stage: str, out: Path, folder: Path, *, state: bool = False) -> None:
        self.stage, self.out, self.folder = stage, out, folder
        self.watched = [out / stage] if state else [out]
        self.said, self.words = 0, list[int]()
        self._there = frozenset[tuple[Any, ...]]()

    def __call__(self, kind: str, row: Row) -> None:
        if row.get("stage") != self.stage:
            return
        self.said += 1
        found = [(path, path.stat()) for watched in self.watched for path in watched.rglob("*")]
        there = frozenset((path, about.st_ino, about.st_size, about.st_mtime_ns) for path, about in found)
        if there != self._there:
            self._there = there
            self.words.append(self.said)
            shutil.copytree(self.out, self.at(self.said))

    def at(self, word: int) -> Path:
        """The run as it was at that word."""
        return self.folder / str(word)


class Clock:
    """A listener by which a stage's clock goes on a second with each of its steps."""

    def __init__(self, stage: str) -> None:
        self.stage, self.seconds = stage, 0.0

    def __call__(self, kind: str, row: Row) -> None:
        self.seconds += kind == "metric" and row["stage"] == self.stage

    def monotonic(self) -> float:
        """Seconds since the first step."""
        return self.seconds

    perf_counter = monotonic  # by which a step's own seconds are measured


def words_of(tiny: Any, stage: str, out: Path, save: float) -> int:
    """How often the journal speaks of a stage that is never interrupted."""
    counter = Cut(stage, -1, "never")
    tiny.run(tiny.prefix(stage, out), {"save_every_seconds": save}, only=stage, listeners=[counter])
    return counter.words


def go_on(tiny: Any, out: Path, save: float, *, only: str | None = None, listeners: list[Listener] | None = None) -> bool:
    """Run until it is cut off or done; whether it is done."""
    try:
        tiny.run(out, {"save_every_seconds": save}, only=only, listeners=listeners or [])
    except (Interrupted, KeyboardInterrupt, SystemExit):
        return False
    return True


def same(tiny: Any, out: Path, stage: str | None = None) -> None:
    """All figures, rows and models are those of the straight run, once that was so far."""
    found, expected = tiny.result(out), tiny.result(tiny.straight(stage))
    for name in ("metrics", "samples", "products", "figures", "compared", "states"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found == expected
    left = [
        p
        for p in out.rglob("*")
        if p.name == "checkpoint" or p.name.startswith("best-") or (p.name.startswith(".") and "sawyer" in p.name)
    ]
    assert left == [], "the state of a finished stage, or half of something, is left over"
