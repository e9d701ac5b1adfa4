"""A run that is cut off at a word of its journal, in every way in which a run may end early."""

from __future__ import annotations

import os
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
    left = [p for p in out.rglob("*") if p.name in ("checkpoint", "best") or (p.name.startswith(".") and "sawyer" in p.name)]
    assert left == [], "the state of a finished stage, or half of something, is left over"
