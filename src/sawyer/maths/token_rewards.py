"""From a score per response to a reward per token (Stiennon et al. 2020, section 3.4; Ziegler et al. 2019, eq. 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from sawyer.maths.kl import kl_k1
from sawyer.maths.masked import keep


def clip_scores(scores: Tensor, bound: float) -> Tensor:
    """Scores (B,) in standard units, clipped to +-bound."""
    return scores.clamp(-bound, bound)


def missing_eos(scores: Tensor, has_eos: Tensor, penalty: float) -> Tensor:
    """Scores (B,) less `penalty` (in the scores' unit) where the response has no end of its own; has_eos (B,) bool."""
    return torch.where(has_eos, scores, scores - penalty)


def token_rewards(scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, coefficient: float) -> Tensor:
    """r_t = -beta * (log pi(y_t) - log pi_ref(y_t)), plus the score at the last counted token of each response.

    scores (B,), logprobs and ref_logprobs (B, T), mask (B, T) bool, coefficient beta -> (B, T), 0 where not counted.
    A response without a counted token earns nothing.
    """
    rewards = -coefficient * kl_k1(keep(logprobs, mask), keep(ref_logprobs, mask))
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    last = torch.where(mask, positions, -1).max(dim=1, keepdim=True).values
    return rewards + keep(scores.unsqueeze(1).expand_as(rewards), mask & (positions == last))
