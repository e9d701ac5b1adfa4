"""How varied a batch of answers is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


def distinct_n(responses: Sequence[Sequence[int]], n: int) -> float:
    """Distinct n-grams over all n-grams of the batch (Li et al. 2016, arXiv 1510.03055); 1 where there is no n-gram."""
    grams = [tuple(ids[i : i + n]) for ids in responses for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def most_common_share(responses: Sequence[Hashable]) -> float:
    """The share of the batch that is one and the same response; 0 for an empty batch."""
    return Counter(responses).most_common(1)[0][1] / len(responses) if responses else 0.0
