"""Interrupted anywhere and run again, the run's figures equal those of one that never was: number for number (CPU, fp32)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cuts import Cut, Row, go_on, same

from sawyer import pipeline
from sawyer.runs import Layout, read_manifest
from sawyer.runs.journal import Journal
from sawyer.train import OptimizerStep, restore_weights, stage_loop

pytestmark = pytest.mark.slow

STAGES = pipeline.STAGES


def test_the_same_config_twice_gives_the_same_numbers(tiny: Any, tmp_path: Path) -> None:
    # The ground on which the others stand; and `run` takes the stages that the straight run took one by one.
    (tmp_path / "run").mkdir()
    assert go_on(tiny, tmp_path / "run", 3600)
    same(tiny, tmp_path / "run")
    assert tiny.summary(tmp_path / "run") == tiny.summary(tiny.straight())


@pytest.mark.parametrize("save", [0.0, 3600.0], ids=["often saved", "never saved"])
def test_a_run_cut_off_again_and_again(tiny: Any, tmp_path: Path, save: float) -> None:
    # Each stage once, at different depths and in every way; each time the same command goes on.
    hows = ("kill", "signal", "twice")
    cuts = [Cut(stage, 4 + 3 * i, hows[(i + (save > 0)) % 3]) for i, stage in enumerate(STAGES)]
    out = tmp_path / "run"
    sittings = 1
    while not go_on(tiny, out, save, listeners=list(cuts)):
        sittings += 1
        assert sittings < 20
    assert all(cut.happened for cut in cuts) and sittings > 4
    same(tiny, out)
    assert tiny.summary(out) == tiny.summary(tiny.straight())


def forgets_the_optimizer(patch: pytest.MonkeyPatch) -> None:
    def load(self: OptimizerStep, state: Mapping[str, Any]) -> None:
        restore_weights(self.model, state["model"])
        self.steps_done = state["steps"]

    patch.setattr(OptimizerStep, "load", load)


def forgets_the_step(patch: pytest.MonkeyPatch) -> None:
    real = OptimizerStep.load
    patch.setattr(OptimizerStep, "load", lambda self, state: real(self, {**state, "steps": 0}))


def does_not_cut_the_journal_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "rewind", lambda self, stage, position: None)


def is_one_step_late(patch: pytest.MonkeyPatch) -> None:
    real = stage_loop._resume
    patch.setattr(stage_loop, "_resume", lambda *a: (real(*a)[0] + 1, False))


@pytest.mark.parametrize(
    "mistake",
    [forgets_the_optimizer, forgets_the_step, does_not_cut_the_journal_back, is_one_step_late],
    ids=lambda mistake: mistake.__name__,
)
def test_a_resume_that_is_wrong_is_seen(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: Callable[[pytest.MonkeyPatch], None]
) -> None:
    # The journal is the one place where the straight run and a broken one could differ without a word.
    out = tiny.prefix("sft", tmp_path / "run")
    saved = Cut("sft", 8, "signal")
    assert not go_on(tiny, out, 3600, only="sft", listeners=[saved])
    if mistake is does_not_cut_the_journal_back:
        with Layout(out).metrics.open("a") as file:
            file.write('{"stage": "sft", "step": 99, "loss": 1.0}\n')
    mistake(monkeypatch)
    assert go_on(tiny, out, 3600, only="sft")
    with pytest.raises(AssertionError):
        same(tiny, out, "sft")


def test_what_is_lost_is_at_most_what_came_since_the_last_save(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("sft", tmp_path / "run")
    saved: list[int] = []

    def listen(kind: str, row: Row) -> None:
        if kind == "event" and row["kind"] == "save":
            saved.append(row["step"])
        if kind == "metric" and row["step"] == 5:
            raise SystemExit("killed")

    assert not go_on(tiny, out, 0, only="sft", listeners=[listen])
    assert saved == [1, 2, 3, 4, 5]
    assert read_manifest(Layout(out).manifest)["stages"]["sft"]["status"] == "running"
    assert not Layout(out).model("sft").exists(), "nothing that looks finished"
    resumed: list[int] = []
    assert go_on(tiny, out, 0, only="sft", listeners=[lambda k, row: resumed.append(row["step"]) if k == "metric" else None])
    assert resumed[0] == 5
    same(tiny, out, "sft")


def test_cut_off_in_every_sitting(tiny: Any, tmp_path: Path) -> None:
    # A machine that dies soon after each start still comes to the same end: 26 words are a few steps, or a last evaluation.
    for stage in ("base", "sft", "reward", "rl", "compare"):
        out = tiny.prefix(stage, tmp_path / stage)
        sittings = 0
        while not go_on(tiny, out, 0, only=stage, listeners=[Cut(stage, 26, "kill")]):
            sittings += 1
            assert sittings < 100, "no way forward"
        assert sittings
        same(tiny, out, stage)
