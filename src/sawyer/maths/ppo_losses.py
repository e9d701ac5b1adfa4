"""Losses of PPO. All return sums over what they count; the caller divides once by the count of the whole optimizer batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sawyer.maths.kl import kl_k3
from sawyer.maths.masked import keep, masked_sum


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoss:
    """Sums over counted tokens; divide each by the batch's count. Only `total` carries a gradient."""

    total: Tensor  # (), the clipped policy loss
    clip_fraction: Tensor  # (), number of tokens at which the clipped term is the larger
    approx_kl: Tensor  # (), k3 of pi_old against pi: (rho - 1) - log rho, nats
    ratio: Tensor  # (), rho


def ppo_policy(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> PolicyLoss:
    """sum_t m_t max(-A rho, -A clip(rho, 1-eps, 1+eps)), rho = exp(log pi - log pi_old) (PPO, arXiv 1707.06347, eq. 7).

    logprobs, old_logprobs, advantages, mask (B, T). The log-ratio is 0 outside the mask before it is exponentiated.
    """
    log_ratio = keep(logprobs, mask) - keep(old_logprobs, mask)
    ratio, advantages = log_ratio.exp(), keep(advantages, mask)
    loss, clip_loss = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    with torch.no_grad():
        fraction = masked_sum((clip_loss > loss).float(), mask)
        approx_kl = masked_sum(kl_k3(torch.zeros_like(log_ratio), log_ratio), mask)
        ratios = masked_sum(ratio, mask)
    total = masked_sum(torch.maximum(loss, clip_loss), mask)
    return PolicyLoss(total=total, clip_fraction=fraction, approx_kl=approx_kl, ratio=ratios)


def ppo_value(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """sum_t m_t 0.5 max((V - R)^2, (clip(V, V_old - eps, V_old + eps) - R)^2), all (B, T) -> ().

    The clipping is that of the reference implementation (openai/baselines ppo2); Huang et al. 2024 keep it.
    """
    values, old_values, returns = keep(values, mask), keep(old_values, mask), keep(returns, mask)
    clip_values = old_values + (values - old_values).clamp(-clip, clip)
    return masked_sum(0.5 * torch.maximum((values - returns) ** 2, (clip_values - returns) ** 2), mask)
