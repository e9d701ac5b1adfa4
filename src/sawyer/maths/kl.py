"""Estimators of KL(pi || pi_ref) from samples of pi (J. Schulman, "Approximating KL divergence", 2020).

Each takes log pi and log pi_ref of the sampled tokens, any equal shape, and returns that shape, in nats.
"""

from __future__ import annotations

import math

from torch import Tensor


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k1 = log pi - log pi_ref: unbiased, may be negative."""
    return logprobs - ref_logprobs


def kl_k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k2 = (log pi - log pi_ref)^2 / 2: biased, low variance, never negative."""
    return (logprobs - ref_logprobs) ** 2 / 2


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k3 = exp(-k1) - 1 + k1: unbiased and never negative.

    With expm1: near 0, exp(-k1) - 1 rounds away what k3 is made of, and results come out negative.
    """
    k1 = logprobs - ref_logprobs
    return (-k1).expm1() + k1


def best_of_n_kl(n: int) -> float:
    """log n - (n-1)/n nats: the most by which best-of-n moves from the policy it samples (Stiennon et al. 2020)."""
    return math.log(n) - (n - 1) / n
