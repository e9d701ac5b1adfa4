"""RL heeds the verdict of the reward model's trust report: it says it, and sets the guards that it asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from sawyer.errors import RunError
from sawyer.records import Answer, ScoredAnswers, prompt_of
from sawyer.runs import Run, write_json
from sawyer.stages.rl.train import train
from sawyer.trust import NeededGuard, Reason, Verdict, as_json, trust

Fixture = Any
LATE = {"episodes": 8, "batch_size": 8, "eval_every": 100}


def write_report(run: Run, kind: Literal["trust", "guarded", "refuse"]) -> None:
    """A report of that verdict, which asks for two guards unless it trusts."""

    def score(prompts: Any, responses: Any) -> list[float]:
        return [float(len(text)) for text in responses]

    answers = (Answer(response="yes yes", score=2.0), Answer(response="no", score=1.0))
    found = trust(score, [ScoredAnswers(prompt=prompt_of(str(i)), answers=answers) for i in range(3)])
    reason = Reason(name="damage_twice", words="it says all twice", figure="probes.twice", value=0.3, threshold=0.1)
    guards = [
        NeededGuard(guard=name, threshold=value, reason=reason.name) for name, value in (("length", 0.5), ("same_answer", 0.1))
    ]
    asks = kind != "trust"
    verdict = Verdict(
        kind=kind, above=None, words="words", reasons=(reason,) * asks, doubts=(), guards=tuple(guards) if asks else ()
    )
    write_json(run.layout.trust, as_json(found, verdict))


@pytest.mark.parametrize("kind", ["trust", "guarded", "refuse"])
def test_guards_are_set_and_said(tiny: Fixture, tmp_path: Path, events: Any, kind: Any) -> None:
    config = tiny.rl_config(tmp_path / "run", guards={"same_answer": {"threshold": 0.3}}, **LATE)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        write_report(run, kind)
        train(config, run)
        told = [*events(run, "plan"), *events(run, "warning")]
    said = [row["message"] for row in told if "trust report" in row["message"]]
    if kind == "trust":
        assert said == []
        return
    (words,) = said
    assert "length 0.5, same_answer 0.3 by rl.guards, though 0.1 is asked for" in words and "it says all twice" in words
    assert ("not to run RL on it" in words) == (kind == "refuse")


def test_a_reward_model_that_is_not_paid_for_sets_nothing(
    tiny: Fixture, tmp_path: Path, events: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_reward.py").write_text("def one(prompts, responses):\n    return [float(len(r)) for r in responses]\n")
    rewards = [{"name": "one", "function": "my_own_reward:one"}]
    config = tiny.rl_config(tmp_path / "run", rewards=rewards, value_start="policy", **LATE)
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
