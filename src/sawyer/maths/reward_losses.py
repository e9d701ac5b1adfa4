"""Losses of the reward model, what each counts (pairs, answers or whole prompts), and what a batch is divided by.

A loss is a function of a few tensors; `RewardLoss` says what it counts, so that whoever trains need not know which one it is.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sawyer.maths.masked import masked_sum

PairLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
AnswerLoss = Callable[[Tensor, Tensor], Tensor]
PromptLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
Counts = Literal["pairs", "answers", "prompts"]


def bradley_terry(better: Tensor, worse: Tensor, difference: Tensor) -> Tensor:
    """-log sigmoid(r_j - r_k), (P,) each (Bradley-Terry; InstructGPT, arXiv 2203.02155, eq. 1); `difference` unused."""
    return -logsigmoid(better - worse)


def squared(better: Tensor, worse: Tensor, difference: Tensor) -> Tensor:
    """-log sigmoid((r_j - r_k) * (s_j - s_k)^2), (P,) each: SAWYER's loss, "to learn more from less data".

    The product reaches hundreds; log-sigmoid as one function neither overflows nor loses its gradient there.
    """
    return -logsigmoid((better - worse) * difference**2)


def margin(better: Tensor, worse: Tensor, difference: Tensor) -> Tensor:
    """-log sigmoid(r_j - r_k - (s_j - s_k)), (P,) each (Llama 2, arXiv 2307.09288, eq. 2)."""
    return -logsigmoid(better - worse - difference)


def scaled(better: Tensor, worse: Tensor, difference: Tensor) -> Tensor:
    """-(s_j - s_k) * log sigmoid(r_j - r_k), (P,) each (HelpSteer2-Preference, arXiv 2410.01257)."""
    return -difference * logsigmoid(better - worse)


def listwise(rewards: Tensor, scores: Tensor, prompts: Tensor) -> Tensor:
    """-sum_i [r_i - log sum_{k: s_k <= s_i} exp r_k] over each prompt's answers: (N,) rewards, scores, prompts -> (G,).

    Without ties it is -log of Plackett and Luce's probability of the judges' ranking: the best is drawn first, in proportion to
    exp r, then the best of what is left (Luce 1959; Plackett 1975). Tied answers are Breslow's (1974): each one's denominator
    holds every answer not scored above it, its equals among them, so their order in the file does not matter and the loss
    draws them together. `prompts` is the prompt of each answer, 0 to G - 1.
    """
    order = prompts.argsort(stable=True)
    sizes = prompts.bincount()
    place = torch.arange(len(prompts), device=prompts.device) - (sizes.cumsum(0) - sizes)[prompts[order]]
    there = torch.arange(int(sizes.max()), device=prompts.device) < sizes[:, None]  # (G, K)
    table = torch.zeros_like(there, dtype=torch.int64).index_put((prompts[order], place), order)
    r, s = rewards[table], scores[table]
    itself = torch.eye(r.shape[1], dtype=torch.bool, device=r.device)
    below = there[:, None, :] & (s[:, None, :] <= s[:, :, None]) | itself  # (G, K, K): k is in i's denominator
    denominators = torch.where(below, r[:, None, :], -torch.inf).logsumexp(2)
    return masked_sum(denominators - r, there, dim=1)


def regression(rewards: Tensor, targets: Tensor) -> Tensor:
    """(r - t)^2, (N,) each, t the standardised score (HelpSteer, arXiv 2311.09528): the reward is the score itself."""
    return (rewards - targets) ** 2


# r_j, r_k (P,) rewards of the preferred and the other answer, d = s_j - s_k > 0 (P,) -> losses (P,)
PAIR_LOSSES: Mapping[str, PairLoss] = {"squared": squared, "bradley_terry": bradley_terry, "margin": margin, "scaled": scaled}


def centering(better: Tensor, worse: Tensor) -> Tensor:
    """(r_j + r_k)^2, (P,): keeps rewards near zero (Eisenstein et al. 2023, arXiv 2312.09244)."""
    return (better + worse) ** 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreNormalizer:
    """The mean and the standard deviation of the training scores, on the judges' scale: `standard(s)` is (s - mean) / scale."""

    mean: float
    scale: float

    @classmethod
    def of(cls, scores: Sequence[float]) -> ScoreNormalizer:
        """From all training scores, at least one; scores that are all equal keep their unit (scale 1)."""
        return cls(mean=statistics.fmean(scores), scale=statistics.pstdev(scores) or 1.0)

    def __call__(self, score: float) -> float:
        return (score - self.mean) / self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedBatch:
    """What the judges said of N answers to G prompts, each prompt whole, and of P pairs of them. Rewards (N,) lie beside it."""

    prompts: Tensor  # (N,) int64, 0 to G - 1: whose answer it is
    scores: Tensor  # (N,) float64, standardised; of a ready-made pair only their order means something
    better: Tensor  # (P,) int64, place of the preferred answer of each pair
    worse: Tensor  # (P,) int64
    difference: Tensor  # (P,) float32, d = s_better - s_worse > 0 on the judges' scale

    def to(self, device: torch.device) -> JudgedBatch:
        """The same on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in self.__slots__})


class RewardLoss(Protocol):
    """A loss of the reward model: I items, each a pair, an answer or a prompt."""

    @property
    def counts(self) -> Counts:
        """What an item is."""

    @property
    def formula(self) -> str:
        """The loss as people write it; empty for one that is not ours."""

    def losses(self, rewards: Tensor, judged: JudgedBatch) -> Tensor:
        """(N,) rewards -> (I,), one loss an item."""

    def centering_terms(self, rewards: Tensor, judged: JudgedBatch) -> Tensor:
        """(I,): `centering` of each item: (2 m)^2, m the mean reward of the answers it is made of."""

    def prompt_index(self, judged: JudgedBatch) -> Tensor:
        """(I,) int64: the prompt of each item."""


@dataclass(frozen=True, slots=True)
class PairwiseLoss:
    """A loss of the preferred and the other answer's reward and of how far their scores differ."""

    function: PairLoss
    formula: str = ""  # for people; "" of a loss that is not ours
    counts: Counts = field(default="pairs", init=False)

    def losses(self, rewards: Tensor, judged: JudgedBatch) -> Tensor:
        return self.function(rewards[judged.better], rewards[judged.worse], judged.difference)

    def centering_terms(self, rewards: Tensor, judged: JudgedBatch) -> Tensor:
        return centering(rewards[judged.better], rewards[judged.worse])

    def prompt_index(self, judged: JudgedBatch) -> Tensor:
        return judged.prompts[judged.better]


