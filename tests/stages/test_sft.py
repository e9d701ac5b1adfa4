"""Supervised fine-tuning: what is averaged, what is trained, what is checked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from sawyer.errors import DataError
from sawyer.models import Completion, open_language_model
from sawyer.records import read, split
from sawyer.runs import read_rows
from sawyer.runs.atomic_files import hash_folder
from sawyer.stages.sft import train
from sawyer.stages.sft.sft_stage import sft_gates
from sawyer.stats import paired_interval

Fixture = Any


@pytest.fixture(scope="module")
def done(tiny: Fixture, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(config, figures, root, hash of the base model before) of a run of 1.5 epochs."""
    out = tmp_path_factory.mktemp("sft") / "run"
    before = hash_folder(tiny.base)
    asked = {"data": [str(tiny.instructions)], "epochs": 1.5, "batch_size": 16, "learning_rate": 1e-2, "warmup_fraction": 0.2}
    config = tiny.config(out, sft={**asked, "max_new_tokens": 12, "eval_prompts": 9})
    with tiny.run(out) as run:
        figures = train(config, run)
    return config, figures, out, before


def loss_by_hand(model: Any, rows: Any) -> tuple[float, int]:
    """(sum of -log softmax at the trained tokens, their number), a row at a time, from the model's own logits."""
    total, count = 0.0, 0
    for row in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.ids])).logits[0].double()
        for place in range(1, len(row.ids)):
            if row.loss_mask[place]:
                total -= float(torch.log_softmax(logits[place - 1], 0)[row.ids[place]])
                count += 1
    return total, count


def test_a_batch_s_loss_is_the_mean_over_its_trained_tokens(tiny: Fixture, tmp_path: Path) -> None:
    from sawyer.stages.sft.sft_stage import SftLoop
    from sawyer.train import batch_indices, choose_device

    config = tiny.config(tmp_path, sft={"data": ["d"], "batch_size": 7}, micro_batch_tokens=120)
    speaker = open_language_model(tiny.sft)
    records = read([str(tiny.instructions)], want="demonstrations").records[:20]
    rows = [speaker.prompt_encoder.demonstration(record) for record in records]
    work = SftLoop(config, choose_device("cpu", "fp32", width=16), speaker, rows)
    chosen = [rows[i] for i in batch_indices(20, 7, 0, total=20, seed=0, stage="sft")]
    total, count = loss_by_hand(speaker.model, chosen)
    found = work.step(0)
    assert found["tokens"] == count == sum(len(row.ids) - row.prompt_length for row in chosen)
    assert found["loss"] == pytest.approx(total / count, rel=1e-5)
    means = [loss_by_hand(open_language_model(tiny.sft).model, [row]) for row in chosen]
    assert found["loss"] != pytest.approx(sum(t / c for t, c in means) / 7, rel=1e-3), "the mean of the rows' means"


def test_epochs_and_batch_size_give_the_steps_and_the_rates(tiny: Fixture, done: Any) -> None:
    out = done[2]
    rows = [row for row in read_rows(out / "metrics.jsonl") if "loss" in row]
    records = read([str(tiny.instructions)], want="demonstrations").records
    count = round(1.5 * len(split(records, 0.1)[0]))
    steps = math.ceil(count / 16)
    assert [row["step"] for row in rows] == list(range(steps))
    warmup = math.ceil(0.2 * steps)
    rising = [(step + 1) / warmup for step in range(warmup)]
    falling = [(steps - step) / (steps - warmup) for step in range(warmup, steps)]
    assert [row["learning_rate"] / 1e-2 for row in rows] == pytest.approx(rising + falling)
    assert max(rising + falling) == 1.0


def test_the_base_model_is_not_touched_and_the_sft_model_is_another(tiny: Fixture, done: Any) -> None:
    _, figures, out, before = done
    assert hash_folder(tiny.base) == before
    trained, base = (open_language_model(folder).model.state_dict() for folder in (out / "sft" / "model", tiny.base))
    assert all(bool((trained[name] != base[name]).any()) for name in base if "attn.bias" not in name)
    assert figures["loss_last"] < figures["loss_first"]


