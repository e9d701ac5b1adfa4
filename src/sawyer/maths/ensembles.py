"""Several judges of the same answers: how their scores become one, and how far they disagree. (M, N) in, (N,) out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

Combination = Callable[[Tensor, float], Tensor]


def ensemble_mean(scores: Tensor, penalty: float) -> Tensor:
    """sum_m s_m / M; `penalty` unused."""
    return scores.mean(0)


def ensemble_min(scores: Tensor, penalty: float) -> Tensor:
    """min_m s_m: worst-case optimisation (Coste et al. 2023, arXiv 2310.02743); `penalty` unused."""
    return scores.amin(0)


def ensemble_mean_minus_variance(scores: Tensor, penalty: float) -> Tensor:
    """mean - penalty * sum_m (s_m - mean)^2 / M: uncertainty-weighted optimisation (Coste et al. 2023, eq. 3)."""
    return scores.mean(0) - penalty * scores.var(0, correction=0)


# scores (M, N) of M members for N answers, the penalty -> rewards (N,)
COMBINATIONS: Mapping[str, Combination] = {
    "mean": ensemble_mean,
    "min": ensemble_min,
    "mean_minus_variance": ensemble_mean_minus_variance,
}


def disagreement(scores: Tensor) -> Tensor:
    """sqrt(sum_m (s_m - mean)^2 / M), (M, N) -> (N,): the members' standard deviation for each answer."""
    return scores.std(0, correction=0)
