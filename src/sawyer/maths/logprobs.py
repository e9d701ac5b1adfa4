"""Log-probabilities of tokens from logits."""

from __future__ import annotations

import torch
from torch import Tensor


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax(logits)[target] in fp32 whatever the logits' type.

    logits (..., V), targets (...) int64 -> (...). Computed as logit minus log-sum-exp, so no (..., V) table of
    log-probabilities is made.
    """
    logits = logits.float()
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return chosen - torch.logsumexp(logits, dim=-1)
