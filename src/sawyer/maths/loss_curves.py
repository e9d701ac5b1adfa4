"""A loss as curves, and on an example small enough to follow by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sawyer.maths.loss_check import one_answer, two_answers
from sawyer.maths.reward_losses import Counts, JudgedBatch, RewardLoss

POINTS = 401


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCurve:
    """One curve: the loss and its slope at each x."""

    name: str
    xs: tuple[float, ...]
    losses: tuple[float, ...]
    slopes: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCurves:
    """A family of curves, what runs along x, and what tells the curves apart (names as TeX between dollars)."""

    x_name: str
    differ_by: str
    curves: tuple[LossCurve, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkedExample:
    """Judges' scores, rewards, and what the loss makes of them: one number an item."""

    scores: tuple[float, ...]
    rewards: tuple[float, ...]
    losses: tuple[float, ...]


def loss_curves(loss: RewardLoss) -> LossCurves:
    """The loss over what it looks at: a pair's reward gap, the gap between neighbours of a ranking, an answer's reward."""
    x_name, differ_by, values, curve = _CURVES[loss.counts]
    curves = [_curve(f"{value:g}", partial(curve, loss, value)) for value in values]
    return LossCurves(x_name=x_name, differ_by=differ_by, curves=tuple(curves))


def worked_example(loss: RewardLoss) -> WorkedExample:
    """Answers scored 6 and 2 with rewards 0.53 and 0; of a whole prompt's loss a third one between them, scored 4, at 0.2.

    Scores are standardised over the answers shown: 6 and 2 are 1 and -1.
    """
    scores, rewards = ((6.0, 4.0, 2.0), (0.53, 0.2, 0.0)) if loss.counts == "prompts" else ((6.0, 2.0), (0.53, 0.0))
    batch = JudgedBatch(
        prompts=torch.zeros(len(scores), dtype=torch.int64),
        scores=(torch.tensor(scores, dtype=torch.float64) - 4.0) / 2.0,
        better=torch.tensor([0]),
        worse=torch.tensor([len(scores) - 1]),
        difference=torch.tensor([4.0], dtype=torch.float64),
    )
    losses = loss.losses(torch.tensor(rewards, dtype=torch.float64), batch)
    return WorkedExample(scores=scores, rewards=rewards, losses=tuple(losses.tolist()))


def _pair_loss(loss: RewardLoss, gap: float, x: Tensor) -> Tensor:
    return two_answers(loss)(x / 2, -x / 2, torch.full_like(x, gap))


def _ranking_loss(loss: RewardLoss, answers: float, x: Tensor) -> Tensor:
    ranks = torch.arange(answers, dtype=torch.float64)
    prompts, none = torch.arange(len(x)).repeat_interleave(len(ranks)), torch.zeros(0, dtype=torch.int64)
    batch = JudgedBatch(prompts=prompts, scores=-ranks.repeat(len(x)), better=none, worse=none, difference=ranks[:0])
    return loss.losses((x[:, None] * -ranks).flatten(), batch)


def _answer_loss(loss: RewardLoss, target: float, x: Tensor) -> Tensor:
    return one_answer(loss)(x, torch.full_like(x, target))


def _curve(name: str, function: Callable[[Tensor], Tensor]) -> LossCurve:
    xs = torch.linspace(-4, 4, POINTS, dtype=torch.float64, requires_grad=True)
    losses = function(xs)
    (slopes,) = torch.autograd.grad(losses.sum(), xs)
    columns = {"xs": xs.detach(), "losses": losses.detach(), "slopes": slopes}
    return LossCurve(name=name, **{key: tuple(column.tolist()) for key, column in columns.items()})


# What a loss counts -> what runs along x, what the curves differ by, its values, and the losses of a curve.
_CURVES: Mapping[Counts, tuple[str, str, tuple[float, ...], Callable[[RewardLoss, float, Tensor], Tensor]]] = {
    "pairs": ("reward gap  $r_j - r_k$", "score gap  $s_j - s_k$", (0.5, 1, 2, 4), _pair_loss),
    "prompts": ("reward gap between neighbours in the ranking", "answers", (2, 3, 5, 7), _ranking_loss),
    "answers": ("reward  $r$", "standardised score", (-1, 0, 1, 2), _answer_loss),
}
