"""How the rows of a batch lie packed, end to end; and padded again, where attention needs whole rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

ALIKE = 1.5  # how much longer than another one a row may be with which it is padded


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixGroup:
    """Rows that begin with the same tokens: this prefix once and, end to end after it, each row's own suffix.

    Example: the rows `5 6 7` and `5 6 8 9` as `5 6 | 7 | 8 9` -> prefix 2, suffixes (1, 2). A row that shares nothing has
    prefix 0 and suffixes (its length,).
    """

    prefix: int
    suffixes: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """How many tokens lie end to end."""
        return self.prefix + sum(self.suffixes)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedLayout:
    """N packed tokens as padded rows, each with its prefix."""

    tokens: tuple[Tensor, ...]  # (R, T) int64 each: which tokens R rows have; a row's first token again where it is padded
    position: Tensor  # (N,) int64: where each token comes first, in all of those one after another


# Compared by identity: one of these goes through all layers of a pass.
@dataclass(frozen=True, kw_only=True, eq=False)
class PackedLayout:
    """N tokens of groups end to end."""

    groups: tuple[PrefixGroup, ...]

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row, its prefix included."""
        return max(group.prefix + max(group.suffixes) for group in self.groups)

    @cached_property
    def padded_layout(self) -> PaddedLayout:
        """Each row with its prefix."""
        rows = torch.tensor([*_row_bounds(self.groups)])
        index = _token_index(rows)
        tokens = tuple(index[numbers, : int(rows[numbers[-1], 3])] for numbers in _similar_lengths(rows[:, 3].tolist()))
        token, where = torch.cat([x.flatten() for x in tokens]).sort(stable=True)
        position = where[torch.searchsorted(token, torch.arange(sum(group.tokens for group in self.groups)))]
        return PaddedLayout(tokens=tokens, position=position)


def _row_bounds(groups: Sequence[PrefixGroup]) -> Iterator[tuple[int, int, int, int]]:
    """Of each row: where its prefix begins, how many tokens that has, where its suffix begins, how many it has in all."""
    start = 0
    for group in groups:
        suffix = start + group.prefix
        for length in group.suffixes:
            yield start if group.prefix else suffix, group.prefix, suffix, group.prefix + length
            suffix += length
        start = suffix


def _token_index(rows: Tensor) -> Tensor:
    """(R, T): the rows' tokens, padded by the row's first one."""
    begin, prefix, suffix, length = rows.T.unsqueeze(2)
    columns = torch.arange(int(length.max()))
    return torch.where(columns < prefix, begin + columns, suffix + columns - prefix).where(columns < length, begin)


def _similar_lengths(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of rows by length: the longest of those that go together is at most `ALIKE` times as long as the shortest."""
    group: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        if group and lengths[number] > ALIKE * lengths[group[0]]:
            yield group
            group = []
        group.append(number)
    if group:
        yield group
