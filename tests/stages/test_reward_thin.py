"""Prompts of the reward model's data that ask nearly the same: the first stays, word-for-word repetitions all stay."""

from __future__ import annotations

import statistics
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sawyer.models import read_extra
from sawyer.runs import read_rows
from sawyer.stages.reward import train

Fixture = Any


def rows() -> list[dict[str, Any]]:
    """Prompts 0 to 7; of each a near twin (a full stop more); prompt 0 is judged three times."""
    words = "river stone bread winter paper engine garden music".split()
    asked = [f"Tell me about the {word} of {other}" for word, other in zip(words, reversed(words), strict=True)]
    pairs = [{"prompt": text, "chosen": "Yes.", "rejected": "No."} for text in asked]
    pairs += [{"prompt": f"{text}.", "chosen": "Yes.", "rejected": "Never."} for text in asked]
    return [*pairs, *({"prompt": asked[0], "chosen": f"Yes {i}.", "rejected": "No."} for i in range(2))]


def config_of(tiny: Fixture, out: Path, data: Path, **asked: Any) -> Any:
    section = {"data": [str(data)], "eval_fraction": 0, **asked}
    return tiny.config(out, sft={"data": [str(tiny.instructions)]}, reward=section)


@pytest.fixture
def thinnings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """(judgements before, after) of every thinning that the stage does."""
    module = import_module("sawyer.stages.reward.reward_stage")
    real, found = module.deduplicate, list[tuple[Any, Any]]()

    def noted(config: Any, run: Any, speaker: Any, place: Any, judgements: Any) -> Any:
        found.append((judgements, real(config, run, speaker, place, judgements)))
        return found[-1][1]

    monkeypatch.setattr(module, "deduplicate", noted)
    return found


@pytest.mark.slow
def test_near_twins_go_and_repetitions_stay(
    tiny: Fixture, tmp_path: Path, write_rows: Any, events: Any, thinnings: list[tuple[Any, Any]]
) -> None:
    data, told = write_rows(rows()), []
    for name, asked in (("whole", {}), ("few", {"dedup_threshold": 0.9999}), ("thin", {"dedup_threshold": 0.97})):
        with tiny.run(tmp_path / name, "sft") as run:
            train(config_of(tiny, tmp_path / name, data, calibration_prompts=2, **asked), run)
            told.append([row["message"] for row in events(run, "deduplicated")])
    (whole, same), (_, few), (_, found) = thinnings
    assert len(whole.train_prompts) == 18 and same is whole and told[0] == []
    assert [group.record.prompt for group in few.train_prompts] == [group.record.prompt for group in whole.train_prompts], (
        "nothing is as alike as that"
    )
    asked = [group.record.prompt.text for group in found.train_prompts]
    assert asked.count("Tell me about the river of music") == 3, "the same prompt's judgements are no duplicates"
    assert 3 <= len(asked) < 18 - 4
    assert asked == [group.record.prompt.text for group in whole.train_prompts if group.record.prompt.text in set(asked)], (
        "in their order"
    )
    assert told[2][0].startswith(f"prompts: dedup_threshold: 0.97 leaves out {16 - len(set(asked))} of 16 as near-duplicates")
    assert found.eval_prompts == whole.eval_prompts


def test_the_stage_trains_on_what_is_left(tiny: Fixture, tmp_path: Path, write_rows: Any) -> None:
    data = write_rows(rows())
    plans = []
    for name, asked in (("whole", {}), ("thin", {"dedup_threshold": 0.97})):
        with tiny.run(tmp_path / name, "sft") as run:
            train(config_of(tiny, tmp_path / name, data, calibration_prompts=2, **asked), run)
            plans.append(next(row["message"] for row in read_rows(run.layout.events) if row["kind"] == "plan"))
    assert plans[0].startswith("18 prompts with 36 answers") and not plans[1].startswith("18 prompts")


def test_scores_are_standardised_over_the_prompts_that_are_left(
    tiny: Fixture, tmp_path: Path, write_rows: Any, thinnings: list[tuple[Any, Any]]
) -> None:
    """The twins' scores are far lower: with them mean and deviation would be other ones."""
    scored = [
        {
            "user_input": row["prompt"],
            "responses_and_scores": [
                {"response": row["chosen"], "score": -30.0 if row["prompt"].endswith(".") else 8.0},
                {"response": row["rejected"], "score": -50.0 if row["prompt"].endswith(".") else 2.0},
            ],
        }
        for row in rows()[:16]
    ]
    data = write_rows(scored)
    with tiny.run(tmp_path / "run", "sft") as run:
        train(config_of(tiny, tmp_path / "run", data, calibration_prompts=2, dedup_threshold=0.97, loss="regression"), run)
        kept = read_extra(run.layout.model("reward"))
    ((whole, found),) = thinnings
    scores = [score for group in found.train_prompts for score in group.record.scores]
    assert 1 <= len(found.train_prompts) < len(whole.train_prompts) == 16
    assert found.normalizer.mean == pytest.approx(statistics.fmean(scores)) != pytest.approx(whole.normalizer.mean)
    assert found.normalizer.scale == pytest.approx(statistics.pstdev(scores)) != pytest.approx(whole.normalizer.scale)
    assert (kept["score_mean"], kept["score_scale"]) == (found.normalizer.mean, found.normalizer.scale)
