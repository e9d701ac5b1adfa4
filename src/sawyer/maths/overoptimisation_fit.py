"""Reward against truth as a policy moves away from where it began (Gao et al. 2022, arXiv 2210.10760).

d = sqrt(KL) in nats, the gain is the gold score less the one at d = 0. The curves are fitted to measured gains by least
squares; both are linear in a and b, so that the fit has a closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldFit:
    """The curve through measured gains, and how much of them it explains."""

    a: float
    b: float
    r_squared: float  # 1 - residual / total sum of squares about the mean gain; 1: the curve goes through every point
    turn: float | None  # the d > 0 at which the curve is highest; None: it only rises, or never does


def best_of_n_gain(d: float, a: float, b: float) -> float:
    """d (a - b d): best-of-n's gain in gold at distance d."""
    return d * (a - b * d)


def rl_gain(d: float, a: float, b: float) -> float:
    """d (a - b log d): RL's; 0 at d = 0, its limit."""
    return d * (a - b * math.log(d)) if d > 0 else 0.0


def best_of_n_turn(a: float, b: float) -> float | None:
    """The top of d (a - b d): a / (2 b); None where the curve has none at a positive d."""
    return a / (2 * b) if a > 0 and b > 0 else None


def rl_turn(a: float, b: float) -> float | None:
    """The top of d (a - b log d): exp(a / b - 1); None where it rises for ever (b <= 0), or too far away to be a number."""
    if b <= 0:
        return None
    return math.exp(a / b - 1) if a / b < 700 else None


def fit_best_of_n(d: Sequence[float], gain: Sequence[float]) -> GoldFit:
    """Least squares of gain on d (a - b d). ValueError where two different distances above 0 are not among the points."""
    return _fit(d, gain, [-x * x for x in d], best_of_n_gain, best_of_n_turn)


def fit_rl(d: Sequence[float], gain: Sequence[float]) -> GoldFit:
    """Least squares of gain on d (a - b log d). ValueError where two different distances above 0 are not among the points."""
    return _fit(d, gain, [-x * math.log(x) if x > 0 else 0.0 for x in d], rl_gain, rl_turn)


def best_of_n_mean(proxy: Tensor, values: Tensor, n: int) -> Tensor:
    """What `values` has on average at the answer of the highest proxy among n of a prompt's N answers: (P, N) twice -> (P,).

    Over all subsets of n, without drawing any (Nakano et al. 2021, arXiv 2112.09332, appendix I): the i-th best of N, counted
    from 0, is the best of C(N - 1 - i, n - 1) of the C(N, n) subsets. Of equal proxies the first counts as the better.
    ValueError for an n that is not 1 to N.
    """
    count = proxy.shape[1]
    if not 1 <= n <= count:
        raise ValueError(f"the best of {n} of {count} answers")
    order = proxy.argsort(dim=1, descending=True, stable=True)
    weights = [math.comb(count - 1 - i, n - 1) / math.comb(count, n) for i in range(count)]
    return values.double().gather(1, order) @ torch.tensor(weights, dtype=torch.float64)


def _fit(
    d: Sequence[float],
    gain: Sequence[float],
    second: Sequence[float],
    curve: Callable[[float, float, float], float],
    turn: Callable[[float, float], float | None],
) -> GoldFit:
    """The normal equations of gain = a d + b second, solved by Cramer's rule."""
    if len({x for x in d if x > 0}) < 2:
        raise ValueError("a curve with two unknowns needs points at two different distances above 0")
    p, q, r = _dot(d, d), _dot(d, second), _dot(second, second)
    u, v = _dot(d, gain), _dot(second, gain)
    determinant = p * r - q * q
    a, b = (u * r - v * q) / determinant, (p * v - q * u) / determinant
    mean = math.fsum(gain) / len(gain)
    total = math.fsum((y - mean) ** 2 for y in gain)
    residual = math.fsum((y - curve(x, a, b)) ** 2 for x, y in zip(d, gain, strict=True))
    r_squared = 1 - residual / total if total > 0 else float(residual == 0)
    return GoldFit(a=a, b=b, r_squared=r_squared, turn=turn(a, b))


def _dot(x: Sequence[float], y: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))
