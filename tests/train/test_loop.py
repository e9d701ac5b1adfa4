"""The life of a stage: resume equals never having stopped, a half-written checkpoint is none."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded import metric_rows

from sawyer.errors import Interrupted, RunError
from sawyer.runs import Run, open_run, read_rows
from sawyer.train import load_checkpoint, run_steps, save_checkpoint


class Walk:
    """A random walk whose every step depends on all before."""

    def __init__(self, run: Run, steps: int, stop_after: int | None = None) -> None:
        self.run, self.steps, self.stop_after = run, steps, stop_after
        self.place = torch.zeros(1, dtype=torch.float64)
        self.step_tokens = 0

    def step(self, index: int) -> Mapping[str, float]:
        self.place = self.place * 0.9 + index + 1
        self.step_tokens = 10 * (index + 1)
        if index == self.stop_after:
            self.run.stop.set("test")
        return {"loss": float(self.place)}

    def state(self) -> dict[str, Any]:
        return {"place": self.place}

    def load(self, state: Mapping[str, Any]) -> None:
        self.place = state["place"]


def walk(root: Path, stop_after: int | None = None, save_every_seconds: float = 1e9) -> list[dict[str, Any]]:
    with open_run(root) as run:
        run_steps(run, "sft", Walk(run, 9, stop_after), save_every_seconds=save_every_seconds)
    return metric_rows(root / "metrics.jsonl")


@pytest.mark.parametrize("stop_after", [0, 4, 8])
def test_interrupted_and_run_again_gives_the_same_journal(tmp_path: Path, stop_after: int) -> None:
    straight = walk(tmp_path / "straight")
    assert len(straight) == 9
    with pytest.raises(Interrupted):
        walk(tmp_path / "broken", stop_after)
    assert walk(tmp_path / "broken") == straight


def test_killed_without_a_word_it_loses_what_came_since_the_last_save(tmp_path: Path) -> None:
    class Killed(Walk):
        def step(self, index: int) -> Mapping[str, float]:
            if index == 5:
                raise MemoryError
            return super().step(index)

    with pytest.raises(MemoryError), open_run(tmp_path / "killed") as run:
        run_steps(run, "sft", Killed(run, 9), save_every_seconds=0.0)
    with open_run(tmp_path / "killed") as run:
        run.journal.metrics("sft", 5, {"loss": 123.0})  # a row written after the last save, as a killed run leaves it
    assert walk(tmp_path / "killed") == walk(tmp_path / "straight")


def test_an_end_that_was_saved_is_not_done_again(tmp_path: Path) -> None:
    first = walk(tmp_path / "run")

    class Refuses(Walk):
        def step(self, index: int) -> Mapping[str, float]:
            raise AssertionError("all steps were done")

    with open_run(tmp_path / "run") as run:
        assert run_steps(run, "sft", Refuses(run, 9), save_every_seconds=1e9) == 9
    assert metric_rows(tmp_path / "run" / "metrics.jsonl") == first


def test_work_that_is_cut_otherwise_does_not_go_on(tmp_path: Path) -> None:
    """Step 5 of nine is not step 5 of eighteen."""
    with pytest.raises(Interrupted):
        walk(tmp_path / "run", stop_after=4)
    with open_run(tmp_path / "run") as run, pytest.raises(RunError, match="9 steps in total, this run has 18") as told:
        run_steps(run, "sft", Walk(run, 18), save_every_seconds=1e9)
    assert "to do sft again" in told.value.todo
    assert len(walk(tmp_path / "run")) == 9


def test_every_row_has_the_step_s_clock_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens as the stage counts them over the seconds of `step`, here 2 a step; the memory that the system tells."""
    loop = import_module("sawyer.train.stage_loop")
    seconds = count(100.0, 2.0)
    monkeypatch.setattr(loop.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(loop, "peak_memory_mb", lambda: 512.0)
    walk(tmp_path / "run")
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step_seconds"] for row in rows] == [2.0] * 9
    assert [row["tokens_per_second"] for row in rows] == [5.0 * (step + 1) for step in range(9)]
    assert {row["memory_mb"] for row in rows} == {512.0}
    monkeypatch.setattr(loop, "peak_memory_mb", lambda: None)
    walk(tmp_path / "elsewhere")
    assert not any("memory_mb" in row for row in read_rows(tmp_path / "elsewhere" / "metrics.jsonl"))


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, {"step": 1})

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match="disk"):
        save_checkpoint(folder, {"step": 2})
    assert load_checkpoint(folder) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
