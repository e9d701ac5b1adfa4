"""Watching a run: a listener on its journal. On a terminal a bar with the time left, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sawyer.cli.console import chip, say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

EVERY = 15.0  # seconds between two lines of progress where there is no terminal
NARROW = 72  # columns; below them the bar would leave no room for what it tells
STYLES = {"warning": "yellow", "guard": "yellow", "rollback": "yellow", "waiting": "yellow"}
SILENT = ("save", "interrupted", "fast_path")  # too frequent, told in the end, or for the journal alone


class Watch:
    """Use as `with Watch(console) as watch: run(config, listeners=[watch])`. `now` tells seconds."""

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        self.console, self.now = console, now
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.stage = ""
        self.begun, self.told, self.first = 0.0, 0.0, 0

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def __call__(self, kind: str, row: Mapping[str, Any]) -> None:
        """Take a row of the journal. Raises OSError or ValueError where nobody can read it any more: the journal says so."""
        lost = getattr(self.console.file, "lost", None)
        if lost is not None:
            raise lost
        if kind == "progress":
            self._progress(str(row["stage"]), int(row["done"]), int(row["total"]), str(row.get("note", "")))
        elif kind == "event":
            self._event(str(row.get("stage", "")), str(row.get("kind", "")), row)
        elif kind == "stopping":
            words = "stopping: this step is finished and saved first; once more cuts it off"
            say(self.console, (f"  {row.get('reason', '')}: {words}", "yellow"))

    def _event(self, stage: str, kind: str, row: Mapping[str, Any]) -> None:
        from sawyer.runs import STAGES, clock

        if kind in SILENT:
            return
        if kind == "start":
            self._end()
            self.console.print()
            say(self.console, (STAGES.get(stage, stage), "bold"))
        elif kind == "gate":
            self._gate(row)
        elif kind == "done":
            self._end()
            say(self.console, ("  done   ", "green"), f"in {clock(float(row.get('seconds', 0.0)))}")
        elif kind == "skip":
            say(self.console, (STAGES.get(stage, stage), "bold"), (": already done", "dim"))
        elif kind == "resume":
            say(self.console, ("  goes on at ", "dim"), f"step {row.get('step')} of {row.get('steps')}")
        else:
            words = str(row.get("message", ""))
            say(
                self.console,
                (f"  {'' if kind == 'plan' else kind.replace('_', ' ') + ': '}", STYLES.get(kind, "dim")),
                (words, "dim" * (kind == "plan")),
            )

    def _gate(self, row: Mapping[str, Any]) -> None:
        verdict = str(row.get("verdict", ""))
        say(self.console, "  ", chip(verdict), f" {row.get('message', '')}")
        if verdict != "ok" and row.get("advice"):
            say(self.console, ("         what to do: ", "dim"), str(row["advice"]))

    def _progress(self, stage: str, done: int, total: int, note: str) -> None:
        from sawyer.runs import clock

        now = self.now()
        if stage != self.stage:
            self._end()
            # Where it starts counts: a stage that goes on at step 400 has not done 400 steps in no time.
            self.stage, self.begun, self.told, self.first = stage, now, now, done
            if self.console.is_terminal:
                self._open(stage, done, total)
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done, total=total, note=note)
        elif not self.console.is_terminal and (now - self.told >= EVERY or done == total):
            self.told = now
            rate = (now - self.begun) / (done - self.first) if done > self.first else 0.0
            left = f"about {clock(rate * (total - done))} left" if rate and done < total else ""
            say(self.console, "  " + ", ".join(part for part in (f"{done:,} of {total:,}", note, left) if part))
        if done >= total:
            self._close()

    def _open(self, stage: str, done: int, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

        note = TextColumn("{task.fields[note]}", style="dim", markup=False)
        left = (TimeRemainingColumn(compact=True), TextColumn("left", style="dim"))
        columns: list[ProgressColumn] = [TextColumn("  "), BarColumn(32), MofNCompleteColumn(), note, *left]
        if self.console.width < NARROW:
            columns = [MofNCompleteColumn(), note]
        # The time left is judged over the last minutes: steps of RL differ, and a resumed stage starts in the middle.
        self.bar = Progress(*columns, console=self.console, transient=True, speed_estimate_period=180)
        self.task = self.bar.add_task(stage, completed=done, total=total, note="")
        self.bar.start()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar, self.task = None, None

    def _end(self) -> None:
        self._close()
        self.stage = ""
