"""The progress of a run, from its journal: on a terminal a bar with the time left, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sawyer.cli.console import chip, say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LINE_SECONDS = 15.0  # between two lines of progress without a terminal
NARROW = 72  # columns; below them the bar leaves no room for the rest
STYLES = dict.fromkeys(("warning", "guard", "rollback", "waiting"), "yellow")
NOT_SHOWN = ("save", "interrupted", "fast_path")  # too frequent, reported at the end, for the journal alone


class Watch:
    """Use as `with Watch(console) as watch: run(config, listeners=[watch])`. `now` returns seconds."""

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        self.console, self.now = console, now
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.stage = ""
        self.start_time, self.line_time, self.start_step = 0.0, 0.0, 0

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end_stage()

    def __call__(self, kind: str, row: Mapping[str, Any]) -> None:
        """Take a row of the journal. Raises OSError or ValueError once output has failed; the journal logs that."""
        failure = getattr(self.console.file, "failure", None)
        if failure is not None:
            raise failure
        if kind == "progress":
            self._progress(str(row["stage"]), int(row["done"]), int(row["total"]), str(row.get("note", "")))
        elif kind == "event":
            self._event(str(row.get("stage", "")), str(row.get("kind", "")), row)
        elif kind == "stopping":
            words = "stopping after this step, which is saved; a second signal stops at once"
            say(self.console, (f"  {row.get('reason', '')}: {words}", "yellow"))

    def _event(self, stage: str, kind: str, row: Mapping[str, Any]) -> None:
        from sawyer.runs import STAGES, clock

        message = str(row.get("message", ""))
        if kind in NOT_SHOWN:
            return
        if kind == "start":
            self._end_stage()
            self.console.print()
            say(self.console, (STAGES.get(stage, stage), "bold"))
        elif kind == "gate":
            verdict = str(row.get("verdict", ""))
            say(self.console, "  ", chip(verdict), f" {message}")
            if verdict != "ok" and row.get("advice"):
                say(self.console, ("         what to do: ", "dim"), str(row["advice"]))
        elif kind == "done":
            self._end_stage()
            say(self.console, ("  done   ", "green"), f"in {clock(float(row.get('seconds', 0.0)))}")
        elif kind == "skip":
            say(self.console, (STAGES.get(stage, stage), "bold"), (": already done", "dim"))
        elif kind == "resume":
            say(self.console, ("  resumes at ", "dim"), f"step {row.get('step')} of {row.get('steps')}")
        elif kind == "plan":
            say(self.console, "  ", (message, "dim"))
        else:
            say(self.console, (f"  {kind.replace('_', ' ')}: ", STYLES.get(kind, "dim")), message)

    def _progress(self, stage: str, done: int, total: int, note: str) -> None:
        from sawyer.runs import clock

        now = self.now()
        if stage != self.stage:
            self._end_stage()
            # The rate counts from here: a stage that resumes at step 400 has not done 400 steps in no time.
            self.stage, self.start_time, self.line_time, self.start_step = stage, now, now, done
            if self.console.is_terminal:
                self._open_bar(stage, done, total)
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done, total=total, note=note)
        elif not self.console.is_terminal and (now - self.line_time >= LINE_SECONDS or done == total):
            self.line_time = now
            seconds_left = (
                (now - self.start_time) / (done - self.start_step) * (total - done) if done > self.start_step else 0.0
            )
            left = f"about {clock(seconds_left)} left" if seconds_left else ""
            say(self.console, "  " + ", ".join(part for part in (f"{done:,} of {total:,}", note, left) if part))
        if done >= total:
            self._close_bar()

    def _open_bar(self, stage: str, done: int, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

        note = TextColumn("{task.fields[note]}", style="dim", markup=False)
        left = (TimeRemainingColumn(compact=True), TextColumn("left", style="dim"))
        columns: list[ProgressColumn] = [TextColumn("  "), BarColumn(32), MofNCompleteColumn(), note, *left]
        if self.console.width < NARROW:
            columns = [MofNCompleteColumn(), note]
        # The time left is estimated from the last minutes: RL's steps differ in length.
        self.bar = Progress(*columns, console=self.console, transient=True, speed_estimate_period=180)
        self.task = self.bar.add_task(stage, completed=done, total=total, note="")
        self.bar.start()

    def _close_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar, self.task = None, None

    def _end_stage(self) -> None:
        self._close_bar()
        self.stage = ""
