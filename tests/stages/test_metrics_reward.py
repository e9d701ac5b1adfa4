"""What the reward stage writes into the journal, again by naive loops, in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fp64 import double_precision
from naive import CLOSE, double, leaves, mean, same, stepped
from naive_reward import (
    Told,
    by_gap,
    by_prompt,
    by_source,
    carried,
    ceiling,
    ceiling_summary,
    counted,
    eval_squared,
    examined,
    first_and_last,
    listwise,
    of_gold,
    plain,
    probes,
    reward_step,
    round_change,
    squared,
    units,
)

from sawyer.models import open_language_model
from sawyer.models.reward_model import load_reward_model
from sawyer.records import Answer, JudgedPrompt, Pair, read, split
from sawyer.stages.reward.reward_data import RewardData
from sawyer.stages.reward.round_change import ranks_by_prompt
from sawyer.stages.reward.round_change import round_change as change_of
from sawyer.train import EncodedPrompt, batch_indices

Fixture = Any
stage, report = import_module("sawyer.stages.reward.reward_stage"), import_module("sawyer.stages.reward.reward_trust")
CENTER = 0.05


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    with double_precision():
        yield


def told_of(records: Any, prompt_encoder: Any) -> list[Told]:
    found = []
    for record in records:
        texts = tuple(answer.response for answer in record.answers)
        one = Told(
            prompt=record.prompt,
            texts=texts,
            scores=tuple(answer.score for answer in record.answers),
            rows=tuple(prompt_encoder.answer(record.prompt, text) for text in texts),
            sources=tuple(answer.source for answer in record.answers),
            weight=record.weight,
        )
        found += [one] if one.pairs else []
    return found


def softplus(x: torch.Tensor) -> torch.Tensor:
    return torch.clamp(x, min=0) + torch.log1p(torch.exp(-x.abs()))


def standardised(told: list[Told]) -> Callable[[Any, Told], list[Any]]:
    """`regression`: an answer is an item; the mean and deviation of all training scores are its unit."""
    scores = [(score, one.weight) for one in told for score in one.scores]
    weights = math.fsum(weight for _, weight in scores)
    middle = math.fsum(weight * score for score, weight in scores) / weights
    scale = math.sqrt(math.fsum(weight * (score - middle) ** 2 for score, weight in scores) / weights)
    return lambda r, one: [(r[i] - (score - middle) / scale) ** 2 for i, score in enumerate(one.scores)]


LOSSES: dict[str, tuple[dict[str, Any], Callable[[list[Told]], Callable[[Any, Told], list[Any]]]]] = {
    "plain, by prompt": (
        {"loss": "bradley_terry", "normalize_by": "prompt"},
        lambda _: lambda r, one: by_prompt(plain(r, one, softplus, 0.0)),
    ),
    "regression": ({"loss": "regression"}, standardised),
    "listwise": ({"loss": "listwise"}, lambda _: lambda r, one: listwise(r, one, torch.log, torch.exp)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_a_step(tiny64: Fixture, tmp_path: Path, name: str) -> None:
    """A batch of each kind of denominator, each judgement with another weight; that of pairs is in the whole stage below."""
    asked, items = LOSSES[name]
    rows = json.loads(tiny64.comparisons.read_text())
    data = tmp_path / "judged.json"
    data.write_text(json.dumps([row | {"judgement_weight": 0.5 + number % 3} for number, row in enumerate(rows)]))
    config = tiny64.rl_config(
        tmp_path / "run",
        rl__reward={"data": [str(data)], "batch_size": 9, "epochs": 0.3, "learning_rate": 1e-2, **asked},
        rl__micro_batch_tokens=300,
    )
    with tiny64.run(tmp_path / "run", "sft") as run:
        reader = stage.open_member(config, run, 0)
        judgements = stage.load_reward_data(config, run, reader)
    work = stage.RewardLoop(
        config,
        stage.choose_device("cpu", "fp32", width=16),
        reader.model,
        reader.prompt_encoder.pad_id,
        judgements.train_prompts,
        judgements.normalizer,
    )
    model = double(reader.model)
    train = told_of(split(read([str(data)], want="comparisons").records, 0.1)[0], reader.prompt_encoder)
    total = round(0.3 * len(train))
    chosen = batch_indices(len(train), 9, 0, total=total, seed=0, stage="reward")
    row = work.step(0)
    by_hand = reward_step(model, [train[i] for i in chosen], items(train), 0, math.ceil(total / 9), 1e-2)
    same(row, by_hand)
    assert row["loss"] != pytest.approx(by_hand["loss"] * len(chosen) / by_hand["pairs"], rel=1e-3), "another denominator"
    unweighted = [replace(train[i], weight=1.0) for i in chosen]
    wrong = reward_step(model, unweighted, items(train), 0, math.ceil(total / 9), 1e-2)
    assert row["grad_norm"] != pytest.approx(wrong["grad_norm"], rel=1e-3), "or the weights could be left out"


def gold(prompt: str, text: str) -> Any:
    """A truth by which the answers of a model that knows nothing differ."""
    return SimpleNamespace(score=float(len(text) % 9))


@pytest.mark.slow
def test_the_stage(tiny64: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ensemble of two heads with the squared loss and centring, on a world whose gold is known."""
    monkeypatch.setattr(report, "WORLD_PROMPTS", 6)
    monkeypatch.setattr(report, "gold", gold)
    judged = json.loads(tiny64.comparisons.read_text())
    for number, row in enumerate(judged):
        for place, answer in enumerate(row["responses_and_scores"]):
            answer["source"] = ("script", "people", "sft")[(number + place) % 3]
    data = tmp_path / "judged.json"
    data.write_text(json.dumps(judged))
    asked = {"data": [str(data)], "batch_size": 9, "epochs": 1, "learning_rate": 2e-2, "eval_fraction": 0.35}
    asked |= {"centering_coefficient": CENTER, "ensemble": {"members": 2, "by": "heads"}, "calibration_prompts": 8}
    config = tiny64.rl_config(tmp_path / "run", rl__reward=asked, rl__world={"rater": "honest"}, rl__micro_batch_tokens=300)
    seen, own = stepped(monkeypatch), []
    real = stage.sample_answers

    def noted(*given: Any) -> Any:
        own.append(real(*given))
        return own[-1]

    monkeypatch.setattr(stage, "sample_answers", noted)
    with tiny64.run(tmp_path / "run", "sft") as run:
        figures = stage.train(config, run)
        rows = run.journal.rows("reward")
        after = double(load_reward_model(run.layout.model("reward")).model)
    prompt_encoder = open_language_model(tiny64.sft).prompt_encoder
    train, held = split(read([str(data)], want="comparisons").records, 0.35)
    told, checked = told_of(train, prompt_encoder), told_of(held, prompt_encoder)
    steps = math.ceil(len(told) / 9)
    assert len(seen) == steps == len(rows) - 1 and len(checked) >= 10
    for step, model in enumerate(seen):
        chosen = batch_indices(len(told), 9, step, total=len(told), seed=0, stage="reward")
        by_hand = reward_step(
            model, [told[i] for i in chosen], lambda r, one: squared(r, one, softplus, CENTER), step, steps, 2e-2
        )
        same(rows[step], by_hand)

    known: dict[tuple[Any, str], list[float]] = {}

    def raw(prompt: Any, text: str) -> list[float]:
        """Each head's score."""
        if (prompt, text) not in known:
            ids = prompt_encoder.answer(prompt, text).ids
            known[prompt, text] = after(input_ids=torch.tensor([list(ids)])).logits[0].tolist()
        return known[prompt, text]

    scores = [[raw(p, t)[head] for p, t in zip(*own[0], strict=True)] for head in range(2)]
    shifts = [mean(one) for one in scores]
    scales = [math.sqrt(mean([(x - shift) ** 2 for x in one])) for one, shift in zip(scores, shifts, strict=True)]

    def reward(prompt: Any, text: str) -> float:
        """The heads' standardised scores, averaged, in the heads' mean unit."""
        standard = [(x - shift) / scale for x, shift, scale in zip(raw(prompt, text), shifts, scales, strict=True)]
        return mean(shifts) + mean(scales) * mean(standard)

    asked_of, answers = own[1]
    golden = [
        Told(
            prompt=asked_of[at],
            texts=tuple(answers[at : at + 4]),
            scores=tuple(gold(asked_of[at].text, text).score for text in answers[at : at + 4]),
        )
        for at in range(0, len(answers), 4)
    ]
    by_hand = examined(checked, reward, 0) | eval_squared(checked, reward) | of_gold(golden, reward) | units(scores)
    same(rows[-1], by_hand | first_and_last([row["loss"] for row in rows[:-1]]))
    summed = carried(rows[-1]) | counted(checked, golden) | by_gap(checked, reward, 0) | by_source(checked, reward, 0)
    told_of_summary(figures, summed | probes(checked, reward, 0))
    assert 0 < rows[-1]["accuracy"] < 1 and 0 < rows[-1]["gold_accuracy"] < 1, "it has something to tell"


