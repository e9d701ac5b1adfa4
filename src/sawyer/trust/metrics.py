"""The figures of one set of judged answers: accuracy and its parts, calibration, simple rules, length."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from sawyer.maths import expected_calibration_error
from sawyer.trust.intervals import correlated, difference, interval, partial, share
from sawyer.trust.judged_answers import RewardedPrompt
from sawyer.trust.trust_values import Bin, Calibration, Correlation, Figure, Gap, Side, SourceAccuracy

CHANCE = 0.5
MOST_SOURCES = 8
MOST_POINTS = 400
BINS = 10  # of confidence between 0 and 1; as the answer preferred is meant, only the upper half is filled
STEPS = (1.0, 2.0, 4.0)  # bounds of the score gaps, for scores that lie up to 20 apart

Outcome = tuple[float, float, float]  # of one pair: D = r_better - r_worse in the unit it was trained in, d, longer wins
PLAIN = "sigmoid(D)"
# What each loss takes for the probability that the preferred answer is better, and why that is shown.
FORMULAS: Mapping[str, tuple[str, str]] = {
    "bradley_terry": (PLAIN, "the probability that this loss trains"),
    "listwise": (PLAIN, "the probability that this loss trains, of two answers"),
    "scaled": (PLAIN, "the probability that this loss trains; it cares for a pair by its gap d, here each counts alike"),
    "squared": ("sigmoid(D * d^2)", "the probability that this loss trains: it depends on the judges' gap d"),
    "margin": (PLAIN, "this loss trains D to exceed d, which is no probability; the usual one is shown"),
    "regression": (PLAIN, "this loss trains scores, not probabilities; the usual one is shown"),
}


def side(
    name: Literal["all", "file", "own", "gold"],
    what: str,
    rows: Sequence[RewardedPrompt],
    *,
    loss: str | None,
    unit: float,
    seed: int,
) -> Side:
    """All figures of `rows`, which have their rewards. D in a calibration is the difference in reward times `unit`."""
    outcomes = [_outcomes(row, unit) for row in rows]
    gaps = [[o[0] for o in found] for found in outcomes]
    longer = share([(math.fsum(o[2] for o in found), len(found)) for found in outcomes], seed)
    rule: Literal["longer wins", "shorter wins", "random"]
    rule = "longer wins" if longer.value > CHANCE else "shorter wins" if longer.value < CHANCE else "random"

    def right(longer_share: float) -> float:
        return {"longer wins": longer_share, "shorter wins": 1 - longer_share, "random": CHANCE}[rule]

    ahead = [(math.fsum((o[0] > 0) - right(o[2]) for o in found), len(found)) for found in outcomes]
    truth = any(row.truths for row in rows)
    rewards = [reward for row in rows for reward in row.rewards]
    return Side(
        name=name,
        what=what,
        prompts=len(rows),
        answers=len(rewards),
        pairs=sum(map(len, outcomes)),
        ties=sum(row.judged.pairs().ties for row in rows),
        same=sum(row.judged.pairs().same_text for row in rows),
        accuracy=accuracy(outcomes, seed),
        by_gap=by_gap(outcomes, seed),
        by_source=by_source(rows, gaps, seed),
        calibration=calibrations(outcomes, loss, seed),
        longer_wins=longer,
        best_rule=rule,
        best_rule_value=right(longer.value),
        best_rule_high=1 - longer.low if rule == "shorter wins" else longer.high,
        ahead=difference(ahead, seed),
        when_longer=accuracy([[o for o in found if o[2] == 1.0] for found in outcomes], seed),
        when_shorter=accuracy([[o for o in found if o[2] == 0.0] for found in outcomes], seed),
        length=_correlation(rows, lambda row: [len(text.split()) for text in row.judged.responses], seed),
        length_controlled=partial(
            [
                [
                    (reward, float(len(answer.response.split())), score)
                    for reward, answer, score in zip(row.rewards, row.judged.answers, row.judged.scores, strict=True)
                ]
                for row in rows
            ],
            seed,
        ),
        score=_correlation(rows, lambda row: row.judged.scores, seed),
        truth=_correlation(rows, lambda row: row.truths, seed) if truth else None,
        spread=_deviation(rewards),
        points=_points(rows),
    )


def accuracy(outcomes: Sequence[Sequence[Outcome]], seed: int) -> Figure:
    """The share of pairs whose preferred answer has the higher reward; equal rewards prefer neither and are wrong."""
    return share([(sum(o[0] > 0 for o in found), len(found)) for found in outcomes], seed)


def by_gap(outcomes: Sequence[Sequence[Outcome]], seed: int) -> tuple[Gap, ...]:
    """Accuracy in classes of the gap between the judges' scores; empty ones are left out. One class where all gaps agree.

    The bounds are 1, 2 and 4 times a power of ten that suits the scale: scores from 1 to 10 are not from 0 to 1.
    """
    widths = {o[1] for found in outcomes for o in found}
    if not widths:
        return ()
    if len(widths) == 1:
        return (Gap(name="all", low=min(widths), high=None, accuracy=accuracy(outcomes, seed)),)
    scale = 10.0 ** math.floor(math.log10(max(widths) / STEPS[1] * (1 + 1e-9)))
    bounds = (0.0, *(step * scale for step in STEPS), math.inf)
    gaps = []
    for low, high in pairwise(bounds):
        inside = [[o for o in found if low <= o[1] < high] for found in outcomes]
        if any(inside):
            name = f"{low:g} to {high:g}" if low and high < math.inf else f"{low:g} or more" if low else f"less than {high:g}"
            gaps.append(Gap(name=name, low=low, high=None if high == math.inf else high, accuracy=accuracy(inside, seed)))
    return tuple(gaps)


def by_source(rows: Sequence[RewardedPrompt], gaps: Sequence[Sequence[float]], seed: int) -> tuple[SourceAccuracy, ...]:
    """Accuracy by who wrote an answer, over all pairs in which one of theirs stands; the most frequent sources first."""
    found: dict[str, dict[int, list[bool]]] = {}
    for place, (row, apart) in enumerate(zip(rows, gaps, strict=True)):
        answers = row.judged.answers
        for (j, k, _), gap in zip(row.pairs, apart, strict=True):
            for source in {answers[j].source, answers[k].source} - {""}:
                found.setdefault(source, {}).setdefault(place, []).append(gap > 0)
    often = sorted(found, key=lambda source: (-sum(map(len, found[source].values())), source))[:MOST_SOURCES]
    return tuple(
        SourceAccuracy(name=name, accuracy=share([(sum(x), len(x)) for x in found[name].values()], seed)) for name in often
    )


def calibrations(outcomes: Sequence[Sequence[Outcome]], loss: str | None, seed: int) -> tuple[Calibration, ...]:
    """First by the probability that belongs to the loss, then by sigmoid(D) where that is another one."""
    if not any(outcomes):
        return ()
    unknown = (PLAIN, "the usual probability; which loss trained this model is not known")
    formula, why = FORMULAS.get(loss or "", unknown) if loss else unknown
    if loss and loss not in FORMULAS:
        why = "the usual probability; what this loss trains is not known"
    chosen = [calibration(formula, why, outcomes, seed)]
    if formula != PLAIN:
        chosen.append(calibration(PLAIN, "what is read from a reward when no judge's gap is at hand", outcomes, seed))
    return tuple(chosen)


def calibration(formula: str, why: str, outcomes: Sequence[Sequence[Outcome]], seed: int) -> Calibration:
    """The model is sure of its own preference by the formula of |D|, at least 1/2: is it right as often?

    A pair with D = 0 counts as half right: a model that knows nothing and says so is calibrated.
    """
    power = 0 if formula == PLAIN else 2
    sure = [[(_sigmoid(abs(gap) * d**power), 0.5 * (1 + (gap > 0) - (gap < 0))) for gap, d, _ in found] for found in outcomes]
    cells = []
    for found in sure:
        row = [0.0] * (3 * BINS)
        for confidence, right in found:
            place = 3 * min(int(confidence * BINS), BINS - 1)
            row[place], row[place + 1], row[place + 2] = row[place] + 1, row[place + 1] + confidence, row[place + 2] + right
        cells.append(row)
    bins = []
    for place in range(0, 3 * BINS, 3):
        count = math.fsum(row[place] for row in cells)
        if count:
            confidence = math.fsum(row[place + 1] for row in cells) / count
            bins.append(Bin(confidence=confidence, right=share([(row[place + 2], row[place]) for row in cells], seed)))
    flat = [pair for found in sure for pair in found]
    value = expected_calibration_error([c for c, _ in flat], [r for _, r in flat], BINS)
    drawn = interval(cells, lambda s: (s[:, 1::3] - s[:, 2::3]).abs().sum(1) / s[:, ::3].sum(1), seed)
    # Noise only ever adds to a sum of distances: the draws lie higher than the value, at times all of them.
    low, high = min(drawn.low, value), max(drawn.high, value)
    error = Figure(value=value, low=low, high=high, prompts=sum(map(bool, sure)), cases=len(flat))
    return Calibration(formula=formula, why=why, error=error, bins=tuple(bins))


def longer_wins(better: str, worse: str) -> float:
    """1 where the better answer has more characters, 0 where it has fewer, a half where it has as many."""
    return 0.5 if len(better) == len(worse) else float(len(better) > len(worse))


def _outcomes(row: RewardedPrompt, unit: float) -> list[Outcome]:
    responses = row.judged.responses
    return [
        (unit * (row.rewards[j] - row.rewards[k]), difference, longer_wins(responses[j], responses[k]))
        for j, k, difference in row.pairs
    ]


def _correlation(rows: Sequence[RewardedPrompt], of: Callable[[RewardedPrompt], Sequence[float]], seed: int) -> Correlation:
    points = [list(zip(map(float, of(row)), row.rewards, strict=True)) for row in rows]
    return Correlation(all=correlated(points, seed, within=False), within=correlated(points, seed, within=True))


def _points(rows: Sequence[RewardedPrompt]) -> tuple[tuple[int, float], ...]:
    """(words, reward) of at most `MOST_POINTS` answers, evenly spread."""
    found = [(len(t.split()), r) for row in rows for t, r in zip(row.judged.responses, row.rewards, strict=True)]
    step = max(1, math.ceil(len(found) / MOST_POINTS))
    return tuple(found[::step])


def _deviation(values: Sequence[float]) -> float:
    if not values:
        return 0.0
    middle = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / len(values))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0
