"""The reward model of the round before on today's held-out prompts: paired by prompt, absent where there is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from sawyer.models import RewardScorer, open_language_model
from sawyer.runs import read_rows
from sawyer.stages.reward.reward_data import RewardData, load_reward_data
from sawyer.stages.reward.round_change import compare_with_last_round, ranks_by_prompt, round_change

Fixture = Any
CPU = torch.device("cpu")


def longest(prompts: Any, responses: Any) -> list[float]:
    return [float(len(text)) for text in responses]


def data_of(tiny: Fixture, tmp_path: Path, run: Any, eval_fraction: float) -> RewardData:
    rows = json.loads(tiny.comparisons.read_text())
    # A second rater of each prompt: both judgements are one case of the pairing.
    rated = [row | {"rater": rater} for row in rows for rater in ("r1", "r2")]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rated))
    reward = {"data": [str(path)], "eval_fraction": eval_fraction}
    return load_reward_data(
        tiny.config(tmp_path / "run", sft={"data": ["d"]}, reward=reward), run, open_language_model(tiny.sft)
    )


def test_both_models_rank_the_same_held_out_prompts(tiny: Fixture, tmp_path: Path) -> None:
    with tiny.run(tmp_path / "run") as run:
        data = data_of(tiny, tmp_path, run, 0.4)
        assert compare_with_last_round(run, data, longest, CPU) == {}, "the first round"
        for number in (1, 2):
            run.layout.round(number).mkdir(parents=True)
        shutil.copytree(tiny.reward, run.layout.earlier_rounds()[1].model("reward"))
        change = compare_with_last_round(run, data, longest, CPU)["round_change"]
        none_held_out = data_of(tiny, tmp_path, run, 0.0)
        assert compare_with_last_round(run, none_held_out, longest, CPU) == {}, "they were trained on"
        assert not [row for row in read_rows(run.layout.events) if row["kind"] == "warning"]
    records = [prompt.record for prompt in data.eval_prompts]
    before = ranks_by_prompt(RewardScorer.load(tiny.reward), records)
    assert change == round_change(before, ranks_by_prompt(longest, records))
    assert change["prompts"] == len({record.prompt.text for record in records}) == len(records) / 2
    assert change["pairs"] == sum(len(prompt.pairs) for prompt in data.eval_prompts)
    assert change["low"] <= change["value"] <= change["high"] and change["detectable"] > 0


def test_an_earlier_model_that_cannot_be_read_is_logged(tiny: Fixture, tmp_path: Path) -> None:
    with tiny.run(tmp_path / "run") as run:
        data = data_of(tiny, tmp_path, run, 0.4)
        folder = run.layout.round(1) / "reward" / "model"
        folder.mkdir(parents=True)
        assert compare_with_last_round(run, data, longest, CPU) == {}
        (warning,) = [row["message"] for row in read_rows(run.layout.events) if row["kind"] == "warning"]
    assert warning.startswith("the reward model of the round before is not compared with this one: ")
