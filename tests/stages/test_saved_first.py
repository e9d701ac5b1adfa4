"""A trained model is on the disk before anything is asked of it: what judges it may fail, and its user keeps it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sawyer.models import open_language_model
from sawyer.runs import is_complete

BASE = {"vocab_size": 330, "layers": 1, "width": 16, "heads": 2, "context": 32, "tokens": 600}


@pytest.mark.parametrize(("stage", "judging"), [("sft", "_evaluate"), ("base", "Gate")])
def test_a_model_whose_judging_fails_is_saved(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, judging: str
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"What is the opposite of {n}? It is minus {n}, as everybody knows." for n in range(90)))
    asked = {"base": {**BASE, "text": [str(text)]}, "sft": {"data": [str(tiny.instructions)], "epochs": 0.1}}
    config = tiny.config(tmp_path / "run", **{stage: asked[stage]}, **({"model": None} if stage == "base" else {}))
    module = import_module(f"sawyer.stages.{stage}.{stage}_stage")

    def failing(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(module, judging, failing)
    with tiny.run(tmp_path / "run") as run, pytest.raises(ZeroDivisionError):
        module.train(config, run)
    folder = run.layout.model(stage)
    assert is_complete(folder) and open_language_model(folder).parameters > 0


def test_rl_s_best_model_is_saved_before_the_last_evaluation(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("sawyer.stages.rl.rl_stage")

    def failing(self: Any, done: int) -> Any:
        raise ZeroDivisionError  # as a user's reward function may

    monkeypatch.setattr(module.Trainer, "close", failing)
    with tiny.run(tmp_path / "run", "sft", "reward") as run, pytest.raises(ZeroDivisionError):
        module.train(tiny.rl_config(tmp_path / "run", episodes=8), run)
    assert is_complete(run.layout.model("rl")) and open_language_model(run.layout.model("rl")).parameters > 0
