"""How high accuracy can get at all against these judges: nobody can agree with people more than they do with themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from sawyer.records import JudgedPrompt
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


def ceiling(rows: Sequence[RewardedPrompt], seed: int) -> Ceiling | None:
    """From answers judged more than once, else from an accuracy that stops rising with the gap; None where neither tells."""
    agreed = agreement([row.judged for row in rows], seed)
    if agreed.prompts >= ENOUGH_REPEATS:
        value, low, high = (most_accurate(x) for x in (agreed.value, agreed.low, agreed.high))
        found = Figure(value=value, low=low, high=high, prompts=agreed.prompts, cases=agreed.cases)
        return Ceiling(accuracy=found, method="repeats", assumption=REPEATS)
    flat = saturation(rows, seed)
    return None if flat is None else Ceiling(accuracy=flat, method="saturation", assumption=SATURATION)


def most_accurate(agreement: float) -> float:
    """p with p^2 + (1 - p)^2 = agreement, p >= 1/2: (1 + sqrt(2 agreement - 1)) / 2; 1/2 where they agree no more than chance.

    If some pairs are harder than others the mean of p is below this (Jensen): it is an upper bound then.
    """
    return 0.5 * (1 + math.sqrt(max(0.0, 2 * agreement - 1)))


def agreement(records: Sequence[JudgedPrompt], seed: int) -> Figure:
    """How often two judgings of the same prompt order the same two answers alike, among pairs that both decide."""
    judgings: dict[tuple[tuple[str, str], ...], list[dict[str, float]]] = {}
    for record in records:
        key = tuple((message.role, message.content) for message in record.prompt.messages)
        judgings.setdefault(key, []).extend(_judgings(record))
    cells = []
    for found in judgings.values():
        alike = tried = 0
        for one, other in combinations(found, 2):
            for a, b in combinations([text for text in one if text in other], 2):
                signs = (one[a] - one[b]) * (other[a] - other[b])
                alike, tried = alike + (signs > 0), tried + (signs != 0)
        cells.append((float(alike), float(tried)))
    return share(cells, seed)


def saturation(rows: Sequence[RewardedPrompt], seed: int) -> Figure | None:
    """Accuracy at the widest gaps, if it is no higher there than at middle ones; of the half of the pairs with the largest |D|.

    Widest and middle are the upper two thirds of these pairs by the judges' gap. None where accuracy may still be rising.
    """
    pairs = [[(row.rewards[j] - row.rewards[k], apart) for j, k, apart in row.pairs] for row in rows]
    sizes = sorted(abs(gap) for found in pairs for gap, _ in found)
    if len(sizes) < 6:
        return None
    sure = [[(gap, apart) for gap, apart in found if abs(gap) >= sizes[len(sizes) // 2]] for found in pairs]
    widths = sorted(apart for found in sure for _, apart in found)
    middle, wide = widths[len(widths) // 3], widths[2 * len(widths) // 3]
    cells = [
        (
            (float(sum(g > 0 for g, apart in found if apart >= wide)), float(sum(apart >= wide for _, apart in found))),
            (
                float(sum(g > 0 for g, apart in found if middle <= apart < wide)),
                float(sum(middle <= apart < wide for _, apart in found)),
            ),
        )
        for found in sure
    ]
    top, below = share([c[0] for c in cells], seed), share([c[1] for c in cells], seed)
    if min(top.cases, below.cases) < ENOUGH_WIDE:
        return None
    high = (top.value - below.value) + math.hypot(top.high - top.value, below.value - below.low)
    return top if high < FLAT and top.low > CHANCE else None


def _judgings(record: JudgedPrompt) -> list[dict[str, float]]:
    """A row as text -> score; a text that stands in it twice was judged twice, and its second score is another judging's."""
    found: list[dict[str, float]] = []
    for text, score in zip(record.responses, record.scores, strict=True):
        free = next((judging for judging in found if text not in judging), None)
        if free is None:
            free = {}
            found.append(free)
        free[text] = score
    return found
