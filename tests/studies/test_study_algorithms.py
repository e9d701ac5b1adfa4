"""The bake-off's table, from comparisons that are made up; budgets; what a trial's stopwatch tells."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sawyer.config import Config, parse_config
from sawyer.errors import ConfigError, Interrupted
from sawyer.runs import Layout, Listener
from sawyer.runs.journal import Journal
from sawyer.studies import algorithms, throughput
from sawyer.studies.algorithms import ALGORITHMS, compare_algorithms, config_of, study_algorithms
from sawyer.studies.tables import CellResult
from sawyer.studies.throughput import Pace, measure_pace

TREE: dict[str, Any] = {
    "model": "m",
    "sft": {"data": ["a"]},
    "reward": {"data": ["a"], "batch_size": 8, "epochs": 2},
    "rl": {
        "prompts": ["a"],
        "episodes": 64,
        "batch_size": 16,
        "num_minibatches": 2,
        "epochs": 1,
        "learning_rate": 3e-4,
        "gae_lambda": 0.9,
        "kl": {"coefficient": 0.1, "budget": 9.0},
    },
    "compare": {"deliberate_limit": 24},
}
# gold of each prompt, by seed: SFT's answers and RL's
SFT = {0: (5.0, 6.0, 1.0), 1: (5.0, 8.0, 3.0)}
RL = {
    "ppo": {0: (7.0, 6.0, 4.0), 1: (9.0, 7.0, 4.0)},
    "rloo": {0: (6.0, 6.0, 3.0), 1: (8.0, 6.0, 3.0)},
}


def config(tmp_path: Path, **changes: Any) -> Config:
    return parse_config({**TREE, "out": str(tmp_path / "run"), **changes})


def cell(tmp_path: Path, algorithm: str, seed: int, *, truth: bool = True, stopped: str = "") -> CellResult:
    """A run's comparison: gold 10 times the reward, greedy as at temperature 0.7, nothing at temperature 1."""
    rows = []
    for model, values in (("sft", SFT[seed]), ("rl", RL[algorithm][seed])):
        for number, value in enumerate(values):
            for setting in ("t07", "greedy"):
                row = {"number": number, "model": model, "setting": setting, "reward": value / 10, "length": 4 + number}
                row |= {"gold": value} if truth else {}
                row |= {"kl": 1.0 + seed} if model == "rl" and setting == "t07" else {}
                rows.append(row)
    out = tmp_path / f"{algorithm}-{seed}"
    out.mkdir(parents=True)
    Layout(out).compare.write_text("".join(json.dumps(row) + "\n" for row in rows))
    seconds, peak = (100.0, 500.0) if algorithm == "ppo" else (50.0 + 10 * seed, 400.0 + seed)
    figures = {"budget": "64 answers", "seconds": seconds, "peak_mb": peak, "best_step": 3, "stopped": stopped}
    return CellResult(row=algorithm, seed=seed, out=str(out), figures=figures)


def test_the_table_is_that_of_the_comparisons(tmp_path: Path) -> None:
    cells = [cell(tmp_path, name, seed) for name in RL for seed in (0, 1)]
    found = compare_algorithms(cells, str(tmp_path), 0)
    sft, ppo, rloo = found.rows
    assert (found.measure, found.seeds) == ("gold", (0, 1)) and "3 prompts" in found.text
    # Each prompt's mean over the seeds: SFT 5, 7, 2; PPO 8, 6.5, 4; RLOO 7, 6, 3.
    assert sft["scores"]["t07"].value == pytest.approx(14 / 3)
    assert ppo["scores"]["t07"].value == pytest.approx(18.5 / 3) and rloo["scores"]["t07"].value == pytest.approx(16 / 3)
    assert 4.0 <= ppo["scores"]["t07"].low < 18.5 / 3 < ppo["scores"]["t07"].high <= 8.0
    assert "t1" not in ppo["scores"] and ppo["reward"] is not None and ppo["reward"].value == pytest.approx(1.85 / 3)
    assert ppo["kl"] is not None and ppo["kl"].value == pytest.approx(1.5) and sft["kl"] is None
    assert ppo["length"] is not None and ppo["length"].value == pytest.approx(5.0)
    # Against SFT of the same seed: PPO wins 1, ties 1/2, wins 1; then wins, loses, wins: 1, 1/4, 1.
    assert ppo["wins"] is not None and ppo["wins"].value == pytest.approx(2.25 / 3) and sft["wins"] is None
    assert ppo["wins"].low < 0.45  # of three prompts: no narrower than Wilson's
    assert (ppo["seconds"], ppo["peak_mb"], rloo["seconds"], rloo["peak_mb"]) == (100.0, 500.0, 55.0, 401.0)
    apart = {(one.better, one.worse, one.measure): one.by for one in found.differences}
    by = apart["ppo", "rloo", "t07"]
    assert by.value == pytest.approx((1 + 0.5 + 1) / 3) and by.low == pytest.approx(0.5)  # on the same prompts: each is better
    assert apart["ppo", "sft", "t07"].low < 0 < apart["ppo", "sft", "t07"].value  # 3, -0.5 and 2
    words = " ".join(found.notes)
    near, behind = (
        "no significant difference to SFT, no RL (by 1.50 (−0.50 to 3.00))",
        "better than RLOO (by 0.83 (0.50 to 1.00))",
    )
    assert f"At temperature 0.7, PPO is highest; {near}; {behind}." in words and f"Greedy, PPO is highest; {near}" in words
    assert "At temperature 1" not in words
    assert "Each is the mean of 2 seeds" in words


