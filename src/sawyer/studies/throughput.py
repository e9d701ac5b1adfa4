"""How fast an algorithm is on this machine: a few updates of the very run that is asked for, cut off, forgotten, and timed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sawyer.config import Config
from sawyer.errors import Interrupted
from sawyer.pipeline import run
from sawyer.runs import Layout, Listener, damaged, write_json
from sawyer.studies.grid import Tell

UPDATES = 5  # of a trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds of an update and of an evaluation; `of` is how many updates the run that was tried would have had."""

    update: float
    evaluation: float
    of: int

    def updates(self, seconds: float, eval_every: int) -> int:
        """How many updates fit into so many seconds, with an evaluation before the first, after the last and between; at least
        one: seconds >= u update + (2 + u / eval_every) evaluation."""
        return max(1, int((seconds - 2 * self.evaluation) / (self.update + self.evaluation / eval_every)))


class _Enough(Interrupted):
    """The trial has seen what it wanted to see."""


class _Stopwatch:
    """A listener that notes when the plan was told and when each update was done, and ends the run when it has enough."""

    def __init__(self) -> None:
        self.times, self.of = [time.monotonic()], 0

    def __call__(self, kind: str, row: Mapping[str, Any]) -> None:
        if row.get("kind") == "plan":
            self.times = [time.monotonic()]
        elif kind == "progress":
            self.times.append(time.monotonic())
            self.of = int(row["total"])
            if len(self.times) > UPDATES or row["done"] == self.of:
                raise _Enough("the trial's updates are done")

    def pace(self) -> Pace:
        """The first update has an evaluation before it; the others may, so that their median is taken."""
        first, *others = (b - a for a, b in zip(self.times, self.times[1:], strict=False))
        update = median(others) if others else first
        return Pace(update=update, evaluation=max(0.0, first - update), of=self.of)


def measure_pace(
    name: str, config: Config, root: Path, prepare: Callable[[Config], None], listeners: Sequence[Listener], tell: Tell
) -> Pace:
    """The pace of `config`'s RL, measured in a folder of its own that is gone afterwards; what was measured before is kept, so
    that a study that goes on keeps its budget. Raises SawyerError."""
    file = Layout(root).pace
    known = _read(file)
    if name not in known:
        tell(f"{name}: a trial of {UPDATES} updates for its pace")
        trial = config.model_copy(update={"out": str(root / f"trial-{name}")})
        shutil.rmtree(trial.out, ignore_errors=True)
        watch = _Stopwatch()
        prepare(trial)
        try:
            run(trial, only="rl", listeners=[*listeners, watch])
        except _Enough:
            known[name] = asdict(watch.pace())
        shutil.rmtree(trial.out, ignore_errors=True)
        write_json(file, known)
    try:
        return Pace(**known[name])
    except (KeyError, TypeError) as error:
        raise damaged(file, error, f"delete {file}, then run the same command again") from error


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return dict(found)
    except (OSError, ValueError, TypeError) as error:
        raise damaged(file, error, f"delete {file}, then run the same command again") from error
