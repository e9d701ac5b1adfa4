"""Rows -> padded batches, and batches of similar length within a token budget."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from sawyer.text.encoding import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B rows padded to T tokens. Masks come from lengths, never from comparing ids with the pad token."""

    ids: Tensor  # (B, T) int64
    mask: Tensor  # (B, T) bool, True on real tokens
    positions: Tensor  # (B, T) int64, counted from each row's first real token
    loss_mask: Tensor  # (B, T) bool, True on the tokens whose log-probs count
    types: Tensor | None = None  # (B, T) int64, which text of a pair each token is of; None for models that do not ask

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(
            ids=self.ids.to(device),
            mask=self.mask.to(device),
            positions=self.positions.to(device),
            loss_mask=self.loss_mask.to(device),
            types=None if self.types is None else self.types.to(device),
        )


def pad_right(rows: Sequence[Row], pad_id: int) -> Batch:
    """For training: real tokens first."""
    lengths = torch.tensor([len(row.ids) for row in rows])
    columns = torch.arange(int(lengths.max())).repeat(len(rows), 1)
    mask = columns < lengths.unsqueeze(1)
    ids, loss_mask = torch.full_like(columns, pad_id), torch.zeros_like(mask)
    ids[mask] = whole_numbers(chain.from_iterable(row.ids for row in rows))
    # Bytes: `torch.tensor` takes 0.2 us for each item of a list.
    loss_mask[mask] = torch.frombuffer(bytearray(chain.from_iterable(row.loss_mask for row in rows)), dtype=torch.bool)
    types = None
    if any(row.types for row in rows):
        types = torch.zeros_like(columns)
        types[mask] = whole_numbers(kind for row in rows for kind in row.types or (0,) * len(row.ids))
    return Batch(ids=ids, mask=mask, positions=columns * mask, loss_mask=loss_mask, types=types)


def whole_numbers(values: Iterable[int]) -> Tensor:
    """(n,) int64, in a fraction of the time that `torch.tensor` takes for a list. n must not be 0."""
    return torch.frombuffer(array("q", values), dtype=torch.int64)


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> Batch:
    """For generation: real tokens last, so that every row's next token comes in the same column."""
    longest = max(len(ids) for ids in prompts)
    ids = torch.tensor([[*[pad_id] * (longest - len(row)), *row] for row in prompts])
    missing = torch.tensor([longest - len(row) for row in prompts]).unsqueeze(1)
    columns = torch.arange(longest).expand_as(ids)
    mask = columns >= missing
    return Batch(ids=ids, mask=mask, positions=(columns - missing).clamp(min=0), loss_mask=torch.zeros_like(mask))


def micro_batches(lengths: Sequence[int], token_budget: int, families: Sequence[Hashable] | None = None) -> list[list[int]]:
    """Indices grouped by similar length, each group's rows x longest at most `token_budget` (a single row may exceed it).
    With `families`, rows of the same one, which share work when they are read together, come one after another, and families
    by the length of their longest rows.

    Every index comes exactly once; the same lengths and families give the same groups.
    """
    whose = range(len(lengths)) if families is None else families
    longest: dict[Hashable, tuple[int, int]] = {}  # each family's longest row, and where that is: families differ in it
    for index, family in enumerate(whose):
        longest[family] = max(longest.get(family, (0, 0)), (lengths[index], index))
    groups: list[list[int]] = []
    most = 0
    for index in sorted(range(len(lengths)), key=lambda i: (longest[whose[i]], lengths[i], i)):
        most = max(most, lengths[index])
        if groups and (len(groups[-1]) + 1) * most <= token_budget:
            groups[-1].append(index)
        else:
            groups.append([index])
            most = lengths[index]
    return groups


def batches(
    rows: Sequence[Row], *, pad_id: int, token_budget: int, by_prompt: bool = False
) -> Iterator[tuple[list[int], Batch]]:
    """(indices into `rows`, their batch) until every row has come once. `by_prompt`: answers to the same prompt
    together, at the price of more padding."""
    prompts = [row.ids[: row.prompt_length] for row in rows] if by_prompt else None
    for indices in micro_batches([len(row.ids) for row in rows], token_budget, prompts):
        yield indices, pad_right([rows[i] for i in indices], pad_id)
