"""Intervals, win rates, correlation and classification scores. Standard library only."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist, stdev

Z = 1.959963984540054  # 97.5 % point of the normal distribution
Z_POWER = 0.8416212335729143  # its 80 % point
RESAMPLES = 2000
FEW = 20  # with fewer observations a bootstrap's interval is too narrow


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean. Raises ValueError for no values."""
    if not values:
        raise ValueError("the mean of no values")
    return math.fsum(values) / len(values)


def bootstrap(values: Sequence[float], *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """The mean with a percentile bootstrap interval (Efron 1979): resample the values, take the 2.5 and 97.5 % points."""
    rng = random.Random(seed)
    count = len(values)
    means = sorted(math.fsum(rng.choices(values, k=count)) / count for _ in range(resamples))
    low, high = means[math.floor(0.025 * resamples)], means[math.ceil(0.975 * resamples) - 1]
    return Interval(value=mean(values), low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedInterval:
    """The mean change from one measurement to the next on the same prompts, with its 95 % interval."""

    value: float
    low: float
    high: float
    detectable: float  # the true change that so many prompts detect with a power of 80 %; infinite for a single prompt
    prompts: int

    @property
    def is_noise(self) -> bool:
        """Whether the interval includes no change."""
        return self.low <= 0 <= self.high

    @property
    def summary(self) -> str:
        """The change in words, with the detectable one."""
        if math.isnan(self.value):
            return "an undefined change, since not all figures are finite"
        change = (
            f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f}) on {self.prompts:,} prompt{'s' * (self.prompts != 1)}"
        )
        if self.prompts < 2:
            return f"{self.value:+.3f} on one prompt, too few for an interval"
        if self.low == self.high == 0:
            return f"not one of {self.prompts:,} prompts has changed"
        seen = f"; a change of {self.detectable:.2g} would probably be seen" if self.is_noise else ""
        return f"{change}{', which is within noise' * self.is_noise}{seen}"


def paired_interval(before: Sequence[float], after: Sequence[float], *, looks: int = 1) -> PairedInterval:
    """mean(after - before) with Student's 95 % interval over prompts (Student 1908), one value of each a prompt.

    `looks`: of how many such changes this one was chosen as the best or the worst; the level is divided by it (Bonferroni).
    Detectable at a power of 80 %: (t_{1 - 0.025 / looks} + t_{0.8}) s / sqrt(n). Where a figure is not finite the mean is nan
    and its interval infinite. ValueError for no prompts.
    """
    changes = [b - a for a, b in zip(before, after, strict=True)]
    if not all(map(math.isfinite, changes)):
        return PairedInterval(value=math.nan, low=-math.inf, high=math.inf, detectable=math.inf, prompts=len(changes))
    value, count = mean(changes), len(changes)
    if count < 2:
        return PairedInterval(value=value, low=-math.inf, high=math.inf, detectable=math.inf, prompts=count)
    error, beyond = stdev(changes) / math.sqrt(count), student_t(1 - 0.025 / looks, count - 1)
    half, detectable = beyond * error, (beyond + student_t(0.8, count - 1)) * error
    return PairedInterval(value=value, low=value - half, high=value + half, detectable=detectable, prompts=count)


def detectable(low: float, high: float) -> float:
    """The least true difference that is detected with a power of 80 %, from an interval of 95 %: half of its width times
    (1.96 + 0.84) / 1.96."""
    return (high - low) / 2 * (Z + Z_POWER) / Z


def student_t(share: float, freedom: int) -> float:
    """The point below which Student's t with `freedom` degrees lies with the chance `share`: exact for 1 and 2, by the
    Cornish-Fisher expansion for more (Abramowitz and Stegun 1964, 26.7.5), right to 1 % at 95 % from 3 on."""
    if freedom == 1:
        return math.tan(math.pi * (share - 0.5))
    if freedom == 2:
        return (2 * share - 1) / math.sqrt(2 * share * (1 - share))
    z = NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, 1))


