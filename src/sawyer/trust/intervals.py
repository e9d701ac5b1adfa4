"""Intervals by prompt: prompts are resampled, never pairs or answers, because those of one prompt are not independent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from sawyer.stats import RESAMPLES, Interval, correlation_interval, no_narrower_than_wilson, wilson
from sawyer.trust.trust_values import Figure

MOST_BLOCKS = 2000  # more prompts are added up in so many blocks first, and the blocks resampled: sums of independent sums
Cells = Sequence[Sequence[float]]  # a row of sums for each prompt
Point = tuple[float, ...]


def resample(cells: Cells, seed: int) -> Tensor:
    """(R, C) float64: the columns' sums over prompts drawn with replacement, R times (cluster bootstrap, Efron 1979)."""
    table = torch.tensor([list(row) for row in cells], dtype=torch.float64)
    if len(table) > MOST_BLOCKS:
        blocks = torch.zeros(MOST_BLOCKS, table.shape[1], dtype=torch.float64)
        table = blocks.index_add_(0, torch.arange(len(table)) % MOST_BLOCKS, table)
    count = len(table)
    indices = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(seed))
    times = torch.zeros(RESAMPLES, count, dtype=torch.float64).scatter_add_(1, indices, torch.ones(indices.shape).double())
    return times @ table


def interval(cells: Cells, figure: Callable[[Tensor], Tensor], seed: int) -> Interval:
    """`figure`, (N, C) sums -> (N,), of all prompts, with its percentile interval; draws that give nan do not count."""
    total = torch.tensor([[math.fsum(column) for column in zip(*cells, strict=True)]], dtype=torch.float64)
    value = float(figure(total)[0])
    draws = figure(resample(cells, seed))
    draws = draws[~draws.isnan()].sort().values
    if not len(draws):
        return Interval(value=value, low=value, high=value)
    low, high = draws[math.floor(0.025 * len(draws))], draws[math.ceil(0.975 * len(draws)) - 1]
    return Interval(value=value, low=float(low), high=float(high))


def share(outcomes: Sequence[tuple[float, float]], seed: int) -> Figure:
    """The share of successes; `outcomes` holds (successes, trials) of each prompt, those without a trial included.

    A handful of prompts, and any number that all agree, would give too narrow an interval or one of no width: there it is at
    least as wide as Wilson's by prompts.
    """
    cells = [cell for cell in outcomes if cell[1]]
    if not cells:
        return Figure(value=0.5, low=0.0, high=1.0, prompts=0, cases=0)
    bounds = interval(cells, lambda sums: sums[:, 0] / sums[:, 1], seed)
    if bounds.value in (0.0, 1.0):
        by_prompt = wilson(bounds.value * len(cells), len(cells))
        bounds = Interval(value=bounds.value, low=min(bounds.low, by_prompt.low), high=max(bounds.high, by_prompt.high))
    return _figure(no_narrower_than_wilson(bounds, len(cells)), len(cells), round(math.fsum(trials for _, trials in cells)))


def difference(outcomes: Sequence[tuple[float, float]], seed: int) -> Figure:
    """The mean of differences between -1 and 1; `outcomes` holds (sum, number) of each prompt."""
    if not any(number for _, number in outcomes):
        return Figure(value=0.0, low=-1.0, high=1.0, prompts=0, cases=0)
    half = share([((total + number) / 2, number) for total, number in outcomes], seed)
    return Figure(
        value=2 * half.value - 1, low=2 * half.low - 1, high=2 * half.high - 1, prompts=half.prompts, cases=half.cases
    )


def correlation(rows: Sequence[Sequence[tuple[float, float]]], seed: int, *, within: bool) -> Figure:
    """Pearson's correlation of the points of all prompts; `within`: each prompt's own means are subtracted first."""
    cells = [
        [len(points), *_sums((x, y, x * x, y * y, x * y) for x, y in (_center(points) if within else points))]
        for points in rows
        if len(points) > within
    ]
    if not cells:
        return Figure(value=0.0, low=-1.0, high=1.0, prompts=0, cases=0)

    def figure(sums: Tensor) -> Tensor:
        n, x, y, xx, yy, xy = sums.unbind(1)
        return _ratio(xy - x * y / n, xx - x * x / n, yy - y * y / n)

    bounds = correlation_interval(interval(cells, figure, seed), len(cells))
    return _figure(bounds, len(cells), sum(map(len, rows)))


def partial(rows: Sequence[Sequence[tuple[float, float, float]]], seed: int) -> Figure | None:
    """The correlation of x and y within prompts at equal z: (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1 - r_yz^2)).

    None where z determines x or y: then nothing is left to correlate.
    """
    rows = [points for points in rows if len(points) > 1]
    cells = [_sums((x * x, y * y, z * z, x * y, x * z, y * z) for x, y, z in _center(points)) for points in rows]
    if not cells:
        return None

    def figure(sums: Tensor) -> Tensor:
        xx, yy, zz, xy, xz, yz = sums.unbind(1)
        a, b, c = _ratio(xy, xx, yy), _ratio(xz, xx, zz), _ratio(yz, yy, zz)
        left = (1 - b * b) * (1 - c * c)
        return torch.where(left > 1e-9, (a - b * c) / left.clamp(min=1e-9).sqrt(), torch.nan)

    bounds = interval(cells, figure, seed)
    if math.isnan(bounds.value):
        return None
    return _figure(correlation_interval(bounds, len(cells)), len(cells), sum(map(len, rows)))


def _ratio(across: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """A correlation from sums of squares; 0 where one side does not vary."""
    size = first.clamp(min=0).sqrt() * second.clamp(min=0).sqrt()
    return torch.where(size > 1e-12, (across / size.clamp(min=1e-12)).clamp(-1, 1), 0.0)


def _sums(points: Iterable[Point]) -> list[float]:
    return [math.fsum(column) for column in zip(*points, strict=True)]


def _center(points: Sequence[Point]) -> list[Point]:
    """The points less their mean."""
    means = [total / len(points) for total in _sums(points)]
    return [tuple(value - mean for value, mean in zip(point, means, strict=True)) for point in points]


def _figure(bounds: Interval, prompts: int, cases: int) -> Figure:
    return Figure(value=bounds.value, low=bounds.low, high=bounds.high, prompts=prompts, cases=cases)