@dataclass(frozen=True, slots=True)
class PointwiseLoss:
    """A loss of one answer's reward and its standardised score."""

    function: AnswerLoss
    formula: str = ""  # for people; "" of a loss that is not ours
    counts: Counts = field(default="answers", init=False)

    def losses(self, rewards: Tensor, judged: JudgedBatch) -> Tensor:
        return self.function(rewards, judged.scores.to(rewards.dtype))

    def centering_terms(self, rewards: Tensor, judged: JudgedBatch) -> Tensor:
        return centering(rewards, rewards)

    def prompt_index(self, judged: JudgedBatch) -> Tensor:
        return judged.prompts


@dataclass(frozen=True, slots=True)
class ListwiseLoss:
    """A loss of all of a prompt's rewards and the order of their scores."""

    function: PromptLoss
    formula: str = ""  # for people; "" of a loss that is not ours
    counts: Counts = field(default="prompts", init=False)

    def losses(self, rewards: Tensor, judged: JudgedBatch) -> Tensor:
        return self.function(rewards, judged.scores, judged.prompts)

    def centering_terms(self, rewards: Tensor, judged: JudgedBatch) -> Tensor:
        sizes = judged.prompts.bincount().to(rewards.dtype)
        means = torch.zeros_like(sizes).index_add(0, judged.prompts, rewards) / sizes
        return centering(means, means)

    def prompt_index(self, judged: JudgedBatch) -> Tensor:
        return torch.arange(len(judged.prompts.bincount()), device=judged.prompts.device)


# As people read them; r a reward, s a score.
FORMULAS: Mapping[str, str] = {
    "squared": "−log sigmoid((r_j − r_k) (s_j − s_k)²)",
    "bradley_terry": "−log sigmoid(r_j − r_k)",
    "margin": "−log sigmoid(r_j − r_k − (s_j − s_k))",
    "scaled": "−(s_j − s_k) log sigmoid(r_j − r_k)",
    "listwise": "−Σ_i [r_i − log Σ_{k: s_k ≤ s_i} exp r_k], over a prompt's answers",
    "regression": "(r − t)², t the standardised score",
}
REWARD_LOSSES: Mapping[str, RewardLoss] = {
    **{name: PairwiseLoss(function, FORMULAS[name]) for name, function in PAIR_LOSSES.items()},
    "listwise": ListwiseLoss(listwise, FORMULAS["listwise"]),
    "regression": PointwiseLoss(regression, FORMULAS["regression"]),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How much each item counts, (I,) float64, and what the weights come to in all: a whole number."""

    each: Tensor
    total: int


Weigh = Callable[[Tensor], Weights]


def by_item(prompt_index: Tensor) -> Weights:
    """Every item counts once: K answers give K(K-1)/2 pairs, so a prompt with many answers counts more. `prompt_index` (I,)."""
    return Weights(
        each=torch.ones(prompt_index.shape, dtype=torch.float64, device=prompt_index.device), total=len(prompt_index)
    )


def by_prompt(prompt_index: Tensor) -> Weights:
    """Every prompt counts once: each of its n items 1/n. `prompt_index` (I,) int64 is the prompt of each item."""
    sizes = prompt_index.bincount()
    return Weights(each=1 / sizes[prompt_index].double(), total=int((sizes > 0).sum()))


WEIGHTS: Mapping[str, Weigh] = {"pair": by_item, "prompt": by_prompt}


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What the reward model minimises: sum of `total` over the parts of a batch / sum of `count` over them.

    A part holds whole prompts, so that no split of a batch changes a weight.
    """

    loss: RewardLoss
    weigh: Weigh
    centering_coefficient: float = 0.0  # weight of `centering`

    def count(self, judged: JudgedBatch) -> int:
        """The part's share of the denominator: its items, or its prompts that have one."""
        return self.weigh(self.loss.prompt_index(judged)).total

    def total(self, rewards: Tensor, judged: JudgedBatch) -> Tensor:
        """(N,) rewards -> (): the weighted sum of the part's losses."""
        weights = self.weigh(self.loss.prompt_index(judged)).each.to(rewards.dtype)
        losses = self.loss.losses(rewards, judged) + self.centering_coefficient * self.loss.centering_terms(rewards, judged)
        return (weights * losses).sum()
