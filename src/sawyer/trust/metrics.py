"""The figures of one set of judged answers: accuracy and its parts, calibration, simple rules, length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from sawyer.maths import expected_calibration_error
from sawyer.stats import sigmoid
from sawyer.trust.intervals import correlation, difference, interval, partial, share
from sawyer.trust.judged_answers import RewardedPrompt
from sawyer.trust.trust_values import Bin, Calibration, Correlation, Figure, Gap, Side, SideName, SourceAccuracy

CHANCE = 0.5
MOST_SOURCES = 8
MOST_POINTS = 400
BINS = 10  # of confidence between 0 and 1; as the answer preferred is meant, only the upper half is filled
STEPS = (1.0, 2.0, 4.0)  # bounds of the score gaps, for scores that lie up to 20 apart


class Outcome(NamedTuple):
    """One pair: what the model makes of it, and the judges, and the rule that longer is better."""

    gap: float  # D = r_better - r_worse, in the unit it was trained in
    difference: float  # d of the judges' scores
    longer_wins: float


Outcomes = Sequence[Sequence[Outcome]]  # by prompt
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


def side(name: SideName, what: str, rows: Sequence[RewardedPrompt], *, loss: str | None, unit: float, seed: int) -> Side:
    """All figures of `rows`. D in a calibration is the difference in reward times `unit`."""
    outcomes = [_outcomes(row, unit) for row in rows]
    longer = share([(math.fsum(o.longer_wins for o in each), len(each)) for each in outcomes], seed)
    rule: Literal["longer wins", "shorter wins", "random"]
    rule = "longer wins" if longer.value > CHANCE else "shorter wins" if longer.value < CHANCE else "random"

    def rule_accuracy(longer_wins: float) -> float:
        return {"longer wins": longer_wins, "shorter wins": 1 - longer_wins, "random": CHANCE}[rule]

    ahead = [(math.fsum((o.gap > 0) - rule_accuracy(o.longer_wins) for o in each), len(each)) for each in outcomes]
    rewards = [reward for row in rows for reward in row.rewards]
    words = [[len(text.split()) for text in row.record.responses] for row in rows]
    scores = [row.record.scores for row in rows]
    truths = [row.truths for row in rows]
    counts = [row.record.pairs() for row in rows]
    length_at_equal_scores = [
        [(reward, float(length), score) for reward, length, score in zip(row.rewards, *each, strict=True)]
        for row, *each in zip(rows, words, scores, strict=True)
    ]
    points = [point for row, lengths in zip(rows, words, strict=True) for point in zip(lengths, row.rewards, strict=True)]
    return Side(
        name=name,
        what=what,
        prompts=len(rows),
        answers=len(rewards),
        pairs=sum(map(len, outcomes)),
        ties=sum(count.ties for count in counts),
        same=sum(count.same_text for count in counts),
        accuracy=accuracy(outcomes, seed),
        by_gap=by_gap(outcomes, seed),
        by_source=by_source(rows, outcomes, seed),
        calibration=calibrations(outcomes, loss, seed),
        longer_wins=longer,
        best_rule=rule,
        best_rule_value=rule_accuracy(longer.value),
        best_rule_high=1 - longer.low if rule == "shorter wins" else longer.high,
        ahead=difference(ahead, seed),
        when_longer=accuracy([[o for o in each if o.longer_wins == 1.0] for each in outcomes], seed),
        when_shorter=accuracy([[o for o in each if o.longer_wins == 0.0] for each in outcomes], seed),
        length=_correlation(rows, words, seed),
        length_controlled=partial(length_at_equal_scores, seed),
        score=_correlation(rows, scores, seed),
        truth=_correlation(rows, truths, seed) if any(truths) else None,
        spread=_deviation(rewards),
        points=tuple(points[:: max(1, math.ceil(len(points) / MOST_POINTS))]),
    )


def _outcomes(row: RewardedPrompt, unit: float) -> list[Outcome]:
    responses = row.record.responses
    return [
        Outcome(unit * (row.rewards[j] - row.rewards[k]), difference, longer_wins(responses[j], responses[k]))
        for j, k, difference in row.pairs
    ]


def accuracy(outcomes: Outcomes, seed: int) -> Figure:
    """The share of pairs whose preferred answer has the higher reward; equal rewards prefer neither and are wrong."""
    return share([(sum(o.gap > 0 for o in each), len(each)) for each in outcomes], seed)


def by_gap(outcomes: Outcomes, seed: int) -> tuple[Gap, ...]:
    """Accuracy in classes of the difference between the judges' scores; empty ones are left out. One class where all agree.

    The bounds are 1, 2 and 4 times a power of ten that suits the scale: scores from 1 to 10 are not from 0 to 1.
    """
    widths = {o.difference for each in outcomes for o in each}
    if not widths:
        return ()
    if len(widths) == 1:
        return (Gap(name="all", low=min(widths), high=None, accuracy=accuracy(outcomes, seed)),)
    scale = 10.0 ** math.floor(math.log10(max(widths) / STEPS[1] * (1 + 1e-9)))
    bounds = (0.0, *(step * scale for step in STEPS), math.inf)
    gaps = []
    for low, high in pairwise(bounds):
        inside = [[o for o in each if low <= o.difference < high] for each in outcomes]
        if any(inside):
            name = f"{low:g} to {high:g}" if low and high < math.inf else f"{low:g} or more" if low else f"less than {high:g}"
            gaps.append(Gap(name=name, low=low, high=None if high == math.inf else high, accuracy=accuracy(inside, seed)))
    return tuple(gaps)


def by_source(rows: Sequence[RewardedPrompt], outcomes: Outcomes, seed: int) -> tuple[SourceAccuracy, ...]:
    """Accuracy by who wrote an answer, over all pairs in which one of theirs stands; the most frequent sources first."""
    rights: dict[str, dict[int, list[bool]]] = {}
    for i, (row, each) in enumerate(zip(rows, outcomes, strict=True)):
        for pair, outcome in zip(row.pairs, each, strict=True):
            for source in {row.record.answers[j].source for j in (pair.better, pair.worse)} - {""}:
                rights.setdefault(source, {}).setdefault(i, []).append(outcome.gap > 0)
    frequent = sorted(rights, key=lambda source: (-sum(map(len, rights[source].values())), source))[:MOST_SOURCES]
    return tuple(
        SourceAccuracy(name=name, accuracy=share([(sum(x), len(x)) for x in rights[name].values()], seed)) for name in frequent
    )


def calibrations(outcomes: Outcomes, loss: str | None, seed: int) -> tuple[Calibration, ...]:
    """First by the probability that belongs to the loss, then by sigmoid(D) where that is another one."""
    if not any(outcomes):
        return ()
    unknown = "what this loss trains is not known" if loss else "which loss trained this model is not known"
    formula, why = FORMULAS.get(loss or "", (PLAIN, f"the usual probability; {unknown}"))
    chosen = [calibration(formula, why, outcomes, seed)]
    if formula != PLAIN:
        chosen.append(calibration(PLAIN, "what is read from a reward when no judge's gap is at hand", outcomes, seed))
    return tuple(chosen)


def calibration(formula: str, why: str, outcomes: Outcomes, seed: int) -> Calibration:
    """The model is sure of its own preference by the formula of |D|, at least 1/2: is it right as often?

    A pair with D = 0 counts as half right: a model that knows nothing and says so is calibrated.
    """
    power = 0 if formula == PLAIN else 2
    beliefs = [
        [(sigmoid(abs(o.gap) * o.difference**power), 0.5 * (1 + (o.gap > 0) - (o.gap < 0))) for o in each] for each in outcomes
    ]
    cells = []  # of each prompt, for each bin: pairs, the sum of their confidences, how many are right
    for each in beliefs:
        row = [0.0] * (3 * BINS)
        for confidence, right in each:
            at = 3 * min(int(confidence * BINS), BINS - 1)
            row[at], row[at + 1], row[at + 2] = row[at] + 1, row[at + 1] + confidence, row[at + 2] + right
        cells.append(row)
    bins = []
    for at in range(0, 3 * BINS, 3):
        if count := math.fsum(row[at] for row in cells):
            confidence = math.fsum(row[at + 1] for row in cells) / count
            bins.append(Bin(confidence=confidence, right=share([(row[at + 2], row[at]) for row in cells], seed)))
    flat = [belief for each in beliefs for belief in each]
    value = expected_calibration_error([c for c, _ in flat], [r for _, r in flat], BINS)
    draws = interval(cells, lambda s: (s[:, 1::3] - s[:, 2::3]).abs().sum(1) / s[:, ::3].sum(1), seed)
    # Noise only ever adds to a sum of distances: the draws lie higher than the value, at times all of them.
    low, high = min(draws.low, value), max(draws.high, value)
    error = Figure(value=value, low=low, high=high, prompts=sum(map(bool, beliefs)), cases=len(flat))
    return Calibration(formula=formula, why=why, error=error, bins=tuple(bins))


def longer_wins(better: str, worse: str) -> float:
    """1 where the better answer has more characters, 0 where it has fewer, a half where it has as many."""
    return 0.5 if len(better) == len(worse) else float(len(better) > len(worse))


def _correlation(rows: Sequence[RewardedPrompt], values: Sequence[Sequence[float]], seed: int) -> Correlation:
    """Of the rewards with one value an answer."""
    points = [list(zip(map(float, each), row.rewards, strict=True)) for row, each in zip(rows, values, strict=True)]
    return Correlation(all=correlation(points, seed, within=False), within=correlation(points, seed, within=True))


def _deviation(values: Sequence[float]) -> float:
    if not values:
        return 0.0
    middle = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / len(values))
