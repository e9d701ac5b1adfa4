"""Advantages without a value network: each response of a prompt is compared with the prompt's other responses.

Rows come in groups: the k responses of one prompt stand next to each other, so row i belongs to prompt i // k. A response's one
advantage stands at each of its counted tokens, (B, T), 0 elsewhere. Equally good responses give exactly 0: the comparison is of
differences from the group's first, which then have no rounding error.
"""

from __future__ import annotations

from torch import Tensor

from sawyer.maths.kl import kl_k3
from sawyer.maths.masked import keep, masked_sum

# As in TRL. Scores that differ by rounding error only stay far below 1 when they are divided by it.
EPS = 1e-4
SAME = 1e-6  # scores of one group that differ by less, for their size, differ by fp32's rounding error only


def rloo_advantages(rewards: Tensor, mask: Tensor, k: int) -> Tensor:
    """A_i = R_i - mean of the other k - 1, R_i = sum_t r_t (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740).

    rewards, mask (B, T) -> (B, T). With the rewards of `token_rewards` R_i = S_i - beta * sum_t kl_t. ValueError for k < 2 and
    for rows that are no whole number of groups.
    """
    differences = _differences_from_first(masked_sum(rewards, mask, dim=1), k)
    others = (differences.sum(1, keepdim=True) - differences) / (k - 1)
    return _at_tokens(differences - others, mask)


def grpo_advantages(scores: Tensor, mask: Tensor, k: int) -> Tensor:
    """A_i = (S_i - mean) / (std + 1e-4) within the group (DeepSeekMath, arXiv 2402.03300, section 4.1.2).

    scores (B,), mask (B, T) -> (B, T). std is the sample's, with k - 1 in the denominator: the paper leaves that open, TRL does
    so. The KL is no part of the scores: it goes into the loss, `grpo_kl`. ValueError as for `rloo_advantages`.
    """
    differences = _differences_from_first(scores, k)
    std = differences.std(1, correction=1, keepdim=True)
    return _at_tokens((differences - differences.mean(1, keepdim=True)) / (std + EPS), mask)


def grpo_kl(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """sum_t m_t k3(log pi, log pi_ref), k3 = pi_ref / pi - log(pi_ref / pi) - 1 (DeepSeekMath, eq. 4), all (B, T) -> ().

    A part of the loss, times beta; its gradient by log pi is 1 - pi_ref / pi. As every loss it is a sum: divide it once by the
    optimizer batch's counted tokens.
    """
    return masked_sum(kl_k3(keep(logprobs, mask), keep(ref_logprobs, mask)), mask)


def zero_variance(scores: Tensor, k: int | None) -> float:
    """The share of the groups whose k scores are all the same, to rounding: their advantages are 0. scores (B,) -> share.

    None: all rows are one group. Called frac_reward_zero_std by TRL; Yu et al. 2025 (DAPO, arXiv 2503.14476, section 3.2) leave
    such groups out.
    """
    groups = scores.view(1, -1) if k is None else _differences_from_first(scores, k)
    spread = groups.amax(1) - groups.amin(1)
    size = (scores.view(len(groups), -1)).abs().amax(1).clamp(min=1.0)
    return float((spread <= SAME * size).double().mean())


def _differences_from_first(values: Tensor, k: int) -> Tensor:
    """(B,) -> (B / k, k): each response's value less that of its group's first."""
    if k < 2:
        raise ValueError(f"k is {k}: with fewer than two responses a prompt there is no other to compare one with")
    if len(values) % k:
        raise ValueError(f"{len(values)} responses are no whole number of groups of {k}")
    groups = values.view(-1, k)
    return groups - groups[:, :1]


def _at_tokens(advantages: Tensor, mask: Tensor) -> Tensor:
    return keep(advantages.reshape(-1, 1).expand_as(mask), mask)
