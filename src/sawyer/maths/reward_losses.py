"""Losses of the reward model, what each counts (pairs, answers or whole prompts), and what a batch is divided by.

A new loss is a function here and a row of REWARD_LOSSES; its name also goes into `LOSSES` of config/schema.py, which loads
without torch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sawyer.maths.masked import masked_sum

PairLoss = Callable[[Tensor, Tensor, Tensor], Tensor]  # r_j, r_k of the preferred and the other answer, d = s_j - s_k > 0
AnswerLoss = Callable[[Tensor, Tensor], Tensor]  # r, t
Counts = Literal["pairs", "answers", "prompts"]


def bradley_terry_loss(better: Tensor, worse: Tensor, difference: Tensor) -> Tensor:
    """-log sigmoid(r_j - r_k), (P,) each (Bradley-Terry; InstructGPT, arXiv 2203.02155, eq. 1); `difference` unused."""
    return -logsigmoid(better - worse)


def squared_loss(better: Tensor, worse: Tensor, difference: Tensor) -> Tensor:
    """-log sigmoid((r_j - r_k) * (s_j - s_k)^2), (P,) each: SAWYER's loss, "to learn more from less data".

    The product reaches hundreds; log-sigmoid as one function neither overflows nor loses its gradient there.
    """
    return -logsigmoid((better - worse) * difference**2)


def margin_loss(better: Tensor, worse: Tensor, difference: Tensor) -> Tensor:
    """-log sigmoid(r_j - r_k - (s_j - s_k)), (P,) each (Llama 2, arXiv 2307.09288, eq. 2)."""
    return -logsigmoid(better - worse - difference)


def scaled_loss(better: Tensor, worse: Tensor, difference: Tensor) -> Tensor:
    """-(s_j - s_k) * log sigmoid(r_j - r_k), (P,) each (HelpSteer2-Preference, arXiv 2410.01257)."""
    return -difference * logsigmoid(better - worse)


def listwise_loss(rewards: Tensor, scores: Tensor, prompts: Tensor) -> Tensor:
    """-sum_i [r_i - log sum_{k: s_k <= s_i} exp r_k] over each prompt's answers: (N,) rewards, scores, prompts -> (G,).

    Without ties it is -log of Plackett and Luce's probability of the judges' ranking: the best is drawn first, in proportion to
    exp r, then the best of what is left (Luce 1959; Plackett 1975). Ties are Breslow's (1974): each denominator holds every
    answer not scored above its own, its equals among them, so that their order in the file does not matter and the loss draws
    them together. `prompts` is the prompt of each answer, 0 to G - 1.
    """
    order = prompts.argsort(stable=True)
    sizes = prompts.bincount()
    column = torch.arange(len(prompts), device=prompts.device) - (sizes.cumsum(0) - sizes)[prompts[order]]
    mask = torch.arange(int(sizes.max()), device=prompts.device) < sizes[:, None]  # (G, K)
    table = torch.zeros_like(mask, dtype=torch.int64).index_put((prompts[order], column), order)
    r, s = rewards[table], scores[table]
    itself = torch.eye(r.shape[1], dtype=torch.bool, device=r.device)
    below = mask[:, None, :] & (s[:, None, :] <= s[:, :, None]) | itself  # (G, K, K): k is in i's denominator
    denominators = torch.where(below, r[:, None, :], -torch.inf).logsumexp(2)
    return masked_sum(denominators - r, mask, dim=1)


def regression_loss(rewards: Tensor, targets: Tensor) -> Tensor:
    """(r - t)^2, (N,) each, t the standardised score (HelpSteer, arXiv 2311.09528): the reward is the score itself."""
    return (rewards - targets) ** 2


def centering(better: Tensor, worse: Tensor) -> Tensor:
    """(r_j + r_k)^2, (P,): keeps rewards near zero (Eisenstein et al. 2023, arXiv 2312.09244)."""
    return (better + worse) ** 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreNormalizer:
    """The mean and the standard deviation of the training scores, on the judges' scale; a call gives (s - mean) / scale."""

    mean: float
    scale: float

    @classmethod
    def of(cls, scores: Sequence[float], weights: Sequence[float] | None = None) -> ScoreNormalizer:
        """From all training scores, at least one, each counted `weights` times, by default once; scores that are all equal keep
        their unit (scale 1)."""
        if weights is None or all(weight == 1 for weight in weights):
            return cls(mean=statistics.fmean(scores), scale=statistics.pstdev(scores) or 1.0)
        mean = statistics.fmean(scores, weights)
        variance = statistics.fmean([(score - mean) ** 2 for score in scores], weights)
        return cls(mean=mean, scale=math.sqrt(variance) or 1.0)

    def __call__(self, score: float) -> float:
        return (score - self.mean) / self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedBatch:
    """The judges' scores of N answers to G prompts, each prompt whole, and P pairs of them. Rewards (N,) come beside it."""

    prompts: Tensor  # (N,) int64, 0 to G - 1: the prompt of each answer
    scores: Tensor  # (N,) float64, standardised; of a ready-made pair only their order means something
    better: Tensor  # (P,) int64, index of the preferred answer of each pair
    worse: Tensor  # (P,) int64
    difference: Tensor  # (P,) float32, d = s_better - s_worse > 0 on the judges' scale
    weights: Tensor | None = None  # (G,) float64 > 0, of each prompt's judgement; None: 1 each

    def to(self, device: torch.device) -> JudgedBatch:
        """The same on another device."""
        tensors: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__ if getattr(self, name) is not None}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})

    @property
    def pair_weights(self) -> Tensor:
        """(P,) float64: the weight of each pair, that of its prompt's judgement."""
        return self.weights_of(self.prompts[self.better])

    def weights_of(self, prompt_index: Tensor) -> Tensor:
        """(I,) float64: the weights of items, from the prompt of each."""
        if self.weights is None:
            return torch.ones_like(prompt_index, dtype=torch.float64)
        return self.weights[prompt_index]