def wilson(successes: float, trials: float, *, looks: int = 1) -> Interval:
    """A share with Wilson's score interval (Wilson 1927); 0 to 1 without a trial.

    `looks`: how many such shares are looked at for one that stands out; the level is divided by it (Bonferroni)."""
    if trials == 0:
        return Interval(value=0.5, low=0.0, high=1.0)
    z = Z if looks == 1 else NormalDist().inv_cdf(1 - 0.025 / looks)
    share, square = successes / trials, z * z / trials
    centre = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / trials + square / (4 * trials)) / (1 + square)
    return Interval(value=share, low=max(0.0, centre - half), high=min(1.0, centre + half))


def most_accurate(agreement: float) -> float:
    """p with p^2 + (1 - p)^2 = agreement, p >= 1/2: (1 + sqrt(2 agreement - 1)) / 2; 1/2 where they agree no more than chance.

    Two independent judgements that are each right with the chance p agree so often, and p is the most that any model can agree
    with one of them. If some pairs are harder than others the mean of p is below this (Jensen): it is an upper bound then.
    """
    return 0.5 * (1 + math.sqrt(max(0.0, 2 * agreement - 1)))


def order_agreement(judgements: Sequence[Mapping[str, float]]) -> tuple[int, int]:
    """(alike, trials) over all pairs of judgements of one prompt, each text -> score: of the pairs of texts that both judge
    and both decide, how many they order alike.

    Of two texts that n judgements put in one order and m in the other, C(n, 2) + C(m, 2) of the C(n + m, 2) pairs of judgements
    agree. So they are counted, since a hundred raters of one prompt are 4,950 pairs of raters.
    """
    orders: dict[tuple[str, str], list[int]] = {}  # two texts -> how often the first is better, and the second
    for judgement in judgements:
        for one, other in combinations(sorted(judgement), 2):
            if judgement[one] != judgement[other]:
                orders.setdefault((one, other), [0, 0])[judgement[one] < judgement[other]] += 1
    alike = sum(math.comb(n, 2) + math.comb(m, 2) for n, m in orders.values())
    return alike, sum(math.comb(n + m, 2) for n, m in orders.values())


def no_narrower_than_wilson(share: Interval, trials: int) -> Interval:
    """A bootstrapped share of fewer than `FEW` trials, made at least as wide as Wilson's: the bootstrap's has
    no width where all trials agree."""
    if trials >= FEW:
        return share
    score = wilson(share.value * trials, trials)
    return Interval(value=share.value, low=min(share.low, score.low), high=max(share.high, score.high))


def correlation_interval(estimate: Interval, trials: int) -> Interval:
    """A bootstrapped correlation of fewer than `FEW` trials, made at least as wide as Fisher's z interval (Fisher 1915)."""
    if trials >= FEW:
        return estimate
    if trials <= 3:
        return Interval(value=estimate.value, low=-1.0, high=1.0)
    centre = math.atanh(min(max(estimate.value, -1 + 1e-9), 1 - 1e-9))
    half = Z / math.sqrt(trials - 3)
    low, high = math.tanh(centre - half), math.tanh(centre + half)
    return Interval(value=estimate.value, low=min(estimate.low, low), high=max(estimate.high, high))


def win_rate(ours: Sequence[float], theirs: Sequence[float], *, seed: int) -> Interval:
    """How often ours is higher, ties as half, one entry a prompt; bootstrap over prompts, for a few as wide as Wilson's."""
    wins = [_win(a, b) for a, b in zip(ours, theirs, strict=True)]
    return no_narrower_than_wilson(bootstrap(wins, seed=seed), len(wins))


