"""How varied a batch of answers is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def distinct_n(responses: Sequence[Sequence[int]], n: int) -> float:
    """Distinct n-grams over all n-grams of the batch (Li et al. 2016, arXiv 1510.03055); 1 where there is no n-gram."""
    grams = [tuple(ids[i : i + n]) for ids in responses for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def token_entropies(logits: Tensor) -> Tensor:
    """-sum_v p_v log p_v of p = softmax(logits), in nats and in fp32. logits (..., V) -> (...); -inf logits count as p = 0."""
    logits = logits.float()
    logprobs = logits - torch.logsumexp(logits, dim=-1, keepdim=True)
    return -torch.where(logprobs > -torch.inf, logprobs.exp() * logprobs, torch.zeros_like(logprobs)).sum(-1)
