"""The comparison's verdicts: what lies within the noise of the prompts is called that."""

from __future__ import annotations

import random
import statistics
from typing import Any

import pytest

from sawyer.config import parse_config
from sawyer.stages.compare.comparison_gates import compare_gates
from sawyer.stats import bootstrap, detectable


def config(algorithm: str = "ppo", **more: Any) -> Any:
    rl = {"prompts": ["c"], "algorithm": algorithm, **({"data": ["d"]} if algorithm == "dpo" else {})}
    return parse_config({"model": "m", "sft": {"data": ["a"]}, "rl": rl, **more})


def gates(rate: tuple[float, float, float] | None, change: tuple[float, float, float] | None, given: Any) -> list[Any]:
    figures: dict[str, Any] = {}
    for name, found in (("win_rate_rl_vs_sft", rate), ("greedy_change_rl_vs_sft", change)):
        if found is not None:
            figures[name] = dict(zip(("low", "value", "high"), found, strict=True)) | {"judge": "reward"}
    return compare_gates(figures, "sft", given)


JUDGED = {"reward": {"data": ["b"]}}


@pytest.mark.parametrize(
    ("rate", "verdict", "noise"),
    [
        ((0.51, 0.6, 0.69), "ok", False),
        ((0.45, 0.55, 0.65), "warn", True),
        ((0.5, 0.5, 0.5), "warn", True),  # every answer is the same as before: no loss
        ((0.31, 0.4, 0.49), "fail", False),
    ],
)
def test_who_wins_is_told_by_the_interval(rate: tuple[float, float, float], verdict: str, noise: bool) -> None:
    (gate,) = gates(rate, None, config(**JUDGED))
    assert (gate.name, gate.verdict, gate.value) == ("rl_beats_sft", verdict, rate[0])
    assert ("within noise" in gate.message) == noise
    if rate[0] == 0.45:  # half of the width, 0.1, times (1.96 + 0.8416) / 1.96
        assert "64% would probably be seen" in gate.message


@pytest.mark.parametrize("rate", [(0.19, 0.5, 0.81), (0.1, 0.3, 0.49)])
def test_a_model_against_itself_is_told_as_that(rate: tuple[float, float, float]) -> None:
    found = {"win_rate_rl_vs_sft": dict(zip(("low", "value", "high"), rate, strict=True)) | {"judge": "reward"}}
    (gate,) = compare_gates(found, "sft", config(**JUDGED), kept_start=True)
    assert gate.verdict == "warn" and "RL kept none of its updates: its model is SFT" in gate.message
    assert "more prompts" not in gate.advice and "would probably be seen" not in gate.message


def test_greedy_answers_that_may_be_as_good_are_no_warning() -> None:
    (gate,) = gates(None, (-0.3, -0.1, 0.1), config(**JUDGED))
    assert gate.verdict == "ok" and "within noise; a change of 0.29 would probably be seen" in gate.message
    (worse,) = gates(None, (-0.3, -0.2, -0.1), config(**JUDGED))
    assert worse.verdict == "warn" and "within noise" not in worse.message


def test_advice_names_what_this_run_has() -> None:
    by_algorithm = {name: gates(None, (-0.3, -0.2, -0.1), config(name, **JUDGED))[0].advice for name in ("grpo", "dpo")}
    assert "rl.kl.coefficient" in by_algorithm["grpo"] and "rl.beta" in by_algorithm["dpo"]
    assert all("reward stage's gates" in advice for advice in by_algorithm.values())
    assert "reward stage" not in gates(None, (-0.3, -0.2, -0.1), config("dpo"))[0].advice


def test_what_would_be_seen_is_seen_four_times_in_five() -> None:
    rng = random.Random(4)
    found = bootstrap([rng.gauss(0, 1) for _ in range(100)], seed=0)
    needed = detectable(found.low, found.high)
    means = [needed + statistics.fmean(rng.gauss(0, 1) for _ in range(100)) for _ in range(2000)]
    assert 0.72 < sum(mean - (found.high - found.low) / 2 > 0 for mean in means) / 2000 < 0.88
