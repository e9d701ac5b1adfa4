"""Judgements of several raters in the reward stage: ties and both bad as what they are, whose rows count, and in what words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sawyer.errors import DataError
from sawyer.models import open_language_model
from sawyer.runs import read_rows
from sawyer.stages.reward.judgement_counts import JudgementCounts
from sawyer.stages.reward.reward_data import RewardData, load_reward_data
from sawyer.stages.reward.reward_stage import train
from sawyer.stages.reward.reward_trust import examine
from sawyer.trust import from_json

Fixture = Any


def judgement(prompt: str, *scores: float, rater: str = "r1", **more: Any) -> dict[str, Any]:
    answers = [{"response": f"{prompt} " * (i + 1), "score": score} for i, score in enumerate(scores)]
    return {"user_input": prompt, "responses_and_scores": answers, "rater": rater, **more}


# Two raters, who agree on the first prompt; the second rater's weight is a half.
ROWS = [
    judgement("one", 2, 0),
    judgement("one", 2, 0, rater="r2", judgement_weight=0.5),
    judgement("two", 0, 0, both_bad=True),
    judgement("two", 0, 1, rater="r2", judgement_weight=0.5),
    judgement("three", 1, 1),
]


def data_of(tiny: Fixture, tmp_path: Path, rows: list[dict[str, Any]], loss: str) -> RewardData:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tiny.config(tmp_path / "run", sft={"data": ["d"]}, reward={"data": [str(path)], "eval_fraction": 0, "loss": loss})
    with tiny.run(tmp_path / "run") as run:
        return load_reward_data(config, run, open_language_model(tiny.sft))


@pytest.mark.parametrize(
    ("loss", "teaching", "remarks"),
    [
        ("squared", ["one", "one", "two"], "; 2 prompts are left out: all scores are equal"),
        ("listwise", ["one", "one", "two", "two", "three"], ""),
        ("regression", ["one", "one", "two", "two", "three"], ""),
    ],
)
def test_a_tie_teaches_the_losses_that_can_learn_from_it(
    tiny: Fixture, tmp_path: Path, loss: str, teaching: list[str], remarks: str
) -> None:
    data = data_of(tiny, tmp_path, ROWS, loss)
    assert [prompt.record.prompt.text for prompt in data.train_prompts] == teaching
    assert data.remarks == remarks
    assert len(data.records) == 5  # the ceiling goes by all of them


def test_the_plan_counts_judgements_raters_ties_and_both_bad(tiny: Fixture, tmp_path: Path) -> None:
    counts = JudgementCounts.of(data_of(tiny, tmp_path, ROWS, "squared").records)
    assert counts == JudgementCounts(judgements=5, raters=2, ties=2, both_bad=1, with_weight=2)
    assert counts.summary({}, pairwise=True) == (
        "5 judgements by 2 raters, 2 ties are without a pair to learn from, 1 of them both bad, 2 judgements are weighted"
    )
    assert "2 ties are learned from as ties, 1 of them both bad" in counts.summary({}, pairwise=False)
    assert counts.summary({"bob": 0.5, "eve": 0}, pairwise=True).endswith("reward.raters: bob counts 0.5, eve is left out")
    assert counts.warnings({"bob": 0.5}, by_score=False) == [] == counts.warnings({}, by_score=True)


def test_files_without_raters_say_nothing_of_them_and_a_setting_for_nobody_is_warned_of(tiny: Fixture, tmp_path: Path) -> None:
    rows = [{name: value for name, value in row.items() if name != "rater"} for row in ROWS[:1]]
    counts = JudgementCounts.of(data_of(tiny, tmp_path, rows, "squared").records)
    assert counts.summary({}, pairwise=True) == "" and counts.warnings({}, by_score=True) == []
    (warning,) = counts.warnings({"bob": 0}, by_score=False)
    assert warning.startswith("reward.raters (bob is left out) changes nothing: no judgement")


def test_regression_on_judged_pairs_is_warned_of(tiny: Fixture, tmp_path: Path) -> None:
    """Whose scores are 0 and the grade: a tie of two good answers would be learned as two losers."""
    counts = JudgementCounts.of(data_of(tiny, tmp_path, ROWS[:4], "regression").records)
    (warning,) = counts.warnings({}, by_score=True)
    assert warning.startswith("the loss learns the scores themselves") and counts.warnings({}, by_score=False) == []
    scored = [*ROWS[:4], judgement("four", 7, 3)]
    assert not JudgementCounts.of(data_of(tiny, tmp_path, scored, "regression").records).are_pairs


def test_the_accuracy_ceiling_is_from_repeats_of_training_prompts_too(tiny: Fixture, tmp_path: Path) -> None:
    """Two raters of each prompt; they disagree on every fifth: 0.8 = p^2 + (1 - p)^2."""
    rows = [judgement(f"p{i}", 1.0, 2.0, rater="r1") for i in range(40)]
    rows += [judgement(f"p{i}", *((1.0, 2.0) if i % 5 else (2.0, 1.0)), rater="r2") for i in range(40)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tiny.config(tmp_path / "run", sft={"data": ["d"]}, reward={"data": [str(path)], "eval_fraction": 0.2})
    with tiny.run(tmp_path / "run") as run:
        data = load_reward_data(config, run, open_language_model(tiny.sft))
    examined = {prompt.record.prompt.text for prompt in data.examined_prompts}
    assert 0 < len(examined) < 20, "too few for repeats alone"
    _, figures = examine(lambda _, texts: [float(len(text)) for text in texts], data, "squared", seed=0)
    assert figures["accuracy_ceiling"] == pytest.approx((1 + 0.6**0.5) / 2)


def test_judgements_that_prefer_nothing_are_refused_with_a_verdict(tiny: Fixture, tmp_path: Path) -> None:
    rows = [judgement(f"p{i}", 0, 0, rater=f"r{i % 2 + 1}", both_bad=True) for i in range(30)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tiny.config(tmp_path / "run", sft={"data": ["d"]}, reward={"data": [str(path)]})
    with (
        tiny.run(tmp_path / "run", "sft") as run,
        pytest.raises(DataError, match=r"nothing to learn.*30 judgements by 2 raters"),
    ):
        train(config, run)
    report, verdict = from_json(json.loads(run.layout.trust.read_text()))
    assert verdict.kind == "refuse" and [reason.name for reason in verdict.reasons] == ["nothing_to_learn"]
    assert report.everything.prompts == 30 and report.everything.pairs == 0
    told = [row["message"] for row in read_rows(run.layout.events) if row["kind"] == "verdict"]
    assert told == [verdict.words]
    assert told[0].startswith("Don't run RL on it, because there is nothing to learn: all scores are tied")
