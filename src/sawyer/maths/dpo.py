"""Learning from pairs without a reward model: the policy's own log-ratio to the reference is the reward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sawyer.maths.kl import kl_k1
from sawyer.maths.masked import keep, masked_sum


@dataclass(frozen=True, slots=True, kw_only=True)
class DpoLoss:
    """Weighted sums over pairs; divide each by the batch's sum of weights. Only `total` carries a gradient."""

    total: Tensor  # (), the loss
    margins: Tensor  # (), beta (chosen - rejected): how much more the policy's implicit reward gives the chosen response
    accuracies: Tensor  # (), pairs whose margin is above 0; at 0, as before the first update, neither is preferred


def response_log_ratio(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """log pi(y|x) / pi_ref(y|x) of each response: the sum of its counted tokens' log-ratios, all (B, T) -> (B,).

    A sum, no mean: DPO's implicit reward is that of the whole response.
    """
    return masked_sum(kl_k1(keep(logprobs, mask), keep(ref_logprobs, mask)), mask, dim=1)


def dpo_loss(chosen: Tensor, rejected: Tensor, beta: float, weights: Tensor | None = None) -> DpoLoss:
    """sum -w log sigmoid(beta (chosen - rejected)), each (P,) from `response_log_ratio` (DPO, arXiv 2305.18290, eq. 7).

    `weights` (P,) are those of the pairs' judgements; None: 1 each.
    """
    margins = beta * (chosen - rejected)
    weights = torch.ones_like(margins) if weights is None else weights.to(margins.dtype)
    with torch.no_grad():
        right = (weights * (margins > 0)).sum()
    return DpoLoss(total=-(weights * logsigmoid(margins)).sum(), margins=(weights * margins.detach()).sum(), accuracies=right)