def test_the_held_out_rows_are_the_split_s_and_judge_both_models(tiny: Fixture, done: Any) -> None:
    config, figures, out, _ = done
    records = read([str(tiny.instructions)], want="demonstrations").records
    train_records, held = split(records, config.sft.eval_fraction)
    assert 5 < len(held) < len(records) / 4
    assert not {r.prompt.messages for r in held} & {r.prompt.messages for r in train_records}
    for name, folder in (("eval_loss", out / "sft" / "model"), ("base_eval_loss", tiny.base)):
        speaker = open_language_model(folder)
        total, count = loss_by_hand(speaker.model, [speaker.prompt_encoder.demonstration(record) for record in held])
        assert figures[name] == pytest.approx(total / count, rel=1e-5)
    asked = [row["prompt"] for row in read_rows(out / "samples.jsonl")]
    assert asked == list(dict.fromkeys(record.prompt.text for record in held))[:9]
    shares = [row["ended"] for row in read_rows(out / "samples.jsonl")]
    assert figures["eos_rate"] == sum(shares) / len(shares)
    last = read_rows(out / "metrics.jsonl")[-1]
    assert last["eval_perplexity"] == pytest.approx(math.exp(figures["eval_loss"]))


def rows_with(long_prompt: int, long_response: int) -> list[dict[str, str]]:
    short = [{"instruction": f"Say {word}.", "output": word} for word in ("one", "two", "three", "four", "five", "six")]
    return [
        *short,
        {"instruction": "Say it. " + "qz " * long_prompt, "output": "No."},
        {"instruction": "Say much.", "output": "qz " * long_response},
    ]


def test_rows_that_do_not_fit_are_counted_and_said(tiny: Fixture, tmp_path: Path, write_rows: Any, events: Any) -> None:
    path = write_rows(rows_with(200, 200))
    with tiny.run(tmp_path / "run") as run:
        train(tiny.config(tmp_path / "run", sft={"data": [str(path)], "eval_fraction": 0, "max_new_tokens": 4}), run)
        told = events(run, "warning")[0]["message"]
    assert told.startswith("1 of 8 rows are longer than 160 tokens and lose the end") and told.endswith(
        "the model reads no more"
    )
    assert "1 have a prompt that leaves no room for one and are left out" in told


def test_a_row_that_comes_twice_is_counted_and_said(tiny: Fixture, tmp_path: Path, write_rows: Any, events: Any) -> None:
    path = write_rows([*rows_with(2, 2), rows_with(2, 2)[0], rows_with(2, 2)[1]])
    with tiny.run(tmp_path / "run") as run:
        train(tiny.config(tmp_path / "run", sft={"data": [str(path)], "eval_fraction": 0, "max_new_tokens": 4}), run)
        assert not events(run, "warning") and "; 2 duplicates left out" in events(run, "plan")[0]["message"]


def test_rows_that_fit_give_no_warning(tiny: Fixture, tmp_path: Path, write_rows: Any, events: Any) -> None:
    path = write_rows(rows_with(2, 2))
    with tiny.run(tmp_path / "run") as run:
        train(tiny.config(tmp_path / "run", sft={"data": [str(path)], "eval_fraction": 0, "max_new_tokens": 4}), run)
        assert events(run, "warning") == []


def test_no_row_that_fits_is_an_error(tiny: Fixture, tmp_path: Path, write_rows: Any) -> None:
    path = write_rows(rows_with(200, 2)[6:7])
    with tiny.run(tmp_path / "run") as run, pytest.raises(DataError, match="no row to train on"):
        train(tiny.config(tmp_path / "run", sft={"data": [str(path)], "eval_fraction": 0}), run)


