"""Intervals by prompt: prompts are drawn again, never pairs or answers, because those of one prompt go together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sawyer.stats import RESAMPLES, Interval, correlation_interval, no_narrower_than_wilson, wilson
from sawyer.trust.trust_values import Figure

MOST_BLOCKS = 2000  # more prompts are added up in so many blocks first, and the blocks drawn: sums of independent sums
Cells = Sequence[Sequence[float]]  # a row of sums for each prompt


def resampled(cells: Cells, seed: int) -> Tensor:
    """(R, C) float64: the columns' sums over prompts drawn with replacement, R times (cluster bootstrap, Efron 1979)."""
    table = torch.tensor([list(row) for row in cells], dtype=torch.float64)
    if len(table) > MOST_BLOCKS:
        blocks = torch.zeros(MOST_BLOCKS, table.shape[1], dtype=torch.float64)
        table = blocks.index_add_(0, torch.arange(len(table)) % MOST_BLOCKS, table)
    count = len(table)
    drawn = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(seed))
    times = torch.zeros(RESAMPLES, count, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape).double())
    return times @ table


def interval(cells: Cells, of: Callable[[Tensor], Tensor], seed: int) -> Interval:
    """`of`, (N, C) sums -> (N,) figures, of all prompts, with its percentile interval; draws that give nan do not count."""
    total = torch.tensor([[math.fsum(column) for column in zip(*cells, strict=True)]], dtype=torch.float64)
    value = float(of(total)[0])
    found = of(resampled(cells, seed))
    found = found[~found.isnan()].sort().values
    if not len(found):
        return Interval(value=value, low=value, high=value)
    low, high = found[math.floor(0.025 * len(found))], found[math.ceil(0.975 * len(found)) - 1]
    return Interval(value=value, low=float(low), high=float(high))


def share(outcomes: Sequence[tuple[float, float]], seed: int) -> Figure:
    """The share that was won of what was tried; `outcomes` holds (won, tried) of each prompt, those that tried none included.

    A handful of prompts, and any number that all agree, would give too narrow an interval or one of no width: there it is at
    least as wide as Wilson's by prompts.
    """
    tried = [cell for cell in outcomes if cell[1]]
    if not tried:
        return Figure(value=0.5, low=0.0, high=1.0, prompts=0, cases=0)
    found = interval(tried, lambda sums: sums[:, 0] / sums[:, 1], seed)
    if found.value in (0.0, 1.0):
        apart = wilson(found.value * len(tried), len(tried))
        found = Interval(value=found.value, low=min(found.low, apart.low), high=max(found.high, apart.high))
    return _figure(no_narrower_than_wilson(found, len(tried)), tried)


def difference(outcomes: Sequence[tuple[float, float]], seed: int) -> Figure:
    """The mean of differences between -1 and 1; `outcomes` holds (sum, number) of each prompt."""
    tried = [cell for cell in outcomes if cell[1]]
    if not tried:
        return Figure(value=0.0, low=-1.0, high=1.0, prompts=0, cases=0)
    halved = share([((total + number) / 2, number) for total, number in tried], seed)
    low, value, high = (2 * x - 1 for x in (halved.low, halved.value, halved.high))
    return Figure(value=value, low=low, high=high, prompts=halved.prompts, cases=halved.cases)


def correlated(rows: Sequence[Sequence[tuple[float, float]]], seed: int, *, within: bool) -> Figure:
    """Pearson's correlation of the points of all prompts; `within`: each prompt's own means are taken off before."""
    moved = [_centred(points) if within else list(points) for points in rows]
    cells = [
        [
            len(points),
            *(math.fsum(part) for part in zip(*((x, y, x * x, y * y, x * y) for x, y in points), strict=True)),
        ]
        for points in moved
        if len(points) > within
    ]
    if not cells:
        return Figure(value=0.0, low=-1.0, high=1.0, prompts=0, cases=0)

    def of(sums: Tensor) -> Tensor:
        n, x, y, xx, yy, xy = sums.unbind(1)
        return _ratio(xy - x * y / n, xx - x * x / n, yy - y * y / n)

    found = correlation_interval(interval(cells, of, seed), len(cells))
    return Figure(value=found.value, low=found.low, high=found.high, prompts=len(cells), cases=sum(map(len, moved)))


def partial(rows: Sequence[Sequence[tuple[float, float, float]]], seed: int) -> Figure | None:
    """The correlation of x and y within prompts at equal z: (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1 - r_yz^2)).

    None where z tells all of x or of y: then nothing is left to correlate.
    """
    cells = []
    for points in rows:
        if len(points) > 1:
            means = [math.fsum(part) / len(points) for part in zip(*points, strict=True)]
            moved = [tuple(a - m for a, m in zip(point, means, strict=True)) for point in points]
            products = ((x * x, y * y, z * z, x * y, x * z, y * z) for x, y, z in moved)
            cells.append([math.fsum(part) for part in zip(*products, strict=True)])
    if not cells:
        return None

    def of(sums: Tensor) -> Tensor:
        xx, yy, zz, xy, xz, yz = sums.unbind(1)
        a, b, c = _ratio(xy, xx, yy), _ratio(xz, xx, zz), _ratio(yz, yy, zz)
        left = (1 - b * b) * (1 - c * c)
        return torch.where(left > 1e-9, (a - b * c) / left.clamp(min=1e-9).sqrt(), torch.nan)

    found = interval(cells, of, seed)
    if math.isnan(found.value):
        return None
    found = correlation_interval(found, len(cells))
    cases = sum(len(points) for points in rows if len(points) > 1)
    return Figure(value=found.value, low=found.low, high=found.high, prompts=len(cells), cases=cases)


def _ratio(across: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """A correlation from sums of squares; 0 where one side does not vary."""
    size = first.clamp(min=0).sqrt() * second.clamp(min=0).sqrt()
    return torch.where(size > 1e-12, (across / size.clamp(min=1e-12)).clamp(-1, 1), 0.0)


def _centred(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if not points:
        return []
    mx, my = (math.fsum(part) / len(points) for part in zip(*points, strict=True))
    return [(x - mx, y - my) for x, y in points]


def _figure(found: Interval, tried: Sequence[tuple[float, float]]) -> Figure:
    cases = round(math.fsum(number for _, number in tried))
    return Figure(value=found.value, low=found.low, high=found.high, prompts=len(tried), cases=cases)