def test_the_best_of_eight_is_held_against_what_is_sampled_at_temperature_1(tmp_path: Path) -> None:
    one = cell(tmp_path, "ppo", 0)
    rows = [
        {"number": number, "model": model, "setting": setting, "reward": gold / 10, "gold": gold, "length": 1}
        for model, setting, golds in (("sft", "best_of_8", (8, 9, 7)), ("rl", "t1", (7, 8, 4)), ("sft", "t1", (1, 2, 3)))
        for number, gold in enumerate(golds)
    ]
    with Layout(Path(one.out)).compare.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    found = compare_algorithms([one], str(tmp_path), 0)
    assert [row["name"] for row in found.rows] == ["sft", "best_of_8", "ppo"]
    assert found.rows[1]["scores"]["t1"].value == 8.0 and list(found.rows[1]["scores"]) == ["t1"]
    assert "At temperature 1, SFT, best of 8 is highest; better than PPO (by 1.67 (1.00 to 3.00)), SFT" in found.notes[0]
    assert found.rows[1]["kl_bound"] == pytest.approx(math.log(8) - 7 / 8)
    assert "| SFT, best of 8 |" in found.text and "at most 1.20" in found.text


def test_guards_and_own_settings_are_said(tmp_path: Path) -> None:
    cells = [cell(tmp_path, "ppo", 0, stopped="kl_budget is 30"), cell(tmp_path, "rloo", 0)]
    words = " ".join(compare_algorithms(cells, str(tmp_path), 0, ["rloo.group_size=8"]).notes)
    assert "A guard stopped PPO: seed 0 (kl_budget is 30)." in words
    assert "Overrides: rloo.group_size=8." in words and "One seed" in words


def test_the_markdown(tmp_path: Path) -> None:
    found = compare_algorithms([cell(tmp_path, name, seed) for name in RL for seed in (0, 1)], str(tmp_path), 0)
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in found.text.split("\n") if line.startswith("|")]
    assert cells[0] == ["", "gold 1", "gold 0.7", "gold greedy", "reward", "wins", "KL", "tokens", "learns from", "time", "MB"]
    assert [row[0] for row in cells[2:]] == ["SFT, no RL", "PPO", "RLOO"]
    assert cells[2][1] == "–" and cells[2][2].startswith("4.67 (") and cells[2][5:7] == ["–", "–"]
    assert cells[3][5].startswith("75 (") and cells[3][8:] == ["64 answers", "2 min", "500"]
    assert "Fewer than 20 prompts" in found.text
    plain = compare_algorithms([cell(tmp_path / "b", "ppo", 0, truth=False)], str(tmp_path), 0)
    assert plain.measure == "reward" and plain.text.count("reward") >= 4 and "gold" not in plain.text


def test_an_algorithm_s_run_has_the_settings_that_mean_something_to_it(tmp_path: Path) -> None:
    given = config(tmp_path)
    for name in ALGORITHMS:
        own = config_of(given, name, 7, tmp_path / "bake", 32)
        assert own.rl is not None and own.compare is not None
        assert (own.out, own.seed, own.rl.algorithm) == (str(tmp_path / "bake" / f"{name}-seed-7"), 7, name)
        assert own.rl.prompts == ["a"] and own.rl.temperature == given.rl.temperature  # type: ignore[union-attr]
        assert own.compare.deliberate_limit == 0
        if name in ("ppo", "rloo", "grpo"):
            assert (own.rl.episodes, own.rl.batch_size, own.rl.kl.coefficient) == (32, 16, 0.1)
            assert (own.rl.learning_rate, own.rl.kl.budget, own.rl.group_size) == (3e-4, 9.0, 1 if name == "ppo" else 4)
    ppo = config_of(given, "ppo", 0, tmp_path, None).rl
    assert ppo is not None and (ppo.gae_lambda, ppo.episodes, ppo.epochs) == (0.9, 64, 1)
    own = config_of(given, "rloo", 0, tmp_path, None, ["rloo.learning_rate=1e-5", "ppo.group_size=1", "rloo.group_size=8"]).rl
    assert own is not None and (own.learning_rate, own.group_size) == (1e-5, 8)
    with pytest.raises(ConfigError, match="whole number of batches"):
        config_of(given, "rloo", 0, tmp_path, 30)
    with pytest.raises(ConfigError, match="gae_lambda"):
        config_of(given, "rloo", 0, tmp_path, None, ["rloo.gae_lambda=0.9"])


