"""Runs whose rewards are not the run's own reward model alone: what they build on, and that they end with a report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from sawyer.errors import ModelError, RunError
from sawyer.runs import Layout, read_manifest, read_rows

GOLD = [{"name": "gold", "function": "sawyer.worlds:golds"}]


def test_without_a_reward_stage(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("reward", tmp_path / "run")
    summary = tiny.run(out, {"reward": None, "rl.rewards": GOLD, "rl.episodes": 8})
    assert "reward" not in summary and summary["rl"]["updates"] == 1
    assert "rl" in summary["gold"] and Layout(out).report.exists()
    rows = [row for row in read_rows(Layout(out).metrics) if "score_gold" in row]
    assert rows and all(row["score_gold"] == pytest.approx(row["score"]) for row in rows)


def test_a_given_model_that_changes_is_seen(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("reward", tmp_path / "run")
    given = shutil.copytree(tiny.straight() / "base" / "model", tmp_path / "given")
    changes = {"reward.model": str(given)}
    tiny.run(out, changes, only="reward")
    assert "reward.model" in read_manifest(Layout(out).manifest)["stages"]["reward"]["parents"]
    (given / "note.txt").write_text("another")
    with pytest.raises(RunError, match=r"begun with another reward\.model"):
        tiny.run(out, changes, only="reward")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reward.model": "./nowhere"}, r"reward\.model: there is no model folder \./nowhere"),
        ({"rl.rewards": [{"name": "far", "model": "/no/such/model"}]}, r"rl\.rewards\.far: there is no model folder"),
        ({"classify.model": "/no/such/model"}, r"classify\.model: there is no model folder"),
        ({"reward.model": str(Path(__file__).parent)}, r"reward\.model: .* has no config\.json"),
    ],
)
def test_models_are_looked_for_before_anything_is_trained(tiny: Any, tmp_path: Path, changes: Any, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        tiny.run(tmp_path / "run", changes)
    assert not Layout(tmp_path / "run").folder("base").exists()