@dataclass(frozen=True, slots=True)
class RewardLoss:
    """A loss of I items: pairs, answers or prompts.

    Its function takes for "pairs" r_j, r_k and d, (P,) each; for "answers" r and the standardised score t, (N,) each; for
    "prompts" all rewards, scores and the prompt of each answer, (N,) each.
    """

    function: Callable[..., Tensor]
    counts: Counts = "pairs"
    formula: str = ""  # as people write it; empty for a user's loss

    def losses(self, rewards: Tensor, batch: JudgedBatch) -> Tensor:
        """(N,) rewards -> (I,), one loss an item."""
        if self.counts == "pairs":
            return self.function(rewards[batch.better], rewards[batch.worse], batch.difference)
        if self.counts == "answers":
            return self.function(rewards, batch.scores.to(rewards.dtype))
        return self.function(rewards, batch.scores, batch.prompts)

    def centering_terms(self, rewards: Tensor, batch: JudgedBatch) -> Tensor:
        """(I,): `centering` of each item: (2 m)^2, m the mean reward of its answers."""
        if self.counts == "pairs":
            return centering(rewards[batch.better], rewards[batch.worse])
        if self.counts == "answers":
            return centering(rewards, rewards)
        sizes = batch.prompts.bincount().to(rewards.dtype)
        means = torch.zeros_like(sizes).index_add(0, batch.prompts, rewards) / sizes
        return centering(means, means)

    def prompt_index(self, batch: JudgedBatch) -> Tensor:
        """(I,) int64: the prompt of each item."""
        if self.counts == "pairs":
            return batch.prompts[batch.better]
        if self.counts == "answers":
            return batch.prompts
        return torch.arange(len(batch.prompts.bincount()), device=batch.prompts.device)


# By the name in `reward.loss`. In formulas r is a reward, s a score.
REWARD_LOSSES: Mapping[str, RewardLoss] = {
    "squared": RewardLoss(squared_loss, "pairs", "−log sigmoid((r_j − r_k) (s_j − s_k)²)"),
    "bradley_terry": RewardLoss(bradley_terry_loss, "pairs", "−log sigmoid(r_j − r_k)"),
    "margin": RewardLoss(margin_loss, "pairs", "−log sigmoid(r_j − r_k − (s_j − s_k))"),
    "scaled": RewardLoss(scaled_loss, "pairs", "−(s_j − s_k) log sigmoid(r_j − r_k)"),
    "listwise": RewardLoss(listwise_loss, "prompts", "−Σ_i [r_i − log Σ_{k: s_k ≤ s_i} exp r_k], over a prompt's answers"),
    "regression": RewardLoss(regression_loss, "answers", "(r − t)², t the standardised score"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How much each item counts, (I,) float64, and the sum of the weights."""

    each: Tensor
    total: float


Weigh = Callable[[Tensor, Tensor], Weights]


def by_item(prompt_index: Tensor, judgement_weights: Tensor) -> Weights:
    """Every item counts once: K answers give K(K-1)/2 pairs, so a prompt with many answers counts more.

    `prompt_index` (I,) int64 is the prompt of each item, `judgement_weights` (I,) float64 how often its judgement counts.
    """
    return Weights(each=judgement_weights, total=float(judgement_weights.sum()))


def by_prompt(prompt_index: Tensor, judgement_weights: Tensor) -> Weights:
    """Every prompt counts once, or as often as its judgement's weight says: each of its n items 1/n of that. As `by_item`."""
    sizes = prompt_index.bincount()
    of_prompt = torch.zeros_like(sizes, dtype=torch.float64).index_copy(0, prompt_index, judgement_weights)
    return Weights(each=judgement_weights / sizes[prompt_index].double(), total=float(of_prompt.sum()))


WEIGHTS: Mapping[str, Weigh] = {"pair": by_item, "prompt": by_prompt}


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What the reward model minimises: sum of `total` over the parts of a batch / sum of `count` over them.

    A part holds whole prompts, so that no split of a batch changes a weight.
    """

    loss: RewardLoss
    weigh: Weigh
    centering_coefficient: float = 0.0

    def count(self, batch: JudgedBatch) -> float:
        """The part's share of the denominator: the weights of its items, or of its prompts that have one."""
        return self._weights(batch).total

    def total(self, rewards: Tensor, batch: JudgedBatch) -> Tensor:
        """(N,) rewards -> (): the weighted sum of the part's losses."""
        weights = self._weights(batch).each.to(rewards.dtype)
        losses = self.loss.losses(rewards, batch) + self.centering_coefficient * self.loss.centering_terms(rewards, batch)
        return (weights * losses).sum()

    def _weights(self, batch: JudgedBatch) -> Weights:
        index = self.loss.prompt_index(batch)
        return self.weigh(index, batch.weights_of(index))
