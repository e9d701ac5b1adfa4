"""The seeds' table: what each run's summary and events say, counted by hand; the pipeline is a stand-in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sawyer.config import Config, parse_config
from sawyer.errors import ConfigError, TrainingError
from sawyer.runs import Layout, Listener
from sawyer.studies import seed_spread as seeds
from sawyer.studies.seed_spread import events_since_restart, study_seeds

GOLD = {  # seed -> SFT and RL at temperature 1, 0.7 and greedy, best of eight
    0: ((5.0, 7.0, 9.0), (7.5, 8.5, 9.25), 7.0),
    1: ((4.0, 6.0, 8.0), (7.0, 8.0, 7.5), 7.25),
    2: ((5.5, 6.5, 8.5), (8.0, 8.25, 8.75), 7.5),
}
SETTINGS = ("t1", "t07", "greedy")
TREE: dict[str, Any] = {
    "model": "m",
    "sft": {"data": ["a"]},
    "reward": {"data": ["a"]},
    "rl": {"prompts": ["a"]},
    "compare": {},
}


def config(tmp_path: Path, **changes: Any) -> Config:
    return parse_config({**TREE, "out": str(tmp_path / "run"), **changes})


def pretend(own: Config, *, listeners: Sequence[Listener] = ()) -> dict[str, Any]:
    """What a run leaves and returns."""
    if own.seed == 9:
        raise TrainingError("rl: before its first update, KL to the reference is up to 3 nats a response")
    sft, rl, best = GOLD[own.seed]
    stopped = "mode_response_rate is 0.3 (threshold 0.25) after update 12" if own.seed == 1 else ""
    events = [
        {"stage": "rl", "kind": "guard", "guard": "kl_budget"},
        {"stage": "rl", "kind": "restarted"},
        *([{"stage": "rl", "kind": "guard", "guard": "mode_response_rate"}] if stopped else []),
        *([{"stage": "rl", "kind": "rollback"}] if own.seed == 2 else []),
        {"stage": "rl", "kind": "gate", "name": "rl_improves", "verdict": "ok"},
        {"stage": "reward", "kind": "gate", "name": "reward_knows_gold", "verdict": "warn"},
    ]
    events = [row for row in events if own.seed or row.get("kind") != "guard"]
    path = Layout(Path(own.out)).events
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in events))
    return {
        "gold": {"sft": dict(zip(SETTINGS, sft, strict=True)), "rl": dict(zip(SETTINGS, rl, strict=True)), "best_of_8": best},
        "rl": {"kl": 1.0 + own.seed / 10, "best_step": 40, "stopped": stopped},
        "seconds": {"total": 100.0 * (1 + own.seed)},
    }


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "run", pretend)
    monkeypatch.setattr(seeds, "demo", lambda out, seed, **more: pretend(seeds.demo_config(str(out), seed), **more))


def test_the_table_says_what_the_runs_say(tmp_path: Path) -> None:
    told: list[str] = []
    found = study_seeds(config(tmp_path), [0, 1, 2], tell=told.append)
    assert [Path(cell.out) for cell in found.cells] == [tmp_path / "run" / "seeds" / f"seed-{i}" for i in range(3)]
    gains = {
        "t1": (3, (2.5 + 3 + 2.5) / 3, 2.5, 3.0),
        "t07": (3, (1.5 + 2 + 1.75) / 3, 1.5, 2.0),
        "greedy": (2, (0.25 - 0.5 + 0.25) / 3, -0.5, 0.25),
    }
    for row in found.rows:
        improved, mean, low, high = gains[row["name"]]
        assert (row["improved"], row["seeds"], row["change"].low, row["change"].high) == (improved, 3, low, high)
        assert row["change"].value == pytest.approx(mean)
    assert found.rows[0]["change"].deviation == pytest.approx(((2 * (1 / 6) ** 2 + (1 / 3) ** 2) / 2) ** 0.5)
    # RL at temperature 1: 7.5, 7.0, 8.0; the best of eight: 7.0, 7.25, 7.5.
    words = " ".join(found.notes)
    assert "RL's mean 7.50 beats the best of eight SFT samples, 7.25; it is higher in 2 of 3 seeds" in words
    assert "3 of 3 at temperature 1 by +2.67 (+2.50 to +3.00)" in words and "2 of 3 greedy by +0.00 (−0.50 to +0.25)" in words
    assert "Stopped by a guard: seed 1 (mode_response_rate is 0.3 (threshold 0.25) after update 12)." in words
    assert told[0].startswith("all stages with 3 seeds") and told[1] == "seed 0 (1 of 3)"


def test_the_table_as_markdown(tmp_path: Path) -> None:
    found = study_seeds(config(tmp_path), [0, 1, 2])
    lines = found.text.split("\n")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert cells[0][:4] == ["seed", "SFT 1 / 0.7 / greedy", "RL 1 / 0.7 / greedy", "best of 8"]
    rows = {row[0]: row[1:] for row in cells[2:]}
    assert rows["0"] == [
        *("5.00 / 7.00 / 9.00", "7.50 / 8.50 / 9.25", "7.00", "1.00", "40", "none", "1 ok; reward_knows_gold", "2 min"),
    ]
    assert rows["1"][5] == "mode_response_rate (stopped)"  # the guard before RL began anew is no longer of it
    assert rows["2"][5] == " (1 rollback)".strip() and "Put back to its best model on the way: seed 2." in found.notes
    assert rows["mean"][:4] == ["4.83 / 6.50 / 8.50", "7.50 / 8.25 / 8.50", "7.25", "1.10"]
    assert rows["lowest"][1] == "7.00 / 8.00 / 7.50" and rows["highest"][1] == "8.00 / 8.50 / 9.25"
    assert rows["better, of 3"][1] == "3 / 3 / 2"
    root = tmp_path / "run" / "seeds"
    assert (root / "seeds.md").read_text() == found.text
    assert json.loads((root / "seeds.json").read_text()) == json.loads(
        json.dumps({k: v for k, v in asdict(found).items() if k != "text"})
    )


def test_a_run_that_fails_counts_and_the_others_are_done(tmp_path: Path) -> None:
    found = study_seeds(config(tmp_path), [9, 0])
    assert [bool(cell.failure) for cell in found.cells] == [True, False] and found.rows[0]["seeds"] == 1
    words = " ".join(found.notes)
    assert "Did not come to the end: seed 9 (rl: before its first update" in words and "One seed says nothing" in words
    assert "| 9    |" in found.text and "failed" in found.text
    none = study_seeds(config(tmp_path), [9])
    assert none.rows == () and "failed" in none.text


def test_without_a_config_it_is_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    found = study_seeds(None, [0, 2], tell=told.append)
    assert [cell.out for cell in found.cells] == ["runs/seeds/seed-0", "runs/seeds/seed-2"]
    assert "about 3 min each on such a machine, 6 min to go" in told[0]


def test_the_reward_judges_where_the_truth_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_reward(own: Config, **more: Any) -> dict[str, Any]:
        summary = pretend(own, **more)
        return {"reward_mean": summary.pop("gold"), **summary}

    monkeypatch.setattr(seeds, "run", by_reward)
    found = study_seeds(config(tmp_path), [0, 1])
    assert found.measure == "reward_mean" and "in standard deviations" in found.text


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"compare": None}, "no section `compare`"), ({"collect": {"prompts": ["a"]}}, "answers people score")],
)
def test_what_cannot_be_repeated_is_said_before(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        study_seeds(config(tmp_path, **changes), [0])


def test_events_before_a_stage_began_anew_are_not_its_own() -> None:
    rows = [{"stage": "rl", "kind": "guard"}, {"stage": "sft", "kind": "restarted"}, {"stage": "rl", "kind": "gate"}]
    assert [row["kind"] for row in events_since_restart(rows, "rl")] == ["guard", "gate"]
    assert events_since_restart([*rows, {"stage": "rl", "kind": "restarted"}, rows[0]], "rl") == [rows[0]]
