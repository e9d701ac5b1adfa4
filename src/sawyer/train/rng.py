"""Randomness as a function: what is drawn at a step depends on the seed, the purpose and the step, on nothing before.

A generator that is made from its name each time needs no state in a checkpoint, and a step repeated after an interruption
draws what it drew the first time.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose, e.g. `generator(0, "rl", "rollout", 12)`."""
    name = "/".join(str(part) for part in (seed, *purpose))
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, stage: str, epoch: int) -> tuple[int, ...]:
    return tuple(torch.randperm(count, generator=generator(seed, stage, "order", epoch)).tolist())


def batch_indices(count: int, batch_size: int, step: int, *, total: int, seed: int, stage: str) -> list[int]:
    """The rows of optimizer batch `step`: a slice of the epochs' shuffled orders laid end to end, `total` rows long.

    Every row comes once an epoch; only the very last batch may be smaller than `batch_size`.
    """
    positions = range(step * batch_size, min((step + 1) * batch_size, total))
    return [_permutation(count, seed, stage, position // count)[position % count] for position in positions]
