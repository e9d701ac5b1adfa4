"""Whatever lies between two saves, a run that is lost there goes on as if it had never been: weights, best model, guards.

A checkpoint is mostly older than the best model beside it: one is saved by the clock, the other as soon as it is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cuts import Clock, Kept

from sawyer.runs import Layout, Listener, read_rows
from sawyer.train import stage_loop

pytestmark = pytest.mark.slow

NEVER = 3600
# At these rates each run is put back by a guard, finds a better model and is put back again: what is lost between a rollback, a
# better model and the next save tells whether the two on the disk belong together.
GUARDED: dict[str, Any] = {
    "max_new_tokens": 8,
    "eval_prompts": 6,
    "eval_fraction": 0.3,
    "eval_every": 1,
    "learning_rate": 4e-3,
    "batch_size": 8,
    "guards": {"kl_budget": {"threshold": 0.1, "patience": 2}},
    "max_rollbacks": 5,
}
ONLINE: dict[str, Any] = {**GUARDED, "episodes": 96, "num_minibatches": 2, "epochs": 2}
ONLINE["kl"] = {"coefficient": 0.1, "target": 6.0, "horizon": 200.0}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo": {**ONLINE, "algorithm": "ppo"},
    "ppo shared": {
        **ONLINE,
        "algorithm": "ppo",
        "value_init": "shared",
        "guards": {"kl_budget": {"threshold": 0.2, "patience": 2}},
    },
    "ppo ridge": {**ONLINE, "algorithm": "ppo", "value_init": "ridge"},
    "rloo": {**ONLINE, "algorithm": "rloo", "learning_rate": 2e-3, "guards": {"kl_budget": {"threshold": 0.3, "patience": 2}}},
    "grpo": {
        **ONLINE,
        "algorithm": "grpo",
        "group_size": 2,
        "learning_rate": 6e-3,
        "guards": {"kl_budget": {"threshold": 0.3, "patience": 2}},
    },
    "dpo": {
        **GUARDED,
        "algorithm": "dpo",
        "epochs": 2,
        "learning_rate": 6e-3,
        "guards": {"kl_budget": {"threshold": 0.2, "patience": 2}},
    },
}


def run_rl(tiny: Any, patch: pytest.MonkeyPatch, name: str, out: Path, save: float, listeners: Sequence[Listener] = ()) -> None:
    """The stage `rl` by one algorithm, saved whenever `save` steps are done."""
    clock = Clock("rl")
    patch.setattr(stage_loop, "time", clock)
    changes = {"rl": {**ALGORITHMS[name], "prompts": [str(tiny.data / "prompts.jsonl")]}, "compare": None}
    tiny.run(out, {**changes, "save_every_seconds": save}, only="rl", listeners=[clock, *listeners])


def fits(tiny: Any, patch: pytest.MonkeyPatch, tmp_path: Path, name: str, intervals: Sequence[int]) -> None:
    """Lost after whatever save or best model, the run comes to the end of one that never was."""
    straight = tiny.prefix("rl", tmp_path / "straight")
    run_rl(tiny, patch, name, straight, NEVER)
    expected = tiny.result(straight)
    back = [row["to"] for row in read_rows(Layout(straight).events) if row["kind"] == "rollback"]
    assert len(back) > 1 and max(back) > 0
    for save in intervals:
        out = tiny.prefix("rl", tmp_path / f"{save}" / "run")
        kept = Kept("rl", out, tmp_path / f"{save}", state=True)
        run_rl(tiny, patch, name, out, save, [kept])
        assert tiny.result(out) == expected
        for word in kept.words[:: 2 if save in (0, NEVER) else 1]:  # there are many, and each is as long as the run
            run_rl(tiny, patch, name, kept.at(word), save)
            assert tiny.result(kept.at(word)) == expected, f"{name}, saved every {save} steps, lost at word {word}"


@pytest.mark.parametrize("save", [0, 2, 3, 5, NEVER])
def test_lost_at_every_save_interval(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: int) -> None:
    fits(tiny, monkeypatch, tmp_path, "dpo", [save])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_algorithm_lost_between_saves(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fits(tiny, monkeypatch, tmp_path, name, [5 if name == "grpo" else 4])
