"""Weighted sums, users' functions and classifiers' labels as scorers, by hand arithmetic and plain transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from encoders import tokenizer_of, write

from sawyer.errors import ModelError, TrainingError
from sawyer.models import Classifier, FunctionScorer, LabelScorer, RewardComponent, WeightedScorer, score_details
from sawyer.models.scoring import ScoreDetails
from sawyer.records import Message, Prompt, prompt_of

PROMPTS = [prompt_of("where ?"), prompt_of("what is up ?")]
ANSWERS = ["up", "down . yes"]


def lengths(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    return [float(len(response)) for response in responses]


class Voices:
    """An ensemble's scorer."""

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        return [score.reward for score in self.score_details(prompts, responses)]

    def score_details(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[ScoreDetails]:
        return [ScoreDetails(reward=1.5, members=(1.0, 2.0), disagreement=0.5) for _ in responses]


def test_a_weighted_sum_by_hand() -> None:
    scorer = WeightedScorer(
        [
            RewardComponent(name="voices", weight=2.0, scorer=Voices()),
            RewardComponent(name="length", weight=-0.25, scorer=lengths),
        ]
    )
    # 2 * 1.5 - 0.25 * 2 and 2 * 1.5 - 0.25 * 10
    assert scorer(PROMPTS, ANSWERS) == [2.5, 0.5]
    found = scorer.score_details(PROMPTS, ANSWERS)
    assert [dict(one.parts) for one in found] == [{"voices": 1.5, "length": 2.0}, {"voices": 1.5, "length": 10.0}]
    assert [one.disagreement for one in found] == [0.5, 0.5] and found[0].members == (1.0, 2.0)
    assert score_details(scorer, PROMPTS, ANSWERS) == found
    assert score_details(lengths, PROMPTS, ANSWERS) == [ScoreDetails(reward=2.0), ScoreDetails(reward=10.0)]
    assert scorer([], []) == []


def test_a_function_is_given_plain_texts() -> None:
    seen: list[Any] = []

    def function(prompts: list[str], responses: list[str]) -> list[float]:
        seen.append((prompts, responses))
        return [1, 2]  # type: ignore[list-item]

    chat = Prompt(messages=(*PROMPTS[0].messages, Message(role="assistant", content="up"), *PROMPTS[1].messages))
    assert FunctionScorer(function, "my:own")([PROMPTS[0], chat], tuple(ANSWERS)) == [1.0, 2.0]
    assert seen == [(["where ?", "User: where ?\nAssistant: up\nUser: what is up ?"], ANSWERS)]


def test_tensors_and_arrays_will_do() -> None:
    assert FunctionScorer(lambda p, r: torch.tensor([0.5, 1.5]), "my:own")(PROMPTS, ANSWERS) == [0.5, 1.5]  # type: ignore[arg-type, return-value]


def graded(prompts: list[str], responses: list[str], rows: list[dict[str, Any]]) -> list[float]:
    """As a GSM8K reward is written: the gold answer is a field of the prompt's row."""
    return [float(response == row["answer"].split("####")[-1].strip()) for response, row in zip(responses, rows, strict=True)]


def third(prompts: list[str], responses: list[str], truths: list[dict[str, Any]], /) -> list[float]:
    return graded(prompts, responses, truths)


def by_name(prompts: list[str], responses: list[str], *, rows: list[dict[str, Any]]) -> list[float]:
    return graded(prompts, responses, rows)


class Callable3:
    def __call__(self, prompts: list[str], responses: list[str], rows: list[dict[str, Any]]) -> list[float]:
        return graded(prompts, responses, rows)


ASKED = [
    replace(prompt, fields={"answer": f"so #### {answer}"})
    for prompt, answer in zip(PROMPTS, ("down", "down . yes"), strict=True)
]


@pytest.mark.parametrize("function", [graded, third, by_name, Callable3(), partial(by_name)])
def test_a_function_that_takes_rows_gets_the_other_fields_of_each_prompt_s_row(function: Any) -> None:
    assert FunctionScorer(function, "my:own")(ASKED, ANSWERS) == [0.0, 1.0]
    # In another order, and each prompt twice, the rows go with their prompts.
    twice = [ASKED[1], ASKED[1], ASKED[0], ASKED[0]]
    assert FunctionScorer(function, "my:own")(twice, ["down . yes", "down", "down", "up"]) == [1.0, 0.0, 1.0, 0.0]


def test_a_function_of_two_is_called_with_two() -> None:
    def weighted(prompts: list[str], responses: list[str], weight: float = 0.5) -> list[float]:
        return [weight * len(response) for response in responses]

    assert FunctionScorer(weighted, "my:own")(ASKED, ANSWERS) == [1.0, 5.0]
    assert FunctionScorer(lambda *given: [float(len(given))] * 2, "my:own")(ASKED, ANSWERS) == [2.0, 2.0]


def test_what_a_function_does_to_a_row_stays_with_it() -> None:
    def careless(prompts: list[str], responses: list[str], rows: list[dict[str, Any]]) -> list[float]:
        return [float(len(row.pop("answer"))) for row in rows]

    scorer = FunctionScorer(careless, "my:own")
    assert scorer(ASKED, ANSWERS) == scorer(ASKED, ANSWERS)


def test_a_part_that_does_not_apply_adds_nothing() -> None:
    """None of the first answer: 0.25 * 2 alone; of the second 3 * 1 + 0.25 * 10."""
    maths = FunctionScorer(lambda p, r: [None, 1.0], "my:maths")
    scorer = WeightedScorer(
        [RewardComponent(name="maths", weight=3.0, scorer=maths), RewardComponent(name="length", weight=0.25, scorer=lengths)]
    )
    found = scorer.score_details(PROMPTS, ANSWERS)
    assert [one.reward for one in found] == [0.5, 5.5]
    assert [dict(one.parts) for one in found] == [{"length": 2.0}, {"maths": 1.0, "length": 10.0}]
    with pytest.raises(TrainingError, match=r"no part of rl\.rewards applies to the answer 'up'"):
        WeightedScorer([RewardComponent(name="maths", weight=3.0, scorer=maths)])(PROMPTS, ANSWERS)


def failing(*_: Any) -> Any:
    raise KeyError("polite")


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda p, r: [1.0], "my:own returned 1 scores for 2 answers"),
        (lambda p, r: [1.0] * 3, "returned 3 scores for 2"),
        (lambda p, r: [0.0, math.nan], "scored the answer 'down . yes' with nan"),
        (lambda p, r: [math.inf, 0.0], "scored the answer 'up' with inf"),
        (lambda p, r: ["good", "bad"], "returned list, not a list of numbers"),
        (lambda p, r: None, "returned NoneType, not a list of numbers"),
        (lambda p, r: 0.5, "returned float, not"),
        (lambda p: [0.0], "raised TypeError"),
        (failing, "raised KeyError: 'polite'"),
    ],
)
def test_what_a_function_returns_is_checked(function: Any, told: str) -> None:
    with pytest.raises(TrainingError, match="one finite number an answer") as error:
        FunctionScorer(function, "my:own")(PROMPTS, ANSWERS)
    assert told in str(error.value)


def test_a_label_s_log_probability_is_transformers_own(tmp_path: Path) -> None:
    labels = {0: "angry", 1: "calm", 2: "merry"}
    write(tmp_path, "bert", num_labels=3, id2label=labels, label2id={name: place for place, name in labels.items()})
    classifier = Classifier(tmp_path)
    model, tokenizer = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval(), tokenizer_of("bert")
    with torch.no_grad():
        logits = torch.cat([model(**tokenizer(answer, return_tensors="pt")).logits for answer in ANSWERS])
    expected = torch.log_softmax(logits, 1)[:, 2].tolist()
    found = LabelScorer(classifier, "merry")(PROMPTS, ANSWERS)
    assert found == pytest.approx(expected, abs=1e-5)
    assert LabelScorer(classifier, "merry", probability=True)(PROMPTS, ANSWERS) == pytest.approx(
        [math.exp(x) for x in expected]
    )
    assert found != pytest.approx(torch.log_softmax(logits, 1)[:, 1].tolist(), abs=1e-3)
    with pytest.raises(ModelError, match=r"no label 'glad'[\s\S]*angry, calm, merry"):
        LabelScorer(classifier, "glad")
