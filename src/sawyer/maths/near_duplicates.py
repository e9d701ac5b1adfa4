"""Deduplication: of vectors that point the same way, the first stays."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 1024  # rows compared with as many at once: 4 MB of similarities, whatever N is


@dataclass(frozen=True, slots=True, kw_only=True)
class Deduplication:
    """Which of N rows stay. A row that is left out has a twin: the remaining row before it that it is most like."""

    keep: Tensor  # (N,) bool
    twin: Tensor  # (N,) int64, a row's own index where it stays
    similarity: Tensor  # (N,) fp32, cosine with the twin


@torch.no_grad()
def deduplicate(vectors: Tensor, threshold: float, *, block: int = BLOCK) -> Deduplication:
    """Greedy, in order: row i of (N, D) is left out if its cosine with a remaining row j < i is at least `threshold`.

    The first row stays, and the same rows in the same order give the same answer. At most `block` x `block` similarities are in
    memory; `block` changes nothing but rounding. A row of zeros is like no other.
    """
    unit = torch.nn.functional.normalize(vectors.float(), dim=1)
    count = len(unit)
    keep = torch.ones(count, dtype=torch.bool, device=unit.device)
    twin = torch.arange(count, device=unit.device)
    similarity = torch.ones(count, device=unit.device)
    before: list[tuple[Tensor, Tensor]] = []  # (indices, unit vectors) of the rows that stay, a block each
    for start in range(0, count, block):
        here = unit[start : start + block]
        best = here.new_full((len(here),), -torch.inf)
        nearest_index = torch.zeros(len(here), dtype=torch.long, device=unit.device)
        for indices, others in before:
            nearest, at = (here @ others.T).max(1)
            nearest_index = torch.where(nearest > best, indices[at], nearest_index)
            best = torch.maximum(nearest, best)
        inside = here @ here.T
        alive = best < threshold
        alike = (inside >= threshold).tril(-1)
        for row in torch.nonzero(alive & alike.any(1)).flatten().tolist():
            alive[row] = not bool((alike[row] & alive).any())  # the verdict on all rows before it is final
        nearest, at = inside.masked_fill(~alive | _not_before(inside), -torch.inf).max(1)
        nearest_index = torch.where(nearest > best, at + start, nearest_index)
        best = torch.maximum(nearest, best)
        out = ~alive
        keep[start : start + block] = alive
        twin[start : start + block][out] = nearest_index[out]
        similarity[start : start + block][out] = best[out]
        if bool(alive.any()):
            before.append((torch.nonzero(alive).flatten() + start, here[alive]))
    return Deduplication(keep=keep, twin=twin, similarity=similarity)


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