def test_what_learns_from_judged_pairs_reads_them_as_the_reward_model_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if RLOO were such an algorithm.
    monkeypatch.setattr(algorithms, "USED_BY", {**algorithms.USED_BY, "episodes": ("ppo", "grpo")})
    own = config_of(config(tmp_path), "rloo", 0, tmp_path, 32).rl
    assert own is not None and (own.batch_size, own.epochs, own.eval_every) == (8, 2, 20)  # every 10 of 16 answers: of 8, 20
    passes = algorithms.within(
        config_of(config(tmp_path), "rloo", 0, tmp_path, None), Pace(update=1.0, evaluation=0.0, of=20), 0.75
    )
    assert passes.rl is not None and passes.rl.epochs == 4  # 45 updates; two passes are 20
    back = config_of(passes, "ppo", 0, tmp_path, 64).rl
    assert back is not None and (back.batch_size, back.epochs) == (64, 4)  # the defaults: the pairs' batches are no answers'


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"algorithms": ["ppo", "reinforce"]}, "reinforce is no algorithm that trains"),
        ({"algorithms": ["best_of_n"]}, "best_of_n is no algorithm that trains"),
        ({"algorithms": ["ppo", "ppo"]}, "algorithm ppo is named twice"),
        ({"seeds": []}, "no seed is named"),
        ({"episodes": 32, "minutes": 1.0}, "a budget of episodes and one of minutes"),
        ({"overrides": ["dppo.group_size=1"]}, "dppo.group_size=1"),
    ],
)
def test_what_cannot_be_is_said_before(tmp_path: Path, more: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        study_algorithms(config(tmp_path), **more)
    with pytest.raises(ConfigError, match="no section `compare`"):
        study_algorithms(config(tmp_path, compare=None))


def test_a_budget_of_minutes_is_a_number_of_updates() -> None:
    found = Pace(update=2.0, evaluation=5.0, of=100)
    # 60 s less two evaluations are 50; an update and a tenth of an evaluation take 2.5 s.
    assert found.updates(60.0, 10) == 20
    assert found.updates(1.0, 10) == 1


def test_a_trial_is_cut_off_forgotten_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    seconds = [7.0, 2.0, 2.0, 9.0, 2.0, 2.0]  # the first after an evaluation, one with something else beside it

    def run(own: Config, *, only: str, listeners: Sequence[Listener]) -> None:
        tried.append(own.out)
        journal = Journal(Layout(Path(own.out)), listeners)
        for done, took in enumerate(seconds, 1):
            journal.progress("rl, rows encoded", done, 9)  # of no step
            journal.metrics("rl", done - 1, {"step_seconds": took})
            journal.progress("rl", done, 40)
        pytest.fail("it was not cut off")

    monkeypatch.setattr(throughput, "run", run)
    prepared: list[str] = []
    arguments = ("ppo", config(tmp_path), tmp_path, lambda own: prepared.append(own.out), (), lambda words: None)
    found = measure_pace(*arguments)
    assert found == Pace(update=2.0, evaluation=5.0, of=40)  # 7 s for the first; then 2, 2, 9 and 2
    assert tried == prepared == [str(tmp_path / "trial-ppo")] and not (tmp_path / "trial-ppo").exists()
    assert measure_pace(*arguments) == found and len(tried) == 1


def test_a_stop_during_a_trial_is_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(own: Config, **more: Any) -> None:
        raise Interrupted("rl was interrupted")

    monkeypatch.setattr(throughput, "run", run)
    with pytest.raises(Interrupted, match="rl was interrupted"):
        measure_pace("ppo", config(tmp_path), tmp_path, lambda own: None, (), lambda words: None)
    assert not Layout(tmp_path).pace.exists()


def test_minutes_become_answers(tmp_path: Path) -> None:
    given = config_of(config(tmp_path), "ppo", 0, tmp_path, None)
    own = algorithms.within(given, Pace(update=1.0, evaluation=0.0, of=4), 0.5)
    assert own.rl is not None and own.rl.episodes == 30 * 16
