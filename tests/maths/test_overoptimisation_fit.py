"""Gao's curves: known a and b are found again, brute force finds no better ones, and the best of n is that of every subset."""

from __future__ import annotations

import math
import random
from itertools import combinations

import pytest
import torch

from sawyer.maths import best_of_n_gain, best_of_n_mean, fit_best_of_n, fit_rl, rl_gain
from sawyer.maths.overoptimisation_fit import best_of_n_turn, rl_turn

CURVES = [(fit_best_of_n, best_of_n_gain), (fit_rl, rl_gain)]


def noisy(curve, seed: int):
    rng = random.Random(seed)
    ds = [0.0, *sorted(rng.uniform(0.05, 6.0) for _ in range(30))]
    return ds, [curve(d, 2.5, 0.6) + rng.gauss(0, 0.3) for d in ds]


def residual(curve, ds, gains, a: float, b: float) -> float:
    return math.fsum((g - curve(d, a, b)) ** 2 for d, g in zip(ds, gains, strict=True))


def test_gains_by_hand() -> None:
    assert best_of_n_gain(3.0, 2.0, 0.5) == pytest.approx(3 * (2 - 1.5))
    assert rl_gain(math.e, 2.0, 0.5) == pytest.approx(math.e * 1.5)
    assert rl_gain(1.0, 2.0, 0.5) == 2.0  # log 1 = 0
    assert rl_gain(0.0, 2.0, 0.5) == 0.0 == best_of_n_gain(0.0, 2.0, 0.5)


@pytest.mark.parametrize(("fit", "curve"), CURVES)
@pytest.mark.parametrize(("a", "b"), [(2.5, 0.6), (0.8, 0.05), (-1.0, 0.3), (1.0, -0.2)])
def test_known_a_and_b_are_found_again(fit, curve, a: float, b: float) -> None:
    ds = [0.0, 0.1, 0.4, 0.9, 1.3, 2.2, 3.1, 5.0]
    found = fit(ds, [curve(d, a, b) for d in ds])
    assert (found.a, found.b) == (pytest.approx(a, abs=1e-9), pytest.approx(b, abs=1e-9))
    assert found.r_squared == pytest.approx(1.0)
    other = fit_rl if fit is fit_best_of_n else fit_best_of_n  # the other curve is no fit of it
    assert other(ds, [curve(d, a, b) for d in ds]).r_squared < 1 - 1e-5


@pytest.mark.parametrize(("fit", "curve"), CURVES)
def test_no_other_a_and_b_are_nearer(fit, curve) -> None:
    ds, gains = noisy(curve, 3)
    found = fit(ds, gains)
    least = residual(curve, ds, gains, found.a, found.b)
    for step in (1e-1, 1e-3, 1e-5):
        for da, db in ((step, 0), (-step, 0), (0, step), (0, -step), (step, step), (-step, step)):
            assert residual(curve, ds, gains, found.a + da, found.b + db) > least
    # A search that knows no calculus ends at the same place: the grid is refined around its best point.
    a, b, width = 0.0, 0.0, 8.0
    for _ in range(40):
        grid = [(a + width * i / 4, b + width * j / 4) for i in range(-4, 5) for j in range(-4, 5)]
        a, b = min(grid, key=lambda ab: residual(curve, ds, gains, *ab))
        width *= 0.6
    assert (found.a, found.b) == (pytest.approx(a, abs=1e-5), pytest.approx(b, abs=1e-5))
    mean = sum(gains) / len(gains)
    assert found.r_squared == pytest.approx(1 - least / sum((g - mean) ** 2 for g in gains))


@pytest.mark.parametrize(("turn", "curve"), [(best_of_n_turn, best_of_n_gain), (rl_turn, rl_gain)])
@pytest.mark.parametrize(("a", "b"), [(2.5, 0.6), (0.8, 0.3)])
def test_the_turn_is_the_top(turn, curve, a: float, b: float) -> None:
    at = turn(a, b)
    assert at is not None and at > 0
    top = curve(at, a, b)
    assert all(curve(at * factor, a, b) < top for factor in (0.5, 0.9, 0.999, 1.001, 1.1, 2.0))


def test_turns_by_hand_and_where_there_is_none() -> None:
    assert best_of_n_turn(2.0, 0.5) == 2.0
    assert rl_turn(0.5, 0.5) == pytest.approx(1.0)  # exp(1 - 1)
    assert rl_turn(-1.0, 0.5) == pytest.approx(math.exp(-3))  # a fall from almost the first step on
    assert best_of_n_turn(2.0, 0.0) is None and best_of_n_turn(2.0, -0.1) is None and best_of_n_turn(-1.0, 0.5) is None
    assert rl_turn(2.0, 0.0) is None and rl_turn(2.0, -0.1) is None and rl_turn(1.0, 1e-9) is None


@pytest.mark.parametrize("fit", [fit_best_of_n, fit_rl])
def test_two_unknowns_need_two_distances(fit) -> None:
    with pytest.raises(ValueError, match="two different distances"):
        fit([0.0, 1.0, 1.0], [0.0, 1.0, 1.1])
    assert fit([0.0, 1.0, 2.0], [0.0, 0.0, 0.0]).r_squared == 1.0


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_best_of_n_is_the_mean_over_every_subset(n: int) -> None:
    draws = torch.Generator().manual_seed(n)
    proxy, gold = torch.randn(2, 4, 6, generator=draws)
    proxy[1, 2] = proxy[1, 4]  # equal: the first counts
    proxy[2] = 0.0
    found = best_of_n_mean(proxy, gold, n)
    for row in range(4):
        best = [max(chosen, key=lambda i: (float(proxy[row, i]), -i)) for chosen in combinations(range(6), n)]
        assert float(found[row]) == pytest.approx(sum(float(gold[row, i]) for i in best) / len(best))
    worst = best_of_n_mean(-proxy, gold, n)  # the sign flipped
    assert (n == 1) == bool(torch.allclose(worst, found))
    assert torch.allclose(best_of_n_mean(proxy, gold, 1), gold.double().mean(1))


def test_the_best_of_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="best of 3 of 2"):
        best_of_n_mean(torch.zeros(1, 2), torch.zeros(1, 2), 3)
