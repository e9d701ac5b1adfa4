"""Interrupted anywhere and run again, the run's figures equal those of one that never was: number for number (CPU, fp32)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sawyer import pipeline
from sawyer.engine import Learner, loop
from sawyer.errors import Interrupted
from sawyer.runs import Journal, Layout, Listener, read_manifest

STAGES = pipeline.STAGES
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


@pytest.mark.slow
def test_the_same_config_twice_gives_the_same_numbers(tiny: Any, tmp_path: Path) -> None:
    # The ground on which the others stand; and `run` takes the stages that the straight run took one by one.
    (tmp_path / "run").mkdir()
    assert go_on(tiny, tmp_path / "run", 3600)
    same(tiny, tmp_path / "run")
    assert tiny.summary(tmp_path / "run") == tiny.summary(tiny.straight())


@pytest.mark.parametrize("save", [0.0, pytest.param(3600.0, marks=pytest.mark.slow)], ids=["often saved", "never saved"])
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
    def load(self: Learner, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.steps_done = state["steps"]

    patch.setattr(Learner, "load", load)


def forgets_the_step(patch: pytest.MonkeyPatch) -> None:
    real = Learner.load
    patch.setattr(Learner, "load", lambda self, state: real(self, {**state, "steps": 0}))


def does_not_cut_the_journal_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "rewind", lambda self, stage, position: None)


def is_one_step_late(patch: pytest.MonkeyPatch) -> None:
    real = loop._resume
    patch.setattr(loop, "_resume", lambda *a: (real(*a)[0] + 1, False))


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


# Each algorithm of RL. What the tiny run's own does stands above.

OFFLINE = {"max_new_tokens": 8, "eval_prompts": 6, "held_out": 0.3}
ONLINE = {**OFFLINE, "episodes": 40, "batch_size": 8, "minibatches": 2, "epochs": 2, "learning_rate": 1e-2, "eval_every": 2}
PAIRS = {**OFFLINE, "epochs": 2, "batch_size": 16, "learning_rate": 1e-2, "eval_every": 2}
STEERED = {"coefficient": 0.1, "target": 2.0, "horizon": 50.0}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo shared": {**ONLINE, "algorithm": "ppo", "value_start": "shared", "kl": STEERED},
    "rloo": {**ONLINE, "algorithm": "rloo", "kl": STEERED},
    "grpo": {**ONLINE, "algorithm": "grpo", "group": 2, "kl": STEERED},
    "dpo": {**PAIRS, "algorithm": "dpo"},
    "best_of_n": {**OFFLINE, "algorithm": "best_of_n", "group": 3},
}


def by_algorithm(tiny: Any, name: str, out: Path, save: float, listeners: Sequence[Listener] = ()) -> bool:
    """Take the stage `rl` by one algorithm, on what the straight run had before it; whether it came to its end."""
    if not out.exists():
        tiny.prefix("rl", out)
    prompts = [str(tiny.data / "prompts.jsonl")]
    changes = {"rl": {**ALGORITHMS[name], "prompts": prompts}, "compare": None, "save_every_seconds": save}
    try:
        tiny.run(out, changes, only="rl", listeners=list(listeners))
    except (Interrupted, KeyboardInterrupt, SystemExit):
        return False
    return True


def check_cuts(tiny: Any, tmp_path: Path, name: str, patch: pytest.MonkeyPatch, every: int) -> None:
    """Cut off at every so many words of the journal, killed or asked to stop, and run again: nothing differs."""
    patch.setattr(import_module("sawyer.stages.rl.best_of_n"), "PROMPTS_A_STEP", 2)
    straight = Cut("rl", -1, "never")
    assert by_algorithm(tiny, name, tmp_path / "straight", 0.0, [straight])
    expected = tiny.result(tmp_path / "straight")
    assert straight.words > 5 and len(expected.metrics) > 3
    for at in range(1, straight.words + 1, every):
        out, cut = tmp_path / str(at), Cut("rl", at, ("kill", "signal")[at % 2])
        done = by_algorithm(tiny, name, out, 0.0, [cut])
        assert cut.happened
        assert done or by_algorithm(tiny, name, out, 0.0)
        assert tiny.result(out) == expected, f"{name} cut off at word {at} of {straight.words}"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_algorithm_cut_off(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    check_cuts(tiny, tmp_path, name, monkeypatch, every=9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_algorithm_cut_off_at_every_word(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    check_cuts(tiny, tmp_path, name, monkeypatch, every=1)


# The long sweep: every word of the journal is a moment at which a run may die.

WORDS_AT_MOST = 75


@pytest.mark.slow
@pytest.mark.parametrize("save", [0.0, 3600.0], ids=["often saved", "never saved"])
@pytest.mark.parametrize("how", ["kill", "signal", "twice"])
@pytest.mark.parametrize("stage", STAGES)
def test_cut_off_at_every_word(tiny: Any, tmp_path: Path, stage: str, how: str, save: float) -> None:
    words = words_of(tiny, stage, tmp_path / "count", save)
    assert 5 < words < WORDS_AT_MOST
    step = 1 if how == "kill" and save == 0 else 7
    for at in range(1, words + 1, step):
        cut = Cut(stage, at, how)
        out = tiny.prefix(stage, tmp_path / str(at))
        done = go_on(tiny, out, save, only=stage, listeners=[cut])
        assert cut.happened
        assert done or go_on(tiny, out, save, only=stage), f"word {at}"
        try:
            same(tiny, out, stage)
        except AssertionError as error:
            raise AssertionError(f"{stage} cut off at word {at} of {words} ({how}): {error}") from error


@pytest.mark.slow
def test_cut_off_in_every_sitting(tiny: Any, tmp_path: Path) -> None:
    # A machine that dies soon after each start still comes to the same end: 20 words are a few steps, or a last evaluation.
    for stage in ("base", "sft", "reward", "rl", "compare"):
        out = tiny.prefix(stage, tmp_path / stage)
        sittings = 0
        while not go_on(tiny, out, 0, only=stage, listeners=[Cut(stage, 20, "kill")]):
            sittings += 1
            assert sittings < 100, "no way forward"
        assert sittings
        same(tiny, out, stage)
