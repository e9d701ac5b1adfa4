"""The journal: metrics, events and samples, appended line by line, and told to whoever listens."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sawyer.errors import Interrupted, RunError
from sawyer.runs.atomic_files import damaged, disk_errors, open_own, plain, plain_bytes, read_rows, write_json, write_text
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
    that a run which was interrupted leaves what one that was not leaves. Events tell what happened, interruptions included.
    `writes`: False where another process of the same run has the files. This one then calls its listeners and touches none.

    At each save the length and the checksum of every file are noted beside them. Raises RunError where one of them is no
    longer what was noted, is a link, or cannot be read. `gone` are those that somebody has moved away since.
    """

    def __init__(self, layout: Layout, listeners: Sequence[Listener] = (), *, writes: bool = True) -> None:
        self.layout, self.listeners, self.writes = layout, list(listeners), writes
        self.counts: dict[str, dict[str, int]] = {name: {} for name in self._cut_back}
        self.gone: list[Path] = []
        if writes:
            self.gone = check_journal(layout)  # before anything is cut: a damaged file is for its owner to restore
            for path in self._files.values():
                _mend(path)
            self._written = {path: Written.of(path) for path in self._files.values()}
            self.counts = {name: _counted(path) for name, path in self._cut_back.items()}

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
        return [row for row in read_rows(self.layout.metrics) if row.get("stage") == stage]

    def position(self, stage: str) -> dict[str, int]:
        """How many rows of a stage there are, for `rewind`."""
        return {name: counts.get(stage, 0) for name, counts in self.counts.items()}

    def sync(self) -> None:
        """All rows go to the disk, and then what there is of them: a checkpoint must not outlive the rows it counts."""
        if not self.writes:
            return
        for path in self._files.values():
            if path.exists():
                with disk_errors(path), os.fdopen(open_own(path), "rb") as file:
                    os.fsync(file.fileno())
        write_json(self.layout.journal, {name: self._written[path].told() for name, path in self._files.items()})

    def rewind(self, stage: str, position: Mapping[str, int]) -> None:
        """Drop the stage's rows after `position`: the work they tell of is done again.

        Raises RunError when there are fewer: then the journal would have a hole.
        """
        if not self.writes:
            return
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
            # A kill right after the cut must not make the shorter file look damaged: its checksum goes first.
            self.layout.journal.unlink(missing_ok=True)
            self.counts[name] = _shortened(path, stage, keep)
            self._written[path] = Written.of(path)
            self.sync()

    def clear(self, stage: str) -> None:
        """Drop all rows of a stage that begins anew."""
        self.rewind(stage, dict.fromkeys(self._cut_back, 0))

    def _append(self, kind: str, counted: str | None, path: Path, rows: Sequence[dict[str, Any]]) -> None:
        rows = [plain(row) for row in rows]
        if self.writes:
            content = "".join(map(_line, rows)).encode("utf-8", "backslashreplace")
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            with disk_errors(path), os.fdopen(open_own(path), "ab") as file:
                file.write(content)
            self._written[path].add(content)
        for row in rows:
            if counted is not None and self.writes:
                self.counts[counted][row["stage"]] = self.counts[counted].get(row["stage"], 0) + 1
            self._tell(kind, row)

    def _tell(self, kind: str, row: dict[str, Any]) -> None:
        for listener in list(self.listeners):
            try:
                listener(kind, row)
            except Interrupted:  # it asks for a stop, as a study does that has seen enough
                raise
            except Exception as error:  # whatever it is: who looks on must not cost a step
                self.listeners.remove(listener)
                name = getattr(listener, "__name__", type(listener).__name__)
                words = f"{name} is told no more of this run, which goes on ({type(error).__name__}: {error})"
                self.event(str(row.get("stage", "")), "unheard", message=words)


class Written:
    """What has been written to a file so far: how long it is and its checksum."""

    def __init__(self) -> None:
        self.bytes, self.digest = 0, hashlib.sha256()

    @classmethod
    def of(cls, path: Path) -> Written:
        """Of what lies there."""
        found = cls()
        if path.exists():
            found.add(plain_bytes(path))
        return found

    def add(self, content: bytes) -> None:
        """So much more."""
        self.bytes += len(content)
        self.digest.update(content)

    def told(self) -> dict[str, Any]:
        """As journal.json has it."""
        return {"bytes": self.bytes, "sha256": self.digest.hexdigest()}


def check_journal(layout: Layout) -> list[Path]:
    """Whether each journal file still begins with what was there at the last save; returns those that are gone.

    Rows may have been added since; nothing is known of a run that noted nothing. Raises RunError for a file that is cut or
    changed: gates that failed would vanish with its rows.
    """
    if not layout.journal.exists():
        return []
    try:
        noted = json.loads(plain_bytes(layout.journal))
        known = {path: noted[path.stem] for path in (layout.metrics, layout.samples, layout.events)}
        sizes = {path: int(told["bytes"]) for path, told in known.items()}
        sums = {path: str(told["sha256"]) for path, told in known.items()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(layout.journal, error, "delete it: its checksums are then made anew") from error
    there = [path for path in sizes if path.exists()]
    for path in there:
        try:
            content, size = plain_bytes(path), sizes[path]
        except OSError as error:
            raise damaged(path, error) from error
        if len(content) < size:
            raise damaged(path, ValueError(f"it has {len(content):,} bytes and was saved with {size:,}: rows are cut off"))
        if hashlib.sha256(content[:size]).hexdigest() != sums[path]:
            raise damaged(path, ValueError("its rows are not those that were saved, by their checksum"))
    return [path for path, size in sizes.items() if size and path not in there]


def last_gates(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of a journal's events, each gate's last word; what was said of a stage before it began anew does not count."""
    said: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in events:
        if row.get("kind") == "gate":
            said[str(row.get("stage")), str(row.get("name"))] = row
        elif row.get("kind") == "restarted":
            said = {key: found for key, found in said.items() if key[0] != str(row.get("stage"))}
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
    if not os.path.lexists(path):
        return
    with disk_errors(path), os.fdopen(open_own(path), "rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
