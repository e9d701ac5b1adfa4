"""How high accuracy can get against these judges: no model agrees with people more than they agree with themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sawyer.records import JudgedPrompt
from sawyer.stats import most_accurate, order_agreement
from sawyer.trust.intervals import share
from sawyer.trust.judged_answers import RewardedPrompt
from sawyer.trust.trust_values import Ceiling, Figure

ENOUGH_REPEATS = 20  # prompts judged twice, below which agreement with oneself says too little to print
ENOUGH_WIDE = 100  # confident pairs in each of the two classes that the saturation compares
CHANCE = 0.5  # a model that is not above it where it is sure shows nothing of its judges
FLAT = 0.12  # accuracy that surely rises by less than this from the middle gaps to the widest has stopped rising
REPEATS = (
    "judgements of the same answers are independent of each other, none is a copy, and each order is turned round with the "
    "same chance: two agree with p^2 + (1 - p)^2, and p is the most that any model can agree with one of them"
)
SATURATION = (
    "where the model is sure and the judges' scores lie far apart, its own mistakes fade and only judgements turned round are "
    "left; a model that is blind to something would look the same, so have some answers judged twice to know"
)


def ceiling(rows: Sequence[RewardedPrompt], seed: int, judgements: Sequence[JudgedPrompt] = ()) -> Ceiling | None:
    """From answers judged more than once, else from an accuracy that stops rising with the gap; None where neither is known.

    The first depends on the judges alone, so it is taken from all of their `judgements`, those that the model learnt from among
    them; by default from those of `rows`.
    """
    repeats = agreement(judgements or [row.record for row in rows], seed)
    if repeats.prompts >= ENOUGH_REPEATS:
        value, low, high = (most_accurate(x) for x in (repeats.value, repeats.low, repeats.high))
        accuracy = Figure(value=value, low=low, high=high, prompts=repeats.prompts, cases=repeats.cases)
        return Ceiling(accuracy=accuracy, method="repeats", assumption=REPEATS)
    flat = saturation(rows, seed)
    return None if flat is None else Ceiling(accuracy=flat, method="saturation", assumption=SATURATION)


def agreement(records: Sequence[JudgedPrompt], seed: int) -> Figure:
    """How often two judgements of the same prompt order the same two answers alike, among pairs that both decide."""
    by_prompt: dict[tuple[tuple[str, str], ...], list[dict[str, float]]] = {}
    for record in records:
        key = tuple((message.role, message.content) for message in record.prompt.messages)
        by_prompt.setdefault(key, []).extend(_judgements(record.drop_unscored()))
    cells = []
    for judgements in by_prompt.values():
        alike, trials = order_agreement(judgements)
        cells.append((float(alike), float(trials)))
    return share(cells, seed)


def saturation(rows: Sequence[RewardedPrompt], seed: int) -> Figure | None:
    """Accuracy at the widest gaps, if it is no higher there than at middle ones; of the half of the pairs with the largest |D|.

    Widest and middle are the upper two thirds of these pairs by the judges' gap. None where accuracy may still be rising.
    """
    outcomes = [[(row.rewards[j] - row.rewards[k], width) for j, k, width in row.pairs] for row in rows]
    sizes = sorted(abs(gap) for each in outcomes for gap, _ in each)
    if len(sizes) < 6:
        return None
    sure = [[(gap, width) for gap, width in each if abs(gap) >= sizes[len(sizes) // 2]] for each in outcomes]
    widths = sorted(width for each in sure for _, width in each)
    middle, wide = widths[len(widths) // 3], widths[2 * len(widths) // 3]

    def accuracy(low: float, high: float) -> Figure:
        inside = [[gap > 0 for gap, width in each if low <= width < high] for each in sure]
        return share([(float(sum(rights)), float(len(rights))) for rights in inside], seed)

    top, below = accuracy(wide, math.inf), accuracy(middle, wide)
    if min(top.cases, below.cases) < ENOUGH_WIDE:
        return None
    high = (top.value - below.value) + math.hypot(top.high - top.value, below.value - below.low)
    return top if high < FLAT and top.low > CHANCE else None


def _judgements(record: JudgedPrompt) -> list[dict[str, float]]:
    """A row as text -> score; a text that stands in it twice was judged twice: its second score is another judgement's."""
    judgements: list[dict[str, float]] = []
    for text, score in zip(record.responses, record.scores, strict=True):
        free = next((judgement for judgement in judgements if text not in judgement), None)
        if free is None:
            judgements.append(free := {})
        free[text] = score
    return judgements
