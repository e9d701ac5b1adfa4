"""What the algorithms differ in: what a step learns from, the advantages, the loss, where the KL to the SFT model is paid.

| | learns from | advantage | KL | values |
|---|---|---|---|---|
| ppo | sampled answers | GAE over tokens, whitened over the batch | k1, in the reward of each token | yes |
| rloo | sampled answers | reward less the mean of the prompt's other answers | k1, in the reward | no |
| grpo | sampled answers | score, standardised within the prompt's answers | k3, in the loss | no |
| dpo | judged pairs | - | in the loss of the pairs: log-ratios to the reference, times beta | no |
| best_of_n | nothing: it answers n times and keeps the best answer | - | - | no |

Networks, scores, evaluation, guards and the choice of the best model are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sawyer.maths import DpoLoss, PolicyLoss, dpo_loss, gae, grpo_advantages, ppo_policy, rloo_advantages, whiten


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageInputs:
    """What the advantages of B answers with T response tokens are made of."""

    scores: Tensor  # (B,) one an answer, clipped and less the penalty of an answer that did not end
    rewards: Tensor  # (B, T) one a token
    values: Tensor | None  # (B, T)
    mask: Tensor  # (B, T) bool
    gamma: float
    gae_lambda: float
    group_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """One algorithm. Answers to one prompt stand next to each other, `rl.group_size` of them."""

    advantages: Callable[[AdvantageInputs], tuple[Tensor, Tensor | None]] | None = None  # and the returns, both (B, T)
    # (log pi, log pi_old, advantages, mask, clip range) -> a sum over the counted tokens; None: it does not learn from answers
    policy_loss: Callable[[Tensor, Tensor, Tensor, Tensor, float], PolicyLoss] | None = None
    # (log-ratios of the chosen, of the rejected, beta) -> a sum over the pairs; None: it does not learn from pairs
    pair_loss: Callable[[Tensor, Tensor, float, Tensor], DpoLoss] | None = None
    kl_in_loss: bool = False  # k3 times the coefficient in the policy's loss, nothing in the rewards
    has_values: bool = False
    coefficient: str = "kl_coefficient"  # the metric's name of what ties the policy to its reference

    @property
    def learns_from(self) -> Literal["answers", "pairs", "nothing"]:
        """The data of a step: answers that the policy samples, judged pairs, or none, because nothing is trained."""
        return "answers" if self.policy_loss is not None else "pairs" if self.pair_loss is not None else "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """What one update did: its metrics by their names in the journal, and what the gates of step zero check."""

    metrics: dict[str, float]
    first_ratio_error: float  # largest |rho - 1| of the first minibatch, before any step
    first_clip_fraction: float = 0.0  # share of its counted tokens whose ratio was clipped


def ppo_advantages(inputs: AdvantageInputs) -> tuple[Tensor, Tensor | None]:
    """GAE, whitened over the batch's counted tokens; the returns are made of the advantages before."""
    assert inputs.values is not None
    estimate = gae(inputs.rewards, inputs.values, inputs.mask, inputs.gamma, inputs.gae_lambda)
    return whiten(estimate.advantages, inputs.mask), estimate.returns


ALGORITHMS: Mapping[str, Algorithm] = {
    "ppo": Algorithm(advantages=ppo_advantages, policy_loss=ppo_policy, has_values=True),
    "rloo": Algorithm(
        advantages=lambda inputs: (rloo_advantages(inputs.rewards, inputs.mask, inputs.group_size), None),
        policy_loss=ppo_policy,
    ),
    "grpo": Algorithm(
        advantages=lambda inputs: (grpo_advantages(inputs.scores, inputs.mask, inputs.group_size), None),
        policy_loss=ppo_policy,
        kl_in_loss=True,
    ),
    "dpo": Algorithm(pair_loss=dpo_loss, coefficient="beta"),
    "best_of_n": Algorithm(),
}