def length_controlled_win_rate(
    ours: Sequence[float], theirs: Sequence[float], our_lengths: Sequence[float], their_lengths: Sequence[float]
) -> Interval:
    """The win rate at equal lengths (after Dubois et al. 2024, arXiv 2404.04475).

    Logistic regression of winning on the standardised difference in length; the value is sigmoid(intercept), its interval from
    the intercept's standard error. A light ridge keeps it finite where length alone decides.
    """
    wins = [_win(a, b) for a, b in zip(ours, theirs, strict=True)]
    gaps = [a - b for a, b in zip(our_lengths, their_lengths, strict=True)]
    spread = math.sqrt(mean([gap * gap for gap in gaps])) or 1.0
    xs = [gap / spread for gap in gaps]
    intercept, slope, ridge = 0.0, 0.0, 0.5
    a = b = c = 1.0
    for _ in range(50):
        chances = [sigmoid(intercept + slope * x) for x in xs]
        weights = [p * (1 - p) for p in chances]
        residuals = [w - p for w, p in zip(wins, chances, strict=True)]
        # Newton's step on the two coefficients; [a b; b c] is the (negative) Hessian.
        a = math.fsum(weights) + ridge
        b = math.fsum(w * x for w, x in zip(weights, xs, strict=True))
        c = math.fsum(w * x * x for w, x in zip(weights, xs, strict=True)) + ridge
        g, h = math.fsum(residuals) - ridge * intercept, math.fsum(r * x for r, x in zip(residuals, xs, strict=True))
        h -= ridge * slope
        determinant = a * c - b * b
        step, turn = (c * g - b * h) / determinant, (a * h - b * g) / determinant
        intercept, slope = intercept + step, slope + turn
        if abs(step) + abs(turn) < 1e-10:
            break
    error = math.sqrt(c / (a * c - b * b))
    return Interval(value=sigmoid(intercept), low=sigmoid(intercept - Z * error), high=sigmoid(intercept + Z * error))


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Pearson's correlation; 0 where one side does not vary."""
    mx, my = mean(xs), mean(ys)
    across = math.fsum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
    size = math.sqrt(math.fsum((x - mx) ** 2 for x in xs) * math.fsum((y - my) ** 2 for y in ys))
    return across / size if size > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Precision, recall and F1 of one class; 0 where the denominator is."""

    precision: float  # right rows / predicted_rows
    recall: float  # right rows / rows
    f1: float  # their harmonic mean
    rows: int  # of the class
    predicted_rows: int  # predicted to be of the class


def class_scores(right: int, predicted_rows: int, rows: int) -> Scores:
    """From counts: `right` rows are of the class and predicted to be; F1 = 2 right / (predicted_rows + rows)."""
    return Scores(
        precision=right / predicted_rows if predicted_rows else 0.0,
        recall=right / rows if rows else 0.0,
        f1=2 * right / (predicted_rows + rows) if predicted_rows + rows else 0.0,
        rows=rows,
        predicted_rows=predicted_rows,
    )


def macro_f1(scores: Sequence[Scores]) -> float:
    """The mean F1 over the classes that some row has or is predicted to have: an absent class is neither right nor wrong."""
    return mean([score.f1 for score in scores if score.rows or score.predicted_rows])


def confusion(truth: Sequence[int], predictions: Sequence[int], classes: int) -> list[list[int]]:
    """table[i][j]: how many rows of class i are predicted to be of class j."""
    table = [[0] * classes for _ in range(classes)]
    for i, j in zip(truth, predictions, strict=True):
        table[i][j] += 1
    return table


def scores_of(table: Sequence[Sequence[int]]) -> list[Scores]:
    """Each class's scores, from a confusion table."""
    return [class_scores(row[i], sum(other[i] for other in table), sum(row)) for i, row in enumerate(table)]


def matthews_correlation(table: Sequence[Sequence[int]]) -> float:
    """Matthews correlation of a confusion table, CoLA's metric; R_K for several classes (Gorodkin 2004).

    (c s - sum p_k t_k) / sqrt((s^2 - sum p_k^2)(s^2 - sum t_k^2)): c right, s rows, t_k true and p_k predicted of class k. For
    two classes (TP TN - FP FN) / sqrt(...). 0 where all rows are, or are predicted to be, of one class.
    """
    true = [sum(row) for row in table]
    predictions = [sum(column) for column in zip(*table, strict=True)]
    rows, right = sum(true), sum(row[i] for i, row in enumerate(table))
    across = right * rows - sum(p * t for p, t in zip(predictions, true, strict=True))
    size = (rows**2 - sum(p * p for p in predictions)) * (rows**2 - sum(t * t for t in true))
    return across / math.sqrt(size) if size else 0.0


def _win(a: float, b: float) -> float:
    return 0.5 if a == b else float(a > b)


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow at either end."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def percent(value: float) -> str:
    """0.934 -> 93 %."""
    return f"{100 * value:.0f} %"
