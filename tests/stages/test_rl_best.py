"""The best model so far: which one it is, where it lies, and that a damaged one is never gone back to."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from sawyer.errors import RunError
from sawyer.runs import Layout
from sawyer.stages.rl.best_checkpoint import BestCheckpoint

module = import_module("sawyer.stages.rl.best_checkpoint")


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], BestCheckpoint]:
    """A `BestCheckpoint` of one run; its models are a file."""
    monkeypatch.setattr(module, "save_model", lambda folder, model, tokenizer: (folder / "model.safetensors").write_text(model))
    return lambda: BestCheckpoint(Layout(tmp_path), "rl", kl_budget=6.0, mode_rate_limit=0.25)


class LanguageModel:
    """What is kept."""

    def __init__(self, model: str) -> None:
        self.model, self.tokenizer = model, None


def offered(best: BestCheckpoint, step: int, reward: float, kl: float = 1.0) -> bool:
    """Offer an evaluation, and keep it where it is the best."""
    taken = best.offer_evaluation(step, {"eval_reward": reward, "eval_kl": kl, "eval_mode_response_rate": 0.0}, [reward])
    if taken:
        best.save_policy(LanguageModel(f"after {step}"), {"policy": torch.tensor(step)})  # type: ignore[arg-type]
    return taken


def folders(best: BestCheckpoint) -> list[str]:
    return [path.name for path in best.layout.bests("rl")]


@pytest.mark.parametrize("first", [(math.nan, 0.0), (0.0, math.nan), (math.inf, 0.0), (-math.inf, 0.0)])
def test_a_first_evaluation_that_is_not_finite_is_not_the_best_for_ever(
    fresh: Callable[[], BestCheckpoint], first: tuple[float, float]
) -> None:
    best = fresh()
    assert offered(best, 0, *first), "something must be there to go back to"
    assert not offered(best, 2, math.nan) and not offered(best, 4, 1.0, kl=math.nan) and not offered(best, 6, 1.0, kl=7.0)
    assert offered(best, 8, -5.0) and best.best["step"] == 8
    assert not offered(best, 10, math.inf) and offered(best, 12, -4.0)
    assert best.start["step"] == 0


def test_the_checkpoint_goes_on_with_the_best_model_that_it_knows(fresh: Callable[[], BestCheckpoint]) -> None:
    best = fresh()
    offered(best, 0, 0.0)
    offered(best, 1, 1.0)
    saved = best.state()
    for step in (2, 3, 4):
        offered(best, step, float(step))
        assert folders(best) == ["best-1", f"best-{step}"], "the one that was saved and the newest"
    assert best.load_training_state()["policy"] == 4
    # Killed here: what was saved belongs to the best model of then.
    again = fresh()
    again.load(saved)
    assert again.load_training_state()["policy"] == 1
    again.state()
    offered(again, 2, 2.0)
    assert folders(again) == ["best-1", "best-2"] and again.load_training_state()["policy"] == 2
    again.state()
    offered(again, 3, 3.0)
    assert folders(again) == ["best-2", "best-3"]
    # And of a run that is begun anew nothing is left.
    anew = fresh()
    offered(anew, 0, 0.0)
    assert folders(anew) == ["best-0"]


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_a_damaged_one_is_neither_gone_back_to_nor_given(
    fresh: Callable[[], BestCheckpoint], tmp_path: Path, name: str
) -> None:
    best = fresh()
    offered(best, 0, 0.0)
    path = best.folder / name
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    uses: list[Callable[[], Any]] = [best.load_training_state, lambda: best.copy_model_to(tmp_path, {})]
    for use in uses:
        with pytest.raises(RunError, match=name) as caught:
            use()
        assert str(tmp_path / "rl") in caught.value.todo
