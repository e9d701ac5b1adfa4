"""RL heeds the verdict of the reward model's trust report: it says it, and sets the guards that it asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from sawyer.errors import RunError
from sawyer.records import Answer, JudgedPrompt, prompt_of
from sawyer.runs import Run, write_json
from sawyer.stages.rl.rl_stage import train
from sawyer.stages.rl.trainer import Trainer
from sawyer.stages.rl.trust_guards import verdict_summary
from sawyer.trust import NeededGuard, Verdict, as_json, trust
from sawyer.trust.trust_values import Reason

Fixture = Any
LATE = {"episodes": 8, "batch_size": 8, "eval_every": 100}


def write_report(
    run: Run,
    kind: Literal["trust", "guarded", "refuse"],
    needed: tuple[tuple[str, float], ...] = (("length", 0.5), ("mode_response_rate", 0.1)),
) -> None:
    """A report of that verdict, which asks for guards unless it trusts."""

    def score(prompts: Any, responses: Any) -> list[float]:
        return [float(len(text)) for text in responses]

    answers = (Answer(response="yes yes", score=2.0), Answer(response="no", score=1.0))
    found = trust(score, [JudgedPrompt(prompt=prompt_of(str(i)), answers=answers) for i in range(3)])
    reason = Reason(name="damage_twice", words="it says all twice", figure="probes.twice", value=0.3, threshold=0.1)
    guards = [NeededGuard(guard=name, threshold=value, reason=reason.name) for name, value in needed]
    asks = kind != "trust"
    verdict = Verdict(
        kind=kind, above=None, words="words", reasons=(reason,) * asks, doubts=(), guards=tuple(guards) if asks else ()
    )
    write_json(run.layout.trust, as_json(found, verdict))


@pytest.mark.parametrize("kind", ["trust", "guarded", "refuse"])
def test_guards_are_set_and_said(tiny: Fixture, tmp_path: Path, events: Any, kind: Any) -> None:
    config = tiny.rl_config(tmp_path / "run", guards={"mode_response_rate": {"threshold": 0.3}}, **LATE)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        write_report(run, kind)
        train(config, run)
        told = [*events(run, "plan"), *events(run, "warning")]
    said = [row["message"] for row in told if "trust report" in row["message"]]
    if kind == "trust":
        assert said == []
        return
    (words,) = said
    assert (
        "length 0.5, mode_response_rate 0.3 by rl.guards (the report recommends 0.1)" in words and "it says all twice" in words
    )
    assert ("not to run RL on it" in words) == (kind == "refuse")


WATCHED = {"eos_rate": 0.8, "distinct_2": 0.6, "length": 6.0, "mode_response_rate": 0.0, "score": 0.0, "disagreement": 0.1}


@pytest.mark.parametrize("with_function", [False, True])
def test_what_is_said_is_what_acts(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_function: bool) -> None:
    """A best model kept by rl.kl.budget, which is looser, would be one that the guard puts back. Of 8 answers a correlation of
    0.956 is surely above tanh(atanh(0.956) - 3 / sqrt(5)) = 0.50: beyond the report's threshold, within the default of 0.6."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_part.py").write_text("def one(prompts, responses):\n    return [float(len(r)) for r in responses]\n")
    parts = [{"name": "judge", "model": "stage"}, {"name": "one", "function": "my_own_part:one"}]
    rl = {"rewards": parts, "value_init": "policy"} if with_function else {}
    config = tiny.rl_config(tmp_path / "run", **rl, **LATE)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        write_report(run, "guarded", (("kl_budget", 0.5), ("score_length_correlation", 0.4)))
        work = Trainer(config, run)
    assert work.rl.kl.budget > work.best.kl_budget == work.guards.rules["kl_budget"].threshold == 0.5
    best = {"eval_reward": 1.0, "eval_mode_response_rate": 0.0}
    assert work.best.offer_evaluation(0, {**best, "eval_kl": 0.0}, [1.0])
    assert not work.best.offer_evaluation(1, {**best, "eval_reward": 2.0, "eval_kl": 0.51}, [2.0])
    assert work.best.offer_evaluation(2, {**best, "eval_reward": 2.0, "eval_kl": 0.5}, [2.0])
    for name, good, bad in (
        ("kl_budget", {"kl": 0.5}, {"kl": 0.51}),
        ("score_length_correlation", {}, {"length_correlation": 0.956}),
    ):
        work.guards.reset_streaks()
        quiet = {**WATCHED, "kl": 0.0, "length_correlation": 0.0}
        assert [work.guards.check_batch({**quiet, **good}) for _ in range(4)] == [[]] * 4
        tripped = {one.guard for _ in range(3) for one in work.guards.check_batch({**quiet, **bad})}
        assert tripped == ({name} if name == "kl_budget" or not with_function else set())
    assert work.verdict is not None
    words = verdict_summary(work.verdict, work.rl, work.guards)
    said = "score_length_correlation not checked (the report recommends 0.4): the reward includes your own function"
    assert f"kl_budget 0.5, {said if with_function else 'score_length_correlation 0.4'}; because" in words


@pytest.mark.parametrize("kind", ["trust", "guarded", "refuse"])
def test_best_of_n_has_no_guards_and_warns_of_a_refusal(tiny: Fixture, tmp_path: Path, events: Any, kind: Any) -> None:
    stages = {"sft": {"data": [str(tiny.instructions)]}, "reward": {"data": [str(tiny.comparisons)]}}
    asked = {"algorithm": "best_of_n", "group_size": 2, "prompts": [str(tiny.prompts)], "max_new_tokens": 4, "eval_prompts": 2}
    config = tiny.config(tmp_path / "run", **stages, rl=asked)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        write_report(run, kind)
        train(config, run)
        told = [row["message"] for row in events(run, "warning")]
    told = [words for words in told if "trust report" in words]
    if kind != "refuse":
        assert told == []
        return
    assert told == ["the reward model's trust report says not to run RL on it, because it says all twice"]


def test_a_reward_model_that_is_not_paid_for_sets_nothing(
    tiny: Fixture, tmp_path: Path, events: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_reward.py").write_text("def one(prompts, responses):\n    return [float(len(r)) for r in responses]\n")
    rewards = [{"name": "one", "function": "my_own_reward:one"}]
    config = tiny.rl_config(tmp_path / "run", rewards=rewards, value_init="policy", **LATE)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        write_report(run, "refuse")
        train(config, run)
        assert not any("trust report" in row["message"] for kind in ("plan", "warning") for row in events(run, kind))


def test_a_report_that_is_not_as_it_was_written_is_named(tiny: Fixture, tmp_path: Path) -> None:
    config = tiny.rl_config(tmp_path / "run", **LATE)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        write_report(run, "guarded")
        values = json.loads(run.layout.trust.read_text())
        values["verdict"]["guards"][0]["threshold"] = "low"
        write_json(run.layout.trust, values)
        with pytest.raises(RunError, match=r"trust\.json"):
            train(config, run)
