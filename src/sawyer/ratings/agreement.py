"""How far raters agree: Krippendorff's alpha, Kendall's tau-b, shares; each with an interval by prompt.

Prompts are resampled, never judgements, because those of one prompt are not independent of each other. What is undefined has
no value and says why. docs/rating.md has the formulas.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sawyer.stats import FEW, RESAMPLES, Interval, correlation_interval, detectable, percent, wilson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Level = Literal["nominal", "ordinal", "interval"]
Unit = Sequence[float | None]  # what each rater said of one thing; None: that rater did not judge it
Key = TypeVar("Key")
MOST_BLOCKS = 500  # more prompts are added up in so many blocks first, and the blocks are resampled


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementFigure:
    """A figure with its 95 % interval, or the reason why it has no value."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    prompts: int  # that have at least one case
    cases: int  # pairs of judgements; of alpha the judgements that can be pairable
    detectable: float | None  # the least true difference that so much data detects with a power of 80 %
    reason: str = ""  # why there is no value
    is_share: bool = True  # 0 to 1, in per cent; else a coefficient

    @property
    def words(self) -> str:
        """The figure in words, and the least difference that would probably have been seen."""
        if self.value is None or self.low is None or self.high is None:
            return f"{self.name}: undefined, since {self.reason}"
        prompts = f"{self.prompts:,} prompt{'s' * (self.prompts != 1)}"
        unseen = ""
        if self.detectable is not None:
            size = f"{100 * self.detectable:.0f} points" if self.is_share else f"{self.detectable:.2f}"
            unseen = f"; a difference of less than {size} would probably not be seen"
        if self.is_share:
            return f"{self.name}: {interval_words(self)} on {prompts}{unseen}"
        return f"{self.name}: {self.value:.2f} ({self.low:.2f} to {self.high:.2f}) on {prompts}{unseen}"


def interval_words(share: AgreementFigure | Interval) -> str:
    """81 % (74 to 87)"""
    value, low, high = share.value or 0.0, share.low or 0.0, share.high or 0.0
    return f"{percent(value)} ({100 * low:.0f} to {100 * high:.0f})"


def no_figure(name: str, why: str, *, is_share: bool = True) -> AgreementFigure:
    """A figure without a value, and why."""
    empty: dict[str, Any] = {"value": None, "low": None, "high": None, "prompts": 0, "cases": 0, "detectable": None}
    return AgreementFigure(name=name, **empty, reason=why, is_share=is_share)


# Coefficients of agreement.


def percent_agreement(units: Sequence[Unit]) -> float | None:
    """The share of equal pairs among all pairs of judgements of the same thing; None where nothing was judged twice."""
    pairs = [(a, b) for unit in units for a, b in combinations([value for value in unit if value is not None], 2)]
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else None


def krippendorff_alpha(units: Sequence[Unit], level: Level = "ordinal") -> float | None:
    """Krippendorff's alpha of any number of raters with missing judgements; None where it is undefined (`undefined_alpha`).

    alpha = 1 - D_o / D_e = 1 - (n - 1) sum_ck o_ck d_ck^2 / sum_ck n_c n_k d_ck^2, over the values c, k of the units with two
    judgements or more: o_ck is the coincidence matrix, in which a unit of m judgements counts each of its pairs 1 / (m - 1)
    times, n_c its row sums, n their sum. d^2: nominal 1 unless equal, interval (c - k)^2, ordinal (sum_{g = c..k} n_g -
    (n_c + n_k) / 2)^2 (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").
    """
    if undefined_alpha(units):
        return None
    values, counts = _coincidences([list(units)])
    return float(_alpha(counts.sum(0)[None], values, level)[0])


def undefined_alpha(units: Sequence[Unit]) -> str:
    """Why alpha has no value for these units; empty where it has one."""
    pairable = [value for unit in map(_judged_values, units) if len(unit) > 1 for value in unit]
    if not any(map(_judged_values, units)):
        return "nothing was judged"
    if not pairable:
        return "nothing was judged by two raters"
    if len(set(pairable)) == 1:
        return "all judgements are the same: where nothing varies, agreement cannot be told from a habit"
    return ""


