"""Collected answers: how many, scored by the world or waiting for people, and what the reward model makes of them."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sawyer import pipeline
from sawyer.errors import DataError
from sawyer.models import Completion
from sawyer.models.fast import prepacked_linear
from sawyer.pipeline import run_stages
from sawyer.records import read
from sawyer.runs import read_manifest, read_rows
from sawyer.stages.collect import collect

Fixture = Any
stage = import_module("sawyer.stages.collect.collect_stage")


def config_of(tiny: Fixture, out: Path, *, world: bool = True, prompts: Path | None = None, **asked: Any) -> Any:
    section = {"prompts": [str(prompts or tiny.prompts)], "answers": 3, "max_new_tokens": 10, **asked}
    more: dict[str, Any] = {"world": {"rater": "honest"}} if world else {}
    return tiny.config(out, sft={"data": [str(tiny.instructions)]}, collect=section, **more)


def answers_in(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "collect" / "answers.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("limit", "prompts"), [(None, 40), (7, 7), (100, 40)])
def test_each_prompt_gets_its_answers(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None, prompts: int
) -> None:
    monkeypatch.setattr(stage, "ANSWERS_A_STEP", 48)
    with tiny.run(tmp_path / "run", "sft") as run:
        figures = collect(config_of(tiny, tmp_path / "run", limit=limit), run)
        paths = [row["path"] for row in read_rows(run.layout.events) if row["kind"] == "fast_path"]
    assert paths == ["none" if os.environ.get("SAWYER_FAST") == "off" else "packing and static cache"]  # once a run and model
    rows = answers_in(tmp_path / "run")
    assert [row["user_input"] for row in rows] == [p.text for p in read([str(tiny.prompts)], want="prompts").records[:prompts]]
    assert all(1 <= len(row["responses_and_scores"]) <= 3 for row in rows)
    answers = [answer for row in rows for answer in row["responses_and_scores"]]
    assert figures["prompts"] == prompts
    assert figures["answers"] == len(answers) > 2 * prompts
    assert figures["waiting"] == 0
    assert figures["mean_score"] == pytest.approx(sum(answer["score"] for answer in answers) / len(answers))
    assert {answer["source"] for answer in answers} == {"sft"}
    assert all(1 <= answer["score"] <= 10 for answer in answers)


def test_the_models_weights_are_laid_out_once(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, laid_out: list[Any]
) -> None:
    """For all batches of answers."""
    monkeypatch.setattr(stage, "ANSWERS_A_STEP", 6)
    config = config_of(tiny, tmp_path / "run", limit=6, max_new_tokens=prepacked_linear.MIN_PASSES)
    config = config.model_copy(update={"precision": precision})
    with tiny.run(tmp_path / "run", "sft") as run:
        collect(config, run)
    assert len(answers_in(tmp_path / "run")) == 6  # in three batches
    assert len(laid_out) == len(set(laid_out)) > 4


def test_a_prompt_that_comes_twice_is_counted_and_said(tiny: Fixture, tmp_path: Path, events: Any, write_rows: Any) -> None:
    path = write_rows([{"prompt": "Say yes."}, {"prompt": "Say no."}, {"prompt": "Say yes."}])
    with tiny.run(tmp_path / "run", "sft") as run:
        collect(config_of(tiny, tmp_path / "run", world=False, prompts=path), run)
        assert not events(run, "warning") and "; 1 duplicate left out" in events(run, "plan")[0]["message"]


def test_the_same_seed_gives_the_same_answers(tiny: Fixture, tmp_path: Path) -> None:
    for name in ("a", "b"):
        with tiny.run(tmp_path / name, "sft") as run:
            collect(config_of(tiny, tmp_path / name, limit=5), run)
    assert answers_in(tmp_path / "a") == answers_in(tmp_path / "b")


def test_the_same_answer_twice_is_judged_once(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(_: Any, prompts: Any, *, prompt_encoder: Any, **__: Any) -> list[Completion]:
        texts = ["Yes.", "No.", "Yes."] * (len(prompts) // 3)
        ids = [prompt_encoder.tokenizer(f" {text}")["input_ids"] for text in texts]
        return [Completion(ids=(*given, prompt_encoder.eos_id), logprobs=(), ended=True) for given in ids]

    monkeypatch.setattr("sawyer.train.answering.sample", sample)
    with tiny.run(tmp_path / "run", "sft") as run:
        figures = collect(config_of(tiny, tmp_path / "run", limit=4), run)
    assert [[a["response"] for a in row["responses_and_scores"]] for row in answers_in(tmp_path / "run")] == [
        ["Yes.", "No."]
    ] * 4
    assert figures["answers"] == 8


def test_a_prompt_that_does_not_fit_is_left_out_and_told(tiny: Fixture, tmp_path: Path, events: Any, write_rows: Any) -> None:
    path = write_rows([{"prompt": "Say yes."}, {"prompt": "qz " * 200}])
    with tiny.run(tmp_path / "run", "sft") as run:
        figures = collect(config_of(tiny, tmp_path / "run", world=False, prompts=path), run)
        assert "1 prompts left out (too long" in events(run, "plan")[0]["message"]
    assert figures["prompts"] == 1
    path = write_rows([{"prompt": "qz " * 200}])
    with tiny.run(tmp_path / "run2", "sft") as run, pytest.raises(DataError, match="no prompt that fits"):
        collect(config_of(tiny, tmp_path / "run2", world=False, prompts=path), run)


@pytest.mark.slow
def test_without_a_world_people_judge_and_the_run_goes_on(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: sft, collect, a wait, a person's scores in the file, the reward model learns from them."""
    monkeypatch.setattr(run_stages, "report", lambda run: None)
    out = tmp_path / "run"
    plain = config_of(tiny, out, world=False, answers=4)
    sft = {"data": [str(tiny.instructions)], "epochs": 0.2, "max_new_tokens": 4, "eval_prompts": 4}
    tree = plain.model_dump(mode="json", exclude_none=True) | {"sft": sft}
    config = tiny.config(**{**tree, "out": out, "reward": {"eval_fraction": 0.2, "calibration_prompts": 8, "batch_size": 8}})
    summary = pipeline.run(config)
    file = out / "collect" / "answers.jsonl"
    rows = answers_in(out)
    assert all(answer["score"] is None for row in rows for answer in row["responses_and_scores"])
    assert summary["collect"]["waiting"] == summary["collect"]["answers"] > 100
    states = read_manifest(out / "run.json")["stages"]
    assert states["collect"]["status"] == "waiting"
    assert "reward" not in states
    # Nobody has scored one: the same command waits again and leaves the file as it is.
    before = file.read_bytes()
    pipeline.run(config)
    assert file.read_bytes() == before
    assert read_manifest(out / "run.json")["stages"]["collect"]["status"] == "waiting"
    # Somebody scores all but the last prompt: the shorter the better.
    for row in rows[:-1]:
        for answer in row["responses_and_scores"]:
            answer["score"] = 10 - len(answer["response"]) / 10
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pipeline.run(config)
    states = read_manifest(out / "run.json")["stages"]
    assert (states["collect"]["status"], states["reward"]["status"]) == ("done", "done")
    assert answers_in(out) == rows
    plan = next(row for row in read_rows(out / "events.jsonl") if row["kind"] == "plan" and row["stage"] == "reward")
    used = states["reward"]["figures"]["eval_prompts"] + int(plan["message"].split(" prompts")[0])
    judged = [{answer["score"] for answer in row["responses_and_scores"]} for row in rows[:-1]]
    assert used == sum(len(scores) > 1 for scores in judged)