def told_of_summary(figures: dict[str, Any], expected: dict[str, float]) -> None:
    told = {f"reward.{name}": value for name, value in leaves(figures) if name != "verdict"}
    assert told == pytest.approx(expected, **CLOSE)


def test_the_ceiling_of_judges_who_contradict_themselves() -> None:
    """Two dozen prompts judged twice, by judges who turn some of their orders round the second time."""
    groups, judgings = [], []
    for number in range(24):
        first = {f"a{number}": 5.0, f"bb{number}": 3.0, f"ccc{number}": 1.0}
        second = dict(zip(first, ((5.0, 3.0, 1.0), (3.0, 5.0, 1.0), (5.0, 3.0, 1.0), (2.0, 3.0, 4.0))[number % 4], strict=True))
        judgings.append((first, second))
        for said in (first, second):
            one = Told(prompt=report.prompt_of(f"What is {number}?"), texts=tuple(said), scores=tuple(said.values()))
            answers = tuple(Answer(response=text, score=score) for text, score in said.items())
            judged = JudgedPrompt(prompt=one.prompt, answers=answers)
            groups.append(EncodedPrompt(record=judged, rows=(), pairs=tuple(Pair(*pair) for pair in one.pairs)))
    found = report.examine(
        lambda _, texts: [float(len(text)) for text in texts],
        RewardData(train_prompts=(), eval_prompts=tuple(groups), format="test"),
        "bradley_terry",
        seed=0,
    )[1]
    assert found["accuracy_ceiling"] == pytest.approx(ceiling(judgings)["accuracy_ceiling"], abs=1e-9)
    assert found["accuracy_ceiling"] == pytest.approx(ceiling_summary(judgings)["reward.accuracy_ceiling"], abs=1e-9)
    assert ceiling([(first, first) for first, _ in judgings])["accuracy_ceiling"] == pytest.approx(1.0)