@pytest.mark.parametrize("eval_fraction", [0.0, 0.5])
def test_a_conversation_whose_last_prompt_does_not_fit_is_left_out(
    tiny: Fixture, tmp_path: Path, write_rows: Any, events: Any, eval_fraction: float
) -> None:
    """Its first answer would fit and be trained, and nobody could be asked its prompt."""
    turns = ("user", "Say it."), ("assistant", "It."), ("user", "qz " * 200), ("assistant", "No.")
    long = [{"messages": [{"role": role, "content": f"{text} {i}"} for role, text in turns]} for i in range(6)]
    short = [{"messages": [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": "No."}]} for i in "abcd"]
    asked = {"eval_fraction": eval_fraction, "max_new_tokens": 4}
    with tiny.run(tmp_path / "run") as run, pytest.raises(DataError, match="no row to train on"):
        train(tiny.config(tmp_path / "run", sft={"data": [str(write_rows(long))], **asked}), run)
    with tiny.run(tmp_path / "mixed") as run:
        path = write_rows([*long, *short])
        figures = train(tiny.config(tmp_path / "mixed", sft={"data": [str(path)], **asked}), run)
        told = " ".join(row["message"] for row in events(run, "warning"))
    assert 0 <= figures["eos_rate"] <= 1
    assert "leaves no room for one and are left out" in told


def all_ended(asked: list[Any]) -> Callable[..., list[Completion]]:
    def sample(_: Any, prompts: Any, **__: Any) -> list[Completion]:
        asked.extend(prompts)
        return [Completion(ids=(0,), logprobs=(0.0,), ended=True) for _ in prompts]

    return sample


def test_prompts_without_room_are_not_asked(
    tiny: Fixture, tmp_path: Path, write_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One could not be answered to its end, whatever the model has learnt."""
    asked: list[Any] = []
    monkeypatch.setattr(import_module("sawyer.stages.sft.sft_stage"), "sample", all_ended(asked))
    path = write_rows(rows_with(200, 2))
    with tiny.run(tmp_path / "run") as run:
        train(tiny.config(tmp_path / "run", sft={"data": [str(path)], "eval_fraction": 0}), run)
    assert len(asked) == 7


FIGURES = {"eos_rate": 0.95, "eval_loss": 1.0, "base_eval_loss": 2.0, "loss_last": 1.0, "loss_first": 3.0}


@pytest.mark.parametrize(
    ("changed", "gate", "verdict"),
    [
        ({}, "sft_stops", "ok"),
        ({"eos_rate": 0.9}, "sft_stops", "ok"),
        ({"eos_rate": 0.899}, "sft_stops", "warn"),
        ({"eos_rate": 0.5}, "sft_stops", "warn"),
        ({"eos_rate": 0.499}, "sft_stops", "fail"),
        ({}, "sft_beats_base", "ok"),
        ({"eval_loss": 2.1}, "sft_beats_base", "fail"),
        ({"eval_loss": 2.0}, "sft_beats_base", "warn"),
        ({"eval_loss": 1.99}, "sft_beats_base", "warn"),  # rows differ by 0.04: within noise of ten
        ({"eval_loss": 1.9}, "sft_beats_base", "ok"),
        ({"eval_loss": math.nan}, "sft_beats_base", "fail"),
        ({}, "sft_learned", "ok"),
        ({"loss_last": 3.0}, "sft_learned", "warn"),  # a single update
        ({"loss_last": 3.001}, "sft_learned", "fail"),
        ({"loss_last": math.nan}, "sft_learned", "fail"),
    ],
)
def test_gates(tiny: Fixture, tmp_path: Path, events: Any, changed: dict[str, float], gate: str, verdict: str) -> None:
    with tiny.run(tmp_path / "run") as run:
        figures = {**FIGURES, **changed}
        apart = [0.04 * (-1) ** row for row in range(10)]
        before = [figures["base_eval_loss"]] * 10
        change = paired_interval(before, [figures["eval_loss"] + value for value in apart])
        for row in sft_gates(figures, change, held_out=True):
            run.journal.gate(row)
        found = {row["name"]: row for row in events(run, "gate")}
    assert set(found) == {"sft_stops", "sft_beats_base", "sft_learned"}
    assert found[gate]["verdict"] == verdict
    assert [row["name"] for row in found.values() if row["verdict"] != "ok"] == ([] if verdict == "ok" else [gate])
    json.dumps(found)


def test_a_gate_on_training_rows_says_so(tiny: Fixture, tmp_path: Path, write_rows: Any, events: Any) -> None:
    path = write_rows(rows_with(2, 2))
    with tiny.run(tmp_path / "run") as run:
        train(tiny.config(tmp_path / "run", sft={"data": [str(path)], "eval_fraction": 0, "max_new_tokens": 4}), run)
        assert all("no row was held out" in row["message"] for row in events(run, "gate")[:2])
