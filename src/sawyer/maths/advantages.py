"""Advantages: how much better each token did than expected."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sawyer.maths.masked import keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Advantages:
    """Example (gamma = lam = 1): rewards [0, 0, 1], values all .5 -> advantages [.5, .5, .5], returns [1, 1, 1]."""

    advantages: Tensor  # (B, T), 0 where not counted
    returns: Tensor  # (B, T), advantages + values, 0 where not counted


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Advantages:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 11-16).

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1};  V = A = 0 after a response's last counted
    token. rewards, values, mask (B, T); the counted positions of a row are contiguous. `values[:, t]` is V of the state in
    which token t is chosen.
    """
    rewards, values = keep(rewards, mask), keep(values, mask)
    later = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(later)
    advantages = torch.zeros_like(rewards)
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        # Outside the mask both running values fall back to 0: the state after the last token is worth nothing.
        later = keep(delta + gamma * lam * later, mask[:, t])
        next_value = values[:, t]
        advantages[:, t] = later
    return Advantages(advantages=advantages, returns=keep(advantages + values, mask))


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(R - V) / Var(R) over counted tokens: 1 perfect, 0 no better than a constant; 0 where R does not vary."""
    targets, errors = returns[mask].double(), (returns - values)[mask].double()
    # Compared rather than var == 0: the variance of equal numbers is not always 0 to the last bit.
    if bool((targets == targets[:1]).all()):
        return 0.0
    return float(1 - errors.var(correction=0) / targets.var(correction=0))
