"""The journal: metrics, events and samples, appended line by line, and told to whoever listens."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sawyer import processes
from sawyer.errors import RunError
from sawyer.runs.files import disk_errors, plain, read_rows, write_text
from sawyer.runs.layout import Layout

Listener = Callable[[str, dict[str, Any]], None]
Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A verdict on a stage, with the figure behind it and what to do when it is not ok."""

    stage: str
    name: str
    verdict: Verdict
    value: float
    threshold: float
    message: str
    advice: str


class Journal:
    """A run's three journal files. Listeners are called as (kind, row); kind is metric, event, sample, progress or stopping.

    A listener that raises is dropped, and the event `unheard` says so: it cannot fail a stage. What is no Exception, such as
    SystemExit, ends the run.

    Metrics and samples are a function of config, data and seed: after an interruption they are cut back to the checkpoint, so
    that a run which was interrupted leaves what one that was not leaves. Events tell what happened, interruptions included.
    Of several processes the first one writes; all count, and read what it wrote.
    """

    def __init__(self, layout: Layout, listeners: Sequence[Listener] = ()) -> None:
        self.layout, self.listeners = layout, list(listeners)
        self.counts = processes.first(self._mended)

    def _mended(self) -> dict[str, dict[str, int]]:
        for path in (self.layout.metrics, self.layout.samples, self.layout.events):
            _mend(path)
        return {name: _counted(path) for name, path in self._cut_back.items()}

    @property
    def _cut_back(self) -> Mapping[str, Path]:
        return {"metrics": self.layout.metrics, "samples": self.layout.samples}

    def metrics(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """One step's figures."""
        self._append("metric", "metrics", self.layout.metrics, [{"stage": stage, "step": step, **values}])

    def samples(self, stage: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """What a model said after `step` steps."""
        self._append("sample", "samples", self.layout.samples, [{"stage": stage, "step": step, **row} for row in rows])

    def event(self, stage: str, kind: str, **more: Any) -> None:
        """Something that happened, with the time it did."""
        row = {"time": round(time.time(), 3), "stage": stage, "kind": kind, **more}
        self._append("event", None, self.layout.events, [row])

    def gate(self, gate: Gate) -> None:
        """A verdict; of a gate that speaks again the last one counts."""
        told = asdict(gate)
        self.event(told.pop("stage"), "gate", **told)

    def progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        """How far a stage is: told to the listeners, not written."""
        self._tell("progress", {"stage": stage, "done": done, "total": total, "note": note})

    def stopping(self, reason: str) -> None:
        """Somebody asked for a stop: told to the listeners, not written."""
        self._tell("stopping", {"reason": reason})

    def rows(self, stage: str) -> list[dict[str, Any]]:
        """A stage's metrics."""
        return [row for row in processes.first(lambda: read_rows(self.layout.metrics)) if row.get("stage") == stage]

    def position(self, stage: str) -> dict[str, int]:
        """How many rows of a stage there are, for `rewind`."""
        return {name: counts.get(stage, 0) for name, counts in self.counts.items()}

    def sync(self) -> None:
        """All rows go to the disk: a checkpoint must not outlive the rows it counts."""
        for path in self._cut_back.values():
            if processes.is_first() and path.exists():
                with disk_errors(path), path.open("rb+") as file:
                    os.fsync(file.fileno())

    def rewind(self, stage: str, position: Mapping[str, int]) -> None:
        """Drop the stage's rows after `position`: the work they tell of is done again.

        Raises RunError when there are fewer: then the journal would have a hole.
        """
        for name, path in self._cut_back.items():
            keep, there = position[name], self.counts[name].get(stage, 0)
            if there < keep:
                raise RunError(
                    f"{path} has {there} rows of {stage}, and its checkpoint was saved after {keep}",
                    expected="the file as the run wrote it",
                    why="a run that goes on would leave figures with a hole in them",
                    todo=f"restore the file, or delete {self.layout.folder(stage)} to do {stage} again",
                )
            if there == keep:
                continue
            self.counts[name] = processes.first(partial(_shortened, path, stage, keep))

    def clear(self, stage: str) -> None:
        """Drop all rows of a stage that begins anew."""
        self.rewind(stage, dict.fromkeys(self._cut_back, 0))

    def _append(self, kind: str, counted: str | None, path: Path, rows: Sequence[dict[str, Any]]) -> None:
        rows = [plain(row) for row in rows]
        if processes.is_first():
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                    file.write("".join(map(_line, rows)))
        for row in rows:
            if counted is not None:
                self.counts[counted][row["stage"]] = self.counts[counted].get(row["stage"], 0) + 1
            self._tell(kind, row)

    def _tell(self, kind: str, row: dict[str, Any]) -> None:
        for listener in list(self.listeners):
            try:
                listener(kind, row)
            except Exception as error:  # whatever it is: who looks on must not cost a step
                self.listeners.remove(listener)
                name = getattr(listener, "__name__", type(listener).__name__)
                words = f"{name} is told no more of this run, which goes on ({type(error).__name__}: {error})"
                self.event(str(row.get("stage", "")), "unheard", message=words)


def last_gates(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of a journal's events, each gate's last word; what was said of a stage before it began anew does not count."""
    said: dict[tuple[Any, Any], Mapping[str, Any]] = {}
    for row in events:
        if row.get("kind") == "gate":
            said[row.get("stage"), row.get("name")] = row
        elif row.get("kind") == "anew":
            said = {key: found for key, found in said.items() if key[0] != row.get("stage")}
    return list(said.values())


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _shortened(path: Path, stage: str, keep: int) -> dict[str, int]:
    """Cut a file back to the first `keep` rows of a stage and all rows of others; how many there are of each now."""
    kept: list[dict[str, Any]] = []
    seen = 0
    for row in read_rows(path):
        seen += row.get("stage") == stage
        if row.get("stage") != stage or seen <= keep:
            kept.append(row)
    write_text(path, "".join(map(_line, kept)))
    return _counted(path)


def _counted(path: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in read_rows(path):
        stage = str(row.get("stage"))
        counts[stage] = counts.get(stage, 0) + 1
    return counts


def _mend(path: Path) -> None:
    """Cut off a last line that a kill left unfinished."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with disk_errors(path), path.open("r+b") as file:
            file.truncate(whole)
