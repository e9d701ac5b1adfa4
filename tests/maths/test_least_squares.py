"""Ridge regression: hand arithmetic, and numpy's least squares on rows that stand for the penalty."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sawyer.maths import moments, ridge


def drawn(count: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, size, generator=draw, dtype=torch.float64) * torch.arange(1, size + 1) + 3
    return x, x @ torch.linspace(-1, 1, size, dtype=torch.float64) + 5 + torch.randn(count, generator=draw, dtype=torch.float64)


def by_rows(x: Tensor, y: Tensor, strength: float, constant_drawn: bool = False) -> list[float]:
    """Each weight's penalty is one more observation: of that feature alone, with the target 0."""
    penalty = (strength * x.var(0, correction=0).mean()).sqrt()
    more = penalty * torch.eye(x.shape[1] + 1, dtype=torch.float64)[: None if constant_drawn else x.shape[1]]
    rows = torch.cat([torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1), more])
    targets = torch.cat([y, torch.zeros(len(more), dtype=torch.float64)])
    found: list[float] = np.linalg.lstsq(rows.numpy(), targets.numpy(), rcond=None)[0].tolist()
    return found


def test_by_hand() -> None:
    """x 0, 2, 4 and y 1, 2, 6: deviations -2, 0, 2 and -2, -1, 3 have products 10 and squares 8, a variance of 8 / 3."""
    found = moments(torch.tensor([[0.0], [2.0], [4.0]]), torch.tensor([1.0, 2.0, 6.0]))
    assert found.tolist() == [[20.0, 6.0, 28.0], [6.0, 3.0, 9.0], [28.0, 9.0, 41.0]]
    assert ridge(found, 0.0).tolist() == pytest.approx([1.25, 0.5])
    assert ridge(found, 3.0).tolist() == pytest.approx([10 / 16, 3 - 2 * 10 / 16])  # as much again as three observations have


@pytest.mark.parametrize("strength", [0.0, 1.0, 30.0])
def test_is_numpy_s(strength: float) -> None:
    x, y = drawn(40, 5)
    assert ridge(moments(x, y), strength).tolist() == pytest.approx(by_rows(x, y, strength), rel=1e-9)
    if strength:
        assert ridge(moments(x, y), strength).tolist() != pytest.approx(by_rows(x, y, strength, constant_drawn=True), rel=1e-2)


def test_moments_add_up_and_fade() -> None:
    (x, y), (more, theirs) = drawn(20, 3), drawn(30, 3, seed=1)
    both = moments(torch.cat([x, more]), torch.cat([y, theirs]))
    assert torch.allclose(moments(x, y) + moments(more, theirs), both, rtol=1e-12)
    assert torch.allclose(moments(x[:7], y[:7]) + moments(x[7:], y[7:]), moments(x, y), rtol=1e-12)
    twice = moments(torch.cat([x, x, more]), torch.cat([y, y, theirs]))
    assert torch.allclose(moments(x, y) + 0.5 * moments(more, theirs), 0.5 * twice, rtol=1e-12)


@pytest.mark.parametrize("value", [3.0, 0.1, 87.3213])
def test_features_that_say_nothing_leave_the_mean(value: float) -> None:
    found = ridge(moments(torch.full((4, 2), value), torch.tensor([1.0, 2.0, 3.0, 6.0])), 1.0)
    assert found[:2].tolist() == pytest.approx([0.0, 0.0], abs=1e-3)
    assert float(found[:-1].sum() * value + found[-1]) == pytest.approx(3.0, rel=1e-5)
    assert ridge(moments(torch.zeros(4, 2), torch.ones(4)), 1.0).tolist() == pytest.approx([0.0, 0.0, 1.0])


def test_of_no_observation_nothing_is_known() -> None:
    assert not bool(moments(torch.zeros(0, 3), torch.zeros(0)).any())
