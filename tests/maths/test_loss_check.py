"""Losses that are fit pass; each that is not is refused by the check that is there for it, with a point where it fails."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from sawyer.maths import REWARD_LOSSES, LossCheck, RewardLoss, check_loss, loss_curves, worked_example
from sawyer.maths.loss_check import check_pair

Pair = Callable[[Tensor, Tensor, Tensor], Any]


@pytest.mark.parametrize("name", REWARD_LOSSES)
def test_ours_are_fit(name: str) -> None:
    found = check_loss(REWARD_LOSSES[name])
    assert found.ok, found.failure
    assert [finding.name for finding in found.findings] == ["one loss each", "differentiable", "finite", "falling"]
    assert found.shift_invariant == (name != "regression")


FIT: dict[str, Pair] = {
    "bounded": lambda j, k, d: 1 - ((j - k) * d**2).sigmoid(),
    "steep": lambda j, k, d: softplus(-(j - k) * d**4),
    "smoothed": lambda j, k, d: -0.9 * logsigmoid(j - k) - 0.1 * logsigmoid(k - j) + 0.1 * (k - j),
    "hinge": lambda j, k, d: torch.relu(d - (j - k)),  # it bends, and its slope there is one of its two sides'
    "nearly equal pairs left out": lambda j, k, d: torch.where(d >= 1, softplus(k - j), 0 * j * k),
}


@pytest.mark.parametrize("loss", FIT.values(), ids=FIT.keys())
def test_others_that_are_fit(loss: Pair) -> None:
    found = check_pair(loss)
    assert found.ok, found.failure


def test_a_kink_is_told() -> None:
    (said,) = [finding.message for finding in check_pair(FIT["hinge"]).findings if finding.name == "differentiable"]
    assert "a kink at r_j = 0.5, r_k = -0.5, d = 1" in said


class Backwards(torch.autograd.Function):
    """A derivative written by hand, and wrong by a factor."""

    @staticmethod
    def forward(ctx: Any, gap: Tensor) -> Tensor:
        ctx.save_for_backward(gap)
        return softplus(-gap)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (gap,) = ctx.saved_tensors
        return -0.5 * grads[0] * torch.sigmoid(-gap)


def vanishing(j: Tensor, k: Tensor, d: Tensor) -> Tensor:
    return -((j - k).sigmoid() + 1e-3).log()


# What is wrong -> (the function, the check that refuses it, words of what it says)
UNFIT: dict[str, tuple[Pair, str, str]] = {
    "a sum": (lambda j, k, d: softplus(k - j).sum(), "one loss each", "of shape ()"),
    "a column": (lambda j, k, d: softplus(k - j)[:, None], "one loss each", "of shape (320, 1)"),
    "a number": (lambda j, k, d: 1.0, "one loss each", "it returns float"),
    "nothing": (lambda j, k, d: None, "one loss each", "it returns NoneType"),
    "whole numbers": (lambda j, k, d: (j < k).long(), "one loss each", "torch.int64"),
    "an exception": (lambda j, k, d: {}["reward"], "one loss each", "raises KeyError"),
    "its own ValueError": (lambda j, k, d: [].index(0), "one loss each", "raises ValueError"),
    "two arguments": (lambda j, k: softplus(k - j), "one loss each", "raises TypeError"),
    "not finite near by": (lambda j, k, d: -(j - k).log(), "one loss each", "the loss is inf"),
    "its mean removed": (lambda j, k, d: softplus(k - j) - softplus(k - j).mean(), "one loss each", "among others"),
    "the batch's largest": (lambda j, k, d: softplus(k - j) / (1 + (j - k).abs().max()), "one loss each", "among others"),
    "a step": (lambda j, k, d: (j < k).to(j.dtype), "differentiable", "no gradient"),
    "detached": (lambda j, k, d: softplus((k - j).detach()), "differentiable", "no gradient"),
    "out of torch": (lambda j, k, d: torch.tensor([softplus(x) for x in (k - j).tolist()]), "one loss each", "TypeError"),
    "by way of numbers": (lambda j, k, d: torch.tensor([-x for x in (j - k).tolist()]), "differentiable", "no gradient"),
    "half detached": (lambda j, k, d: softplus(k.detach() - j), "differentiable", "d loss / d r_k is 0 by autograd"),
    "rounded": (lambda j, k, d: (k - j).round(), "differentiable", "by autograd"),
    "a jump where nobody looks": (
        lambda j, k, d: softplus(k - j) + 0.05 * (k - j > 0.12345).to(j.dtype), "differentiable", "jumps"),
    "a wrong derivative": (lambda j, k, d: Backwards.apply(j - k), "differentiable", "by autograd"),
    "log of sigmoid": (lambda j, k, d: -(j - k).sigmoid().log(), "finite", "the loss is inf"),
    "log of 1 + exp": (lambda j, k, d: (1 + (k - j).exp()).log(), "finite", "the loss is inf"),
    "exponential": (lambda j, k, d: (k - j).exp(), "finite", "the loss is inf"),
    "NaN at +-1000": (
        lambda j, k, d: torch.where((j - k).abs() >= 1e3, math.nan, 1.0) * softplus(k - j), "finite", "the loss is nan"),
    "NaN in the gradient": (lambda j, k, d: softplus(k - j).sqrt(), "finite", "the gradient is nan"),
    "fit in float64 alone": (lambda j, k, d: (1 + ((k - j) / 2).exp()).log() * 2, "finite", "in float32"),
    "cancelling": (lambda j, k, d: softplus(k - j) + ((j - k) / 3 + 1e5 - 1e5 - (j - k) / 3), "finite", "in float32"),
    "rising": (lambda j, k, d: softplus(j - k), "falling", "must not rise with the preferred"),
    "sign flipped": (lambda j, k, d: logsigmoid(j - k), "falling", "must not rise with the preferred"),
    "distance": (lambda j, k, d: (j - k - d) ** 2 / 1e3, "falling", "must not rise with the preferred"),
    "centred by itself": (lambda j, k, d: softplus(k - j) + 0.01 * (j + k) ** 2, "falling", "must not rise"),
    "both fall": (lambda j, k, d: softplus(k - j) + softplus(-k), "falling", "must not fall as the other"),
    "a wave": (lambda j, k, d: (k - j) + 1.5 * (j - k).sin(), "falling", "must not"),
    "one side only": (lambda j, k, d: softplus(-j), "falling", "never changes with r_k"),
    "flat": (lambda j, k, d: 0 * (j - k), "falling", "never changes with r_j"),
}  # fmt: skip


@pytest.mark.parametrize(("loss", "check", "words"), UNFIT.values(), ids=UNFIT.keys())
def test_what_is_unfit_is_refused_where_it_fails(loss: Pair, check: str, words: str) -> None:
    found = check_pair(loss)
    assert not found.ok
    failure = found.failure
    assert failure is not None and failure.name == check and words in failure.message, failure
    assert failure.point is not None and failure.point.names == ("r_j", "r_k", "d") and failure.point.values[2] > 0


def values(loss: Pair, found: LossCheck) -> tuple[Tensor, ...]:
    assert found.failure is not None and found.failure.point is not None
    return tuple(torch.tensor([x], dtype=torch.float64) for x in found.failure.point.values)


def test_the_point_told_is_one_where_it_fails() -> None:
    nan = UNFIT["NaN at +-1000"][0]
    j, k, d = values(nan, check_pair(nan))
    assert abs(float(j - k)) == 1000 and math.isnan(nan(j, k, d))
    rising = UNFIT["distance"][0]
    j, k, d = values(rising, check_pair(rising))
    assert float(rising(j + 0.02, k, d)) > float(rising(j, k, d))
    jump = UNFIT["a jump where nobody looks"][0]
    j, k, d = values(jump, check_pair(jump))
    assert float(k - j) == pytest.approx(0.12345, abs=1e-4)


def test_after_a_wrong_shape_nothing_else_is_tried() -> None:
    found = check_pair(lambda j, k, d: None)  # type: ignore[arg-type, return-value]
    assert [finding.message for finding in found.findings[1:]] == ["not tried"] * 3


def test_shift_invariance_is_seen() -> None:
    assert check_pair(lambda j, k, d: softplus(k - j)).shift_invariant
    assert not check_pair(lambda j, k, d: softplus(k) + softplus(-j)).shift_invariant


def test_a_loss_of_answers_that_runs_from_its_target_is_refused() -> None:
    for wrong in (lambda r, t: -((r - t) ** 2), lambda r, t: (r + t) ** 2, lambda r, t: (r - t) ** 3):
        failure = check_loss(RewardLoss(wrong, "answers")).failure
        assert failure is not None and failure.name == "falling" and failure.point is not None
        assert failure.point.names == ("r", "t")


# --- examples and curves ------------------------------------------------------------------------------------------------


def test_worked_examples() -> None:
    assert round(worked_example(REWARD_LOSSES["squared"]).losses[0], 4) == 0.0002
    assert worked_example(REWARD_LOSSES["scaled"]).losses == pytest.approx([4 * math.log1p(math.exp(-0.53))])
    e = [math.exp(x) for x in (0.53, 0.2, 0.0)]
    ranked = e[0] / sum(e) * e[1] / (e[1] + e[2])
    assert worked_example(REWARD_LOSSES["listwise"]).losses == pytest.approx([-math.log(ranked)])
    assert worked_example(REWARD_LOSSES["regression"]).losses == pytest.approx([0.47**2, 1.0])


def test_curves_are_the_loss_and_its_slope() -> None:
    found = loss_curves(REWARD_LOSSES["squared"])
    assert [curve.name for curve in found.curves] == ["0.5", "1", "2", "4"]
    curve = found.curves[2]
    for place in (0, 150, 200, 260, 400):
        x = curve.xs[place]
        assert x == pytest.approx(-4 + 0.02 * place, abs=1e-12)
        assert curve.losses[place] == pytest.approx(math.log1p(math.exp(-4 * x)), rel=1e-9)
        assert curve.slopes[place] == pytest.approx(-4 / (1 + math.exp(4 * x)), rel=1e-9)
    seven = loss_curves(REWARD_LOSSES["listwise"]).curves[-1]
    assert seven.name == "7" and seven.losses[200] == pytest.approx(math.log(math.factorial(7)))  # all alike: 1 of 7!
    middle = loss_curves(REWARD_LOSSES["regression"]).curves[1]
    assert middle.name == "0" and middle.losses[0] == pytest.approx(16) and middle.slopes[0] == pytest.approx(-8)
    own = loss_curves(RewardLoss(lambda j, k, d: softplus(-j)))
    assert own.curves[0].slopes[200] == pytest.approx(-0.25)  # r_j is half the gap
