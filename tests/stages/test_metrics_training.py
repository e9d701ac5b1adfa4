"""What base, classify, sft, collect and compare write into the journal, again by naive loops, in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fp64 import double_precision
from naive import CLOSE, double, leaves, same, stepped
from naive_training import (
    base_held_out,
    base_step,
    base_summary,
    classes_summary,
    classify_many,
    classify_one,
    classify_step,
    classify_summary,
    collect_step,
    collect_summary,
    compare_step,
    compare_summary,
    many_summary,
    one_summary,
    sft_held_out,
    sft_step,
    sft_summary,
)

from sawyer.models import RewardScorer, load_reader, open_language_model
from sawyer.models.classifier import load_classifier
from sawyer.pipeline.summary import summarise
from sawyer.records import prompt_of, read, split
from sawyer.runs import read_rows
from sawyer.text import windows
from sawyer.train import batch_indices

pytestmark = pytest.mark.slow

Fixture = Any


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    with double_precision():
        yield


def train_of(stage: str) -> Callable[..., Any]:
    return import_module(f"sawyer.stages.{stage}").train  # type: ignore[no-any-return]


def summed(stage: str, figures: dict[str, Any], by_hand: dict[str, Any]) -> None:
    """summary.json says this of the stage, and in words no more than which labels there are."""
    told = {f"{stage}.{name}": value for name, value in leaves(figures) if name not in ("labels", "many", "baseline_label")}
    assert told.pop("classify.confusion", None) == by_hand.pop("classify.confusion", None)
    assert told == pytest.approx(by_hand, **CLOSE)


def test_base(tiny64: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{row['instruction']} {row['output']}" for row in json.loads(tiny64.instructions.read_text())]
    (tmp_path / "text.txt").write_text("\n\n".join(lines))
    asked = {"text": [str(tmp_path / "text.txt")], "vocab_size": 300, "layers": 1, "width": 16, "heads": 2, "context": 40}
    asked |= {"tokens": 40 * 70, "batch_size": 16, "learning_rate": 1e-2}
    config = tiny64.config(tmp_path / "run", base=asked, model=None, micro_batch_tokens=200)
    seen = stepped(monkeypatch)
    with tiny64.run(tmp_path / "run") as run:
        figures = train_of("base")(config, run)
        rows = run.journal.rows("base")
        after = double(open_language_model(run.layout.model("base")).model)
        tokenizer = load_reader(run.layout.model("base"))
    texts = [str(text) for text in read([str(tmp_path / "text.txt")], want="text").records]
    every = windows(texts, tokenizer, 40)
    held_out, train = every[::50], [window for place, window in enumerate(every) if place % 50]
    steps = math.ceil(70 / 16)
    assert len(seen) == steps == len(rows) - 1
    for step, model in enumerate(seen):
        chosen = batch_indices(len(train), 16, step, total=70, seed=0, stage="base")
        same(rows[step], base_step(model, [train[i] for i in chosen], step, steps, 1e-2, 0.05))
    same(rows[-1], base_held_out(after, held_out))
    summed("base", figures, base_summary(seen[0], after, held_out))


def test_sft(tiny64: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"data": [str(tiny64.instructions)], "batch_size": 32, "epochs": 0.3, "learning_rate": 1e-2, "warmup_fraction": 0.4}
    asked |= {"max_new_tokens": 16, "eval_prompts": 5}
    config = tiny64.config(tmp_path / "run", sft=asked, micro_batch_tokens=600)
    seen = stepped(monkeypatch)
    with tiny64.run(tmp_path / "run") as run:
        figures = train_of("sft")(config, run)
        rows, samples = run.journal.rows("sft"), read_rows(run.layout.samples)
        after = double(open_language_model(run.layout.model("sft")).model)
    speaker = open_language_model(tiny64.base, "question")
    records, held = split(read([str(tiny64.instructions)], want="demonstrations").records, 0.1)
    encoded = [speaker.prompt_encoder.demonstration(record) for record in records]
    total = round(0.3 * len(encoded))
    steps = math.ceil(total / 32)
    assert len(seen) == steps == len(rows) - 1
    for step, model in enumerate(seen):
        chosen = batch_indices(len(encoded), 32, step, total=total, seed=0, stage="sft")
        same(rows[step], sft_step(model, [encoded[i] for i in chosen], step, steps, 1e-2, 0.4))
    summed("sft", figures, sft_summary(rows))
    held_rows = [speaker.prompt_encoder.demonstration(record) for record in held]
    same(rows[-1], sft_held_out(after, double(speaker.model), held_rows, [row["ended"] for row in samples]))


def labelled(tmp_path: Path, many: bool) -> str:
    """Texts of three kinds; with `many` each may be of several, or of none."""
    kinds = {"cat": "the cat sleeps", "dog": "a dog runs far away", "none": "who"}
    rows: list[dict[str, Any]] = []
    for number in range(48):
        label = list(kinds)[number * number % 3 if number % 2 else number % 3]
        text = f"{kinds[label]} {'again ' * (number % 5)}{number}"
        rows.append(
            {"text": text, "labels": ["odd"] * (number % 2) + [label] * (number % 4 > 0)}
            if many
            else {"text": text, "label": label}
        )
    (tmp_path / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "labelled.jsonl")


@pytest.mark.parametrize("many", [False, True], ids=["one label", "many labels"])
def test_classify(tiny64: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: bool) -> None:
    data = labelled(tmp_path, many)
    asked = {"data": [data], "epochs": 2, "batch_size": 7, "learning_rate": 3e-2, "eval_fraction": 0.3}
    config = tiny64.config(tmp_path / "run", classify=asked, micro_batch_tokens=60)
    seen = stepped(monkeypatch)
    with tiny64.run(tmp_path / "run") as run:
        figures = train_of("classify")(config, run)
        rows = run.journal.rows("classify")
        after = double(load_classifier(run.layout.model("classify"), load_reader(tiny64.base)))
    tokenizer = load_reader(tiny64.base)
    records, held = split(read([data], want="labels").records, 0.3)
    places = {label: place for place, label in enumerate(sorted({label for record in records for label in record.labels}))}
    texts, checked = (
        [(tokenizer(record.text)["input_ids"], frozenset(places[label] for label in record.labels)) for record in side]
        for side in (records, held)
    )
    total = 2 * len(texts)
    steps = math.ceil(total / 7)
    assert len(seen) == steps == len(rows) - 1
    for step, model in enumerate(seen):
        chosen = batch_indices(len(texts), 7, step, total=total, seed=0, stage="classify")
        same(rows[step], classify_step(model, [texts[i] for i in chosen], many, step, steps, 3e-2))
    losses = [row["loss"] for row in rows[:-1]]
    same(rows[-1], (classify_many if many else classify_one)(after, checked, texts, losses))
    by_hand = classify_summary(rows[-1], texts, checked) | classes_summary(after, checked, list(places), many)
    by_hand |= many_summary(rows[-1]) if many else one_summary(rows[-1], after, checked, len(places))
    summed("classify", figures, by_hand)
    assert 0 < rows[-1]["macro_f1"] < 1 and rows[-1]["accuracy"] != rows[-1]["baseline_majority"], "it has something to tell"


def noted(patch: pytest.MonkeyPatch, stage: Any, *names: str) -> list[list[Sequence[int]]]:
    """The token ids of the answers of each call."""
    drawn: list[list[Sequence[int]]] = []

    def noting(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **named: Any) -> Any:
            found = real(*given, **named)
            drawn.append([list(completion.ids) for completion in found])
            return found

        return called

    for name in names:
        patch.setattr(stage, name, noting(getattr(stage, name)))
    return drawn


def test_collect(tiny64: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = import_module("sawyer.stages.collect.collect_stage")
    monkeypatch.setattr(stage, "ANSWERS_A_STEP", 12)
    drawn = noted(monkeypatch, import_module("sawyer.train.answering"), "sample")
    asked = {"prompts": [str(tiny64.prompts)], "limit": 7, "answers": 3, "max_new_tokens": 12}
    with tiny64.run(tmp_path / "run", "sft") as run:
        sft = {"data": [str(tiny64.instructions)]}
        figures = stage.collect(tiny64.config(tmp_path / "run", sft=sft, collect=asked, world={"rater": "honest"}), run)
        rows, answered = run.journal.rows("collect"), read_rows(run.layout.answers)
    eos = open_language_model(tiny64.sft).prompt_encoder.eos_id
    assert [len(answers) for answers in drawn] == [12, 9] and len(rows) == 2
    for row, answers in zip(rows, drawn, strict=True):
        same(row, collect_step(answers, eos))
    assert 0 < rows[0]["eos_rate"] < 1
    summed("collect", figures, collect_summary(answered))


def truth(prompt: str, text: str) -> Any:
    """A gold by which the answers of models that know nothing differ."""
    return SimpleNamespace(score=float(len(text) % 7), reasons=())


def test_compare(tiny64: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = import_module("sawyer.stages.compare.compare_stage")
    monkeypatch.setattr(stage, "ANSWERS_A_STEP", 4)
    monkeypatch.setattr(stage, "gold", truth)
    drawn = noted(monkeypatch, import_module("sawyer.train.answering"), "sample", "beam_search")
    asked = {"prompts": [str(tiny64.prompts)], "limit": 6, "deliberate_limit": 1, "max_new_tokens": 8}
    config = tiny64.rl_config(tmp_path / "run", rl__compare=asked, rl__world={"rater": "honest"})
    with tiny64.run(tmp_path / "run", "sft", "reward") as run:
        (tmp_path / "run" / "rl").mkdir()
        (tmp_path / "run" / "rl" / "model").symlink_to(tiny64.base)
        run.manifest.update("compare", figures=stage.compare(config, run))
        rows, answers = run.journal.rows("compare"), read_rows(run.layout.compare)
        summary = summarise(run)
    assert sorted({len(one) for one in drawn}) == [1, 2, 4, 8] and len(rows) == len(drawn)
    for row, one in zip(rows, drawn, strict=True):
        same(row, compare_step(one))
    scorer = RewardScorer.load(tiny64.reward)
    for answer in answers:
        assert answer["reward"] == pytest.approx(scorer([prompt_of(answer["prompt"])], [answer["response"]])[0], **CLOSE)
    told = {name: value for name, value in leaves(summary) if name.startswith(("gold.", "reward_mean.", "compare."))}
    judges = {name: told.pop(name) for name in list(told) if name.endswith(".judge")}
    assert set(judges.values()) == {"gold"} and len(judges) == 3
    by_hand = compare_summary(answers, 0)
    assert told == pytest.approx(by_hand, **CLOSE)
    assert 0 < by_hand["compare.win_rate_rl_vs_sft.value"] < 1, "it has something to tell"
