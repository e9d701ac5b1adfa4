"""Thinning: of vectors that point the same way, the first is kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 1024  # rows compared with as many at once: 4 MB of similarities, whatever N is


@dataclass(frozen=True, slots=True, kw_only=True)
class Deduplicated:
    """Which of N rows are kept. A row that is left out has a twin: the kept row before it that it is most like."""

    kept: Tensor  # (N,) bool
    twin: Tensor  # (N,) int64, a kept row's own index where the row is kept
    similarity: Tensor  # (N,) fp32, cosine with the twin


@torch.no_grad()
def thin(vectors: Tensor, threshold: float, *, block: int = BLOCK) -> Deduplicated:
    """Greedy, in order: row i of (N, D) is left out if its cosine with a kept row j < i is at least `threshold`.

    The first row of all is kept, and the same rows in the same order give the same answer. Never more than `block` x `block`
    similarities are held; `block` changes nothing but rounding. A row of zeros is like no other.
    """
    unit = torch.nn.functional.normalize(vectors.float(), dim=1)
    count = len(unit)
    kept = torch.ones(count, dtype=torch.bool, device=unit.device)
    twin = torch.arange(count, device=unit.device)
    similarity = torch.ones(count, device=unit.device)
    before: list[tuple[Tensor, Tensor]] = []  # (indices, unit vectors) of what is kept, a block each
    for start in range(0, count, block):
        here = unit[start : start + block]
        best = here.new_full((len(here),), -torch.inf)
        place = torch.zeros(len(here), dtype=torch.long, device=unit.device)
        for indices, others in before:
            nearest, at = (here @ others.T).max(1)
            place = torch.where(nearest > best, indices[at], place)
            best = torch.maximum(nearest, best)
        inside = here @ here.T
        alive = best < threshold
        alike = (inside >= threshold).tril(-1)
        for row in torch.nonzero(alive & alike.any(1)).flatten().tolist():
            alive[row] = not bool((alike[row] & alive).any())  # the verdict on all rows before it is final
        nearest, at = inside.masked_fill(~alive | _not_before(inside), -torch.inf).max(1)
        place = torch.where(nearest > best, at + start, place)
        best = torch.maximum(nearest, best)
        out = ~alive
        kept[start : start + block] = alive
        twin[start : start + block][out] = place[out]
        similarity[start : start + block][out] = best[out]
        if bool(alive.any()):
            before.append((torch.nonzero(alive).flatten() + start, here[alive]))
    return Deduplicated(kept=kept, twin=twin, similarity=similarity)


@torch.no_grad()
def mean_cosine(vectors: Tensor) -> float:
    """The mean cosine of all pairs of different rows of (N, D): (|sum u|^2 - N) / (N (N - 1)), u of length 1; 0 for one row."""
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    count = len(unit)
    if count < 2:
        return 0.0
    return float((unit.sum(0).square().sum() - unit.square().sum()) / (count * (count - 1)))


def _not_before(square: Tensor) -> Tensor:
    """True on and above the diagonal: what does not come before the row."""
    return torch.ones_like(square, dtype=torch.bool).triu()
