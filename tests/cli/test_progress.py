"""Watching: lines at a slow rate without a terminal, a bar with one, gates as they come."""

from __future__ import annotations

import io

from rich.console import Console

from sawyer.cli.progress import LINE_SECONDS, Watch


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def watched(terminal: bool = False) -> tuple[Watch, io.StringIO, Clock]:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=terminal, width=100, highlight=False, color_system=None, legacy_windows=False)
    return Watch(console, clock), out, clock


def test_lines_come_slowly_and_tell_the_time_left() -> None:
    watch, out, clock = watched()
    with watch:
        for done in range(1, 101):
            watch("progress", {"stage": "sft", "done": done, "total": 100, "note": "loss 1.5"})
            clock.at += 1.0
    lines = out.getvalue().strip().split("\n")
    # A step a second: a line each LINE_SECONDS seconds, and the last step.
    assert [line.strip().split(" ")[0] for line in lines] == ["16", "31", "46", "61", "76", "91", "100"]
    assert LINE_SECONDS == 15 and lines[0].strip() == "16 of 100, loss 1.5, about 84 s left"


def test_a_stage_that_goes_on_is_not_thought_fast() -> None:
    watch, out, clock = watched()
    with watch:
        watch("progress", {"stage": "rl", "done": 400, "total": 500, "note": ""})
        clock.at += 20.0
        watch("progress", {"stage": "rl", "done": 410, "total": 500, "note": ""})
    # 10 steps in 20 seconds: 90 take 180. Counting the 400 as done in those 20 seconds would say 4.
    assert "about 3 min left" in out.getvalue()


def test_gates_plans_and_warnings_are_told_saves_are_not() -> None:
    watch, out, _ = watched()
    with watch:
        watch("event", {"stage": "sft", "kind": "start"})
        watch("event", {"stage": "sft", "kind": "plan", "message": "100 rows, 20 steps [bold]"})
        watch("event", {"stage": "sft", "kind": "save", "step": 3})
        watch("event", {"stage": "sft", "kind": "fast_path", "message": "the model: packing"})
        watch("event", {"stage": "sft", "kind": "warning", "message": "3 rows are cut"})
        for verdict in ("ok", "fail"):
            watch("event", {"stage": "sft", "kind": "gate", "verdict": verdict, "message": "97% end", "advice": "train longer"})
        watch("event", {"stage": "sft", "kind": "done", "seconds": 61.2})
        watch("event", {"stage": "reward", "kind": "skip", "message": "already done"})
        watch("metrics", {"stage": "sft", "step": 0, "loss": 1.0})
    said = out.getvalue()
    assert [line.strip() for line in said.strip().split("\n")] == [
        "Supervised fine-tuning",
        "100 rows, 20 steps [bold]",
        "warning: 3 rows are cut",
        "✓ ok   97% end",
        "✕ fail 97% end",
        "what to do: train longer",
        "done   in 61 s",
        "Reward model: already done",
    ]


def test_a_terminal_gets_a_bar_that_is_taken_away() -> None:
    watch, out, clock = watched(terminal=True)
    with watch:
        watch("progress", {"stage": "sft", "done": 1, "total": 4, "note": "loss [1]"})
        assert watch.bar is not None
        watch.bar.refresh()
        watch("event", {"stage": "sft", "kind": "warning", "message": "in between"})
        clock.at += 1
        watch("progress", {"stage": "sft", "done": 4, "total": 4, "note": ""})
        assert watch.bar is None
    assert "1/4" in out.getvalue() and "loss [1]" in out.getvalue() and "in between" in out.getvalue()


def test_an_error_leaves_no_bar_behind() -> None:
    watch, _, _ = watched(terminal=True)
    try:
        with watch:
            watch("progress", {"stage": "sft", "done": 1, "total": 4, "note": ""})
            raise RuntimeError
    except RuntimeError:
        pass
    assert watch.bar is None
