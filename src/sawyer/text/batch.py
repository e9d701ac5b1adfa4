"""Rows -> padded batches, and batches of similar length within a token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sawyer.text.encode import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B rows padded to T tokens. Masks come from lengths, never from comparing ids with the pad token."""

    ids: Tensor  # (B, T) int64
    mask: Tensor  # (B, T) bool, True on real tokens
    positions: Tensor  # (B, T) int64, counted from each row's first real token
    trained: Tensor  # (B, T) bool, True on the tokens whose log-probs count
    types: Tensor | None = None  # (B, T) int64, which text of a pair each token is of; None where the model is not told so

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(
            ids=self.ids.to(device),
            mask=self.mask.to(device),
            positions=self.positions.to(device),
            trained=self.trained.to(device),
            types=None if self.types is None else self.types.to(device),
        )


def pad_right(rows: Sequence[Row], pad_id: int) -> Batch:
    """For training: real tokens first."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[pad_id] * (longest - len(row.ids))] for row in rows])
    lengths = torch.tensor([len(row.ids) for row in rows])
    trained = torch.tensor([[*row.trained, *[False] * (longest - len(row.ids))] for row in rows])
    places = torch.arange(longest).expand_as(ids)
    mask = places < lengths.unsqueeze(1)
    types = None
    if any(row.types for row in rows):
        types = torch.tensor([[*row.types, *[0] * (longest - len(row.types))] for row in rows])
    return Batch(ids=ids, mask=mask, positions=places * mask, trained=trained, types=types)


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> Batch:
    """For generation: real tokens last, so that every row's next token comes at the same place."""
    longest = max(len(ids) for ids in prompts)
    ids = torch.tensor([[*[pad_id] * (longest - len(row)), *row] for row in prompts])
    missing = torch.tensor([longest - len(row) for row in prompts]).unsqueeze(1)
    places = torch.arange(longest).expand_as(ids)
    mask = places >= missing
    return Batch(ids=ids, mask=mask, positions=(places - missing).clamp(min=0), trained=torch.zeros_like(mask))


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices grouped by similar length, each group's rows x longest at most `token_budget` (a single row may exceed it).

    Every index comes exactly once; the same lengths give the same groups.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if groups and (len(groups[-1]) + 1) * lengths[index] <= token_budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def batches(rows: Sequence[Row], *, pad_id: int, token_budget: int) -> Iterator[tuple[list[int], Batch]]:
    """(indices into `rows`, their batch) until every row has come once."""
    for indices in micro_batches([len(row.ids) for row in rows], token_budget):
        yield indices, pad_right([rows[i] for i in indices], pad_id)
