"""The journal: metrics, events and samples, appended line by line, and passed to listeners."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sawyer.errors import Interrupted, RunError
from sawyer.runs.atomic_files import (
    damage_error,
    disk_errors,
    json_safe,
    open_run_file,
    read_plain_file,
    read_rows,
    write_json,
    write_text,
)
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

    A listener that raises is dropped, and the event `unheard` says so: it cannot fail a stage. `Interrupted`, and what is no
    Exception, such as SystemExit, ends the run.

    Metrics and samples are a function of config, data and seed: after an interruption they are cut back to the checkpoint, so
    that an interrupted run leaves what an uninterrupted one leaves. Events are history and stay, interruptions included.
    `writes`: False where another process of the same run has the files. This one then calls its listeners and touches none.

    At each save the length and the checksum of every file are recorded beside them. Raises RunError where a file no longer
    begins with what was recorded, is a link, or cannot be read. `missing` are the recorded files that are no longer there.
    """

    def __init__(self, layout: Layout, listeners: Sequence[Listener] = (), *, writes: bool = True) -> None:
        self.layout, self.listeners, self.writes = layout, list(listeners), writes
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in self._cut_back}  # rows by stage
        self.missing: list[Path] = []
        if writes:
            self.missing = check_journal(layout)  # before anything is cut: a damaged file is for its owner to restore
            for path in self._files.values():
                _cut_unfinished_line(path)
            self._sums = {path: FileSum.of(path) for path in self._files.values()}
            self.counts = {name: _rows_by_stage(path) for name, path in self._cut_back.items()}

    @property
    def _files(self) -> Mapping[str, Path]:
        return {**self._cut_back, "events": self.layout.events}

    @property
    def _cut_back(self) -> Mapping[str, Path]:
        return {"metrics": self.layout.metrics, "samples": self.layout.samples}

    def metrics(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """One step's figures."""
        self._append("metric", "metrics", self.layout.metrics, [{"stage": stage, "step": step, **values}])

    def samples(self, stage: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """A model's answers after `step` steps."""
        self._append("sample", "samples", self.layout.samples, [{"stage": stage, "step": step, **row} for row in rows])

    def event(self, stage: str, kind: str, **more: Any) -> None:
        """Something that happened, with the time it did."""
        row = {"time": round(time.time(), 3), "stage": stage, "kind": kind, **more}
        self._append("event", None, self.layout.events, [row])

    def gate(self, gate: Gate) -> None:
        """A verdict. Of several by one gate the last one counts."""
        values = asdict(gate)
        self.event(values.pop("stage"), "gate", **values)

    def progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        """How far a stage is: for the listeners, not written."""
        self._notify("progress", {"stage": stage, "done": done, "total": total, "note": note})

    def announce_stop(self, reason: str) -> None:
        """A stop was requested: for the listeners, not written."""
        self._notify("stopping", {"reason": reason})

    def rows(self, stage: str) -> list[dict[str, Any]]:
        """A stage's metrics."""
        return [row for row in read_rows(self.layout.metrics) if row.get("stage") == stage]

    def position(self, stage: str) -> dict[str, int]:
        """How many rows of a stage there are, for `rewind`."""
        return {name: counts[stage] for name, counts in self.counts.items()}

    def sync(self) -> None:
        """Flush all rows to the disk, then record their checksums: a checkpoint must not outlive the rows it counts."""
        if not self.writes:
            return
        for path in self._files.values():
            if path.exists():
                with disk_errors(path), os.fdopen(open_run_file(path), "rb") as file:
                    os.fsync(file.fileno())
        write_json(self.layout.journal, {name: self._sums[path].as_json() for name, path in self._files.items()})

    def rewind(self, stage: str, position: Mapping[str, int]) -> None:
        """Drop the stage's rows after `position`: their steps are done again.

        Raises RunError when there are fewer: then the journal would have a hole.
        """
        if not self.writes:
            return
        for name, path in self._cut_back.items():
            keep, count = position[name], self.counts[name][stage]
            if count < keep:
                raise RunError(
                    f"{path} has {count} rows of {stage}, and its checkpoint was saved after {keep}",
                    expected="the file as the run wrote it",
                    why="a resumed run would leave figures with a hole in them",
                    todo=f"restore the file, or delete {self.layout.folder(stage)} to do {stage} again",
                )
            if count == keep:
                continue
            # A kill right after the cut must not make the shorter file look damaged: its checksum goes first.
            self.layout.journal.unlink(missing_ok=True)
            _cut_rows(path, stage, keep)
            self.counts[name], self._sums[path] = _rows_by_stage(path), FileSum.of(path)
            self.sync()

    def clear(self, stage: str) -> None:
        """Drop all rows of a stage that starts over."""
        self.rewind(stage, dict.fromkeys(self._cut_back, 0))

    def _append(self, kind: str, counter: str | None, path: Path, rows: Sequence[dict[str, Any]]) -> None:
        rows = [json_safe(row) for row in rows]
        if self.writes:
            content = "".join(map(_line, rows)).encode("utf-8", "backslashreplace")
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            with disk_errors(path), os.fdopen(open_run_file(path), "ab") as file:
                file.write(content)
            self._sums[path].add(content)
        for row in rows:
            if counter is not None and self.writes:
                self.counts[counter][row["stage"]] += 1
            self._notify(kind, row)

    def _notify(self, kind: str, row: dict[str, Any]) -> None:
        for listener in list(self.listeners):
            try:
                listener(kind, row)
            except Interrupted:  # it requests a stop, as a study does that has seen enough
                raise
            except Exception as error:  # of any class: a viewer must not cost a step
                self.listeners.remove(listener)
                name = getattr(listener, "__name__", type(listener).__name__)
                message = f"{name} is called no more for this run, which goes on ({type(error).__name__}: {error})"
                self.event(str(row.get("stage", "")), "unheard", message=message)


class FileSum:
    """Length and checksum of what a file holds so far, without reading it again at each save."""

    def __init__(self) -> None:
        self.bytes, self.digest = 0, hashlib.sha256()

    @classmethod
    def of(cls, path: Path) -> FileSum:
        """Of a file's content; of nothing where there is none."""
        total = cls()
        if path.exists():
            total.add(read_plain_file(path))
        return total

    def add(self, content: bytes) -> None:
        """Count what was appended."""
        self.bytes += len(content)
        self.digest.update(content)

    def as_json(self) -> dict[str, Any]:
        """Its entry in journal.json."""
        return {"bytes": self.bytes, "sha256": self.digest.hexdigest()}


def check_journal(layout: Layout) -> list[Path]:
    """Whether each journal file still begins with what it held at the last save; returns those that are gone.

    Rows may have been added since; a run without recorded checksums passes. Raises RunError for a file that is cut or changed:
    gates that failed would vanish with its rows.
    """
    if not layout.journal.exists():
        return []
    try:
        entries = json.loads(read_plain_file(layout.journal))
        sums = {
            path: (int(entries[path.stem]["bytes"]), str(entries[path.stem]["sha256"]))
            for path in (layout.metrics, layout.samples, layout.events)
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damage_error(layout.journal, error, "delete it: its checksums are then computed again") from error
    for path, (size, sha256) in sums.items():
        if not path.exists():
            continue
        try:
            content = read_plain_file(path)
        except OSError as error:
            raise damage_error(path, error) from error
        if len(content) < size:
            raise damage_error(path, ValueError(f"it has {len(content):,} bytes and was saved with {size:,}: rows are cut off"))
        if hashlib.sha256(content[:size]).hexdigest() != sha256:
            raise damage_error(path, ValueError("its rows are not those that were saved, by their checksum"))
    return [path for path, (size, _) in sums.items() if size and not path.exists()]


def last_gates(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each gate's last verdict in a journal's events; verdicts from before a stage was restarted do not count."""
    gates: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in events:
        if row.get("kind") == "gate":
            gates[str(row.get("stage")), str(row.get("name"))] = row
        elif row.get("kind") == "restarted":
            gates = {key: gate for key, gate in gates.items() if key[0] != str(row.get("stage"))}
    return list(gates.values())


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _cut_rows(path: Path, stage: str, keep: int) -> None:
    """Cut a file back to the first `keep` rows of a stage and all rows of others."""
    rows: list[dict[str, Any]] = []
    seen = 0
    for row in read_rows(path):
        seen += row.get("stage") == stage
        if row.get("stage") != stage or seen <= keep:
            rows.append(row)
    write_text(path, "".join(map(_line, rows)))


def _rows_by_stage(path: Path) -> Counter[str]:
    return Counter(str(row.get("stage")) for row in read_rows(path))


def _cut_unfinished_line(path: Path) -> None:
    """Cut off a last line that a kill left without its end."""
    if not os.path.lexists(path):
        return
    with disk_errors(path), os.fdopen(open_run_file(path), "rb+") as file:
        content = file.read()
        size = content.rfind(b"\n") + 1
        if size < len(content):
            file.truncate(size)