def test_the_change_from_one_round_to_the_next() -> None:
    """Ten prompts, some judged by two raters, some tied; two models that know different things."""
    told, records = [], []
    for number in range(10):
        texts = (f"a{number}", f"bb{number % 3}", f"c{'c' * (number % 4)}{number}")
        for rater in range(1 + number % 2):
            scores = tuple(float((number * (k + 2) + rater * k) % 4) for k in range(3))
            told.append(Told(prompt=report.prompt_of(f"What is {number}?"), texts=texts, scores=scores))
            answers = tuple(Answer(response=text, score=score) for text, score in zip(texts, scores, strict=True))
            records.append(JudgedPrompt(prompt=told[-1].prompt, answers=answers))

    def before(prompt: Any, text: str) -> float:
        return float(len(text))

    def after(prompt: Any, text: str) -> float:
        return float(sum(map(ord, text)) % 7)

    def scorer(model: Callable[[Any, str], float]) -> Callable[..., list[float]]:
        return lambda prompts, texts: [model(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]

    found = change_of(ranks_by_prompt(scorer(before), records), ranks_by_prompt(scorer(after), records))
    assert found["prompts"] == 7, "three of them are all ties"
    expected = round_change(told, before, after, 2.4469118511, 0.9057032855)  # scipy.stats.t.ppf([0.975, 0.8], 6)
    assert {f"reward.round_change.{name}": value for name, value in found.items()} == pytest.approx(expected, rel=1e-3)
    assert found["before"] == pytest.approx(expected["reward.round_change.before"], rel=1e-12)
    assert found["before"] != found["after"] and found["pairs"] > found["prompts"]
    assert set(change_of([(1, 2)], [(2, 2)])) == {"before", "after", "value", "prompts", "pairs"}
