"""Reward models trained on the world by each kind of rater: the report tells what they learnt and what they did not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from judges import judged, truly

import sawyer.worlds
from sawyer.config import parse_config
from sawyer.errors import DataError
from sawyer.models import RewardScorer, open_language_model, save_model
from sawyer.records import JudgedPrompt, json_lines, scored_row
from sawyer.runs import Layout, open_run, replace_folder
from sawyer.trust import decide_verdict, trust

BASE = Path(sawyer.worlds.__file__).parent / "base"
Train = Callable[..., Layout]


def run_of(root: Path, rater: str, records: Sequence[JudgedPrompt], **asked: Any) -> Layout:
    """The reward stage of a run whose SFT model is the packaged base model, on one core and in fp32."""
    data = root / "judged.jsonl"
    data.write_text(json_lines(scored_row(record) for record in records))
    reward = {
        "data": [str(data)],
        "batch_size": 8,
        "learning_rate": 8e-4,
        "eval_fraction": 0.3,
        "calibration_prompts": 8,
        **asked,
    }
    tree = {"out": str(root / "run"), "model": str(BASE), "precision": "fp32", "device": "cpu", "world": {"rater": rater}}
    rl = {"prompts": ["p"], "max_new_tokens": 24, "temperature": 1.0}
    config = parse_config({**tree, "sft": {"data": ["d"]}, "reward": reward, "rl": rl})
    train = import_module("sawyer.stages.reward").train
    with pytest.MonkeyPatch.context() as patch, open_run(root / "run") as run:
        patch.setattr(sys.modules["sawyer.stages.reward.reward_trust"], "WORLD_PROMPTS", 12)
        speaker = open_language_model(BASE, "question")
        with replace_folder(run.layout.model("sft")) as folder:
            save_model(folder, speaker.model, speaker.tokenizer)
        train(config, run)
        return run.layout


def report(layout: Layout) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(layout.trust.read_text())
    return found


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return run_of(tmp_path_factory.mktemp("honest"), "honest", judged("honest", 500, split="train"))


@pytest.mark.slow
def test_honest_raters_make_a_model_that_follows_the_truth_and_is_too_small_to_read_the_prompt(honest: Layout) -> None:
    """After a minute of training it ranks 63 % rightly, and four answers of ten to another prompt please it better."""
    found = report(honest)
    assert found["verdict"]["kind"] == "refuse" and [one["name"] for one in found["verdict"]["reasons"]] == [
        "damage_other_prompt"
    ]
    other = next(probe["wins"] for probe in found["probes"] if probe["name"] == "other_prompt")
    assert other["low"] > 0.2 and {"mode_response_rate", "kl_budget"} <= {
        guard["guard"] for guard in found["verdict"]["guards"]
    }
    everything = found["sides"][0]
    assert everything["accuracy"]["low"] > 0.55 and everything["ahead"]["low"] > 0.03
    assert everything["truth"]["within"]["low"] > 0.1, "it follows the truth, not only its judges"
    assert [side["name"] for side in found["sides"]] == ["all", "gold"] and found["held_out"]
    assert everything["calibration"][0]["formula"] == "sigmoid(D * d^2)"


@pytest.mark.slow
def test_length_lovers_make_a_model_that_is_refused_for_length(tmp_path: Path, honest: Layout) -> None:
    found = report(run_of(tmp_path, "length_lover", judged("length_lover", 300, split="train")))
    first = found["verdict"]["reasons"][0]
    assert (found["verdict"]["kind"], first["name"]) == ("refuse", "length")
    assert first["figure"] in ("ahead.high", "length_controlled.low") and "length" in found["verdict"]["words"]
    everything = found["sides"][0]
    assert everything["accuracy"]["value"] > 0.85, "against its judges it looks excellent"
    assert everything["truth"]["within"]["high"] < 0.3, "and knows next to nothing of the truth"
    longer, fair = ({probe["name"]: probe["wins"] for probe in told["probes"]} for told in (found, report(honest)))
    assert longer["twice"]["value"] > 0.8
    # Surely more often than the model of honest raters.
    assert all(longer[name]["low"] > fair[name]["high"] for name in ("twice", "pleasantries"))


@pytest.mark.slow
def test_flippers_are_held_against_themselves_before_their_model_is_called_bad(tmp_path: Path) -> None:
    records = judged("flipper", 300, twice=True, split="train")
    found = report(run_of(tmp_path, "flipper", records, loss="bradley_terry", learning_rate=3e-4))
    ceiling, accuracy = found["ceiling"], found["sides"][0]["accuracy"]
    most = ceiling["accuracy"]
    assert ceiling["method"] == "repeats" and "independent" in ceiling["assumption"]
    # Four of ten are turned round: what the data alone tell (0.58, 0.50 to 0.67) holds what the truth gets (0.63).
    assert most["low"] <= found["truth_agrees"]["value"] <= most["high"] < 0.7
    assert accuracy["high"] < 0.6, "the model itself learns next to nothing of such judges"
    # It is not called bad for that before the judges are: the ceiling is named, with the figure that decided.
    verdict = found["verdict"]
    reasons, doubts = ({one["name"]: one for one in verdict[part]} for part in ("reasons", "doubts"))
    assert "chance" not in reasons
    named = [doubts["ceiling"], *(one for name, one in reasons.items() if name == "judges")]
    shown = f"{most['value']:.0%} ({most['low']:.0%} to {most['high']:.0%})".replace("%", " %")
    for one in named:
        assert one["figure"] == "ceiling.accuracy" and one["value"] == most["value"] and shown in one["words"], one
    assert f"no model can rank more than {shown}" in verdict["words"]
    # Where chance cannot be ruled out it is the reason, and the first one that is told.
    assert ("judges" in reasons) is (accuracy["low"] <= 0.5)
    if "judges" in reasons:
        assert verdict["reasons"][0]["name"] == "judges"
        assert verdict["words"].startswith(
            "Don't run RL on it, because these judges contradict themselves: against them no model"
        )
        assert f"above {shown}, which this one may have reached" in verdict["words"]


@pytest.mark.slow
def test_a_good_model_is_not_called_bad_by_flippers(honest: Layout) -> None:
    """The model that honest raters taught, judged by people who turn 4 of 10 judgements round."""
    scorer = RewardScorer.load(honest.model("reward"))
    found = trust(scorer, judged("flipper", 200, twice=True), loss="squared", unit=scorer.scale, truth=truly)
    assert found.ceiling is not None and found.ceiling.accuracy.high < 0.75
    verdict = decide_verdict(found)
    assert "chance" not in [reason.name for reason in verdict.reasons] and "no better than chance" not in verdict.words
    doubts = {doubt.name: doubt for doubt in (*verdict.reasons, *verdict.doubts)}
    assert doubts.keys() & {"ceiling", "judges"} and "may have" in " ".join(doubt.words for doubt in doubts.values())


@pytest.mark.slow
def test_lazy_raters_leave_nothing_to_learn_whatever_the_model(honest: Layout) -> None:
    verdict = decide_verdict(trust(RewardScorer.load(honest.model("reward")), judged("lazy", 50)))
    assert [reason.name for reason in verdict.reasons] == ["nothing_to_learn"]


def test_lazy_raters_stop_the_stage_with_the_same_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is nothing to learn"):
        run_of(tmp_path, "lazy", judged("lazy", 20, split="train"))