def kendall_tau_b(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b of two rankings of the same things, with ties: (C - D) / sqrt((n_0 - n_1) (n_0 - n_2)), C and D the pairs
    ordered alike and the other way round, n_0 all pairs, n_1 and n_2 those that are tied in the one and in the other (Kendall
    1945). None where a ranking ties everything. ValueError for rankings of different lengths."""
    concordance = ties_first = ties_second = 0
    pairs = list(combinations(zip(first, second, strict=True), 2))
    for (a, b), (c, d) in pairs:
        concordance += _sign(a - c) * _sign(b - d)
        ties_first, ties_second = ties_first + (a == c), ties_second + (b == d)
    size = (len(pairs) - ties_first) * (len(pairs) - ties_second)
    return concordance / math.sqrt(size) if size else None


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _judged_values(unit: Unit) -> list[float]:
    return [value for value in unit if value is not None]


def _coincidences(prompts: Sequence[Sequence[Unit]]) -> tuple[Array, Array]:
    """(V,) values in order and (P, V, V): each prompt's share of the coincidence matrix."""
    import numpy as np

    units = [(p, _judged_values(unit)) for p, own_units in enumerate(prompts) for unit in own_units]
    units = [(p, unit) for p, unit in units if len(unit) > 1]
    values = np.array(sorted({value for _, unit in units for value in unit}), dtype=np.float64)
    index = {float(value): i for i, value in enumerate(values)}
    counts = np.zeros((len(prompts), len(values), len(values)))
    for p, unit in units:
        tally = np.zeros(len(values))
        for value, times in Counter(unit).items():
            tally[index[float(value)]] = times
        counts[p] += (np.outer(tally, tally) - np.diag(tally)) / (len(unit) - 1)
    return values, counts


def _alpha(matrices: Array, values: Array, level: Level) -> Array:
    """(R, V, V) coincidence matrices -> (R,) alpha; nan where nothing varies."""
    import numpy as np

    n_c = matrices.sum(2)  # (R, V)
    if level == "nominal":
        distance = np.broadcast_to(1.0 - np.eye(len(values)), matrices.shape)
    else:
        # The ordinal distance of c and k is that of their mean ranks: sum_{g = c..k} n_g - (n_c + n_k) / 2.
        position = np.broadcast_to(values, n_c.shape) if level == "interval" else n_c.cumsum(1) - n_c / 2
        distance = (position[:, :, None] - position[:, None, :]) ** 2
    by_chance = (n_c[:, :, None] * n_c[:, None, :] * distance).sum((1, 2))
    disagreement = (matrices * distance).sum((1, 2)) * (n_c.sum(1) - 1)
    varies = by_chance > 1e-12
    return np.where(varies, 1 - disagreement / np.where(varies, by_chance, 1.0), np.nan)


# Intervals by prompt.


def by_prompt_interval(cells: Array, figure: Callable[[Array], Array], seed: int) -> tuple[float, float] | None:
    """(P, ...) sums of each prompt -> the percentile interval of `figure`, which takes (R, ...) sums over prompts drawn with
    replacement to (R,) values (cluster bootstrap, Efron 1979); draws that give nan do not count. None where all do."""
    import numpy as np

    table = cells.reshape(len(cells), -1)
    if len(table) > MOST_BLOCKS:
        blocks = np.zeros((MOST_BLOCKS, table.shape[1]))
        np.add.at(blocks, np.arange(len(table)) % MOST_BLOCKS, table)
        table = blocks
    count = len(table)
    chosen = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    flat = (chosen + count * np.arange(RESAMPLES)[:, None]).ravel()
    times = np.bincount(flat, minlength=RESAMPLES * count).reshape(RESAMPLES, count).astype(np.float64)
    draws = figure((times @ table).reshape(RESAMPLES, *cells.shape[1:]))
    draws = np.sort(draws[~np.isnan(draws)])
    if not len(draws):
        return None
    return float(draws[math.floor(0.025 * len(draws))]), float(draws[math.ceil(0.975 * len(draws)) - 1])


def share_figure(name: str, outcomes: Sequence[tuple[float, float]], seed: int, why: str) -> AgreementFigure:
    """The share of successes among trials; `outcomes` holds both for each prompt, `why` what an absence of trials means.

    The interval is Wilson's or the bootstrap's by prompt, whichever reaches further. Wilson's counts trials; where the prompts
    are fewer than 20 or all trials agree, the bootstrap is too narrow, and Wilson's counts prompts.
    """
    import numpy as np

    cells = [cell for cell in outcomes if cell[1]]
    if not cells:
        return no_figure(name, why)
    successes, trials = (math.fsum(column) for column in zip(*cells, strict=True))
    value = successes / trials
    by_prompt = by_prompt_interval(np.array(cells), lambda sums: sums[:, 0] / sums[:, 1], seed) or (value, value)
    counts = min(trials, len(cells)) if len(cells) < FEW or value in (0.0, 1.0) else trials
    score = wilson(value * counts, counts)
    return _figure(name, value, min(by_prompt[0], score.low), max(by_prompt[1], score.high), len(cells), round(trials))


def alpha_figure(name: str, units: Mapping[Key, Sequence[Unit]], level: Level, seed: int) -> AgreementFigure:
    """Alpha of all units, which are listed by prompt, with its interval by prompt.

    Fewer than 20 prompts: at least as wide as Fisher's z interval. Where all agree the bootstrap has no width: the lower bound
    is then Wilson's of as many prompts, which is alpha if the share it cannot exclude disagreed as much as chance does.
    """
    everything = [unit for own_units in units.values() for unit in own_units]
    if why := undefined_alpha(everything):
        return no_figure(name, why, is_share=False)
    pairable = [own_units for own_units in units.values() if any(len(_judged_values(unit)) > 1 for unit in own_units)]
    values, counts = _coincidences(pairable)
    value = float(_alpha(counts.sum(0)[None], values, level)[0])
    bounds = by_prompt_interval(counts, lambda sums: _alpha(sums, values, level), seed) or (value, value)
    cases = sum(len(unit) for own_units in pairable for unit in map(_judged_values, own_units) if len(unit) > 1)
    return _coefficient(name, value, bounds, len(pairable), cases)


def tau_figure(name: str, taus: Mapping[Key, Sequence[float]], seed: int, why: str) -> AgreementFigure:
    """The mean of the pairs of rankings' tau-b, which are listed by prompt, with its interval by prompt as alpha's."""
    import numpy as np

    cells = np.array([[math.fsum(own_taus), len(own_taus)] for own_taus in taus.values() if own_taus])
    if not len(cells):
        return no_figure(name, why, is_share=False)
    total, count = cells.sum(0)
    value = float(total / count)
    bounds = by_prompt_interval(cells, lambda sums: sums[:, 0] / sums[:, 1], seed) or (value, value)
    return _coefficient(name, value, bounds, len(cells), int(count))


def _coefficient(name: str, value: float, bounds: tuple[float, float], prompts: int, cases: int) -> AgreementFigure:
    trials = prompts if bounds[0] < bounds[1] else min(prompts, FEW - 1)  # prompts that are all alike give it no width
    estimate = correlation_interval(Interval(value=value, low=bounds[0], high=bounds[1]), trials)
    low, high = estimate.low, estimate.high
    if value > 1 - 1e-12:
        low = min(low, wilson(prompts, prompts).low)
    return _figure(name, value, low, high, prompts, cases, is_share=False)


def _figure(
    name: str, value: float, low: float, high: float, prompts: int, cases: int, *, is_share: bool = True
) -> AgreementFigure:
    low, high = min(low, value), max(high, value)
    unseen = detectable(low, high) if high > low else None
    return AgreementFigure(
        name=name, value=value, low=low, high=high, prompts=prompts, cases=cases, detectable=unseen, is_share=is_share
    )
