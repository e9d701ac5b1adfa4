"""A loss as curves, and on an example small enough to follow by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sawyer.maths.loss_check import two_answers
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
    return _CURVES[loss.counts](loss)


def worked_example(loss: RewardLoss) -> WorkedExample:
    """Answers scored 6 and 2 with rewards 0.53 and 0; of a whole prompt's loss a third one between them, scored 4, at 0.2.

    Scores are standardised over the answers shown: 6 and 2 are 1 and -1.
    """
    scores, rewards = ((6.0, 4.0, 2.0), (0.53, 0.2, 0.0)) if loss.counts == "prompts" else ((6.0, 2.0), (0.53, 0.0))
    judged = JudgedBatch(
        prompts=torch.zeros(len(scores), dtype=torch.int64),
        scores=(torch.tensor(scores, dtype=torch.float64) - 4.0) / 2.0,
        better=torch.tensor([0]),
        worse=torch.tensor([len(scores) - 1]),
        difference=torch.tensor([4.0], dtype=torch.float64),
    )
    losses = loss.losses(torch.tensor(rewards, dtype=torch.float64), judged)
    return WorkedExample(scores=scores, rewards=rewards, losses=tuple(losses.tolist()))


def _of_pairs(loss: RewardLoss) -> LossCurves:
    function = two_answers(loss)

    def spread(x: Tensor, gap: float) -> Tensor:
        return function(x / 2, -x / 2, torch.full_like(x, gap))

    gaps = (0.5, 1.0, 2.0, 4.0)
    curves = [_curve(f"{d:g}", partial(spread, gap=d)) for d in gaps]
    return LossCurves(x_name="reward gap  $r_j - r_k$", differ_by="score gap  $s_j - s_k$", curves=tuple(curves))


def _of_prompts(loss: RewardLoss) -> LossCurves:
    def ranked(x: Tensor, answers: int) -> Tensor:
        ranks = torch.arange(answers, dtype=torch.float64)
        prompts = torch.arange(len(x)).repeat_interleave(answers)
        none = torch.zeros(0, dtype=torch.int64)
        judged = JudgedBatch(prompts=prompts, scores=-ranks.repeat(len(x)), better=none, worse=none, difference=ranks[:0])
        return loss.losses((x[:, None] * -ranks).flatten(), judged)

    curves = [_curve(f"{k}", partial(ranked, answers=k)) for k in (2, 3, 5, 7)]
    return LossCurves(x_name="reward gap between neighbours in the ranking", differ_by="answers", curves=tuple(curves))


def _of_answers(loss: RewardLoss) -> LossCurves:
    def one(x: Tensor, target: float) -> Tensor:
        none = torch.zeros(0, dtype=torch.int64)
        prompts, scores = torch.arange(len(x)), torch.full_like(x, target)
        return loss.losses(x, JudgedBatch(prompts=prompts, scores=scores, better=none, worse=none, difference=scores[:0]))

    curves = [_curve(f"{t:g}", partial(one, target=t)) for t in (-1.0, 0.0, 1.0, 2.0)]
    return LossCurves(x_name="reward  $r$", differ_by="standardised score", curves=tuple(curves))


def _curve(name: str, function: Callable[[Tensor], Tensor]) -> LossCurve:
    xs = torch.linspace(-4, 4, POINTS, dtype=torch.float64, requires_grad=True)
    losses = function(xs)
    (slopes,) = torch.autograd.grad(losses.sum(), xs)
    found = {"xs": xs.detach(), "losses": losses.detach(), "slopes": slopes}
    return LossCurve(name=name, **{key: tuple(column.tolist()) for key, column in found.items()})


_CURVES: Mapping[Counts, Callable[[RewardLoss], LossCurves]] = {
    "pairs": _of_pairs,
    "prompts": _of_prompts,
    "answers": _of_answers,
}
