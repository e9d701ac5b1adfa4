"""The optimizer step: one batch is a number of rows, however it is split; nothing that is not finite is applied."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sawyer.errors import TrainingError
from sawyer.train import OptimizerStep

ROUNDING = 1e-6


def learner(max_norm: float = 1e9, rate: float = 0.1) -> OptimizerStep:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    return OptimizerStep(model, name="test", learning_rate=rate, factor=lambda step: 1.0, max_norm=max_norm)


def gradient(work: OptimizerStep, splits: int) -> torch.Tensor:
    inputs = torch.randn(21, 3, generator=torch.Generator().manual_seed(1))
    parts = list(inputs.tensor_split(splits))
    work.accumulate(parts, lambda part: (work.model(part) ** 2).sum(), count=21)
    return torch.cat([weight.grad.flatten() for weight in work.parameters if weight.grad is not None])


@pytest.mark.parametrize("splits", [3, 7, 21])
def test_a_batch_split_into_parts_has_the_gradient_of_the_whole(splits: int) -> None:
    assert torch.allclose(gradient(learner(), splits), gradient(learner(), 1), atol=ROUNDING)


def test_dividing_each_part_by_its_own_size_would_be_caught() -> None:
    inputs = torch.randn(21, 3, generator=torch.Generator().manual_seed(1))
    work = learner()
    for part in inputs.split([1, 4, 16]):
        ((work.model(part) ** 2).mean() / 3).backward()
    wrong = torch.cat([weight.grad.flatten() for weight in work.parameters if weight.grad is not None])
    assert not torch.allclose(wrong, gradient(learner(), 1), atol=ROUNDING)


def test_the_step_is_adamw_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    model = nn.Module()
    model.weight = weight
    work = OptimizerStep(model, name="test", learning_rate=0.1, factor=lambda step: 0.5, eps=1e-8)
    report = work.update([None], lambda _: 4.0 * weight.sum() * 2.0, count=2.0)
    # Adam's first step is rate * sign(gradient): 0.1 * 0.5; the gradient is 4 and its norm is told before clipping to 1.
    assert weight.item() == pytest.approx(1.0 - 0.05, abs=ROUNDING)
    assert report.grad_norm == pytest.approx(4.0)
    assert report.loss == pytest.approx(4.0)
    assert report.learning_rate == pytest.approx(0.05)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused_and_the_weights_stay(poison: float) -> None:
    work = learner()
    before = [weight.detach().clone() for weight in work.parameters]
    with pytest.raises(TrainingError, match="test: update 0"):
        work.update([torch.ones(2, 3)], lambda part: work.model(part).sum() * poison, count=2)
    assert all(torch.equal(a, b) for a, b in zip(before, work.parameters, strict=True))
    assert work.steps_done == 0
    work.update([torch.ones(2, 3)], lambda part: work.model(part).sum(), count=2)
    assert all(torch.isfinite(weight).all() for weight in work.parameters)


def test_a_state_taken_and_loaded_goes_on_number_for_number() -> None:
    def losses(work: OptimizerStep, steps: int) -> list[float]:
        inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(2))
        return [work.update([inputs], lambda part: (work.model(part) - 1).pow(2).sum(), 8).loss for _ in range(steps)]

    straight = losses(learner(), 6)
    first = learner()
    start = losses(first, 3)
    second = learner()
    second.load(first.state())
    assert start + losses(second, 3) == straight
