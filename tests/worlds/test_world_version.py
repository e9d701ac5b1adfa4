"""The world of VERSION 1, text by text: the packaged base model was trained on it, so a change must be meant."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable

import pytest

from sawyer.worlds import (
    ANSWERERS,
    RATERS,
    VERSION,
    answer,
    comparisons,
    demonstrations,
    gold,
    judgements,
    rate,
    statements,
    tasks,
)


def answers() -> Iterable[object]:
    rng = random.Random(1)
    for task in tasks("train", 200, 5):
        for kind in ANSWERERS:
            text = answer(task, kind, rng, right=rng.random() < 0.5)
            score = gold(task.prompt, text)
            yield text, score.score, score.reasons, score.right, [rate(rater, task.prompt, text, rng) for rater in RATERS]


CONTENTS: dict[str, tuple[Callable[[], Iterable[object]], str]] = {
    "statements": (lambda: statements(0, 500), "95649e32429792d2"),
    "judgements": (lambda: judgements(0, 500), "5351ac57007d1549"),
    "demonstrations": (lambda: [(row.prompt.text, row.response) for row in demonstrations(300, 0)], "db6301c3f77972eb"),
    "comparisons": (
        lambda: [(row.prompt.text, [(a.response, a.score, a.source) for a in row.answers]) for row in comparisons(50, 0)],
        "0a1b9bc55db9d50d",
    ),
    "tasks": (
        lambda: [(t.family, t.prompt, t.key, t.split) for split in ("train", "dev", "held_out") for t in tasks(split, 300, 0)],
        "78bfa26f1bf2e1e9",
    ),
    "answers": (answers, "597d5f87e53bebd0"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_texts_and_scores_are_those_of_version_1(name: str) -> None:
    assert VERSION == "1"
    rows, digest = CONTENTS[name]
    text = "\n".join(map(repr, rows()))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest, f"{name} differ: a new VERSION needs a new base model"
